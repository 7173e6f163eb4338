"""The largest, smallest and emptiest numbers that optimizers are given, and what is no number of theirs at all."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_every_optimizer import EVERY, NAMES
from test_optim import numpy_adam

import optim
from optim import (
    Snapshot,
    adam,
    adamw,
    average,
    ema,
    eval_params,
    exponential_average,
    gpa,
    lawa,
    polyak,
    post_hoc_ema,
    radam,
    range_test,
    refresh_batch_stats,
    require_eval_params,
    schedule_free,
    schedule_free_adamw,
    schedule_free_plus,
    schedule_free_radam,
    schedule_free_sgd,
    sgd,
    warmed,
    weighted,
)
from optim.post_hoc import coefficients
from schedules import constant, linear

# Finite gradients -----------------------------------------------------------------------------------------

pytestmark = pytest.mark.usefixtures("quick_compilation")
SIZES = [0.0, 1e-45, 1e-30, 1e-20, 0.1, 1e19, 2e19, 1e30, 3e38]
LOSSES = [0.0, 1e-38, 1e-30, 1e-4, 1.0, 1e10, 3e38, -1.0]
LENGTH = 12
LARGEST = 2.0**63  # gradients count as no larger


def sequences():
    rng = np.random.default_rng(0)
    for size in SIZES:
        yield [size] * LENGTH
        yield [size, -size] * (LENGTH // 2)
        yield [size] + [0.0] * (LENGTH - 1)
        yield [size] + [0.1] * (LENGTH - 1)
    for _ in range(40):
        yield rng.choice(SIZES, LENGTH) * rng.choice([-1, 1], LENGTH)


HOSTILE = np.array([*sequences()], np.float32)
VALUES = np.random.default_rng(1).choice(LOSSES, HOSTILE.shape).astype(np.float32)

FINITE = {
    **{name: make for name, make in EVERY.items() if not name.startswith("sgd-")},  # momentum overflows, as in optax
    "adam-without-eps": lambda: adam(0.05, eps=0.0),
    "adam-b1-0-without-eps": lambda: adam(0.05, b1=0.0, eps=0.0),
    "adam-b2-rises": lambda: adam(0.05, b2=linear(0.0, 0.9999, 4)),
    "adam-bfloat16": lambda: adam(0.05, mu_dtype=jnp.bfloat16),
    "adam-float16": lambda: adam(0.05, mu_dtype=jnp.float16),
    "radam-rectified": lambda: radam(0.05, b2=0.7),
    "plus-decayed": lambda: schedule_free_plus(weight_decay=50.0, polyak_beta=0.9, beta_steps=5),
    "plus-weighted": lambda: schedule_free_plus(r=4.0, weight_lr_power=4.0),
}


@pytest.mark.parametrize("name", FINITE)
def test_finite_gradients_leave_everything_finite(name):
    optimizer = FINITE[name]()

    def finite(grads, values):
        def step(carry, seen):
            (params, state), (g, value) = carry, seen
            updates, state = optimizer.update(jnp.stack([g, 0.1]), state, params, value=value)
            params = optax.apply_updates(params, updates)
            everything = jax.tree.leaves((updates, params, state, eval_params(state, params, NAMES.get(name))))
            return (params, state), jnp.array([jnp.isfinite(leaf).all() for leaf in everything]).all()

        start = jnp.array([1.0, -2.0])
        return jax.lax.scan(step, (start, optimizer.init(start)), (grads, values))[1]

    found = np.asarray(jax.jit(jax.vmap(finite))(HOSTILE, VALUES))
    assert found.all(), HOSTILE[~found.all(axis=1)]


def test_sgd_without_momentum_is_finite_where_its_formula_is_and_momentum_overflows_as_in_optax():
    for ours, theirs in ((sgd(0.05), optax.sgd(0.05)), (sgd(0.05, 0.9), optax.sgd(0.05, 0.9))):
        states = [o.init(jnp.zeros(2)) for o in (ours, theirs)]
        for g in (3e38, 3e38, -3e38, 0.1):
            found = []
            for i, o in enumerate((ours, theirs)):
                updates, states[i] = o.update(jnp.array([g, 0.1]), states[i])
                found.append(updates)
            np.testing.assert_allclose(*found, rtol=1e-6)


def exact(grads, **settings):
    """The updates of Adam in float64, for gradients limited as ours are."""
    step = numpy_adam(**settings)
    return np.array([step(k, np.clip(float(g), -LARGEST, LARGEST), 0.0) for k, g in enumerate(grads)])


def updates_of(optimizer, grads):
    """The updates for sequences of gradients, (sequences, updates)."""

    def step(state, g):
        updates, state = optimizer.update(g, state)
        return state, updates

    grads = jnp.asarray(grads, jnp.float32).T
    return np.asarray(jax.jit(lambda: jax.lax.scan(step, optimizer.init(grads[0]), grads)[1])()).T


@pytest.mark.parametrize("settings", [{}, {"b1": 0.0}, {"b1": 0.0, "b2": 0.5, "eps": 1e-3}, {"b2": 0.99}], ids=str)
def test_the_updates_of_adam_are_those_of_exact_arithmetic(settings):
    sequences = HOSTILE[(np.abs(HOSTILE) > 1e-8).all(axis=1) | (HOSTILE[:, 1:] == 0).all(axis=1)]
    assert len(sequences) > 15
    expected = np.array([exact(grads, **settings) for grads in sequences])
    np.testing.assert_allclose(updates_of(adam(0.05, **settings), sequences), expected, rtol=2e-5, atol=2e-8)


def test_adam_does_not_see_the_scale_of_gradients_up_to_the_largest_and_above_it_only_their_signs():
    grads = np.random.default_rng(0).uniform(0.5, 1.0, (3, 40)) * [[1], [-1], [1]]
    usual = updates_of(adam(0.05), grads)
    for scale in (1e3, 1e10, 1e15, 9e18):
        np.testing.assert_allclose(updates_of(adam(0.05), scale * grads), usual, rtol=3e-6)
    above = updates_of(adam(0.05), 1e20 * grads)
    np.testing.assert_array_equal(above, updates_of(adam(0.05), 3e38 * grads))
    np.testing.assert_allclose(above, updates_of(adam(0.05), np.sign(grads)), rtol=3e-6)


def test_large_gradients_are_scaled_away_in_float64_too(x64):
    optimizer = adam(0.05)
    for dtype, size in ((jnp.float64, 1e153), (jnp.float64, 1e300), (jnp.float32, 1e60)):
        params = jnp.zeros(2, dtype)  # a float64 gradient of a float32 parameter is finite as well
        updates, state = optimizer.update(jnp.array([size, -size]), optimizer.init(params), params)
        np.testing.assert_allclose(updates, [-0.05, 0.05], rtol=1e-6)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_an_element_moves_again_after_a_gradient_of_any_size():
    grads = [[size] + [0.1] * 1_500 for size in (2e19, 3e38)]
    np.testing.assert_allclose(updates_of(adam(0.05, b1=0.0, b2=0.9), grads)[:, -1], -0.05, rtol=1e-4)


def test_without_eps_a_zero_gradient_changes_nothing_and_a_tiny_one_little():
    for b1 in (0.0, 0.9):
        found = updates_of(adam(0.05, b1=b1, eps=0.0), [[0.0] * 3, [1e-30] * 3, [1e-10] * 3])
        np.testing.assert_array_equal(found[0], 0)
        assert (np.abs(found[1]) <= 0.05).all()
        np.testing.assert_allclose(found[2], -0.05, rtol=1e-5)


def test_a_gradient_that_is_not_finite_is_not_a_number_at_once():
    for make in (adam, adamw, radam, lambda lr: adam(lr, b1=0.0)):
        optimizer = make(0.05)
        params = jnp.ones(4)
        state = optimizer.init(params)
        updates, _ = optimizer.update(jnp.array([jnp.inf, -jnp.inf, jnp.nan, 0.1]), state, params)
        np.testing.assert_array_equal(np.isnan(updates), [True, True, True, False])


# Large numbers times zero ---------------------------------------------------------------------------------


def test_schedule_free_plus_takes_the_step_of_its_formula_from_a_tiny_gradient():
    for g, loss in ((1e-30, 1.0), (1e-25, 1e-4)):
        optimizer, params = schedule_free_plus(), jnp.array([1.0, 2.0])
        updates, state = optimizer.update(jnp.full(2, g), optimizer.init(params), params, value=jnp.float32(loss))
        rate = loss / (np.sqrt(np.pi / 2) * 2 * g)
        np.testing.assert_allclose(state.used["learning_rate"], rate, rtol=1e-5)
        np.testing.assert_allclose(updates, -rate * g / (g + 1e-8), rtol=1e-5)


def test_schedule_free_plus_does_not_hide_a_loss_or_a_gradient_that_is_not_finite():
    optimizer, params = schedule_free_plus(), jnp.array([1.0, 2.0])
    for g, loss in ((0.1, np.inf), (0.1, np.nan), (0.0, np.nan), (np.nan, 1.0)):
        updates, _ = optimizer.update(jnp.full(2, g), optimizer.init(params), params, value=jnp.float32(loss))
        assert np.isnan(updates).all()


def test_a_rate_of_0_wins_over_any_decay():
    optimizer = adamw(0.0, weight_decay=1e30)
    params = jnp.array([1e30, 0.0])
    updates, _ = optimizer.update(jnp.ones(2), optimizer.init(params), params)
    np.testing.assert_array_equal(updates, 0)


def test_weights_add_up_however_large():
    weights = weighted(1e38, r=4.0, weight_lr_power=4.0, scale=1e30)
    so_far = weights.init()
    for count in (0, 1, 2**20, 2**31 - 2, 2**31 - 1):
        c, so_far = weights.update(jnp.int32(count), so_far)
        assert 0 < c <= 1
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(so_far))


def test_an_average_of_parameters_of_opposite_sign_does_not_overflow():
    for c in (0.1, 0.5, 0.9):
        optimizer = average(sgd(1.0), constant(c))
        params = jnp.array([3e38, -3e38])
        state = optimizer.init(params)
        # z = p - g: both ends are floats, and their difference is none.
        _, state = optimizer.update(params, state, params)
        _, state = optimizer.update(params, state, jnp.zeros(2))
        expected = (1 - c) ** 2 * 3e38 - c * 3e38
        np.testing.assert_allclose(eval_params(state, params), [expected, -expected], rtol=1e-5)


def test_a_window_of_any_length_is_an_average():
    for c in (exponential_average(3e38), jax.jit(ema)(jnp.float32(1.0))):
        np.testing.assert_allclose(c(jnp.arange(5)), 1 / np.arange(1.0, 6.0), rtol=1e-6)
    for c in (optim.power_ema(3e38), optim.ema_relative(1e-38), optim.polynomial_average(3e38)):
        np.testing.assert_allclose(c(jnp.array([0, 1, 2**31 - 1])), 1.0)
    assert optim.exponent_of_width(1e-300) > 1e37


def test_the_lean_form_goes_on_where_a_scheduled_beta_comes_to_0():
    optimizer = schedule_free_sgd(0.1, linear(0.9, 0.0, 2), lean=True)
    params = jnp.ones(2)
    state = optimizer.init(params)
    for _ in range(6):
        updates, state = optimizer.update(0.1 * params, state, params)
        params = optax.apply_updates(params, updates)
    assert np.isfinite(params).all()
    assert np.isfinite(eval_params(state, params)).all()


def test_snapshots_far_from_what_is_wanted_still_weigh_1_together():
    assert coefficients([(100, 5.0)], (10**6, 200.0)) == 1
    np.testing.assert_allclose(coefficients([(1, 5.0), (2, 1e3)], (10**6, 200.0)), [0, 1], atol=1e-12)
    for exponent in (1e30, 1e38):
        np.testing.assert_allclose(coefficients([(100, exponent), (50, exponent)], (100, exponent)), [1, 0], atol=1e-6)


def test_statistics_of_a_first_batch_so_large_that_their_squares_are_infinite():
    def apply_fn(variables, batch):
        stats = {
            "mean": 0.9 * variables["batch_stats"]["mean"] + 0.1 * batch.mean(0),
            "var": 0.9 * variables["batch_stats"]["var"] + 0.1 * jnp.ones(1),
        }
        return None, {"batch_stats": stats}

    variables = {"batch_stats": {"mean": np.zeros(1), "var": np.ones(1)}}  # NumPy's, of float64
    found = refresh_batch_stats(apply_fn, variables, [jnp.full((4, 1), 1e20)])["batch_stats"]
    np.testing.assert_allclose(found["mean"], 1e20, rtol=1e-5)
    np.testing.assert_allclose(found["var"], 1.0, rtol=1e-5)


def test_a_range_test_without_its_rule_goes_on_past_a_loss_of_0():
    found = range_test(lambda p, i: p * 0.0, jnp.float32(1.0), jnp.arange(8), divergence=np.inf)
    np.testing.assert_array_equal(found.losses, 0)


# Parameters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_python_floats_and_numpy_arrays_are_parameters(name):
    raw = {"a": 1.0, "b": np.array([1.0, 2.0]), "c": np.float32(3.0), "d": np.ones((), np.float32)}
    found = []
    for params in (raw, jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), raw)):
        optimizer = EVERY[name]()
        state = optimizer.init(params)
        eval_params(state, params, NAMES.get(name))
        updates, state = optimizer.update(params, state, params, value=1.0)
        assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype("float32")}
        averaged = eval_params(state, params, NAMES.get(name))
        if "lean" not in name:
            require_eval_params(state, averaged, NAMES.get(name))
        found.append((updates, averaged))
    chex.assert_trees_all_close(*found, rtol=1e-6)


def test_python_floats_elsewhere():
    half = post_hoc_ema([Snapshot(5, 7.0, {"w": 1.0}), Snapshot(9, 7.0, {"w": 1.0})], 7.0)
    np.testing.assert_allclose(half["w"], 1.0)
    found = range_test(lambda p, i: (p["w"] - i) ** 2, {"w": 1.0}, np.arange(8.0))
    assert np.isfinite(found.losses[0])
    assert require_eval_params(adam(0.1).init({"w": 1.0}), {"w": 1.0}) == {"w": 1.0}


KINDS_OF_INIT = {
    "adam": adam(0.1),
    "adamw": adamw(0.1),
    "radam": radam(0.1),
    "sgd": sgd(0.1),
    "average": average(optax.sgd(0.1), polyak()),
    "lawa": lawa(optax.sgd(0.1), 3),
    "schedule_free_plus": schedule_free_plus(),
}
ARRAYS = "pass arrays only, for an Equinox model eqx.filter(model, eqx.is_inexact_array)"
TRAINED = "leave out what is not trained, and convert the rest to floating point"
COMPLEX = "wrap the optimizer in optax.contrib.split_real_and_imaginary"


@pytest.mark.parametrize("name", KINDS_OF_INIT)
def test_a_leaf_that_is_no_real_array_is_named_with_what_to_do(name):
    for leaf, got, advice in [
        (jnp.tanh, "custom_jvp" if hasattr(jnp.tanh, "defjvp") else type(jnp.tanh).__name__, ARRAYS),
        (jax.nn.relu, type(jax.nn.relu).__name__, ARRAYS),
        ("float32", "str", ARRAYS),
        (object(), "object", ARRAYS),
        (jnp.float32, type(jnp.float32).__name__, ARRAYS),
        (np.array([object()]), "object", TRAINED),
        (3, "int32", TRAINED),
        (True, "bool", TRAINED),
        (jnp.arange(3), "int32", TRAINED),
        (jax.random.key(0), "key<fry>", TRAINED),
        (1j, "complex64", COMPLEX),
    ]:
        with pytest.raises(ValueError) as caught:  # noqa: PT011, compared whole below
            KINDS_OF_INIT[name].init({"w": jnp.ones(2), "odd": [leaf]})
        expected = f"{name}: `params` must be real floating-point arrays, got {got} at ['odd'][0]; {advice}"
        assert str(caught.value) == expected


def test_the_advice_works():
    import equinox as eqx

    model = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"^average: `params` must be .* got custom_jvp at \.activation; "):
        average(adam(0.1), polyak()).init(model)
    params = eqx.filter(model, eqx.is_inexact_array)
    for optimizer in (average(adam(0.1), polyak()), schedule_free_plus()):
        state = optimizer.init(params)
        updates, state = optimizer.update(params, state, params, value=1.0)
        eqx.combine(eval_params(state, eqx.apply_updates(params, updates)), model)(jnp.ones(2))
    optimizer = optax.contrib.split_real_and_imaginary(adam(0.1))
    params = jnp.ones(2, complex)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates, -0.1 * np.ones(2), rtol=1e-4)


# Hyperparameters ------------------------------------------------------------------------------------------

BASE = optax.sgd(0.1)
MADE = {  # every function with numbers, by its other arguments
    adam: {"learning_rate": 0.1},
    adamw: {"learning_rate": 0.1},
    radam: {"learning_rate": 0.1},
    sgd: {"learning_rate": 0.1},
    average: {"base": BASE, "coefficient": polyak()},
    lawa: {"base": BASE, "last": 3},
    schedule_free: {"base": BASE},
    schedule_free_sgd: {},
    schedule_free_adamw: {},
    schedule_free_radam: {},
    schedule_free_plus: {},
    gpa: {"base": BASE},
    warmed: {"learning_rate": 0.1, "warmup_steps": 3},
    weighted: {"learning_rate": 0.1},
    optim.ema: {"decay": 0.9},
    optim.ema_half_life: {"updates": 3.0},
    optim.ema_warmed: {"decay": 0.9},
    optim.relative_width: {"exponent": 3.0},
    optim.exponent_of_width: {"width": 0.1},
}
NO_NUMBERS = {"base", "coefficient", "nesterov", "decay_at", "lean", "mask", "mu_dtype", "silent"}
SIGNED = {"learning_rate", "exponent"}  # may be negative somewhere
NUMBERS = [(f, name) for f in MADE for name in inspect.signature(f).parameters if name not in NO_NUMBERS]


@pytest.mark.parametrize(("f", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_every_number_is_checked_where_it_is_given(f, name):
    for value in (True, np.nan, -np.inf, "0.1", 10**5000, *([-1.0] if name not in SIGNED else [])):
        with pytest.raises(
            ValueError, match=rf"^{f.__name__}: `{name}` must be a (whole |positive )?(number|schedule).*\W got "
        ):
            f(**MADE[f] | {name: value})


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: adam(0.1, eps=-1), "adam: `eps` must be a number that is not negative or a schedule, got -1"),
        (lambda: adam(0.1, b1=False), "adam: `b1` must be a number from 0 to below 1 or a schedule, got False"),
        (lambda: adamw(0.1, weight_decay=jnp.float32(-1)), "adamw: `weight_decay` must be a number that is not negative or a schedule, got Array(-1., dtype=float32)"),
        (lambda: radam(0.1, threshold=3.9), "radam: `threshold` must be a number, 4 or more, got 3.9"),
        (lambda: radam(0.1, b2=0), "radam: `b2` must be a number above 0 and below 1, got 0"),
        (lambda: schedule_free_radam(0.1, b2=linear(0.1, 0.9, 9)), "schedule_free_radam: `b2` must be a number above 0 and below 1, got linear(start=0.1, end=0.9, steps=9)"),
        (lambda: schedule_free(BASE, beta=1.01), "schedule_free: `beta` must be a number from 0 to 1 or a schedule, got 1.01"),
        (lambda: schedule_free_sgd(-0.1), "schedule_free_sgd: `learning_rate` must be a number that is not negative or a schedule, got -0.1"),
        (lambda: schedule_free_adamw(warmup_steps=1.5), "schedule_free_adamw: `warmup_steps` must be a whole number from 0 to 2147483647, got 1.5"),
        (lambda: schedule_free_adamw(r=4.5), "schedule_free_adamw: `r` must be a number from 0 to 4, got 4.5"),
        (lambda: schedule_free_plus(beta=1), "schedule_free_plus: `beta` must be a number from 0 to below 1, got 1"),
        (lambda: gpa(BASE, mu_y=1.5), "gpa: `mu_y` must be a number from 0 to 1 or a schedule, got 1.5"),
        (lambda: weighted(0.1, scale=0), "weighted: `scale` must be a positive number, got 0"),
        (lambda: optim.relative_width(-1), "relative_width: `exponent` must be a number above -1, got -1"),
    ],
    ids=range(14),
)  # fmt: skip
def test_a_number_out_of_range_is_one_clear_sentence(mistake, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, compared whole below
        mistake()
    assert str(caught.value) == message


def test_what_is_in_range_is_taken():
    for make in (adam, sgd):
        optimizer = make(-0.1)  # ascends
        assert (optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))[0] > 0).all()
    for optimizer in (
        adam(0.1, b1=np.float32(0.0), b2=0, eps=0, mu_dtype=jnp.bfloat16),
        adamw(0.1, weight_decay=np.float64(0.0), eps=jnp.float32(1e-8)),
        schedule_free_sgd(0, 1, warmup_steps=np.int64(3), weight_decay=jnp.float32(0.1), r=4, weight_lr_power=0),
        schedule_free_adamw(constant(-0.1), beta=0, inner_momentum=linear(0.0, 0.9, 9), scale=jnp.int32(2)),
        schedule_free_plus(beta=jnp.float32(0.5), newest_until=np.array(3)),
        radam(0.1, b2=jnp.float32(0.9), threshold=4),
    ):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)), jnp.ones(2), value=1.0)


@pytest.mark.parametrize("name", ["adam", "adamw", "schedule-free-plus"])
def test_who_looks_for_a_nan_in_their_own_code_meets_none_of_ours(name):
    """One is looked for with `jax_debug_nans`, and found where it arises only without `jit`."""
    params = {"w": jnp.ones(2)}
    with jax.debug_nans(True), jax.disable_jit():
        optimizer = EVERY[name]()
        optimizer.update(params, optimizer.init(params), params, value=1.0)
        with pytest.raises(FloatingPointError):
            jnp.log(jnp.array([-1.0]))
