"""The plateau rule: against what three libraries recorded, and against the rule written out plainly."""

import itertools
import json
import math
import pickle
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim import adam
from optim.plateau import Plateau, PlateauState, reduce_on_plateau
from schedules import cosine

pytestmark = pytest.mark.usefixtures("quick_compilation")
RECORDED = json.loads((Path(__file__).parent / "golden" / "plateau.json").read_text())["cases"]
RNG = np.random.default_rng(0)
METRICS = {
    "falling": 3.0 * np.exp(-np.arange(80) / 15) + 0.2 * RNG.normal(size=80),
    "any-sign": RNG.normal(size=80).cumsum() / 3,
    "constant": np.full(80, -1.5),
    "with-gaps": np.where(RNG.random(80) < 0.2, np.nan, RNG.normal(size=80)),
    "zero-then-infinite": np.array([0.0, 0.0, 0.0, math.inf, -math.inf, 1.0, math.inf, math.nan] * 10),
}
RULES = {
    "default": {},
    "impatient": {"patience": 0, "factor": 0.5},
    "cooled": {"patience": 2, "cooldown": 3, "factor": 0.7, "threshold": 0.05},
    "absolute": {"patience": 1, "threshold": 0.1, "threshold_mode": "abs", "min_scale": 0.01},
    "eps": {"patience": 0, "factor": 0.5, "eps": 0.1, "cooldown": 1},
    "no-threshold": {"patience": 3, "threshold": 0.0},
}
each_rule = pytest.mark.parametrize("arguments", RULES.values(), ids=RULES)
each_mode = pytest.mark.parametrize("mode", ["min", "max"])


def states(rule, metrics):
    """The state after every metric, stacked."""
    padded = jnp.full(100, jnp.nan).at[: len(metrics)].set(jnp.asarray(metrics, float))  # one length, to compile once
    return jax.tree.map(lambda leaf: leaf[: len(metrics)], _states(rule, padded))


@jax.jit
def _states(rule, metrics):
    def observe(state, metric):
        state = rule.update(state, metric)
        return state, state

    return jax.lax.scan(observe, rule.init(), metrics)[1]


def plainly(metrics, mode="min", factor=0.1, patience=10, threshold=1e-4, threshold_mode="rel", cooldown=0, min_scale=0.0, eps=1e-8):  # fmt: skip
    """(scale, best, bad, cooldown left) after every metric, by the rule in words; "max" is "min" of the negative."""
    sign = 1 if mode == "min" else -1
    scale, best, bad, left = 1.0, math.inf, 0, 0
    for metric in metrics.tolist():
        metric = sign * metric
        allowed = threshold * (abs(best) if threshold_mode == "rel" else 1)
        if metric < (best if math.isinf(best) else best - allowed):
            best, bad = metric, 0
        else:
            bad += 1
        if left > 0:
            left, bad = left - 1, 0
        if bad > patience:
            bad, left = 0, cooldown
            lower = max(scale * factor, min_scale)
            scale = lower if scale - lower > eps else scale
        yield scale, sign * best, bad, left


# Against peers --------------------------------------------------------------------------------------------


def recorded(peer):
    return [pytest.param(c, id=c["name"]) for c in RECORDED if c["peer"] == peer]


def of_torch(case):
    """Its floor and its eps are rates; ours are parts of the base rate."""
    k = {"min_lr": 0.0, "eps": 1e-8, **case["kwargs"]}
    base = case["base_lr"]
    return Plateau(min_scale=k.pop("min_lr") / base, eps=k.pop("eps") / base, **k)


def of_optax(case):
    """It reduces when as many as `patience` were bad, has no eps, and here no metric that only its atol refuses."""
    k = case["kwargs"]
    return Plateau(
        factor=k["factor"], patience=k["patience"] - 1, threshold=k["rtol"], cooldown=k["cooldown"], min_scale=k["min_scale"], eps=0.0
    )  # fmt: skip


def assert_equals_torch(case, rtol):
    rates = case["base_lr"] * np.asarray(states(of_torch(case), case["metrics"]).scale, np.float64)
    right = np.array(case["values"])
    if "defect" in case:
        # A constant metric is bad at every observation but the first.
        k = case["kwargs"]
        assert len(set(case["metrics"])) == 1
        right = case["base_lr"] * k["factor"] ** (np.arange(len(rates)) // (k["patience"] + 1))
        wrong = np.flatnonzero(~np.isclose(case["values"], right, rtol=1e-9, atol=0))
        assert wrong.tolist() == case["defect_steps"]
    np.testing.assert_allclose(rates, right, rtol=rtol)


def assert_equals_optax(case, rtol):
    """It averages `accumulation_size` values before it looks, and holds its scale between."""
    size = case["kwargs"]["accumulation_size"]
    whole = len(case["metrics"]) // size * size
    means = np.reshape(case["metrics"][:whole], (-1, size)).mean(1)
    held = np.repeat([1.0, *states(of_optax(case), means).scale.tolist()], size)[1:]
    np.testing.assert_allclose(held[: len(case["values"])], case["values"], rtol=rtol)


@pytest.mark.parametrize("case", [*recorded("torch"), *recorded("transformers")])
def test_equals_what_torch_recorded(case):
    assert_equals_torch(case, rtol=1e-6)


@pytest.mark.parametrize("case", [*recorded("torch"), *recorded("transformers")])
def test_equals_what_torch_recorded_in_float64(case, x64):
    assert_equals_torch(case, rtol=1e-12)


@pytest.mark.parametrize("case", recorded("optax"))
def test_equals_what_optax_recorded(case):
    assert_equals_optax(case, rtol=1e-6)


@pytest.mark.parametrize("case", recorded("optax"))
def test_equals_what_optax_recorded_in_float64(case, x64):
    assert_equals_optax(case, rtol=1e-12)


def test_the_peers_recorded_are_the_ones_meant_and_almost_all_reduce():
    assert [len(recorded(peer)) for peer in ("torch", "transformers", "optax")] == [18, 2, 8]
    assert all(len(set(case["values"])) > 1 for case in RECORDED if "defect" not in case)


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_patience_that_is_off_by_one_would_be_noticed(shift, x64):
    differ = 0
    for case in RECORDED:
        if case["peer"] == "torch" and case["kwargs"]["patience"] + shift >= 0:
            shifted = {**case, "kwargs": {**case["kwargs"], "patience": case["kwargs"]["patience"] + shift}}
            rates = case["base_lr"] * np.asarray(states(of_torch(shifted), case["metrics"]).scale)
            differ += not np.allclose(rates, case["values"], rtol=1e-9)
    assert differ >= 14


# Against the rule in words --------------------------------------------------------------------------------


@each_mode
@each_rule
@pytest.mark.parametrize("metrics", METRICS.values(), ids=METRICS)
def test_equals_the_rule_written_out(metrics, arguments, mode, x64):
    expected = [np.array(column) for column in zip(*plainly(metrics, mode, **arguments), strict=True)]
    for actual, desired in zip(states(Plateau(mode, **arguments), metrics), expected, strict=True):
        np.testing.assert_allclose(actual, desired, rtol=1e-12)


@each_rule
def test_max_is_min_of_the_negative(arguments):
    metrics = METRICS["any-sign"]
    low, high = (states(Plateau(mode, **arguments), sign * metrics) for mode, sign in (("min", 1), ("max", -1)))
    np.testing.assert_array_equal(low.best, -high.best)
    for name in ("scale", "bad", "cooldown_left"):
        np.testing.assert_array_equal(getattr(low, name), getattr(high, name))


@each_mode
@pytest.mark.parametrize("sign", [1, -1])
def test_the_bar_is_beyond_the_best_whatever_its_sign(sign, mode):
    rule = Plateau(mode, threshold=0.1)
    state = rule.update(rule.init(), sign * 10.0)
    better = -1 if mode == "min" else 1
    assert rule.update(state, sign * 10 + better * 0.9).best == sign * 10
    assert rule.update(state, sign * 10 + better * 1.1).best == np.float32(sign * 10 + better * 1.1)


@each_mode
def test_nan_is_no_improvement_and_never_the_best(mode):
    rule = Plateau(mode, patience=1, factor=0.5)
    state = rule.update(rule.init(), jnp.nan)
    assert math.isinf(state.best)
    assert state.bad == 1
    state = rule.update(state, 2.0)
    assert (state.best, state.bad) == (2.0, 0)
    for _ in range(2):
        state = rule.update(state, jnp.nan)
    assert (state.scale, state.best) == (0.5, 2.0)


def test_observations_saturate():
    rule = Plateau(patience=2**31 - 1)
    state = rule.init()._replace(bad=jnp.int32(2**31 - 1))
    state = rule.update(state, jnp.nan)
    assert (state.bad, state.scale) == (2**31 - 1, 1.0)


# A value and a pytree -------------------------------------------------------------------------------------


@each_rule
def test_state_has_one_structure_and_dtype_throughout(arguments, strict):
    rule = Plateau(**arguments)
    state = rule.init()
    assert isinstance(state, PlateauState)
    assert [leaf.dtype.name for leaf in state] == ["float32", "float32", "int32", "int32"]
    for metric in (0.5, 1, np.float64(2.0), jnp.bfloat16(0.5), jnp.int32(1), np.float16(3.0)):
        later = jax.eval_shape(lambda metric=metric: rule.update(state, metric))
        assert jax.eval_shape(lambda: state) == later


def test_under_x64_scale_and_best_are_float64(x64, strict):
    rule = Plateau(factor=jnp.float32(0.5), cooldown=jnp.int32(2))
    state = rule.update(rule.init(), 1.0)
    assert [leaf.dtype.name for leaf in state] == ["float64", "float64", "int32", "int32"]


def test_rules_are_vmapped_and_stacked():
    metrics = METRICS["falling"]
    rules = [Plateau(factor=f, patience=p) for f, p in [(0.5, 1), (0.3, 4), (0.1, 0)]]
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *rules)
    together = jax.vmap(lambda rule: states(rule, metrics).scale)(stacked)
    np.testing.assert_array_equal(together, [states(rule, metrics).scale for rule in rules])
    assert len({tuple(row) for row in np.asarray(together).tolist()}) == 3


def test_changing_any_number_retraces_nothing():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def after(rule, metrics):
        return states(rule, metrics).scale[-1]

    changes = [
        {},
        {"factor": 0.2},
        {"patience": 3},
        {"threshold": 0.5},
        {"cooldown": 2},
        {"min_scale": 0.5},
        {"eps": 1},
    ]
    scales = [after(Plateau(**{"patience": 1, **change}), METRICS["falling"]) for change in changes]
    assert len(set(map(float, scales))) > 2
    with pytest.raises(AssertionError, match="traced > 1 times"):
        after(Plateau("max"), METRICS["falling"])


def test_an_eager_update_of_other_numbers_compiles_nothing_anew(compiled):
    programs = []
    for factor, patience in itertools.product((0.1, 0.2), (1, 2)):
        rule, link = Plateau(factor=factor, patience=patience), reduce_on_plateau(factor=factor, patience=patience)
        rule.update(rule.init(), 1.0)
        link.update(jnp.ones(3), link.init(jnp.ones(3)), value=1.0)
        programs.append(compiled())
    assert programs[1:] == [[], [], []]


def test_a_rule_is_a_value():
    rule = Plateau(factor=0.5, patience=np.int64(3))
    assert rule == Plateau("min", 0.5, 3)
    assert hash(rule) == hash(Plateau("min", 0.5, 3))
    assert rule != Plateau("max", 0.5, 3)
    assert pickle.loads(pickle.dumps(rule)) == rule
    assert jax.tree.unflatten(jax.tree.structure(rule), jax.tree.leaves(rule)) == rule
    assert [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(rule)] == [
        ".factor", ".patience", ".threshold", ".cooldown", ".min_scale", ".eps"
    ]  # fmt: skip


def test_a_schedule_times_the_scale_is_a_schedule():
    rule = Plateau(patience=0, factor=0.5)
    state = rule.update(rule.update(rule.init(), 1.0), 1.0)
    rate = state.scale * cosine(0.1, 0.0, 10)
    np.testing.assert_allclose(rate(jnp.arange(12)), 0.5 * cosine(0.1, 0.0, 10)(jnp.arange(12)), rtol=1e-7)


# In a chain -----------------------------------------------------------------------------------------------


PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.zeros(())}
GRADS = {"w": jnp.arange(6.0).reshape(2, 3) - 2, "b": jnp.float32(0.5)}


def scales_and_updates(optimizer, metrics, find=lambda state: state, **extra):
    state, history = optimizer.init(PARAMS), []
    update = jax.jit(optimizer.update)
    for metric in metrics:
        updates, state = update(GRADS, state, PARAMS, value=metric, **extra)
        history.append((find(state).scale, updates))
    return history


def test_scales_the_update_that_comes_with_the_metric():
    metrics = [1.0, 2.0, 2.0, 2.0, 0.5]
    history = scales_and_updates(reduce_on_plateau(patience=1, factor=0.25), metrics)
    assert [float(scale) for scale, _ in history] == [1.0, 1.0, 0.25, 0.25, 0.25]
    for scale, updates in history:
        jax.tree.map(lambda u, g, scale=scale: np.testing.assert_array_equal(u, scale * g), updates, GRADS)


def test_is_the_rule_of_the_same_arguments():
    arguments = {"mode": "max", "factor": 0.7, "patience": 2, "threshold": 0.1, "threshold_mode": "abs", "cooldown": 3, "min_scale": 0.2, "eps": 1e-3}  # fmt: skip
    metrics = METRICS["any-sign"].astype(np.float32)
    history = scales_and_updates(reduce_on_plateau(**arguments), metrics)
    scales = states(Plateau(**arguments), metrics).scale
    np.testing.assert_array_equal([scale for scale, _ in history], scales)
    assert len(set(scales.tolist())) > 3


def test_last_in_a_chain():
    metrics = [1.0, 1.0, 1.0]
    chained = scales_and_updates(
        optax.chain(adam(0.1), reduce_on_plateau(patience=0, factor=0.5)), metrics, lambda state: state[1]
    )
    alone, state = [], adam(0.1).init(PARAMS)
    for scale in (1.0, 0.5, 0.25):
        updates, state = adam(0.1).update(GRADS, state, PARAMS)
        alone.append(jax.tree.map(lambda u, scale=scale: scale * u, updates))
    for (_, actual), desired in zip(chained, alone, strict=True):
        chex.assert_trees_all_close(actual, desired, rtol=1e-6)


def test_in_multisteps_sees_the_value_of_the_last_batch_of_each_update():
    optimizer = optax.MultiSteps(reduce_on_plateau(patience=0, factor=0.5), 2)
    history = scales_and_updates(optimizer, [9.0, 1.0, 0.0, 1.0, 0.0, 0.5], lambda state: state.inner_opt_state)
    assert [float(scale) for scale, _ in history] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
    np.testing.assert_allclose(history[3][1]["w"], 0.5 * GRADS["w"], rtol=1e-6)


def test_masked_scales_only_what_the_mask_leaves():
    optimizer = optax.masked(reduce_on_plateau(patience=0, factor=0.5), {"w": True, "b": False})
    (_, _), (scale, updates) = scales_and_updates(optimizer, [1.0, 1.0], lambda state: state.inner_state)
    assert scale == 0.5
    np.testing.assert_array_equal(updates["w"], 0.5 * GRADS["w"])
    np.testing.assert_array_equal(updates["b"], GRADS["b"])


def test_under_injected_hyperparameters_numbers_can_be_changed_without_a_retrace():
    optimizer = optax.inject_hyperparams(reduce_on_plateau)(factor=0.5, patience=0)
    state = optimizer.init(PARAMS)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def update(state):
        return optimizer.update(GRADS, state, PARAMS, value=1.0)

    for factor, scale in [(0.5, 1.0), (0.5, 0.5), (0.25, 0.125)]:
        state.hyperparams["factor"] = jnp.float32(factor)
        updates, state = update(state)
        np.testing.assert_array_equal(updates["w"], scale * GRADS["w"])


def test_nnx_optimizer():
    from flax import nnx

    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.chain(adam(0.1), reduce_on_plateau(patience=0, factor=0.5)), wrt=nnx.Param)
    for _ in range(3):
        grads = nnx.grad(lambda model: jnp.mean(model(jnp.ones((4, 3))) ** 2))(model)
        optimizer.update(model, grads, value=1.0)
    assert optimizer.opt_state[1].scale[...] == 0.25


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_updates_keep_their_dtype_and_are_rounded_once(dtype):
    optimizer = reduce_on_plateau(patience=0, factor=0.7)
    updates = {"w": jnp.asarray(RNG.normal(size=50), dtype), "hole": None, "masked": optax.MaskedNode()}
    state = optimizer.init(updates)
    for _ in range(2):
        scaled, state = optimizer.update(updates, state, value=1.0)
    assert jax.tree.structure(scaled) == jax.tree.structure(updates)
    assert scaled["w"].dtype == dtype
    exact = (np.float32(0.7) * np.asarray(updates["w"], np.float32)).astype(scaled["w"].dtype)
    np.testing.assert_array_equal(scaled["w"], exact)


def test_a_state_is_pickled_and_checkpointed_and_goes_on_bit_for_bit(tmp_path):
    import orbax.checkpoint as ocp

    rule, metrics = Plateau(patience=1, factor=0.5, cooldown=2), METRICS["any-sign"]
    state = jax.tree.map(lambda leaf: leaf[36], states(rule, metrics))
    assert state.scale < 1
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(lambda: state))
    for resumed in (restored, pickle.loads(pickle.dumps(state))):
        for metric in metrics[37:]:
            resumed = rule.update(resumed, metric)
        last = jax.tree.map(lambda leaf: leaf[-1], states(rule, metrics))
        chex.assert_trees_all_equal(resumed, last)


# Mistakes -------------------------------------------------------------------------------------------------


WHOLE = "a whole number of observations from 0 to 2147483647"


@pytest.mark.parametrize("build", [Plateau, reduce_on_plateau])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "minimum"}, "`mode` must be one of 'min', 'max', got 'minimum'"),
        ({"threshold_mode": "relative"}, "`threshold_mode` must be one of 'rel', 'abs', got 'relative'"),
        ({"factor": 1.0}, "`factor` must be a number above 0 and below 1, got 1.0"),
        ({"factor": 0}, "`factor` must be a number above 0 and below 1, got 0"),
        ({"factor": math.nan}, "`factor` must be a number above 0 and below 1, got nan"),
        ({"factor": "half"}, "`factor` must be a number above 0 and below 1, got 'half'"),
        ({"patience": -1}, f"`patience` must be {WHOLE}, got -1"),
        ({"patience": 2.5}, f"`patience` must be {WHOLE}, got 2.5"),
        ({"patience": math.inf}, f"`patience` must be {WHOLE}, got inf"),
        ({"cooldown": True}, f"`cooldown` must be {WHOLE}, got True"),
        ({"threshold": -1e-4}, "`threshold` must be a number that is not negative, got -0.0001"),
        ({"min_scale": 1.0}, "`min_scale` must be a number from 0 to below 1, got 1.0"),
        ({"eps": None}, "`eps` must be a number that is not negative, got None"),
    ],
)
def test_a_bad_argument_is_one_clear_sentence(build, arguments, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, compared whole below
        build(**arguments)
    assert str(caught.value) == f"{build.__name__}: {message}"


def test_a_missing_or_wrong_metric_is_one_clear_sentence():
    rule, link = Plateau(), optax.chain(optax.sgd(0.1), reduce_on_plateau())
    with pytest.raises(ValueError, match=r"^Plateau: `metric` must be one number, got an array of shape \(3,\)$"):
        rule.update(rule.init(), jnp.ones(3))
    for state, got in [({"scale": 1.0}, "dict"), (None, "NoneType"), (link.init(PARAMS), "tuple")]:
        with pytest.raises(ValueError, match=f"^Plateau: `state` must be the PlateauState that init makes, got {got}$"):
            rule.update(state, 1.0)
    with pytest.raises(
        ValueError, match=r"^reduce_on_plateau: `value` must be one number, got an array of shape \(1,\)$"
    ):
        link.update(GRADS, link.init(PARAMS), PARAMS, value=jnp.ones(1))
    with pytest.raises(
        ValueError,
        match=r"^reduce_on_plateau: `value` must be the metric, passed to update\(grads, state, params, value=...\), got None$",
    ):
        link.update(GRADS, link.init(PARAMS), PARAMS)
