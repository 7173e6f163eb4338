"""Reading an optimizer's state, wherever it sits in a chain."""

import functools
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.tree_util import keystr, tree_flatten_with_path, tree_leaves_with_path, tree_map_with_path

from optim.averaging import AverageState, LawaState, names_of, recovered
from optim.checks import by_path, difference, is_hole, misfit, unlike
from optim.schedule_free_plus import ScheduleFreePlusState

AVERAGES = (AverageState, LawaState, ScheduleFreePlusState)
OPTIMIZERS = (optax.GradientTransformation, optax.MultiSteps)
# The states of optax that keep one number of the last update, in this field.
KEPT = {
    optax.ScaleByBacktrackingLinesearchState: "learning_rate",
    optax.ScaleByZoomLinesearchState: "learning_rate",
    optax.contrib.ReduceLROnPlateauState: "scale",
}


def eval_params(opt_state: Any, params: Any, name: str | None = None) -> Any:
    """The parameters to evaluate, save and deploy: the average where `opt_state` holds one, else `params`.

    Finds the average through `optax.chain`, `MultiSteps`, `masked`, `nnx.Optimizer` and anything else that
    is a pytree, so an evaluation loop need not know which optimizer it was given. Parameters that the
    average does not cover (masked ones, or None where it was made) are those of `params`. Of an average of an
    average, the outer one.

    Training goes on from `params`, so evaluate a copy. Where parameters are values, as in Flax linen and Equinox,
    what is returned is one. A model of Flax nnx holds them, and is cloned before they are put into it:

        averaged = nnx.clone(model)
        nnx.update(averaged, eval_params(optimizer.opt_state, nnx.state(averaged, optimizer.wrt)))

    **Arguments:** `params`: those that the caller trains, never evaluated ones; `name`: which average, where
    `average` was given several.

    **Returns:** a tree like `params`, with its dtypes.

    **Raises:** `ValueError` if two averages cover one parameter, there is none of that name, `params` are not like
    the parameters that the state was made for (in their places, shapes and digits), or `opt_state` is no state: an
    optimizer, None, or the dictionaries that a checkpoint gives when it is restored without `optimizer.init(params)`.
    """
    return _evaluated("eval_params", opt_state, params, name)


def _evaluated(function: str, opt_state: Any, params: Any, name: str | None) -> Any:
    _require_places(function, opt_state, params)
    # By path and not by structure: masks leave holes, and Flax wraps state and parameters differently.
    averages = [s for s in jax.tree.leaves(opt_state, is_leaf=_is_average) if _is_average(s)]
    _require_name(function, averages, name)
    held = by_path(params)
    stored = [(path, leaf, state) for state in averages for path, leaf in _stored(function, state, name)]
    averaged = [(path, leaf, state) for path, leaf, state in stored if not is_hole(leaf)]
    expected = {path: _one(leaf, state) for path, leaf, state in averaged}
    if len(expected) != len(averaged):
        raise ValueError(f"{function}: `opt_state` must hold one average of each parameter, got several")
    holes = {path for path, leaf, _ in stored if is_hole(leaf)}
    covered = {path: p for path, p in held.items() if path in expected or holes.isdisjoint(_with_parents(path))}
    if () in expected and () not in held:  # as optax.flatten leaves it
        flat = f"a tree where one array of shape {expected[()].shape} is expected"
        raise ValueError(unlike(function, "params", flat))
    if averages and (what := difference(covered, expected, functools.partial(misfit, whole=True))):
        raise ValueError(unlike(function, "params", what))
    found = {path: _average(state, leaf, held[path]) for path, leaf, state in averaged}
    return tree_map_with_path(lambda path, p: found[path].astype(jnp.result_type(p)) if path in found else p, params)


def _require_places(function: str, opt_state: Any, params: Any) -> None:
    """Raises the ValueError for what else holds no average, and would pass for a state without one."""
    if opt_state is None or isinstance(opt_state, OPTIMIZERS):
        got = type(opt_state).__name__
        raise ValueError(f"{function}: `opt_state` must be the state that init makes, got {got}")
    if _is_nnx_model(params):
        got = f"the Flax nnx model {type(params).__name__}: pass nnx.state(model, optimizer.wrt)"
        raise ValueError(f"{function}: `params` must be the parameters, got {got}")
    for node in jax.tree.leaves(params, is_leaf=_is_state_or_optimizer):
        if _is_state_or_optimizer(node):
            got = _untyped(node) or type(node).__name__
            raise ValueError(f"{function}: `params` must be the parameters, got {got}")
    for node in jax.tree.leaves(opt_state, is_leaf=_is_state_or_optimizer):
        if untyped := _untyped(node):
            raise ValueError(
                f"{function}: `opt_state` must hold the states that init makes, got {untyped}: "
                "restore it into optimizer.init(params)"
            )


def _is_nnx_model(params: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")  # where there is a model, it was imported
    return nnx is not None and isinstance(params, nnx.Module)


def _untyped(node: Any) -> str | None:
    """What a mapping with the fields of an average is, as in a checkpoint that was restored without its types."""
    names = set(node) if isinstance(node, Mapping) else set()
    if not ({"count", "used"} <= names and names & {"x", "z", "ring"}):
        return None
    # Not all of them: Flax nnx leaves out those that are None.
    kinds = (kind.__name__ for kind in AVERAGES if names <= set(kind._fields))
    return next((f"a {type(node).__name__} of the fields of {kind}" for kind in kinds), None)


def _require_name(function: str, averages: list[Any], name: str | None) -> None:
    names = sorted({each for state in averages for each in names_of(state)})
    if name not in names and (names or name is not None):
        wanted = f"one of {', '.join(map(repr, names))}" if names else "None, since no average has a name"
        raise ValueError(f"{function}: `name` must be {wanted}, got {name!r}")


def _with_parents(path: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return [path[:depth] for depth in range(len(path) + 1)]


def _stored(function: str, state: Any, name: str | None) -> list[tuple[Any, Any]]:
    """What a state holds of every parameter for its average, and the holes, with their paths."""
    if isinstance(state, LawaState) or state.x is None:
        if axes := jnp.shape(state.count):
            raise ValueError(f"{function}: `opt_state` must be of one run, got one of shape {axes}: use jax.vmap")
        tree = state.ring if isinstance(state, LawaState) else state.z
    else:
        tree = state.x.get(name) if names_of(state) else state.x
    return tree_leaves_with_path(tree, is_leaf=is_hole)


def _one(stored: Any, state: Any) -> jax.ShapeDtypeStruct:
    """What is held of a parameter, without the axis of the latest ones."""
    return jax.ShapeDtypeStruct(stored.shape[isinstance(state, LawaState) :], stored.dtype)


def _average(state: Any, stored: Any, p: Any) -> Array:
    if isinstance(state, LawaState):
        return _mean(stored, jnp.asarray(state.used["averaged"]), p)
    return recovered(p, state._replace(z=stored)) if state.x is None else stored


def _mean(ring: Array, averaged: Array, newest: Any) -> Array:
    kept = jnp.arange(ring.shape[0]) < averaged
    total = jnp.sum(jnp.where(kept.reshape(-1, *[1] * (ring.ndim - 1)), ring, 0), axis=0)
    mean = total / jnp.maximum(averaged, 1).astype(total.dtype)
    return jnp.where(averaged > 0, mean, jnp.asarray(newest, mean.dtype))


def _is_average(node: Any) -> bool:
    return isinstance(node, AVERAGES)


def _is_state_or_optimizer(node: Any) -> bool:
    return isinstance(node, (*AVERAGES, *OPTIMIZERS)) or _untyped(node) is not None


def hyperparameters(opt_state: Any) -> dict[str, Array]:
    """The numbers that the last update used: learning rate, betas, decay, averaging coefficient, for a log.

    Before the first update, those that it will use (a rate that depends on the loss is 0 until then). Under
    gradient accumulation, those of the last update that was applied. Where several optimizers in one state use
    the same name, each is preceded by its place in the state.

    Read are the states of `optim`, of `optax.inject_hyperparams` (what is injected into an optimizer of `optim` is
    what that used), and of optax's line searches and `reduce_on_plateau`. Other optimizers of optax keep no number:
    the state of `optax.adam(lr)` has a count of updates at most, and what is beside it in a chain is all that is
    returned. For their numbers write `optax.inject_hyperparams(optax.adam)(learning_rate=lr)`, or log `lr(t)`, where
    t is the number of updates before the one in question.

    **Returns:** scalars by name.

    **Raises:** `ValueError` if no number at all can be read.
    """
    found = [(place, name, value) for place, used in _used("", opt_state) for name, value in used.items()]
    if not found:
        raise ValueError(
            "hyperparameters: `opt_state` must keep the numbers that were used, as states of optim and of "
            "optax.inject_hyperparams(optax.adam)(learning_rate=lr) do, got "
            f"{', '.join(_types(opt_state)) or type(opt_state).__name__}, which keeps none"
        )
    names = [name for _, name, _ in found]
    # As arrays: nnx.Optimizer wraps them.
    return {name if names.count(name) == 1 else f"{place}.{name}": jnp.asarray(value) for place, name, value in found}


def _used(place: str, tree: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every record of hyperparameters in a state, with its place."""
    for path, node in tree_flatten_with_path(tree, is_leaf=_has_record)[0]:
        if record := _record(node):
            field, used = record
            here = place + keystr(path)
            within = [(each, getattr(node, each)) for each in node._fields if each != field]
            inner = [record for name, below in within for record in _used(f"{here}.{name}", below)]
            # An optimizer of ours into which numbers are injected says itself what it made of them.
            said = {name for _, each in inner for name in each} if field == "hyperparams" else set()
            yield here, {name: value for name, value in used.items() if name not in said}
            yield from inner


def _record(node: Any) -> tuple[str, dict[str, Any]] | None:
    """The field in which a state keeps the numbers that were used, and those by name."""
    if not hasattr(node, "_fields"):  # as a dataclass, which may hold both a state and a record of its own
        return None
    for field in ("used", "hyperparams"):
        if isinstance(used := getattr(node, field, None), dict):
            return field, used
    for kind, field in KEPT.items():
        if isinstance(node, kind):
            return field, {field: getattr(node, field)}
    return None


def _has_record(node: Any) -> bool:
    return _record(node) is not None


def _types(opt_state: Any) -> list[str]:
    """The names of the innermost states in a state, each once."""
    names: list[str] = []
    for node in jax.tree.leaves(opt_state, is_leaf=lambda node: hasattr(node, "_fields")):
        if hasattr(node, "_fields") and not is_hole(node):
            names += _types(tuple(node)) or [type(node).__name__]
    return list(dict.fromkeys(names))


def require_eval_params(opt_state: Any, params: Any, name: str | None = None) -> Any:
    """`params`, if they are those to evaluate and save; for a checkpoint or a validation loop that must not be given
    the training parameters by mistake.

    Schedule-free optimizers train at y, which the caller holds, and are worth only as much as x, which
    `eval_params` returns. `require_eval_params(state, eval_params(state, params))` passes; so do the training
    parameters of an optimizer without an average.

    **Raises:** `ValueError` as `eval_params`, if `params` differ from `eval_params(opt_state, params)` (traced values
    are not compared), or if the average is in the lean form, where x and y cannot be told apart.
    """
    if any(isinstance(s, AverageState) and s.x is None for s in jax.tree.leaves(opt_state, is_leaf=_is_average)):
        raise ValueError("require_eval_params: `opt_state` must store its average, got one in the lean form")
    expected = _evaluated("require_eval_params", opt_state, params, name)
    for (path, have), want in zip(tree_leaves_with_path(params), jax.tree.leaves(expected), strict=True):
        if have is want or isinstance(have, jax.core.Tracer):
            continue
        if not jnp.array_equal(have, want, equal_nan=True):
            raise ValueError(
                "require_eval_params: `params` must be the averaged parameters, eval_params(opt_state, params), got "
                f"training parameters at {keystr(path) or 'the root'}"
            )
    return params
