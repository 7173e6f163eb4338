"""Adam, averages and schedule-free: against independent algorithms, and inside what people wrap them in."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim import AverageState, adam, average, ema, eval_params, exponential_average, polyak, schedule_free
from schedules import constant, cosine, linear, table, tabulate

GOLDEN = Path(__file__).parent / "golden"
RNG = np.random.default_rng(0)
PARAMS = {"w": RNG.normal(size=(3, 2)), "b": RNG.normal(size=())}
GRADS = [{"w": RNG.normal(size=(3, 2)), "b": RNG.normal(size=())} for _ in range(60)]


def as_jax(tree, dtype=jnp.float32):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def replay(optimizer, params=PARAMS, grads=GRADS, dtype=jnp.float32, jit=jax.jit):
    """(params, evaluated params) after every update with the gradients given."""
    params, state = as_jax(params, dtype), optimizer.init(as_jax(params, dtype))
    update, history = jit(optimizer.update), []
    for g in grads:
        updates, state = update(as_jax(g, dtype), state, params)
        params = optax.apply_updates(params, updates)
        history.append((params, eval_params(state, params)))
    return history


def close(actual, desired, rtol):
    """Within `rtol` of the largest number in the tree: parameters that cross zero have no relative error."""
    scale = max((np.abs(leaf).max() for leaf in jax.tree.leaves(desired)), default=0.0)
    for a, d in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(d, float), rtol=0, atol=rtol * scale)


# References, written out plainly in float64 ---------------------------------------------------------------


def numpy_adam(lr, b1, b2, eps):
    """The direction of every update of Adam for the gradients given, one leaf."""

    def steps(grads):
        m = v = 0.0
        for k, g in enumerate(grads):
            m = b1(k) * m + (1 - b1(k)) * g
            v = b2(k) * v + (1 - b2(k)) * g * g
            m_hat, v_hat = m / (1 - b1(k) ** (k + 1)), v / (1 - b2(k) ** (k + 1))
            yield -lr(k) * m_hat / (np.sqrt(v_hat) + eps)

    return steps


def numpy_three_sequences(params, grads, steps, c, beta):
    """(y, x) after every update, one leaf: z is stepped, x averages z, y lies between."""
    z = x = params
    for k, step in enumerate(steps(grads)):
        z = z + step
        x = (1 - c(k)) * x + c(k) * z
        yield (1 - beta(k)) * z + beta(k) * x, x


def reference(lr=0.05, b1=0.9, b2=0.999, eps=1e-8, c=lambda k: 1.0, beta=0.0):
    """What `replay` should give, in float64; every hyperparameter a number or a function of the update."""
    lr, b1, b2, beta = (h if callable(h) else lambda k, h=h: h for h in (lr, b1, b2, beta))
    steps = numpy_adam(lr, b1, b2, eps)
    leaves = {name: [*numpy_three_sequences(PARAMS[name], [g[name] for g in GRADS], steps, c, beta)] for name in PARAMS}
    return [tuple({n: leaves[n][k][i] for n in leaves} for i in (0, 1)) for k in range(len(GRADS))]


def ema_weight(decay):
    return lambda k: (1 - decay) / (1 - decay ** (k + 1))


OPTIMIZERS = {
    "adam": (lambda: adam(0.05), {}),
    "adam-b1-0": (lambda: adam(0.05, b1=0, b2=0.99, eps=1e-6), {"b1": 0.0, "b2": 0.99, "eps": 1e-6}),
    "adam-scheduled": (
        lambda: adam(cosine(0.1, 0.01, 40), b1=linear(0.95, 0.85, 30), b2=constant(0.98), eps=1e-3),
        {
            "lr": lambda k: 0.01 + 0.09 * (1 + np.cos(np.pi * min(k / 40, 1))) / 2,
            "b1": lambda k: 0.95 - 0.1 * min(k / 30, 1),
            "b2": 0.98,
            "eps": 1e-3,
        },
    ),
    "polyak": (lambda: average(adam(0.05), polyak()), {"c": lambda k: 1 / (k + 1)}),
    "ema": (lambda: average(adam(0.05), ema(0.9)), {"c": ema_weight(0.9)}),
    "ema-long": (lambda: average(adam(0.05), ema(0.9999)), {"c": ema_weight(0.9999)}),
    "primal": (lambda: average(adam(0.05), polyak(), beta=1.0), {"c": lambda k: 1 / (k + 1), "beta": 1.0}),
    "beta-0-scheduled": (lambda: average(adam(0.05), polyak(), beta=constant(0.0)), {"c": lambda k: 1 / (k + 1)}),
    "schedule-free": (
        lambda: schedule_free(adam(0.05, b1=0.0)),
        {"b1": 0.0, "c": lambda k: 1 / (k + 1), "beta": 0.9},
    ),
    "schedule-free-ema": (
        lambda: schedule_free(adam(0.05, b1=0.0), ema(0.95), beta=linear(0.5, 0.95, 30)),
        {"b1": 0.0, "c": ema_weight(0.95), "beta": lambda k: 0.5 + 0.45 * min(k / 30, 1)},
    ),
}
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
def test_eager_equals_jit(make, settings):
    for eager, jitted in zip(replay(make(), jit=lambda f: f), replay(make()), strict=True):
        close(eager, jitted, rtol=1e-6)


@every
def test_a_bfloat16_run_keeps_its_dtype_and_a_float32_average(make, settings):
    optimizer = make()
    params = as_jax(PARAMS, jnp.bfloat16)
    state = optimizer.init(params)
    widths = {leaf.dtype for leaf in jax.tree.leaves(state)}
    assert widths == {jnp.dtype("float32"), jnp.dtype("int32")}
    history = replay(optimizer, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(history[-1])} == {jnp.dtype("bfloat16")}
    close(history[-1], reference(**settings)[-1], rtol=0.05)


@every
def test_state_has_one_structure_and_dtype_throughout(make, settings):
    optimizer = make()
    state = optimizer.init(as_jax(PARAMS))
    _, later = optimizer.update(as_jax(GRADS[0]), state, as_jax(PARAMS))
    assert jax.eval_shape(lambda: state) == jax.eval_shape(lambda: later)


@every
def test_parameters_and_state_may_be_donated_together(make, settings):
    optimizer = make()

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    params = as_jax(PARAMS)
    params, state = step(params, optimizer.init(params), as_jax(GRADS[0]))
    params, state = step(params, state, as_jax(GRADS[1]))
    close((params, eval_params(state, params)), reference(**settings)[1], rtol=1e-6)


@every
def test_trees_of_nothing_and_of_scalars(make, settings):
    optimizer = make()
    _, state = optimizer.update({}, optimizer.init({}), {})
    assert eval_params(state, {}) == {}
    _, state = optimizer.update(jnp.float32(1), optimizer.init(jnp.float32(0)), jnp.float32(0))
    assert eval_params(state, jnp.float32(0)).shape == ()


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


def test_changing_any_number_does_not_retrace_an_eager_update():
    from optim.adam import _update

    grads = as_jax(GRADS[0])
    before = None
    for lr in (0.1, 0.2, 0.3):
        optimizer = adam(cosine(lr, 0.0, 9), b2=1 - lr)
        optimizer.update(grads, optimizer.init(grads))
        before = before or _update._cache_size()
    assert _update._cache_size() == before


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
        (lambda: adam("fast"), "constant: `value` must be a finite number, got 'fast'"),
        (lambda: adam(cosine), "cosine is a formula, not a schedule: call it with its arguments, cosine(...)"),
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
        jax.tree.map(np.testing.assert_array_equal, alone, beside)


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


# Peers ----------------------------------------------------------------------------------------------------


def cases(peer):
    recorded = json.loads((GOLDEN / f"{peer}.json").read_text())["cases"]
    return [pytest.param(c, id=f"{peer}-{c['name']}") for c in recorded if c["kind"] == "trajectory"]


def recorded_adam(case):
    """The peer's Adam with the rate (and momentum) that it recorded for every update."""
    k = case["kwargs"]
    b1, b2 = k.get("betas", (k.get("b1"), k.get("b2")))
    b1 = table(case["momentum"]) if "momentum" in case else b1
    return adam(table(case["values"]), b1=b1, b2=b2, eps=k.get("eps", 1e-8))


def recorded_schedule_free(case):
    k = case["kwargs"]
    if case["class"] == "SGDScheduleFree":
        return schedule_free(optax.sgd(case["base_lr"]), polyak(), beta=k["momentum"])
    beta, b2 = k["betas"]
    return schedule_free(adam(case["base_lr"], k["inner_momentum"], b2, k["eps"]), polyak(), beta=beta)


@pytest.mark.parametrize("case", [*cases("torch"), *cases("optax")])
def test_adam_equals_what_a_peer_recorded(case):
    for (params, _), desired in zip(
        replay(recorded_adam(case), case["params0"], case["grads"]), case["params"], strict=True
    ):
        close(params, desired, rtol=1e-6)


@pytest.mark.parametrize("case", [*cases("torch"), *cases("optax")])
def test_adam_equals_what_a_peer_recorded_in_float64(case, x64):
    history = replay(recorded_adam(case), case["params0"], case["grads"], jnp.float64)
    for (params, _), desired in zip(history, case["params"], strict=True):
        close(params, desired, rtol=1e-11)


@pytest.mark.parametrize("case", cases("schedulefree"))
def test_schedule_free_equals_the_reference_implementation(case, x64):
    history = replay(recorded_schedule_free(case), case["params0"], case["grads"], jnp.float64)
    for (y, x), desired_y, desired_x in zip(history, case["y"], case["x"], strict=True):
        close((y, x), (desired_y, desired_x), rtol=1e-12)


def test_the_peers_recorded_are_the_ones_meant():
    assert [len(cases(peer)) for peer in ("torch", "optax", "schedulefree")] == [3, 2, 3]


# What people wrap optimizers in ---------------------------------------------------------------------------


def quadratic(params):
    return sum(jnp.sum((p - 3.0) ** 2) for p in jax.tree.leaves(params))


def trained(optimizer, updates=200):
    params = as_jax(PARAMS)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        steps, state = optimizer.update(jax.grad(quadratic)(params), state, params)
        return optax.apply_updates(params, steps), state

    for _ in range(updates):
        params, state = step(params, state)
    return params, state


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
    jax.tree.map(np.testing.assert_array_equal, evaluated, averages[0].x if averages else params)
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
        match=r"^eval_params: `params` must be the parameters of `opt_state`, which averages \['b'\] as well$",
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
    averaged = eval_params(optimizer.opt_state, nnx.state(model, nnx.Param))
    held = loss(model)
    nnx.update(model, averaged)
    assert loss(model) < 0.05 * start
    assert loss(model) != held


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
        jax.tree.map(np.testing.assert_array_equal, updates, expected)


def test_state_inherits_the_sharding_of_the_parameters():
    mesh = jax.make_mesh((8,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = jax.device_put(jnp.arange(16.0), sharding)
    optimizer = schedule_free(adam(0.1, b1=0.0))
    state = optimizer.init(params)
    updates, state = jax.jit(optimizer.update)(params, state, params)
    for leaf in (updates, state.x, state.z, state.base.mu, state.base.nu):
        assert leaf.sharding.is_equivalent_to(sharding, 1)
