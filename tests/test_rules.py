"""Rules by path: masks, groups with optimizers of their own, and multipliers."""

import dataclasses
import pickle
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import register_dataclass

from optim import adam
from optim.rules import ScaleByPathState, matching, not_matching, per_parameter, scale_by_path
from schedules import cosine, linear

pytestmark = pytest.mark.usefixtures("quick_compilation")
RNG = np.random.default_rng(0)
SHAPES = {
    "embed": {"table": (5, 2)},
    "layer_0": {"kernel": (2, 2), "bias": (2,), "norm": {"scale": (2,)}},
    "layer_1": {"kernel": (2, 2), "bias": (2,), "norm": {"scale": (2,)}},
    "layer_10": {"kernel": (2, 2), "bias": (2,), "norm": {"scale": (2,)}},
    "head": {"kernel": (2, 3), "bias": (3,)},
}
PATHS = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(SHAPES, is_leaf=lambda s: isinstance(s, tuple))]  # fmt: skip


def random(dtype=jnp.float32, rng=RNG):
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s), dtype), SHAPES, is_leaf=lambda s: isinstance(s, tuple)
    )


PARAMS = random()
GRADS = [random() for _ in range(6)]


def run(optimizer, params=PARAMS, grads=GRADS):
    """The updates of every step, and the last parameters and state."""
    state, history = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for g in grads:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
        history.append(updates)
    return history, params, state


def by_path(tree):
    return dict(zip(PATHS, jax.tree.leaves(tree), strict=True))


def chosen(mask):
    return {path for path, value in by_path(mask).items() if value}


# Masks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["kernel$"], {"layer_0/kernel", "layer_1/kernel", "layer_10/kernel", "head/kernel"}),
        (["^layer_1/"], {"layer_1/kernel", "layer_1/bias", "layer_1/norm/scale"}),
        (["^layer_1/", "^embed"], {"layer_1/kernel", "layer_1/bias", "layer_1/norm/scale", "embed/table"}),
        ([r"layer_(\d+)/norm/"], {"layer_0/norm/scale", "layer_1/norm/scale", "layer_10/norm/scale"}),
        (["^head/bias$"], {"head/bias"}),
        (["(?i)HEAD/B"], {"head/bias"}),
        ([""], set(PATHS)),
        ([], set()),
    ],
)
def test_a_mask_is_true_where_a_pattern_is_found_in_the_path(patterns, expected):
    mask, other = matching(*patterns)(PARAMS), not_matching(*patterns)(PARAMS)
    assert jax.tree.structure(mask) == jax.tree.structure(PARAMS)
    assert {type(leaf) for leaf in jax.tree.leaves(mask)} == {bool}
    assert chosen(mask) == expected
    assert chosen(other) == set(PATHS) - expected


class Block(NamedTuple):
    kernel: Any
    value: Any


@register_dataclass
@dataclasses.dataclass
class Model:
    blocks: list[Block]
    bias: Any


@jax.tree_util.register_pytree_node_class
class Positional:
    def __init__(self, *children):
        self.children = children

    def tree_flatten(self):
        return self.children, None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


@dataclasses.dataclass
class Variable:
    """As Flax has them: a box with a value."""

    value: Any


register_dataclass(Variable)


@pytest.mark.parametrize(
    ("params", "pattern"),
    [
        ({"a": {"b": 1.0}, "c": 2.0}, "^a/b$"),
        ([2.0, (3.0, 1.0)], "^1/1$"),
        (Model([Block(2.0, 3.0), Block(1.0, 4.0)], 5.0), "^blocks/1/kernel$"),
        (Model([Block(2.0, 3.0), Block(4.0, 1.0)], 5.0), "^blocks/1/value$"),
        (Positional(2.0, {"w": 1.0}), "^1/w$"),
        ({7: 1.0, 8: 2.0}, "^7$"),
        ({"w": Variable(1.0), "b": Variable(2.0)}, "^w$"),
        ({"w": Variable({"x": 1.0, "y": 2.0}), "b": 3.0}, "^w/value/x$"),
        (1.0, "^$"),
    ],
)
def test_paths_of_all_kinds_of_trees(params, pattern):
    leaves, marks = jax.tree.leaves(params), jax.tree.leaves(matching(pattern)(params))
    assert [leaf for leaf, mark in zip(leaves, marks, strict=True) if mark] == [1.0]


def test_holes_are_left_alone():
    params = {"a": None, "b": jnp.ones(2), "c": optax.MaskedNode()}
    assert matching("b")(params) == {"a": None, "b": True, "c": optax.MaskedNode()}
    assert not_matching("b")(params) == {"a": None, "b": False, "c": optax.MaskedNode()}
    with pytest.raises(ValueError, match="^matching: `patterns` must each match a parameter, got 'a' for b$"):
        matching("a")(params)
    assert matching("a")({"c": optax.MaskedNode()}) == {"c": optax.MaskedNode()}
    optimizer = optax.chain(scale_by_path([("b", 0.5)]), per_parameter([("b", optax.scale(3.0))]))
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    np.testing.assert_array_equal(updates["b"], 1.5)


def test_no_weight_decay_on_norms_and_biases():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    optimizer = optax.adamw(0.1, weight_decay=0.5, mask=not_matching("bias$", "norm"))
    (updates,), _, _ = run(optimizer, grads=[zeros])
    for path, update in by_path(updates).items():
        decay = 0.0 if "bias" in path or "norm" in path else -0.1 * 0.5
        np.testing.assert_allclose(update, decay * by_path(PARAMS)[path], rtol=1e-6)


def test_masked_transforms_only_what_matches():
    (updates,), _, _ = run(optax.masked(optax.scale(0.5), matching("kernel$")), grads=GRADS[:1])
    for path, update in by_path(updates).items():
        np.testing.assert_array_equal(update, (0.5 if path.endswith("kernel") else 1.0) * by_path(GRADS[0])[path])


# Groups ---------------------------------------------------------------------------------------------------


GROUPS = [
    ("^head/", adam(cosine(0.1, 0.0, 4))),
    ("bias$", optax.sgd(linear(0.0, 1.0, 5))),
    ("norm", optax.set_to_zero()),
]


def group_of(path):
    return 0 if path.startswith("head") else 1 if path.endswith("bias") else 2 if "norm" in path else 3


def test_each_group_is_trained_as_by_an_optimizer_of_its_own():
    together, params, _ = run(per_parameter(GROUPS, default=adam(0.05)))
    for group, optimizer in enumerate([*(optimizer for _, optimizer in GROUPS), adam(0.05)]):
        paths = [path for path in PATHS if group_of(path) == group]
        assert len(paths) >= 2

        def part(tree, paths=paths):
            return {path: by_path(tree)[path] for path in paths}

        alone, last, _ = run(optimizer, part(PARAMS), [part(g) for g in GRADS])
        chex.assert_trees_all_equal([part(updates) for updates in together], alone)
        chex.assert_trees_all_equal(part(params), last)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "frozen",
    [
        per_parameter([("^embed|norm", optax.set_to_zero())], default=adam(0.1)),
        optax.chain(adam(0.1), scale_by_path([("^embed|norm", 0.0)])),
    ],
    ids=["per_parameter", "scale_by_path"],
)
def test_frozen_parameters_stay_bit_for_bit(frozen, dtype):
    rng = np.random.default_rng(1)
    start = random(dtype, rng)
    grads = [jax.tree.map(lambda g: g.astype(dtype), g) for g in GRADS]
    grads[1]["embed"]["table"] = grads[1]["embed"]["table"].at[0, 0].set(jnp.nan)
    _, params, _ = run(frozen, start, grads)
    for path, leaf in by_path(params).items():
        assert leaf.dtype == dtype
        same = np.asarray(leaf).tobytes() == np.asarray(by_path(start)[path]).tobytes()
        assert same == (path.startswith("embed") or "norm" in path), path


def test_a_frozen_group_stores_nothing():
    _, _, state = run(per_parameter([("^embed", optax.set_to_zero())], default=adam(0.1)), grads=GRADS[:1])
    assert jax.tree.leaves(state.inner_states["^embed"]) == []
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sorted(leaf.shape for leaf in moments) == sorted(2 * [leaf.shape for leaf in by_path(PARAMS).values() if leaf.shape != (5, 2)])  # fmt: skip


def test_extra_arguments_reach_every_group():
    def update(updates, state, params=None, *, value, **extra):
        return jax.tree.map(lambda u: value * u, updates), state

    base = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    optimizer = per_parameter([("kernel$", base)], default=optax.set_to_zero())
    updates, _ = optimizer.update(GRADS[0], optimizer.init(PARAMS), PARAMS, value=0.5)
    np.testing.assert_array_equal(updates["head"]["kernel"], 0.5 * GRADS[0]["head"]["kernel"])


def test_groups_within_groups():
    inner = per_parameter([("bias$", optax.scale(2.0))], default=optax.scale(3.0))
    (updates,), _, _ = run(per_parameter([("^head/", inner)], default=optax.scale(5.0)), grads=GRADS[:1])
    for path, update in by_path(updates).items():
        factor = {"head/bias": 2.0, "head/kernel": 3.0}.get(path, 5.0)
        np.testing.assert_array_equal(update, factor * by_path(GRADS[0])[path])


# Multipliers ----------------------------------------------------------------------------------------------


def test_multiplies_the_updates_of_the_first_rule_that_matches_and_no_others():
    rules = [("^head/bias", 3.0), ("^head/", linear(1.0, 0.0, 4)), ("norm", 0.5), ("^embed", lambda t: 0.1 * t)]
    scaled, _, state = run(optax.chain(adam(0.1), scale_by_path(rules)))
    plain, _, _ = run(adam(0.1))
    for t, (actual, base) in enumerate(zip(scaled, plain, strict=True)):
        for path, update in by_path(actual).items():
            factor = 1.0
            if path == "head/bias":
                factor = 3.0
            elif path.startswith("head"):
                factor = 1 - min(t, 4) / 4
            elif "norm" in path:
                factor = 0.5
            elif path.startswith("embed"):
                factor = 0.1 * t
            np.testing.assert_allclose(update, factor * by_path(base)[path], rtol=1e-6, err_msg=f"{path} at {t}")
    assert isinstance(state[1], ScaleByPathState)
    assert state[1].count == len(GRADS)
    used = {pattern: float(value) for pattern, value in state[1].used.items()}
    assert used == {"^head/bias": 3.0, "^head/": 0.0, "norm": 0.5, "^embed": pytest.approx(0.5)}


def test_layerwise_decay():
    depths = {"embed": 0, "layer_0": 1, "layer_1": 2, "layer_10": 3, "head": 4}
    rules = [(f"^{name}/", 0.7 ** (4 - depth)) for name, depth in depths.items()]
    scaled, _, _ = run(optax.chain(optax.sgd(0.1), scale_by_path(rules)))
    groups = [(f"^{name}/", optax.sgd(0.1 * 0.7 ** (4 - depth))) for name, depth in depths.items()]
    separate, _, _ = run(per_parameter(groups))
    chex.assert_trees_all_close(scaled, separate, rtol=1e-6)


def test_the_state_before_the_first_update_has_the_multipliers_it_will_use(strict):
    optimizer = scale_by_path([("^head/", linear(0.5, 0.0, 4))])
    state = optimizer.init(PARAMS)
    assert (state.count, state.used) == (0, {"^head/": 0.5})
    _, later = optimizer.update(GRADS[0], state)
    assert (later.count, later.used) == (1, {"^head/": 0.5})
    assert jax.eval_shape(lambda: state) == jax.eval_shape(lambda: later)
    state = state._replace(count=jnp.int32(2**31 - 1))
    assert optimizer.update(GRADS[0], state)[1].count == 2**31 - 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_updates_keep_their_dtype_and_are_rounded_once(dtype):
    updates = {"w": jnp.asarray(RNG.normal(size=50), dtype), "b": jnp.asarray(RNG.normal(size=50), dtype)}
    optimizer = scale_by_path([("w", 0.7)])
    scaled, _ = optimizer.update(updates, optimizer.init(updates))
    exact = (np.float32(0.7) * np.asarray(updates["w"], np.float32)).astype(updates["w"].dtype)
    assert scaled["w"].dtype == dtype
    np.testing.assert_array_equal(scaled["w"], exact)
    np.testing.assert_array_equal(scaled["b"], updates["b"])


def test_changing_a_number_retraces_neither_an_eager_update_nor_a_jitted_step(compiled):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(multiplier, schedule, updates):
        optimizer = scale_by_path([("^head/", multiplier), ("^embed", schedule)])
        return optimizer.update(updates, optimizer.init(updates))[0]

    eager, jitted, programs = [], [], []
    for number in (0.0, 0.5, 2.0):
        optimizer = scale_by_path([("^head/", number), ("^embed", linear(number, 1.0, 9))])
        eager.append(optimizer.update(GRADS[0], optimizer.init(PARAMS))[0])
        jitted.append(step(number, linear(number, 1.0, 9), GRADS[0]))
        programs.append(compiled())
    assert programs[0]
    assert programs[1:] == [[], []]
    chex.assert_trees_all_equal(eager, jitted)
    np.testing.assert_array_equal(jitted[1]["head"]["bias"], 0.5 * GRADS[0]["head"]["bias"])
    np.testing.assert_array_equal(jitted[2]["embed"]["table"], 2.0 * GRADS[0]["embed"]["table"])


# What people wrap optimizers in ---------------------------------------------------------------------------


RULED = {
    "per_parameter": lambda: per_parameter([("^head/", adam(0.1)), ("norm", optax.set_to_zero())], adam(linear(0.1, 0.0, 5))),
    "scale_by_path": lambda: optax.chain(adam(0.1), scale_by_path([("^head/", linear(1.0, 0.0, 5)), ("norm", 0.0)])),
}  # fmt: skip
each_ruled = pytest.mark.parametrize("make", RULED.values(), ids=RULED)


@each_ruled
def test_in_multisteps_updates_are_counted_and_not_batches(make):
    plain, expected, _ = run(make())
    twice = [g for g in GRADS for _ in range(2)]
    history, params, _ = run(optax.MultiSteps(make(), 2), grads=twice)
    chex.assert_trees_all_close(params, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(history[1::2], plain, rtol=1e-5, atol=1e-6)


@each_ruled
def test_in_a_chain_and_under_a_mask(make):
    _, expected, _ = run(make())
    _, params, _ = run(optax.chain(optax.identity(), optax.masked(make(), jax.tree.map(lambda _: True, PARAMS))))
    chex.assert_trees_all_equal(params, expected)


def test_under_injected_hyperparameters():
    @optax.inject_hyperparams
    def make(head, rest):
        return optax.chain(per_parameter([("^head/", adam(head))], adam(rest)), scale_by_path([("^embed", head)]))

    optimizer = make(head=0.5, rest=0.1)
    state = optimizer.init(PARAMS)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(state):
        return optimizer.update(GRADS[0], state, PARAMS)

    for head in (0.5, 0.25):
        state.hyperparams["head"] = jnp.float32(head)
        updates, _ = step(state)
        np.testing.assert_allclose(np.abs(updates["head"]["bias"]), head, rtol=1e-5)
        np.testing.assert_allclose(np.abs(updates["embed"]["table"]), 0.1 * head, rtol=1e-5)
        np.testing.assert_allclose(np.abs(updates["layer_0"]["bias"]), 0.1, rtol=1e-5)


def quadratic(params):
    return sum(jnp.sum((p - 3.0) ** 2) for p in jax.tree.leaves(params))


def test_flax_linen():
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1, name="head")(nn.LayerNorm()(nn.Dense(4, name="body")(x)))

    start = Net().init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    optimizer = optax.chain(
        per_parameter([("^head/kernel$", adam(0.1)), ("^LayerNorm_0/", optax.set_to_zero())], default=adam(0.01)),
        scale_by_path([("body/bias", 2.0)]),
    )
    updates, _ = optimizer.update(jax.grad(quadratic)(start), optimizer.init(start), start)
    for path, rate in {"head/kernel": 0.1, "head/bias": 0.01, "body/kernel": 0.01, "body/bias": 0.02, "LayerNorm_0/scale": 0}.items():  # fmt: skip
        module, name = path.split("/")
        np.testing.assert_allclose(np.abs(updates[module][name]), rate, rtol=1e-5)
    assert matching("^body/")({"params": start}["params"])["body"] == {"bias": True, "kernel": True}


@pytest.mark.parametrize("jit", [False, True])
def test_nnx_optimizer(jit):
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(3)])
            self.norm = nnx.LayerNorm(2, rngs=rngs)

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.norm(x)

    model = Net(nnx.Rngs(0))
    tx = optax.chain(
        per_parameter([(r"layers/0/kernel$", optax.set_to_zero()), (r"^norm/", adam(0.1))], default=adam(0.01)),
        scale_by_path([(r"layers/1/", linear(0.5, 0.0, 3))]),
        optax.masked(optax.scale(4.0), matching("bias$")),
    )
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    def step(model, optimizer):
        grads = nnx.grad(lambda model: quadratic(nnx.state(model, nnx.Param)))(model)
        optimizer.update(model, grads)

    step = nnx.jit(step) if jit else step
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    for _ in range(2):
        step(model, optimizer)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after, before)
    expected = {
        "layers": {
            0: {"kernel": 0.0, "bias": 0.08},
            1: {"kernel": 0.01 * (1 / 2 + 1 / 3), "bias": 0.04 * (1 / 2 + 1 / 3)},
            2: {"kernel": 0.02, "bias": 0.08},
        },
        "norm": {"scale": 0.2, "bias": 0.8},
    }
    chex.assert_trees_all_close(moved, expected, rtol=2e-2)
    assert moved["layers"][0]["kernel"] == 0.0


@each_ruled
def test_a_state_is_pickled_and_checkpointed_and_goes_on_bit_for_bit(make, tmp_path):
    import orbax.checkpoint as ocp

    optimizer = make()
    _, params, state = run(optimizer, grads=GRADS[:3])
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(lambda: state))
    expected, _ = optimizer.update(GRADS[3], state, params)
    for resumed in (restored, pickle.loads(pickle.dumps(state))):
        updates, _ = optimizer.update(GRADS[3], resumed, params)
        chex.assert_trees_all_equal(updates, expected)


@each_ruled
def test_nothing_to_optimize(make):
    optimizer = make()
    updates, _ = optimizer.update({}, optimizer.init({}), {})
    assert updates == {}


# Mistakes -------------------------------------------------------------------------------------------------


FEW = "embed/table, head/bias, head/kernel and 9 more"


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            lambda: matching("kernel$", "kernal$")(PARAMS),
            f"matching: `patterns` must each match a parameter, got 'kernal$' for {FEW}",
        ),
        (
            lambda: not_matching("biases")({"w": 1.0, "b": 2.0}),
            "not_matching: `patterns` must each match a parameter, got 'biases' for b, w",
        ),
        (
            lambda: matching("head", "("),
            "matching: `patterns` must have regular expressions as patterns, got '(' (missing ), unterminated "
            "subpattern at position 0)",
        ),
        (
            lambda: not_matching(b"head"),
            "not_matching: `patterns` must have regular expressions as patterns, got b'head' (cannot use a bytes "
            "pattern on a string-like object)",
        ),
        (
            lambda: per_parameter([("*", optax.sgd(0.1))]),
            "per_parameter: `rules` must have regular expressions as patterns, got '*' (nothing to repeat at position 0)",
        ),
        (
            lambda: scale_by_path([(3, 0.1)]),
            "scale_by_path: `rules` must have regular expressions as patterns, got 3 (first argument must be string "
            "or compiled pattern)",
        ),
        (
            lambda: scale_by_path({"head": 0.1}),
            "scale_by_path: `rules` must be a list of pairs of a pattern and a multiplier, got {'head': 0.1}",
        ),
        (
            lambda: scale_by_path([("head", 0.1), "embed"]),
            "scale_by_path: `rules` must be a list of pairs of a pattern and a multiplier, got 'embed'",
        ),
        (
            lambda: per_parameter([("head", 0.1)]),
            "per_parameter: `rules` must be a list of pairs of a pattern and a transformation, got ('head', 0.1)",
        ),
        (
            lambda: per_parameter([("head", optax.sgd(0.1))], default=0.1),
            "per_parameter: `default` must be a transformation or None, got 0.1",
        ),
        (
            lambda: scale_by_path([("head", "low")]),
            "scale_by_path: `rules` must be a schedule, a number or a function of the step, got 'low'",
        ),
        (
            lambda: scale_by_path([("haed", 0.1)]).init(PARAMS),
            "scale_by_path: `rules` must each match a parameter that no rule before it does, got 'haed' for " + FEW,
        ),
        (
            lambda: scale_by_path([("kernel", 0.1), ("head/kernel", 0.2)]).init(PARAMS),
            "scale_by_path: `rules` must each match a parameter that no rule before it does, got 'head/kernel' for "
            + FEW,
        ),
        (
            lambda: per_parameter([("", optax.sgd(0.1)), ("", optax.sgd(0.1))]).init(PARAMS),
            "per_parameter: `rules` must each match a parameter that no rule before it does, got '' for " + FEW,
        ),
        (
            lambda: per_parameter([("haed", optax.sgd(0.1))], default=optax.sgd(0.1)).init(PARAMS),
            "per_parameter: `rules` must each match a parameter that no rule before it does, got 'haed' for " + FEW,
        ),
        (
            lambda: per_parameter([("head|embed", optax.sgd(0.1))]).init(PARAMS),
            "per_parameter: `rules` must match every parameter unless `default` is given, got none for layer_0/bias, "
            "layer_0/kernel, layer_0/norm/scale and 6 more",
        ),
    ],
)
def test_a_mistake_is_one_clear_sentence(mistake, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, compared whole below
        mistake()
    assert str(caught.value) == message
