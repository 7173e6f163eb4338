"""Schedules as their users meet them: built, combined, mistaken, passed to optax."""

import io
import pickle
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from schedules import (
    Boundaries,
    Schedule,
    ScheduleLike,
    Steps,
    Value,
    add,
    as_schedule,
    constant,
    cooldown,
    cosine,
    exponential,
    exponential_decay,
    function,
    infinite,
    inverse_sqrt,
    join,
    linear,
    multiply,
    per_update,
    piecewise_constant,
    recipe,
    restarts,
    schedule,
    sgdr,
    stack,
    stretch,
    table,
    tabulate,
    warmup,
    warmup_cosine,
    wsd,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_units_are_counted_beyond_the_last_step():
    tokens, updates = 524_288, np.array([0, 1, 4095, 4096, 100_000, 1_000_000])
    found = per_update(inverse_sqrt(1.0, 10**6), tokens)(updates)
    counted = updates.astype(float) * tokens
    np.testing.assert_allclose(found, (1 + counted / 1e6) ** -0.5, rtol=1e-6)
    found = per_update(restarts(linear(1.0, 0.0, 10**8), 10**8), 4_000_000)(np.array([530, 540, 560, 575]))
    np.testing.assert_allclose(found, [0.8, 0.4, 0.6, 1.0], atol=1e-5)


def test_a_ramp_from_a_schedule_that_is_0_ends_at_its_end():
    lr = cooldown(cosine(1.0, 0.0, 500), 500, 500, 1e-3, exponential)
    np.testing.assert_allclose(lr(np.array([499, 999, 1000, 2000])), [cosine(1.0, 0.0, 500)(499), 0, 1e-3, 1e-3])


def test_traced_durations_are_rounded():
    ended = jax.jit(lambda share: linear(1.0, 0.0, share * 100)(28))(0.29)
    np.testing.assert_allclose(ended, 1 / 29, rtol=1e-5)


def test_long_lists_as_arrays_are_one_leaf():
    numbers = np.linspace(1.0, 0.0, 1_000)
    for array in (numbers, jnp.asarray(numbers)):
        lr = table(array)
        assert len(jax.tree.leaves(lr)) == 2
        np.testing.assert_allclose(lr(np.arange(1_000)), numbers, rtol=1e-6)
    assert len(jax.tree.leaves(piecewise_constant(numbers, np.arange(1, 1_000)))) == 2


# A user's own -----------------------------------------------------------------------------------------


@schedule
def sawtooth(step, peak: Value, period: Steps):
    return peak * (1 - step % period / period)


def test_a_users_schedule_is_three_lines_and_gets_everything():
    saw = sawtooth(2.0, period=4)
    np.testing.assert_array_equal(tabulate(saw, 6), [2.0, 1.5, 1.0, 0.5, 2.0, 1.5])
    assert repr(0.5 * saw) == "multiply(constant(value=0.5), sawtooth(peak=2.0, period=4))"
    assert saw == sawtooth(2, 4.0) != sawtooth(2, 5)
    np.testing.assert_allclose(jax.vmap(lambda s: s(1))(stack([saw, sawtooth(1.0, 2)])), [1.5, 0.5])


def test_float_and_int_annotations_are_kinds_and_others_are_refused():
    @schedule
    def plain(step, peak: float, period: int, other: Schedule):
        return peak * other(step) / period

    assert repr(plain(1, 2, 3)) == "plain(peak=1.0, period=2, other=constant(value=3.0))"
    with pytest.raises(
        TypeError, match="^bare: `peak` must be annotated with its kind, such as Value or Steps, got no annotation$"
    ):
        schedule(bare)
    with pytest.raises(
        TypeError, match="^odd: `peak` must be annotated with its kind, such as Value or Steps, got <class 'list'>$"
    ):
        schedule(odd)


def test_an_argument_cannot_hide_what_every_schedule_has():
    def hiding(step, replace: Value):
        return replace

    with pytest.raises(
        TypeError,
        match="^hiding: an argument cannot be called `replace`, since all schedules have this attribute$",
    ):
        schedule(hiding)


def bare(step, peak):
    return peak


def odd(step, peak: list):
    return peak


def test_a_formula_that_returns_no_number_is_refused():
    @schedule
    def pair(step, peak: Value):
        return jnp.stack([peak, peak])

    with pytest.raises(ValueError, match=r"^pair: the formula must return one number for one step, got shape \(2,\)"):
        pair(1.0)(0)


def test_a_formula_keeps_its_name_its_documentation_and_its_signature():
    import inspect

    assert repr(cosine) == cosine.__name__ == "cosine"
    assert "arXiv:1608.03983" in cosine.__doc__
    assert [*inspect.signature(cosine).parameters] == ["start", "end", "steps"]


# What the numbers may be ------------------------------------------------------------------------------


def test_numbers_become_python_numbers_and_arrays_pass_through():
    lr = cosine(np.float32(0.5), np.array(0), np.int64(9))
    assert [(type(leaf), leaf) for leaf in jax.tree.leaves(lr)] == [(float, 0.5), (float, 0.0), (int, 9)]
    traced = cosine(jnp.float32(0.5), 0.0, jnp.int32(9))
    assert isinstance(traced.start, jax.Array)
    np.testing.assert_array_equal(tabulate(traced, 12), tabulate(lr, 12))
    assert traced == cosine(jnp.float32(0.5), 0.0, jnp.int32(9)) != lr
    assert repr(traced) == repr(lr)


def test_lists_may_be_numpy_or_jax_arrays():
    values, boundaries = [0.5, 0.25, 1.0], [2, 4]
    expected = [0.5, 0.5, 0.25, 0.25, 1.0, 1.0]
    for convert in (tuple, np.array, jnp.array):
        lr = piecewise_constant(convert(values), convert(boundaries))
        np.testing.assert_array_equal(tabulate(lr, 6), expected)
        assert repr(lr) == "piecewise_constant(values=[0.5, 0.25, 1.0], boundaries=[2, 4])"
        hash(lr)


def test_peaks_lengths_and_horizons_are_vmapped():
    peaks, lengths = jnp.array([1.0, 2.0]), jnp.array([2, 4])
    curves = jax.vmap(lambda p, n: warmup(cosine(p, 0.0, 3 * n), n)(jnp.arange(20)))(peaks, lengths)
    for curve, p, n in zip(curves, (1.0, 2.0), (2, 4), strict=True):
        np.testing.assert_allclose(curve, warmup(cosine(p, 0.0, 3 * n), n)(jnp.arange(20)), rtol=6e-7)


def test_a_schedule_is_differentiated_as_a_schedule():
    lr = linear(1.0, 0.5, 10)
    gradient = jax.grad(lambda s: s(4), allow_int=True)(lr)
    assert isinstance(gradient, Schedule)
    np.testing.assert_allclose([gradient.start, gradient.end], [0.6, 0.4], rtol=1e-6)


def test_a_schedule_is_a_static_or_a_traced_argument():
    lr = cosine(1.0, 0.0, 9)
    static = jax.jit(lambda s, t: s(t), static_argnums=0)
    assert static(lr, 3) == jax.jit(lambda s, t: s(t))(lr, 3) == lr(3)
    assert {lr: "a key"}[cosine(1.0, 0.0, 9)] == "a key"


def test_a_call_follows_x64_and_survives_cleared_caches_and_traces():
    lr = 0.1 * warmup(cosine(1.0, 0.0, 9000), 1000)
    exact = 0.1 * np.sin(np.pi / 2 * (9000 - 1234) / 9000) ** 2
    assert jax.jit(lambda x: x * lr(0))(2.0) == 0.0  # first called while something else is traced
    for _ in range(2):
        assert lr(2234).dtype == jnp.float32
        np.testing.assert_allclose(lr(2234), exact, rtol=1e-6)
        with jax.enable_x64(True):
            assert lr(2234).dtype == jnp.float64
            np.testing.assert_allclose(lr(2234), exact, rtol=1e-14)
        jax.clear_caches()


def test_a_join_of_few_pieces_gathers_nothing():
    ramps = join([linear(n, n + 1.0, 10) for n in range(10)], [10 * n for n in range(1, 10)])
    waves = restarts(join([linear(0.0, 1.0, 4), 0.5, linear(1.0, 0.0, 4)], [4, 8]), 12)
    alone = restarts(linear(0.0, 1.0, 12), 12)

    def gathers(lr):
        return str(jax.make_jaxpr(lambda lr, t: lr(t))(lr, jnp.arange(100))).count(" gather[")

    assert gathers(ramps) == 0
    assert gathers(waves) == gathers(alone)


def test_steps_beyond_float32_integers_are_told_apart():
    lr = piecewise_constant([0.0, 1.0], [2**24 + 1])
    np.testing.assert_array_equal(lr(np.array([2**24, 2**24 + 1])), [0.0, 1.0])
    start = 99_999_990
    tail = cosine(1.0, 0.0, 100_000_000)(start + np.arange(10))
    np.testing.assert_allclose(tail, [np.sin(np.pi / 2 * k / 1e8) ** 2 for k in range(10, 0, -1)], rtol=1e-6)


def test_steps_before_0_and_beyond_the_last_are_held():
    lr = restarts(linear(1.0, 0.5, 10), 10) * linear(1.0, 0.0, 100)
    np.testing.assert_array_equal(lr(np.array([-1, -5, 0])), 1.0)
    assert lr(-2.5) == 1.0
    assert linear(1.0, 0.0, 100)(jnp.uint32(3_000_000_000)) == 0.0


def test_float_steps_interpolate_under_strict_promotion(strict):
    np.testing.assert_allclose(
        per_update(linear(1.0, 0.0, 10_000), 1000)(jnp.array([0.0, 2.5, 10.0])), [1.0, 0.75, 0.0]
    )
    assert warmup(linear(1.0, 0.0, 10), 4)(jnp.array(1.5)) == 0.375
    assert warmup(linear(1.0, 0.0, 10), 4)(4.5) == 0.95


# Combinations -----------------------------------------------------------------------------------------


def test_operators_build_named_schedules():
    lr = cosine(1.0, 0.0, 9)
    t = jnp.arange(12)
    assert 0.5 * lr == multiply(0.5, lr)
    assert lr * 0.5 == multiply(lr, constant(0.5))
    assert lr + 1 == add(lr, 1.0)
    assert np.float32(0.5) * lr == 0.5 * lr
    assert np.array(0.5) * lr == 0.5 * lr
    assert lr / 2 == lr * 0.5
    np.testing.assert_allclose((1 - lr)(t), 1 - lr(t), rtol=1e-6)
    np.testing.assert_allclose((lr - 0.25)(t), lr(t) - 0.25, rtol=1e-6)
    np.testing.assert_allclose((-lr)(t), -lr(t))
    np.testing.assert_allclose(sum([lr, lr, lr])(t), 3 * lr(t), rtol=1e-6)
    # An array scales as itself, also where JAX might have taken the operator.
    np.testing.assert_allclose((jnp.float32(2) * lr)(t), 2 * lr(t))


def test_a_join_restarts_every_piece_at_its_own_zero():
    lr = join([linear(0.0, 1.0, 4), linear(1.0, 0.0, 4)], [4])
    np.testing.assert_allclose(tabulate(lr, 9), [0.0, 0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0])


def test_a_piece_that_is_singular_before_its_time_leaves_the_gradient_finite():
    root = function(lambda t: 1 / jnp.sqrt(1.0 + t))
    gradient = jax.grad(lambda s: s(2), allow_int=True)(join([linear(0.0, 1.0, 4), 2.0 * root], [4]))
    assert all(np.isfinite(g) for g in jax.tree.leaves(gradient) if g.dtype == jnp.float32)


def test_warmup_reaches_the_peak_at_its_length_and_of_none_is_the_schedule():
    lr = cosine(1.0, 0.0, 10)
    np.testing.assert_allclose(tabulate(warmup(lr, 4), 5), [0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_array_equal(tabulate(warmup(lr, 0), 12), tabulate(lr, 12))
    # The convention (t + 1) / W of the schedule-free reference, as the docstring writes it.
    np.testing.assert_allclose(tabulate(warmup(1.0, 3, init=0.25), 5), [0.25, 0.5, 0.75, 1.0, 1.0])


def test_every_schedule_has_a_row_of_laws():
    from table import TABLE

    from schedules.formula import FORMULAS

    def names(value):
        inner = value.arguments.values() if isinstance(value, Schedule) else value if isinstance(value, tuple) else ()
        own = {str(value.formula)} if isinstance(value, Schedule) else set()
        return own.union(*map(names, inner))

    ours = {
        name for name, formula in FORMULAS.items() if formula.__module__.partition(".")[0] in ("schedules", "optim")
    }
    assert ours - set().union(*(names(row.schedule) for row in TABLE)) == {"function"}  # which holds no number


def test_a_factor_keeps_the_digits_that_were_typed():
    lr = exponential_decay(1.0, 0.9999, 1)
    assert lr.factor == 0.9999
    assert repr(lr) == "exponential_decay(value=1.0, factor=0.9999, steps=1, staircase=False)"
    np.testing.assert_allclose(jax.jit(lambda s: s(50_000))(lr), 0.9999**50_000, rtol=1e-6)
    # In float32 alone it would be 8e-4 off.
    assert abs(float(np.float32(0.9999)) ** 50_000 / 0.9999**50_000 - 1) > 5e-4
    gradient = jax.grad(lambda s: s(100), allow_int=True)(exponential_decay(2.0, 0.5, 100))
    np.testing.assert_allclose(gradient.factor, 2.0, rtol=1e-6)
    assert jax.jit(lambda s: s.replace(factor=s.factor * 0.5)(1))(exponential_decay(1.0, 0.5, 1)) == 0.25


def test_a_recipe_is_the_composition_it_says():
    @recipe
    def tent(peak: Value, steps: Steps) -> Schedule:
        return join([linear(0.0, peak, steps), linear(peak, 0.0, steps)], [steps])

    lr = tent(1.0, 4)
    assert repr(lr) == "tent(peak=1.0, steps=4)"
    assert lr.expand() == join([linear(0.0, 1.0, 4), linear(1.0, 0.0, 4)], [4])
    assert lr.expand().expand() == lr.expand()
    np.testing.assert_array_equal(tabulate(lr, 10), tabulate(lr.expand(), 10))
    assert (lr**2.0)(2) == 0.25


def test_a_recipe_may_compute_with_the_values_of_a_schedule():
    @recipe
    def inverse_excess(schedule: ScheduleLike, steps: Steps) -> Schedule:
        return linear(1 / (as_schedule(schedule)(0) - 1), 0.0, steps)

    np.testing.assert_allclose(inverse_excess(constant(3.0), 10)(5), 0.25, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda v: inverse_excess(constant(v), 10)(5))(3.0), 0.25, rtol=1e-6)

    @recipe
    def misspelt(schedule: ScheduleLike) -> Schedule:
        return constant(as_schedule(schedule)(0), peak=1.0)

    # What is wrong whatever the values is found where the recipe is built.
    with pytest.raises(TypeError, match="^constant: has no argument `peak`, only `value`"):
        misspelt(constant(3.0))

    @recipe
    def too_long(schedule: ScheduleLike, steps: Steps) -> Schedule:
        return cooldown(schedule, steps, 2 * steps)

    with pytest.raises(ValueError, match="^too_long: cooldown: `steps` must be a whole number of steps"):
        too_long(constant(3.0), 2_000_000_000)


@pytest.mark.parametrize("missing", [0, 1, 31, 63, 64, 65, 200, 1000])
def test_periods_and_lengths_near_the_last_step(missing):
    period = 2**31 - 1 - missing
    for t in (0, 1, period // 2, period - 1):
        expected = np.sin(np.pi / 2 * (period - t) / period) ** 2
        np.testing.assert_allclose(sgdr(1.0, period)(t), expected, rtol=1e-6)
        np.testing.assert_allclose(sgdr(1.0, period, 2.0)(t), expected, rtol=1e-6)
    half = period // 2
    last = 2 * half
    for t in (0, half, last - 1, last):
        np.testing.assert_allclose(stretch(linear(1.0, 0.0, half), 2.0)(t), (last - t) / last, rtol=1e-6)
    # What would be longer ends at the last step there is.
    assert stretch(linear(1.0, 0.0, period), 3.0)(2**31 - 1) == 0.0


def test_durations_that_are_rounded_have_no_derivative():
    for lr in (stretch(linear(1.0, 0.0, 90), 1.5), restarts(linear(1.0, 0.0, 90), 90, 2.0)):
        gradient = jax.grad(lambda lr: lr(50), allow_int=True)(lr)
        assert getattr(gradient, "factor" if lr.formula is stretch else "growth") == 0.0


def test_cooldown_leaves_a_stable_run_at_any_step():
    stable = warmup(0.5, 10)
    for start in (0, 5, 10, 1000):
        branch = cooldown(stable, start, 100)
        np.testing.assert_array_equal(tabulate(branch, start + 1), tabulate(stable, start + 1))
        np.testing.assert_allclose(branch(start + 50), stable(start) / 2, rtol=1e-6)
        assert branch(start + 100) == 0


def test_plain_callables_are_schedules_by_identity():
    peer = optax.cosine_decay_schedule(1.0, 10)
    lr = warmup(peer, 5)
    np.testing.assert_allclose(lr(jnp.arange(5, 15)), jax.vmap(peer)(jnp.arange(10)), rtol=1e-5)  # optax cancels
    assert lr == warmup(peer, 5) != warmup(optax.cosine_decay_schedule(1.0, 10), 5)


def test_a_table_stands_in_for_any_schedule():
    lr = warmup(cosine(1.0, 0.0, 10), 5)
    np.testing.assert_array_equal(tabulate(table(tabulate(lr, 20)), 25), tabulate(lr, 25))


def test_schedule_arguments_take_numbers():
    @schedule
    def twice(step, of: ScheduleLike, milestones: Boundaries):
        return 2 * of(step) * (step >= milestones[0])

    assert twice(3.0, [1])(1) == 6.0


# In optax ---------------------------------------------------------------------------------------------


def test_every_optax_optimizer_takes_a_schedule():
    lr = warmup(cosine(0.1, 0.0, 20), 5)
    params = {"w": jnp.ones(3)}
    for make in (optax.adam, optax.adamw, optax.sgd, optax.lion, optax.rmsprop):
        optimizer = make(lr)
        state = optimizer.init(params)
        update = jax.jit(optimizer.update)
        for _ in range(3):
            updates, state = update(params, state, params)
        assert np.isfinite(updates["w"]).all()
    scaled = optax.scale_by_schedule(lr)
    state = scaled.init(params)
    for t in range(8):
        updates, state = scaled.update(params, state)
        np.testing.assert_allclose(updates["w"], lr(t), rtol=1e-6)
    injected = optax.inject_hyperparams(optax.sgd)(learning_rate=lr)
    state = injected.init(params)
    for t in range(3):
        _, state = injected.update(params, state)
        np.testing.assert_allclose(state.hyperparams["learning_rate"], lr(t), rtol=1e-6)


def test_changing_a_learning_rate_does_not_retrace_a_train_step():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, lr):
        optimizer = optax.adam(lr)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    for peak in (0.1, 0.2, 0.3):
        step(jnp.ones(3), cosine(peak, 0.0, round(100 * peak)))


# Elsewhere --------------------------------------------------------------------------------------------


def test_a_pytorch_lambda_lr_takes_a_schedule():
    torch = pytest.importorskip("torch")
    lr = warmup(cosine(0.5, 0.0, 10), 5, init=0.1)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=2.0)  # which refuses what is no float
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr.at)
    for t in range(18):
        np.testing.assert_allclose(optimizer.param_groups[0]["lr"], 2.0 * lr(t), rtol=1e-6)
        optimizer.step()
        scheduler.step()
    saved = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, saved)
    saved.seek(0)
    torch.load(saved)  # only tensors and plain values, or it raises


def test_at_serves_where_python_wants_a_float():
    lr = warmup(cosine(0.5, 0.0, 10_000), 100)
    assert f"{lr.at(100):.2f}" == "0.50"
    assert lr.at(np.int64(100)) == lr.at(jnp.int32(100)) == 0.5
    for t in (0, 4_095, 4_096, 4_095, 9_000, 2**31 - 1, -3):  # back and forth, and far off
        np.testing.assert_allclose(lr.at(t), lr(t), rtol=1e-6)
    asked = lr.at
    assert pickle.loads(pickle.dumps(asked))(50) == asked(50) == 0.25
    assert jax.jit(lambda x: x * lr.at(50))(2.0) == 0.5  # a constant of the program


def test_pickles_cross_processes(tmp_path):
    lr = 0.5 * warmup(restarts(exponential_decay(0.1, 0.9999, 1), 7, 2.0), 5)
    (tmp_path / "lr").write_bytes(pickle.dumps(lr))
    code = f"import pickle; lr = pickle.load(open({str(tmp_path / 'lr')!r}, 'rb')); print(lr); print(lr(11))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [repr(lr), str(lr(11))]


def test_flax_trains_with_a_schedule_in_both_of_its_ways():
    from flax import linen, nnx
    from flax.training.train_state import TrainState

    lr = warmup(cosine(0.1, 0.0, 20), 2, init=0.05)
    model = linen.Dense(1)
    params = model.init(jax.random.key(0), jnp.ones((4, 3)))
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.sgd(lr))
    for t in range(3):
        before, gradients = state.params, jax.tree.map(jnp.ones_like, state.params)
        state = state.apply_gradients(grads=gradients)
        for old, new in zip(*map(jax.tree.leaves, (before, state.params)), strict=True):
            np.testing.assert_allclose(old - new, jnp.full_like(old, lr(t)), rtol=2e-5)
    network = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(network, optax.sgd(lr), wrt=nnx.Param)
    kernel = network.kernel[...]
    optimizer.update(network, jax.tree.map(jnp.ones_like, nnx.state(network, nnx.Param)))
    np.testing.assert_allclose(kernel - network.kernel[...], jnp.full((3, 1), lr(0)), rtol=2e-5)


def test_importing_schedules_imports_neither_optax_nor_flax_nor_matplotlib():
    import subprocess
    import sys

    code = "import sys, schedules; print(*{'optax', 'flax', 'matplotlib', 'optim'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    "lr",
    [wsd(1.0, 4, 0, 0, end=0.5), warmup_cosine(1.0, 4, 0, end=0.5), infinite(1.0, 0.5, 0.5, 4, 0, 0, 0)],
    ids=repr,
)
def test_a_warmup_leads_to_the_peak_whatever_follows(lr):
    np.testing.assert_allclose(tabulate(lr, 6), [0.0, 0.25, 0.5, 0.75, 0.5, 0.5])


def test_numbers_are_stacked():
    assert stack([1.0, 2.0]) == stack([constant(1.0), constant(2.0)])
