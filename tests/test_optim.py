"""Adam, averages and schedule-free: against independent algorithms, and inside what people wrap them in."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim import (
    AverageState,
    adam,
    adamw,
    average,
    ema,
    eval_params,
    exponential_average,
    gpa,
    polyak,
    radam,
    schedule_free,
    schedule_free_adamw,
    schedule_free_sgd,
    sgd,
)
from schedules import constant, cosine, linear, table, tabulate

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
PARAMS = {"w": RNG.normal(size=(3, 2)), "b": RNG.normal(size=())}
GRADS = [{"w": RNG.normal(size=(3, 2)), "b": RNG.normal(size=())} for _ in range(60)]


def as_jax(tree, dtype=jnp.float32):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def replay(optimizer, params=PARAMS, grads=GRADS, dtype=jnp.float32):
    """(params, evaluated params) after every update with the gradients given."""

    def step(carry, g):
        params, state = updated(optimizer, *carry, g)
        return (params, state), (params, eval_params(state, params))

    params = as_jax(params, dtype)
    grads = jax.tree.map(lambda *leaves: np.stack(leaves), *grads)
    _, history = jax.jit(lambda *args: jax.lax.scan(step, *args))(
        (params, optimizer.init(params)), as_jax(grads, dtype)
    )
    history = jax.device_get(history)
    return [jax.tree.map(lambda leaf, k=k: leaf[k], history) for k in range(len(GRADS))]


def updated(optimizer, params, state, grads):
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def close(actual, desired, rtol):
    """Within `rtol` of the largest number in the tree: parameters that cross zero have no relative error."""
    scale = max((np.abs(leaf).max() for leaf in jax.tree.leaves(desired)), default=0.0)
    for a, d in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(d, float), rtol=0, atol=rtol * scale)


# References, written out plainly in float64 ---------------------------------------------------------------


def numpy_adam(lr=0.05, b1=0.9, b2=0.999, eps=1e-8, decay=0.0, threshold=None, nesterov=False, eps_root=0.0):
    """Adam and its relatives for one leaf: the step of update k from its gradient and the parameters shown."""
    m = v = 0.0

    def step(k, g, p):
        nonlocal m, v
        rate, first, second = at(lr, k), at(b1, k), at(b2, k)
        m, v = first * m + (1 - first) * g, second * v + (1 - second) * g * g
        m_hat, v_hat = m / (1 - first ** (k + 1)), v / (1 - second ** (k + 1))
        if nesterov:
            m_hat = first * m / (1 - first ** (k + 2)) + (1 - first) * g / (1 - first ** (k + 1))
        direction = m_hat / (np.sqrt(v_hat + at(eps_root, k)) + eps)
        if threshold is not None:
            r = numpy_rectification(k + 1, second, threshold)
            rate, direction = (rate * r, direction) if r else (rate, m_hat)
        return -rate * (direction + at(decay, k) * p)

    return step


def numpy_rectification(t, b2, threshold):
    last = 2 / (1 - b2) - 1
    rho = last - 2 * t * b2**t / (1 - b2**t)
    return np.sqrt((rho - 4) * (rho - 2) * last / ((last - 4) * (last - 2) * rho)) if rho > threshold else 0.0


def numpy_sgd(lr=0.05, momentum=0.0, nesterov=False):
    u = 0.0

    def step(k, g, p):
        nonlocal u
        u = at(momentum, k) * u + g
        return -at(lr, k) * (g + at(momentum, k) * u if nesterov else u)

    return step


def at(value, k):
    return value(k) if callable(value) else value


def numpy_three_sequences(params, grads, step, c, beta, decay_at="y"):
    """(y, x) after every update, one leaf: z is stepped, x averages z, y lies between."""
    y = z = x = params
    for k, g in enumerate(grads):
        z = z + step(k, g, y if decay_at == "y" else z)
        x = (1 - at(c, k)) * x + at(c, k) * z
        y = (1 - at(beta, k)) * z + at(beta, k) * x
        yield y, x


def reference(base=numpy_adam, c=1.0, beta=0.0, decay_at="y"):
    """What `replay` should give, in float64."""
    leaves = {n: [*numpy_three_sequences(PARAMS[n], [g[n] for g in GRADS], base(), c, beta, decay_at)] for n in PARAMS}
    return [tuple({n: leaves[n][k][i] for n in leaves} for i in (0, 1)) for k in range(len(GRADS))]


def ema_weight(decay):
    return lambda k: (1 - decay) / (1 - decay ** (k + 1))


def weight_share(weight):
    """c of weights that add up."""
    return lambda k: weight(k) / sum(weight(j) for j in range(k + 1))


def cosine_rate(k):
    return 0.01 + 0.09 * (1 + np.cos(np.pi * min(k / 40, 1))) / 2


def warm(k):
    return min((k + 1) / 10, 1.0)


OPTIMIZERS = {
    "adam": (lambda: adam(0.05), {}),
    "adam-b1-0": (lambda: adam(0.05, b1=0, b2=0.99, eps=1e-6), {"base": partial(numpy_adam, b1=0.0, b2=0.99, eps=1e-6)}),
    "adam-scheduled": (
        lambda: adam(cosine(0.1, 0.01, 40), b1=linear(0.95, 0.85, 30), b2=constant(0.98), eps=1e-3),
        {"base": partial(numpy_adam, cosine_rate, lambda k: 0.95 - 0.1 * min(k / 30, 1), 0.98, 1e-3)},
    ),
    "nadam": (lambda: adam(0.05, nesterov=True), {"base": partial(numpy_adam, nesterov=True)}),
    "nadam-b1-0": (lambda: adam(0.05, b1=0, nesterov=True), {"base": partial(numpy_adam, b1=0.0)}),
    "nadamw-scheduled": (
        lambda: adamw(0.05, linear(0.95, 0.85, 30), weight_decay=0.3, nesterov=True),
        {"base": partial(numpy_adam, b1=lambda k: 0.95 - 0.1 * min(k / 30, 1), decay=0.3, nesterov=True)},
    ),
    "adam-eps-root": (
        lambda: adam(0.05, eps_root=linear(0.01, 0.0, 30)),
        {"base": partial(numpy_adam, eps_root=lambda k: 0.01 * (1 - min(k / 30, 1)))},
    ),
    "adamw": (lambda: adamw(0.05, weight_decay=0.3), {"base": partial(numpy_adam, decay=0.3)}),
    "adamw-scheduled": (
        lambda: adamw(cosine(0.1, 0.01, 40), weight_decay=linear(0.0, 0.5, 40)),
        {"base": partial(numpy_adam, cosine_rate, decay=lambda k: 0.5 * min(k / 40, 1))},
    ),
    "radam": (lambda: radam(0.05, b2=0.99), {"base": partial(numpy_adam, b2=0.99, threshold=5.0)}),
    "sgd": (lambda: sgd(0.05), {"base": numpy_sgd}),
    "sgd-momentum": (lambda: sgd(cosine(0.1, 0.01, 40), 0.9), {"base": partial(numpy_sgd, cosine_rate, 0.9)}),
    "sgd-nesterov-scheduled": (
        lambda: sgd(0.05, linear(0.95, 0.85, 30), nesterov=True),
        {"base": partial(numpy_sgd, momentum=lambda k: 0.95 - 0.1 * min(k / 30, 1), nesterov=True)},
    ),
    "polyak": (lambda: average(adam(0.05), polyak()), {"c": lambda k: 1 / (k + 1)}),
    "ema": (lambda: average(adam(0.05), ema(0.9)), {"c": ema_weight(0.9)}),
    "ema-long": (lambda: average(adam(0.05), ema(0.9999)), {"c": ema_weight(0.9999)}),
    "primal": (lambda: average(adam(0.05), polyak(), beta=1.0), {"c": lambda k: 1 / (k + 1), "beta": 1.0}),
    "beta-0-scheduled": (lambda: average(adam(0.05), polyak(), beta=constant(0.0)), {"c": lambda k: 1 / (k + 1)}),
    "schedule-free": (
        lambda: schedule_free(adam(0.05, b1=0.0)),
        {"base": partial(numpy_adam, b1=0.0), "c": lambda k: 1 / (k + 1), "beta": 0.9},
    ),
    "schedule-free-ema": (
        lambda: schedule_free(adam(0.05, b1=0.0), ema(0.95), beta=linear(0.5, 0.95, 30)),
        {"base": partial(numpy_adam, b1=0.0), "c": ema_weight(0.95), "beta": lambda k: 0.5 + 0.45 * min(k / 30, 1)},
    ),
    "schedule-free-adamw": (
        lambda: schedule_free_adamw(0.05, warmup_steps=10, weight_decay=0.1, inner_momentum=0.5, r=0.75),
        {
            "base": partial(numpy_adam, lambda k: 0.05 * warm(k), 0.5, decay=0.1),
            "c": weight_share(lambda k: (k + 1) ** 0.75 * warm(k) ** 2),
            "beta": 0.9,
        },
    ),
    "schedule-free-lean": (
        lambda: schedule_free_sgd(0.05, warmup_steps=10, lean=True),
        {"base": partial(numpy_sgd, lambda k: 0.05 * warm(k)), "c": weight_share(lambda k: warm(k) ** 2), "beta": 0.9},
    ),
    "refined": (
        lambda: schedule_free_adamw(0.05, scale=0.1 * 20),
        {"base": partial(numpy_adam, b1=0.0), "c": lambda k: min(2 / (k + 1), 1.0), "beta": 0.9},
    ),
    "gpa": (
        lambda: gpa(adamw(0.05, weight_decay=0.1), mu_x=0.9, mu_y=0.7),
        {"base": partial(numpy_adam, decay=0.1), "c": 0.1, "beta": 0.7, "decay_at": "z"},
    ),
}  # fmt: skip
every = pytest.mark.parametrize(("make", "settings"), OPTIMIZERS.values(), ids=OPTIMIZERS)


@every
def test_equals_the_reference_step_by_step(make, settings, strict):
    for actual, desired in zip(replay(make()), reference(**settings), strict=True):
        close(actual, desired, rtol=1e-6)


@every
def test_equals_the_reference_in_float64(make, settings, x64):
    for actual, desired in zip(replay(make(), dtype=jnp.float64), reference(**settings), strict=True):
        close(actual, desired, rtol=1e-12)


@every
def test_float32_parameters_stay_float32_under_x64(make, settings, x64, strict):
    for actual, desired in zip(replay(make()), reference(**settings), strict=True):
        assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {jnp.dtype("float32")}
        close(actual, desired, rtol=1e-6)


@every
def test_without_jit_it_equals_the_reference_too(make, settings):
    optimizer, params = make(), as_jax(PARAMS)
    state = optimizer.init(params)
    for grads, desired in zip(GRADS[:12], reference(**settings), strict=False):
        params, state = updated(optimizer, params, state, as_jax(grads))
        close((params, eval_params(state, params)), desired, rtol=1e-6)


@every
def test_a_bfloat16_run_keeps_its_dtype_and_a_float32_average(make, settings):
    optimizer = make()
    params = as_jax(PARAMS, jnp.bfloat16)
    if make is OPTIMIZERS["schedule-free-lean"][0]:
        with pytest.raises(
            ValueError, match="^average: `params` must be float32 or wider in the lean form, got bfloat16$"
        ):
            optimizer.init(params)
        return
    state = optimizer.init(params)
    widths = {leaf.dtype for leaf in jax.tree.leaves(state)}
    assert widths <= {jnp.dtype("float32"), jnp.dtype("int32")}
    history = replay(optimizer, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(history[-1])} == {jnp.dtype("bfloat16")}
    close(history[-1], reference(**settings)[-1], rtol=0.05)


@every
def test_state_has_one_structure_and_dtype_throughout(make, settings):
    optimizer, params = make(), as_jax(PARAMS)
    state = jax.eval_shape(optimizer.init, params)
    assert jax.eval_shape(optimizer.update, params, state, params)[1] == state


@every
def test_parameters_and_state_may_be_donated_together(make, settings):
    optimizer, params = make(), as_jax(PARAMS)
    step = jax.jit(partial(updated, optimizer), donate_argnums=(0, 1))
    params, state = step(params, optimizer.init(params), as_jax(GRADS[0]))
    params, state = step(params, state, as_jax(GRADS[1]))
    close((params, eval_params(state, params)), reference(**settings)[1], rtol=1e-6)


@every
def test_trees_of_nothing_and_of_scalars(make, settings):
    def evaluated(params):
        _, state = updated(make(), params, make().init(params), params)
        return eval_params(state, params)

    assert jax.eval_shape(evaluated, {}) == {}
    assert jax.eval_shape(evaluated, jnp.float32(0)).shape == ()


# Adam -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("b2", [0.99, 0.999])
def test_adam_equals_optax(b2, x64):
    ours, theirs = (replay(f(0.05, b2=b2, eps=1e-6), dtype=jnp.float64) for f in (adam, optax.adam))
    for (actual, _), (desired, _) in zip(ours, theirs, strict=True):
        close(actual, desired, rtol=1e-12)


def test_adam_in_float32_is_nearer_to_the_truth_than_optax():
    """Optax forms 1 - b2**t in float32, where 1 - 0.999 is wrong in the fifth digit."""
    truth = [y for y, _ in reference()]

    def error(optimizer):
        return max(float(jnp.abs(p["w"] - d["w"]).max()) for (p, _), d in zip(replay(optimizer), truth, strict=True))

    assert error(adam(0.05)) < 1e-6
    assert error(adam(0.05)) < error(optax.adam(0.05)) < 1e-5


def test_adam_first_update_is_the_learning_rate_whatever_the_gradients_scale():
    for scale in (1e-3, 1.0, 1e6):
        optimizer = adam(0.05, eps=0.0)
        updates, _ = optimizer.update(jnp.array([-scale, scale]), optimizer.init(jnp.zeros(2)))
        np.testing.assert_allclose(updates, [0.05, -0.05], rtol=2e-6)


def test_a_vmapped_sweep_is_a_loop():
    grads = as_jax(GRADS[0])

    def first(lr, b1):
        optimizer = adam(cosine(lr, 0.0, 9), b1=b1)
        state = optimizer.init(grads)
        for _ in range(3):
            updates, state = optimizer.update(grads, state)
        return updates

    rates, betas = jnp.array([0.1, 0.2]), jnp.array([0.0, 0.9])
    swept = jax.vmap(first)(rates, betas)
    for i in range(2):
        close([u[i] for u in jax.tree.leaves(swept)], first(rates[i], betas[i]), 1e-6)


def test_counts_saturate():
    optimizer = average(adam(cosine(0.1, 0.01, 9)), polyak())
    grads = jnp.ones(2)
    state = jax.tree.map(lambda s: jnp.full_like(s, 2**31 - 1) if s.dtype == jnp.int32 else s, optimizer.init(grads))
    updates, state = optimizer.update(grads, state, grads)
    assert state.count == state.base.count == 2**31 - 1
    assert np.isfinite(updates).all()


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: adam(0.1, b1=1.0), "adam: `b1` must be a number from 0 to below 1 or a schedule, got 1.0"),
        (lambda: adam(0.1, b2=-0.1), "adam: `b2` must be a number from 0 to below 1 or a schedule, got -0.1"),
        (
            lambda: adam("fast"),
            "adam: `learning_rate` must be a schedule, a number or a function of the step, got 'fast'",
        ),
        (
            lambda: adam(cosine),
            "adam: `learning_rate` must be a schedule, a number or a function of the step, got cosine, which was not called",
        ),
        (lambda: ema(1.0), "ema: `decay` must be a number from 0 to below 1, got 1.0"),
        (lambda: ema("long"), "ema: `decay` must be a number from 0 to below 1, got 'long'"),
        (lambda: ema(True), "ema: `decay` must be a number from 0 to below 1, got True"),
        (
            lambda: exponential_average(0.5),
            "exponential_average: `window` must be a number of updates, 1 or more, got 0.5",
        ),
        (
            lambda: average(adam(0.1), polyak()).update(jnp.ones(2), average(adam(0.1), polyak()).init(jnp.ones(2))),
            "average: `params` must be passed to update(grads, state, params), got None",
        ),
    ],
)
def test_a_bad_argument_is_one_clear_sentence(mistake, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, compared whole below
        mistake()
    assert str(caught.value) == message


# Averages -------------------------------------------------------------------------------------------------


def test_an_average_leaves_the_run_bit_for_bit_alone():
    plain, averaged = replay(adam(0.05)), replay(average(adam(0.05), polyak()))
    for (alone, _), (beside, _) in zip(plain, averaged, strict=True):
        chex.assert_trees_all_equal(alone, beside)


def test_polyak_is_the_mean_and_an_ema_a_weighted_mean_of_what_the_caller_held():
    held = np.array([y["w"] for y, _ in replay(adam(0.05))], np.float64)
    for coefficient, weights in [(polyak(), np.ones(60)), (ema(0.9), 0.9 ** np.arange(60)[::-1])]:
        _, x = replay(average(adam(0.05), coefficient))[-1]
        np.testing.assert_allclose(x["w"], np.average(held, axis=0, weights=weights), rtol=2e-6)


def test_an_ema_knows_the_decimal_that_was_typed():
    assert repr(ema(0.9999)) == "exponential_average(window=10000.0)"
    traced = jax.jit(lambda d: ema(d)(jnp.arange(5)))(jnp.float32(0.9))
    np.testing.assert_allclose(traced, ema(0.9)(jnp.arange(5)), rtol=1e-5)


def test_a_long_bfloat16_average_matches_a_float64_one():
    """Constant updates: the average is exactly half-way. Sums in bfloat16 stop growing after 256 terms."""
    optimizer = average(optax.sgd(1.0), polyak(), beta=0.5)
    params = jnp.zeros((), jnp.bfloat16)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jnp.asarray(-1e-4, jnp.bfloat16), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, length=10_000)
    step_size = float(jnp.asarray(1e-4, jnp.bfloat16))
    np.testing.assert_allclose(state.x, step_size * 10_001 / 2, rtol=1e-4)
    assert eval_params(state, params) == jnp.asarray(step_size * 10_001 / 2, jnp.bfloat16)


def test_linear_decay_is_a_setting_of_the_wrapper():
    """beta_t = t / T with uniform weights is SGD with a linearly decaying rate (arXiv:2405.15682, section 2)."""
    horizon = len(GRADS)
    # The theory counts the initial point: c = 1 / (t + 2) at our update t, and y after it is that of t + 1.
    weights = table(1 / (jnp.arange(horizon) + 2.0))
    betas = table((jnp.arange(horizon) + 2.0) / (horizon + 1))
    family = replay(average(optax.sgd(0.1), weights, betas))
    decayed = replay(optax.sgd(0.1 * table(tabulate(linear(1.0, 0.0, horizon + 1), horizon + 1)[1:])))
    for (y, _), (p, _) in zip(family, decayed, strict=True):
        close(y, p, rtol=1e-5)


# What people wrap optimizers in ---------------------------------------------------------------------------


def quadratic(params):
    return sum(jnp.sum((p - 3.0) ** 2) for p in jax.tree.leaves(params))


def trained(optimizer, updates=200):
    def step(_, carry):
        params, state = carry
        return updated(optimizer, params, state, jax.grad(quadratic)(params))

    params = as_jax(PARAMS)
    return jax.jit(lambda carry: jax.lax.fori_loop(0, updates, step, carry))((params, optimizer.init(params)))


WRAPPED = {
    "chain": lambda inner: optax.chain(optax.clip_by_global_norm(10.0), inner),
    "chain-of-chains": lambda inner: optax.chain(optax.identity(), optax.chain(inner, optax.identity())),
    "MultiSteps": lambda inner: optax.MultiSteps(inner, 2).gradient_transformation(),
    "masked": lambda inner: optax.masked(inner, {"w": True, "b": True}),
    "partition": lambda inner: optax.partition({"all": inner}, {"w": "all", "b": "all"}),
    "apply_if_finite": lambda inner: optax.apply_if_finite(inner, 3),
    "inject": lambda inner: optax.inject_hyperparams(lambda unused: inner)(unused=0.5),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("name", ["adam", "polyak", "schedule-free", "schedule-free-ema"])
def test_works_and_is_evaluated_inside(wrap, name):
    optimizer = wrap(OPTIMIZERS[name][0]())
    assert isinstance(OPTIMIZERS[name][0](), optax.GradientTransformationExtraArgs)
    start = quadratic(as_jax(PARAMS))
    params, state = trained(optimizer)
    assert quadratic(params) < 0.2 * start
    evaluated = eval_params(state, params)
    averages = [
        s for s in jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, AverageState)) if isinstance(s, AverageState)
    ]
    assert len(averages) == (name != "adam")
    chex.assert_trees_all_equal(evaluated, averages[0].x if averages else params)
    assert bool(averages) == any(
        bool((e != p).any()) for e, p in zip(jax.tree.leaves(evaluated), jax.tree.leaves(params), strict=True)
    )


def test_multisteps_counts_updates_and_not_minibatches():
    params, state = trained(optax.MultiSteps(average(adam(0.05), polyak()), 4), updates=12)
    assert state.inner_opt_state.count == 3
    expected, expected_state = trained(average(adam(0.05), polyak()), updates=3)
    close(eval_params(state, params), eval_params(expected_state, expected), 1e-6)


def test_masked_parameters_are_evaluated_as_they_are():
    optimizer = optax.masked(average(adam(0.05), polyak()), {"w": True, "b": False})
    params, state = trained(optimizer, updates=1)
    params = {**params, "b": jnp.float32(7.0)}
    evaluated = eval_params(state, params)
    assert evaluated["b"] == 7.0
    np.testing.assert_array_equal(evaluated["w"], state.inner_state.x["w"])


def test_two_averages_of_different_parameters_are_put_together():
    optimizer = optax.partition(
        {"long": average(adam(0.05), polyak()), "short": average(adam(0.05), ema(0.5))}, {"w": "long", "b": "short"}
    )
    params, state = trained(optimizer, updates=9)
    for name, coefficient in (("w", polyak()), ("b", ema(0.5))):
        alone, alone_state = trained(average(adam(0.05), coefficient), updates=9)
        np.testing.assert_allclose(eval_params(state, params)[name], eval_params(alone_state, alone)[name], rtol=1e-6)


def test_two_averages_of_one_parameter_or_other_parameters_are_refused():
    params, state = trained(average(average(adam(0.05), polyak()), polyak()), updates=1)
    with pytest.raises(
        ValueError, match="^eval_params: `opt_state` must hold one average of each parameter, got several$"
    ):
        eval_params((state, state), params)
    params, state = trained(average(adam(0.05), polyak()), updates=1)
    with pytest.raises(
        ValueError,
        match=r"^eval_params: `params` must be like the parameters that the state was made for, got nothing at \['b'\]$",
    ):
        eval_params(state, {"w": params["w"]})


def test_extra_arguments_reach_the_base():
    def update(updates, state, params=None, *, value, **extra):
        return jax.tree.map(lambda u: -value * u, updates), state

    base = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    for optimizer in (average(base, polyak()), schedule_free(base)):
        state = optimizer.init(jnp.ones(2))
        updates, _ = optimizer.update(jnp.ones(2), state, jnp.ones(2), value=0.5)
        np.testing.assert_allclose(updates, -0.5)


def test_flax_train_state():
    from flax import linen as nn
    from flax.training.train_state import TrainState

    model = nn.Dense(2)
    x, y = jnp.ones((4, 3)), jnp.zeros((4, 2))
    state = TrainState.create(
        apply_fn=model.apply,
        params=model.init(jax.random.key(0), x)["params"],
        tx=optax.chain(optax.clip(1.0), schedule_free(adam(0.1, b1=0.0))),
    )

    def loss(params):
        return jnp.mean((state.apply_fn({"params": params}, x) - y) ** 2)

    start = loss(state.params)
    step = jax.jit(lambda state: state.apply_gradients(grads=jax.grad(loss)(state.params)))
    for _ in range(50):
        state = step(state)
    assert loss(eval_params(state.opt_state, state.params)) < 0.05 * start


def test_nnx_optimizer():
    from flax import nnx

    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, schedule_free(adam(0.1, b1=0.0)), wrt=nnx.Param)
    x = jnp.ones((4, 3))

    def loss(model):
        return jnp.mean(model(x) ** 2)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(loss)(model))

    start = loss(model)
    for _ in range(50):
        step(model, optimizer)
    averaged = nnx.clone(model)
    nnx.update(averaged, eval_params(optimizer.opt_state, nnx.state(averaged, nnx.Param)))
    assert loss(averaged) < 0.05 * start
    assert loss(averaged) != loss(model)


def test_a_state_is_pickled_and_checkpointed_and_goes_on_bit_for_bit(tmp_path):
    import pickle

    import orbax.checkpoint as ocp

    optimizer = schedule_free(adam(cosine(0.1, 0.0, 40), b1=0.0))
    params, state = trained(optimizer, updates=5)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(lambda: state))
    grads = as_jax(GRADS[0])
    expected, _ = optimizer.update(grads, state, params)
    for resumed in (restored, pickle.loads(pickle.dumps(state))):
        updates, _ = optimizer.update(grads, resumed, params)
        chex.assert_trees_all_equal(updates, expected)


def test_state_inherits_the_sharding_of_the_parameters():
    mesh = jax.make_mesh((8,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = jax.device_put(jnp.arange(16.0), sharding)
    optimizer = schedule_free(adam(0.1, b1=0.5))
    state = optimizer.init(params)
    updates, state = jax.jit(optimizer.update)(params, state, params)
    for leaf in (updates, state.x, state.z, state.base.mu, state.base.nu):
        assert leaf.sharding.is_equivalent_to(sharding, 1)
