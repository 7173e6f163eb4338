"""What does not fit together is refused in one sentence: states, gradients, parameters, averages, masks."""

import chex
import equinox as eqx
import flax.serialization
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_every_optimizer import EVERY, NAMES
from test_optim import WRAPPED

from optim import (
    Snapshot,
    adam,
    adamw,
    average,
    ema,
    eval_params,
    hyperparameters,
    lawa,
    not_matching,
    per_parameter,
    polyak,
    post_hoc_ema,
    reduce_on_plateau,
    refresh_batch_stats,
    require_eval_params,
    scale_by_path,
    schedule_free,
    schedule_free_adamw,
    schedule_free_plus,
    schedule_free_radam,
    schedule_free_sgd,
    sgd,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")
PARAMS = {"w": jnp.ones((1, 2)), "b": jnp.ones(2)}
# Those that hold something of every parameter, and of these the averages; and those that hold nothing.
HOLDING = ("adam", "adamw", "radam", "sgd-momentum", "polyak", "several", "lawa", "schedule-free-any", "schedule-free-sgd-lean", "schedule-free-plus")  # fmt: skip
AVERAGES = HOLDING[4:]
STATELESS = {
    "sgd": lambda: sgd(0.1),
    "per_parameter": lambda: per_parameter([("w", sgd(0.1)), ("b", optax.sgd(0.1))]),
    "scale_by_path": lambda: scale_by_path([("w", 0.5)]),
}
ALL = {name: EVERY[name] for name in HOLDING if name in EVERY} | {"schedule-free-sgd-lean": lambda: schedule_free_sgd(0.1, lean=True)} | STATELESS  # fmt: skip

# Trees that are not like PARAMS, and what is said of them. The first would pass unnoticed in a broadcast.
OTHERS = {
    "shape": ({"w": jnp.ones((3, 2)), "b": jnp.ones(2)}, "shape (3, 2) at ['w'] where (1, 2) is expected"),
    "rank": ({"w": jnp.ones(2), "b": jnp.ones(2)}, "shape (2,) at ['w'] where (1, 2) is expected"),
    "missing": ({"w": jnp.ones((1, 2))}, "nothing at ['b']"),
    "hole": ({"w": jnp.ones((1, 2)), "b": None}, "nothing at ['b']"),
    "masked": ({"w": jnp.ones((1, 2)), "b": optax.MaskedNode()}, "nothing at ['b']"),
    "extra": ({**PARAMS, "c": jnp.ones(3)}, "shape (3,) at ['c'] where nothing is expected"),
    "function": ({**PARAMS, "c": jnp.tanh}, "a PjitFunction at ['c'] where nothing is expected"),
    "not an array": ({**PARAMS, "b": "two"}, "a str at ['b'] where shape (2,) is expected"),
    "complex": ({**PARAMS, "b": jnp.ones(2, complex)}, "complex64 at ['b'] where a real floating-point array is expected"),
    "integer": ({**PARAMS, "b": np.ones(2, int)}, "int32 at ['b'] where a real floating-point array is expected"),
    "object": ({**PARAMS, "b": np.array([None, None])}, "object at ['b'] where a real floating-point array is expected"),
    "text": ({**PARAMS, "b": np.array(["a", "b"])}, "<U1 at ['b'] where a real floating-point array is expected"),
    "shapes": ({**PARAMS, "b": jax.ShapeDtypeStruct((2,), jnp.float32)}, "a ShapeDtypeStruct at ['b'] where shape (2,) is expected"),
    "keys": ({**PARAMS, "b": jax.random.split(jax.random.key(0))}, "key<fry> at ['b'] where a real floating-point array is expected"),
    "bare": (jnp.ones(2), "nothing at ['b']"),
}  # fmt: skip
NO_ARRAYS = {"function": "PjitFunction at ['c']", "not an array": "str at ['b']", "shapes": "ShapeDtypeStruct at ['b']"}
OF_OTHER_DTYPES = ("complex", "integer", "object", "text", "keys")
every = pytest.mark.parametrize("name", ALL)


def sentence(of, argument, what):
    return f"{of}: `{argument}` must be like the parameters that the state was made for, got {what}"


def no_array(of, argument, what):
    advice = "pass arrays only, for an Equinox model eqx.filter(model, eqx.is_inexact_array)"
    return f"{of}: `{argument}` must be real floating-point arrays, got {what}; {advice}"


def refused(function, *arguments, **keywords):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, compared by the caller
        function(*arguments, **keywords)
    return str(caught.value)


@every
def test_gradients_and_parameters_that_do_not_fit_a_state_are_named(name):
    optimizer = ALL[name]()
    state = optimizer.init(PARAMS)
    of = refused(optimizer.update, {}, state, PARAMS, value=1.0).split(":")[0]
    for case, (other, what) in OTHERS.items():
        if name in ("per_parameter", "scale_by_path") and case in OF_OTHER_DTYPES:
            continue  # the dtypes are looked at where something is done with the leaf
        said = no_array if case in NO_ARRAYS else sentence
        what = NO_ARRAYS.get(case, what)
        found = refused(optimizer.update, other, state, PARAMS, value=1.0)
        assert found == said(of, "updates" if name == "scale_by_path" else "grads", what)
        if name not in STATELESS:
            assert refused(optimizer.update, PARAMS, state, other, value=1.0) == said(of, "params", what)


@every
def test_what_is_jitted_mapped_or_wrapped_is_named_as_well(name):
    optimizer = ALL[name]()
    other, what = OTHERS["shape"]
    argument = "updates" if name == "scale_by_path" else "grads"
    for wrap in [WRAPPED["chain"], WRAPPED["masked"], WRAPPED["apply_if_finite"]]:
        wrapped = wrap(optimizer)
        update = jax.jit(wrapped.update)
        assert refused(update, other, wrapped.init(PARAMS), PARAMS, value=1.0).endswith(
            sentence("", argument, what)[1:]
        )
    states, params, others = (
        jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), tree) for tree in (optimizer.init(PARAMS), PARAMS, other)
    )
    update = jax.vmap(lambda g, s, p: optimizer.update(g, s, p, value=1.0))
    assert refused(update, others, states, params).endswith(sentence("", argument, what)[1:])


@every
def test_narrow_gradients_and_numpy_arrays_fit(name):
    optimizer = ALL[name]()
    state = optimizer.init(PARAMS)
    for grads in (
        jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS),
        jax.tree.map(lambda p: np.ones(p.shape), PARAMS),  # float64
    ):
        updates = jax.eval_shape(lambda g: optimizer.update(g, state, PARAMS, value=1.0)[0], grads)
        assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, PARAMS)


def test_parameters_must_not_have_more_digits_than_their_state(x64):
    wide = jax.tree.map(lambda p: p.astype(jnp.float64), PARAMS)
    narrow = jax.tree.map(lambda p: p.astype(jnp.float32), PARAMS)
    what = "float64 at ['b'] where float32 is expected"
    for optimizer in (adam(0.1), average(optax.sgd(0.1), polyak())):
        state = optimizer.init(narrow)
        assert refused(optimizer.update, narrow, state, wide).endswith(sentence("", "params", what)[1:])
        optimizer.update(narrow, optimizer.init(wide), narrow)
    assert refused(eval_params, state, wide) == sentence("eval_params", "params", what)


def test_containers_that_do_not_fit_are_shown():
    state = adam(0.1).init([jnp.ones(2)])
    expected = "PyTreeDef((*,)) where PyTreeDef([*]) is expected"
    assert refused(adam(0.1).update, (jnp.ones(2),), state) == sentence("adam", "grads", expected)


def test_the_state_of_another_optimizer_is_refused():
    for optimizer, kind in [
        (adam(0.1), "AdamState"),
        (reduce_on_plateau(), "PlateauState"),
        (sgd(0.1), "SgdState"),
        (average(adam(0.1), ema(0.9)), "AverageState"),
    ]:
        for state, got in [(optax.adam(0.1).init(PARAMS), "tuple"), ({"count": 0}, "dict")]:
            found = refused(optimizer.update, PARAMS, state, PARAMS, value=1.0)
            assert found.endswith(f": `state` must be the {kind} that init makes, got {got}")


def test_gradients_without_parameters_or_a_state_to_compare_them_with_are_real_as_well():
    for case in OF_OTHER_DTYPES:
        other, what = OTHERS[case]
        for params in (None, other):
            assert refused(sgd(0.1).update, other, sgd(0.1).init(PARAMS), params) == sentence("sgd", "grads", what)
    with pytest.raises(ValueError, match=r"^sgd: `grads` .* got str at"):
        sgd(0.1).update({"w": "one"}, sgd(0.1).init(PARAMS))


def test_updates_that_are_scaled_are_real():
    link = reduce_on_plateau()
    for case in (*OF_OTHER_DTYPES, *NO_ARRAYS):
        other, _ = OTHERS[case]
        found = refused(link.update, other, link.init(PARAMS), value=1.0)
        assert found.startswith("reduce_on_plateau: `updates` must be real floating-point arrays, got "), found
    frozen = jax.grad(lambda p: jnp.sum(p["w"]), allow_int=True)({"ids": jnp.arange(3), "w": jnp.ones(2)})
    assert "got float0 at ['ids']; leave out what is not trained" in refused(
        link.update, frozen, link.init({}), value=1.0
    )


@pytest.mark.parametrize(
    ("of", "optimizer", "fields"),
    [
        ("adam", adam(0.1), ("mu",)),
        ("average", schedule_free(sgd(0.1)), ("z",)),
        ("schedule_free_plus", schedule_free_plus(), ("z", "mu", "nu")),
    ],
)
def test_what_one_state_holds_of_a_parameter_is_alike(of, optimizer, fields):
    for field in fields:
        for case, (other, what) in OTHERS.items():
            state = optimizer.init(PARAMS)._replace(**{field: other})
            found = refused(optimizer.update, PARAMS, state, PARAMS, value=1.0)
            assert found == f"{of}: `state` must be the state that its own init makes, got {what} in `{field}`", case


def test_averages_by_name_are_alike():
    optimizer = average(sgd(0.1), {"a": ema(0.9), "b": polyak()})
    state = optimizer.init(PARAMS)
    found = refused(optimizer.update, PARAMS, state._replace(x={**state.x, "b": OTHERS["shape"][0]}), PARAMS)
    assert found == f"average: `state` must be the state that its own init makes, got {OTHERS['shape'][1]} in `b`"


# Averages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("wrap", ["chain", "partition", "MultiSteps"])
def test_an_average_of_other_parameters_is_refused(name, wrap):
    state = WRAPPED[wrap](ALL[name]()).init(PARAMS)
    for function in (eval_params,) if "lean" in name else (eval_params, require_eval_params):
        for other, what in OTHERS.values():
            assert refused(function, state, other, NAMES.get(name)) == sentence(function.__name__, "params", what)


def test_what_an_average_leaves_out_need_not_fit():
    """Holes are where a mask, a group or `eqx.filter` left them; what is there may be no array at all."""
    for hole in (None, optax.MaskedNode()):
        state = average(adam(0.1), polyak()).init({"w": jnp.ones(2), "rest": hole})
        params = {"w": jnp.zeros(2), "rest": {"act": jnp.tanh, "b": 3}}
        found = eval_params(state, params)
        np.testing.assert_array_equal(found["w"], 1.0)
        assert found["rest"] == params["rest"]
    state = average(adam(0.1), polyak()).init(eqx.filter(MODEL, eqx.is_inexact_array))
    found = eval_params(state, MODEL)
    assert found.activation is MODEL.activation
    assert require_eval_params(state, found) is found


MODEL = eqx.nn.MLP(2, 1, 2, 1, key=jax.random.key(0))


@pytest.mark.parametrize("name", [*HOLDING, "sgd"])
def test_of_an_equinox_model_only_the_arrays_are_given_to_an_optimizer(name):
    optimizer, arrays = ALL[name](), eqx.filter(MODEL, eqx.is_inexact_array)
    state = jax.eval_shape(optimizer.init, arrays)
    refuse_the_whole_model(optimizer, state)
    jax.eval_shape(lambda s: optimizer.update(arrays, s, arrays, value=1.0), state)


def test_nor_to_rules():
    arrays = eqx.filter(MODEL, eqx.is_inexact_array)
    for optimizer in (scale_by_path([("bias", 0.5)]), per_parameter([("bias", sgd(0.1))], default=sgd(0.1))):
        refuse_the_whole_model(optimizer, optimizer.init(arrays))


def refuse_the_whole_model(optimizer, state):
    grads = eqx.filter_grad(lambda m: m(jnp.ones(2)).sum())(MODEL)
    found = refused(jax.eval_shape, lambda s: optimizer.update(grads, s, MODEL, value=1.0), state)
    assert found == no_array(found.split(":")[0], "params", "custom_jvp at .activation")


@pytest.mark.parametrize("name", AVERAGES)
def test_a_state_that_was_restored_without_its_types_is_refused(name):
    """It holds its average, but nothing tells it from another dictionary than the names of its fields."""
    from flax import nnx

    def said(function, got):
        return (
            f"{function.__name__}: `opt_state` must be the state that init makes, got a {got} with the fields of "
            "an average: restore the checkpoint into optimizer.init(params)"
        )

    optimizer = ALL[name]()
    states = [WRAPPED[wrap](optimizer).init(PARAMS) for wrap in ("chain", "partition", "MultiSteps")]
    in_nnx = nnx.Optimizer(nnx.Linear(2, 1, rngs=nnx.Rngs(0)), optimizer, wrt=nnx.Param)
    restored = [*map(flax.serialization.to_state_dict, states), nnx.to_pure_dict(nnx.state(in_nnx))]
    for function in (eval_params, require_eval_params):
        for each in restored:
            assert refused(function, each, PARAMS, NAMES.get(name)) == said(function, "dict")
        assert refused(function, PARAMS, restored[0]).endswith(
            "`params` must be the parameters, got a dict with the fields of an average"
        )
    into = flax.serialization.from_state_dict(states[0], restored[0])
    chex.assert_trees_all_equal(eval_params(into, PARAMS, NAMES.get(name)), PARAMS)


def test_what_is_not_in_its_place_is_refused():
    optimizer = average(adam(0.1), polyak())
    state = optax.chain(optimizer).init(PARAMS)
    for function in (eval_params, require_eval_params):
        name = function.__name__
        for params, got in [(state, "AverageState"), (optimizer, "GradientTransformationExtraArgs")]:
            for first in (PARAMS, state):
                assert refused(function, first, params) == f"{name}: `params` must be the parameters, got {got}"
        for opt_state, got in [
            (None, "NoneType"),
            (optimizer, "GradientTransformationExtraArgs"),
            (optax.MultiSteps(optimizer, 2), "MultiSteps"),
        ]:
            expected = f"{name}: `opt_state` must be the state that init makes, got {got}"
            assert refused(function, opt_state, PARAMS) == expected
        for without in (optax.adam(0.1), optax.identity(), optax.sgd(0.1), sgd(0.1), sgd(0.1, 0.9), adam(0.1)):
            for opt_state in (without.init(PARAMS), flax.serialization.to_state_dict(without.init(PARAMS))):
                assert function(opt_state, PARAMS) == PARAMS


def test_a_model_of_nnx_is_not_its_parameters():
    from flax import nnx

    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, average(adam(0.1), polyak()), wrt=nnx.Param)
    for function in (eval_params, require_eval_params):
        assert refused(function, optimizer.opt_state, model) == (
            f"{function.__name__}: `params` must be the parameters, got the Flax nnx model Linear: pass "
            "nnx.state(model, optimizer.wrt)"
        )


def test_the_average_of_parameters_that_were_flattened_says_its_shape():
    state = optax.flatten(average(sgd(0.1), polyak())).init(PARAMS)
    what = "a tree where one array of shape (4,) is expected"
    assert refused(eval_params, state, PARAMS) == sentence("eval_params", "params", what)
    assert eval_params(state, jnp.zeros(4)).shape == (4,)


@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_is_read_where_dtypes_are_not_promoted(name):
    with jax.numpy_dtype_promotion("strict"):
        state = ALL[name]().init(PARAMS)
        found = eval_params(state, PARAMS, NAMES.get(name))
    chex.assert_trees_all_equal(found, PARAMS)


def test_the_averages_of_several_runs_are_mapped_where_they_are_computed():
    params = jnp.ones((2, 2))
    for optimizer in (lawa(sgd(0.1), 2), schedule_free_sgd(0.1, lean=True)):
        states = jax.vmap(optimizer.init)(params)
        found = refused(eval_params, states, params)
        assert found == "eval_params: `opt_state` must be of one run, got runs of shape (2,): use jax.vmap"
        assert jax.vmap(eval_params)(states, params).shape == (2, 2)


def test_snapshots_of_different_parameters_are_refused():
    first = Snapshot(5, 7.0, PARAMS)
    for other, what in OTHERS.values():
        found = refused(post_hoc_ema, [first, Snapshot(6, 7.0, other)], 7.0)
        assert found == f"post_hoc_ema: `snapshots` must be of the same parameters, got {what}"
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    assert post_hoc_ema([first, Snapshot(6, 7.0, half)], 7.0)["w"].shape == (1, 2)


def test_statistics_of_another_model_are_refused():
    def apply(variables, batch):
        return batch, {"batch_stats": {"bn": {"mean": jnp.ones(3), "var": jnp.ones(3)}}}

    variables = {"batch_stats": {"bn": {"mean": jnp.ones(1), "var": jnp.ones(1)}}}
    assert refused(refresh_batch_stats, apply, variables, [jnp.ones((2, 3))]) == (
        "refresh_batch_stats: `apply_fn` must return batch_stats like those of `variables`, got shape (3,) at "
        "['bn']['mean'] where (1,) is expected"
    )


def test_rules_that_match_nothing_of_other_gradients_are_refused():
    other = {"other": jnp.ones(2)}
    for optimizer in (scale_by_path([("w", 0.5)]), per_parameter([("w", optax.sgd(0.1))], default=optax.sgd(0.1))):
        found = refused(optimizer.update, other, optimizer.init(PARAMS))
        assert found.endswith("must each match a parameter that no rule before it does, got 'w' for other")


# Masks ----------------------------------------------------------------------------------------------------


MASKED = {
    "adamw": lambda mask, decay=0.5: adamw(0.1, weight_decay=decay, mask=mask),
    "schedule_free_sgd": lambda mask, decay=0.5: schedule_free_sgd(0.1, weight_decay=decay, mask=mask),
    "schedule_free_adamw": lambda mask, decay=0.5: schedule_free_adamw(0.1, weight_decay=decay, mask=mask),
    "schedule_free_radam": lambda mask, decay=0.5: schedule_free_radam(0.1, weight_decay=decay, mask=mask, silent=False),
}  # fmt: skip
masked = pytest.mark.parametrize("name", MASKED)
WAY = (
    "`mask` must be a tree of booleans like the parameters, or a function from parameters to one, true where weights "
    'decay, such as not_matching(r"bias$"), got '
)


@masked
def test_a_mask_that_is_none_is_refused_at_once(name):
    for mask, got in [("bias$", "'bias$'"), (1, "1"), ({"w": True, "b": "no"}, "'no'"), (["w"], "'w'"), (b"w", "b'w'")]:
        for decay in (0.0, 0.5):
            assert refused(MASKED[name], mask, decay) == f"{name}: {WAY}{got}"


@masked
def test_a_mask_that_does_not_fit_is_found_at_init(name):
    for mask, got in [
        ({"w": True}, "none for b"),
        (False, 'False for all parameters; under optax.inject_hyperparams pass static_args="mask"'),
        (np.bool_(True), 'True for all parameters; under optax.inject_hyperparams pass static_args="mask"'),
        ({"w": True, "b": False, "c": True}, "one for c, where there is no parameter"),
        ({"w": {"kernel": True}, "b": False}, "none for w"),
        (lambda p: {"w": True}, "none for b"),
        (lambda p: jax.tree.map(lambda leaf: leaf.ndim, p), "1"),
        (lambda p: "w", "'w'"),
        (lambda p: {"w": np.ones(2, bool), "b": False}, "array([ True,  True])"),
    ]:
        assert refused(MASKED[name](mask).init, PARAMS) == f"{name}: {WAY}{got}"
    found = refused(MASKED[name](not_matching("bais$")).init, PARAMS)
    assert found == "not_matching: `patterns` must each match a parameter, got 'bais$' for b, w"


@masked
@pytest.mark.parametrize(
    ("mask", "decays"),
    [
        ({"w": True, "b": False}, "w"),
        (lambda p: {"w": False, "b": True}, "b"),
        (not_matching("b$"), "w"),
        ({"w": np.array(True), "b": jnp.array(False)}, "w"),
    ],
    ids=range(4),
)
def test_weights_decay_where_a_mask_is_true(name, mask, decays):
    optimizer = MASKED[name](mask)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    state = optimizer.init(PARAMS)
    updates, state = jax.jit(optimizer.update)(zeros, state, PARAMS)
    assert {path for path, leaf in updates.items() if (leaf != 0).any()} == {*decays}
    # Optax calls `init` with a placeholder, which has no leaves.
    assert jax.tree.structure(optax.tree_map_params(optimizer, lambda p: p, state)) == jax.tree.structure(state)


@masked
def test_a_mask_that_optax_took_for_a_schedule_is_refused(name):
    def inject(**static):
        make = lambda mask: MASKED[name](mask)  # noqa: E731
        return optax.inject_hyperparams(make, **static)(mask=lambda p: jax.tree.map(lambda leaf: leaf.ndim > 1, p))

    advice = 'under optax.inject_hyperparams pass static_args="mask"'
    assert refused(inject().init, PARAMS) == f"{name}: {WAY}False for all parameters; {advice}"
    optimizer = inject(static_args="mask")
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, PARAMS), optimizer.init(PARAMS), PARAMS)
    assert {path for path, leaf in updates.items() if (leaf != 0).any()} == {"w"}


def test_a_mask_goes_by_paths_in_a_model_of_nnx():
    from flax import nnx

    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    before = model.kernel[...]
    for mask in (
        {"kernel": True, "bias": False},
        jax.tree.map(lambda p: p.ndim > 1, nnx.state(model, nnx.Param)),
        not_matching("bias$"),
    ):
        model.bias[...] = jnp.ones(2)
        optimizer = nnx.Optimizer(model, adamw(0.1, weight_decay=0.5, mask=mask), wrt=nnx.Param)
        optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
        np.testing.assert_array_equal(model.bias[...], 1.0)
    assert (model.kernel[...] != before).all()


# Hyperparameters ------------------------------------------------------------------------------------------


def used(optimizer, updates=2, **keywords):
    state = optimizer.init(PARAMS)
    for _ in range(updates):
        _, state = optimizer.update(PARAMS, state, PARAMS, **keywords)
    return hyperparameters(state)


RATE = optax.linear_schedule(0.1, 0.0, 10)
SGD = optax.inject_hyperparams(optax.sgd)


@pytest.mark.parametrize("wrap", WRAPPED)
def test_what_was_injected_is_read_through_wrappers(wrap):
    found = used(WRAPPED[wrap](SGD(RATE)), 4 if wrap == "MultiSteps" else 2)
    np.testing.assert_allclose(found["learning_rate"], RATE(1), rtol=1e-6)


def test_what_was_injected_is_read_beside_ours_and_in_an_nnx_optimizer():
    from flax import nnx

    optimizer = nnx.Optimizer(nnx.Linear(2, 1, rngs=nnx.Rngs(0)), SGD(RATE), wrt=nnx.Param)
    np.testing.assert_allclose(hyperparameters(optimizer.opt_state)["learning_rate"], RATE(0), rtol=1e-6)
    found = used(optax.partition({"a": SGD(0.3), "b": sgd(0.2)}, {"w": "a", "b": "b"}))
    assert [float(found[n]) for n in sorted(found) if "learning_rate" in n] == pytest.approx([0.3, 0.2])
    found = used(average(SGD(RATE), ema(0.9)))
    assert {"learning_rate", "coefficient", "beta"} <= found.keys()


def test_an_optimizer_of_ours_says_itself_what_it_made_of_what_was_injected():
    found = used(optax.inject_hyperparams(schedule_free_adamw)(learning_rate=0.1, warmup_steps=10))
    np.testing.assert_allclose(found["learning_rate"], 0.02, rtol=1e-6)
    assert found["warmup_steps"] == 10


def test_what_optax_itself_keeps_is_read():
    plateau = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(factor=0.5, patience=1))
    assert used(plateau, 2, value=1.0) == {"scale": 0.5}
    for search in (optax.scale_by_backtracking_linesearch(5), optax.scale_by_zoom_linesearch(5)):
        state = optax.chain(optax.sgd(0.1), search).init(PARAMS)
        assert hyperparameters(state) == {"learning_rate": 1.0}


def test_it_is_said_where_no_number_can_be_read():
    for optimizer, states in [
        (optax.adam(0.1), "ScaleByAdamState, EmptyState"),
        (optax.adam(RATE), "ScaleByAdamState, ScaleByScheduleState"),
        (optax.sgd(0.1), "EmptyState"),
        (optax.MultiSteps(optax.sgd(RATE), 2).gradient_transformation(), "EmptyState, ScaleByScheduleState"),
        (optax.partition({"a": optax.adam(0.1)}, {"w": "a", "b": "a"}), "ScaleByAdamState, EmptyState"),
    ]:
        assert refused(hyperparameters, optimizer.init(PARAMS)) == (
            "hyperparameters: `opt_state` must keep the numbers of the last update, as states of optim and of "
            f"optax.inject_hyperparams(optax.adam)(learning_rate=lr) do, got {states}, which keeps none"
        )
    assert refused(hyperparameters, PARAMS).endswith("got dict, which keeps none")


def test_a_record_of_someone_else_is_left_alone():
    @flax.struct.dataclass
    class TrainState:
        opt_state: object
        used: dict
        hyperparams: dict = flax.struct.field(pytree_node=False)

    found = hyperparameters(TrainState(sgd(0.1).init(PARAMS), {"data": jnp.ones(())}, {"width": 64}))
    assert found.keys() == {"learning_rate", "momentum"}


def test_what_is_ours_is_read_beside_what_is_not():
    assert "coefficient" in used(average(optax.adam(0.1), ema(0.9)))


STORED = {"w": jnp.ones(2), "b": jnp.ones(())}


@pytest.mark.parametrize(
    ("name", "maker", "other", "got"),
    [
        ("adam", adam(0.1, b1=0.0), adam(0.1), "one without `mu`"),
        ("adam", adam(0.1), adam(0.1, b1=0.0), "one with `mu`"),
        ("sgd", sgd(0.1), sgd(0.1, 0.9), "one without `trace`"),
        ("average", average(sgd(0.1), ema(0.9)), schedule_free(sgd(0.1)), "one without `z`"),
        ("average", schedule_free(sgd(0.1)), average(sgd(0.1), ema(0.9)), "one with `z`"),
        ("average", schedule_free(sgd(0.1)), schedule_free_sgd(), "one with another `memory`"),
        ("average", schedule_free_sgd(), schedule_free(sgd(0.1)), "one with another `memory`"),
        ("average", average(sgd(0.1), {"a": ema(0.9)}), average(sgd(0.1), {"b": ema(0.9)}), "one for `coefficient` ['a'], not ['b']"),
        ("average", average(sgd(0.1), {"a": ema(0.9)}), average(sgd(0.1), ema(0.9)), "one for `coefficient` ['a'], not [None]"),
        ("average", schedule_free(sgd(0.1), lean=True), schedule_free(sgd(0.1)), "one without `x`"),
        ("lawa", lawa(sgd(0.1), 3), lawa(sgd(0.1), 5), "one for `last` 3, not 5"),
        ("per_parameter", per_parameter([("w", sgd(0.1))], sgd(0.2)), per_parameter([("b", sgd(0.1))], sgd(0.2)), "one for `rules` ['*', 'w'], not ['*', 'b']"),
        ("scale_by_path", scale_by_path([("w", 0.1)]), scale_by_path([("b", 0.1)]), "one for `rules` ['w'], not ['b']"),
    ],
)  # fmt: skip
def test_a_state_of_other_settings_is_refused(name, maker, other, got):
    state = maker.init(STORED)
    found = refused(other.update, STORED, state, STORED)
    assert found == f"{name}: `state` must be the state that its own init makes, got {got}"
    maker.update(STORED, state, STORED)


def test_leaves_that_are_frozen_may_be_of_any_dtype():
    params = {"ids": jnp.arange(3), "w": jnp.ones(2)}
    grads = jax.grad(lambda p: jnp.sum(p["w"] ** 2), allow_int=True)(params)
    grouped = per_parameter([("ids", optax.set_to_zero())], default=sgd(0.1))
    updates, _ = grouped.update(grads, grouped.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.2, rtol=1e-6)
    halved = scale_by_path([("w", 0.5)])
    for other in (grads["ids"], params["ids"]):
        updates, _ = halved.update({"ids": other, "w": grads["w"]}, halved.init(params), params)
        assert updates["ids"] is other
        np.testing.assert_array_equal(updates["w"], 1.0)
    refused = scale_by_path([("ids", 0.5)])
    with pytest.raises(ValueError, match="^scale_by_path: `updates` must be real floating-point arrays, got int32 at"):
        refused.update(params, refused.init(params), params)


@pytest.mark.parametrize("last", [3, np.int64(3), jnp.int32(3)])
def test_how_many_are_kept_is_any_concrete_number(last):
    optimizer = lawa(sgd(0.1), last)
    assert optimizer.init(STORED).ring["w"].shape == (3, 2)
    found = refused(jax.jit(lambda n: lawa(sgd(0.1), n).init(STORED)), 3)
    assert found.startswith("lawa: `last` must be a whole number from 1 to 2147483647, got JitTracer")


@pytest.mark.parametrize("value", ["a", {"l": 1.0}, 1 + 2j, True, np.array(None), jax.random.key(0)])
def test_a_loss_is_one_real_number(value):
    optimizer = schedule_free_plus()
    with pytest.raises(ValueError, match="^schedule_free_plus: `value` must be one real number, got "):
        optimizer.update(STORED, optimizer.init(STORED), STORED, value=value)


@pytest.mark.parametrize("gradient", [1e-6, 6e-8, 1.0, 6e4])
def test_half_precision_holds_what_a_tiny_gradient_asks_for(gradient):
    params = {"w": jnp.ones(2, jnp.float16)}
    optimizer = schedule_free_plus()
    updates, state = optimizer.update(
        {"w": jnp.full(2, gradient, jnp.float16)}, optimizer.init(params), params, value=1.0
    )
    assert np.isfinite(optax.apply_updates(params, updates)["w"]).all()
    assert np.isfinite(eval_params(state, params)["w"]).all()


def test_gradients_that_are_missing_altogether_are_named():
    for optimizer in (sgd(0.1), sgd(0.1, 0.9), adam(0.1)):
        state = optimizer.init(STORED)
        assert refused(optimizer.update, None, state, STORED).endswith("got nothing at ['b']")
