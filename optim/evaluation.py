"""Reading an optimizer's state, wherever it sits in a chain.

A state says what it holds. One with a method `averages() -> {name: Average}` holds averages of the parameters, which
`eval_params` finds; an average without a name is under None. A named tuple with a dict `used` keeps the numbers of its
last update, which `hyperparameters` finds. Yours may have both:

    class MyState(NamedTuple):
        count: Array
        mean: Any  # a tree like the parameters

        def averages(self):
            return {None: Average(self.mean)}
"""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.tree_util import keystr, tree_flatten_with_path, tree_leaves_with_path, tree_map_with_path

from optim.checks import by_path, difference, is_hole, misfit, unlike

__all__ = ["eval_params", "require_eval_params", "hyperparameters", "Average"]


class Average(NamedTuple):
    """An average of the parameters as a state holds it.

    **Attributes:** `stored`: a tree like the parameters, of arrays, with None or `optax.MaskedNode` where a
    parameter is not averaged; `read`: a function from what is stored of a parameter and the parameter that the caller
    holds to the average of it, where that is not what is stored (the state must then have a scalar `count`); `axes`:
    how many axes each array has in front of those of its parameter; `needs_trained`: whether `read` is right for the
    parameters that are trained only.
    """

    stored: Any
    read: Callable[[Array, Any], Array] | None = None
    axes: int = 0
    needs_trained: bool = False


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
    averages = _averages("eval_params", opt_state, params, name)
    return _evaluated("eval_params", averages, params)


def _evaluated(function: str, averages: list[Average], params: Any) -> Any:
    # By path and not by structure: masks leave holes, and Flax wraps state and parameters differently.
    held = by_path(params)
    stored = [(path, leaf, each) for each in averages for path, leaf in tree_leaves_with_path(each.stored, is_hole)]
    averaged = [(path, leaf, each) for path, leaf, each in stored if not is_hole(leaf)]
    expected = {path: jax.ShapeDtypeStruct(leaf.shape[each.axes :], leaf.dtype) for path, leaf, each in averaged}
    if len(expected) != len(averaged):
        raise ValueError(f"{function}: `opt_state` must hold one average of each parameter, got several")
    holes = {path for path, leaf, _ in stored if is_hole(leaf)}
    covered = {path: p for path, p in held.items() if path in expected or holes.isdisjoint(_with_parents(path))}
    if () in expected and () not in held:  # as optax.flatten leaves it
        flat = f"a tree where one array of shape {expected[()].shape} is expected"
        raise ValueError(unlike(function, "params", flat))
    if averages and (what := difference(covered, expected, functools.partial(misfit, whole=True))):
        raise ValueError(unlike(function, "params", what))
    found = {path: each.read(leaf, held[path]) if each.read else leaf for path, leaf, each in averaged}
    return tree_map_with_path(lambda path, p: found[path].astype(jnp.result_type(p)) if path in found else p, params)


def _averages(function: str, opt_state: Any, params: Any, name: str | None) -> list[Average]:
    """The averages of this name, one of each state that holds any."""
    _require_places(function, opt_state, params)
    states = [state for state in jax.tree.leaves(opt_state, is_leaf=_is_average) if _is_average(state)]
    by_name = [state.averages() for state in states]
    names = {each for averages in by_name for each in averages}
    if names and name not in names:
        named = sorted(each for each in names if each is not None)
        wanted = f"one of {', '.join(map(repr, named))}" if named else "None, since no average has a name"
        raise ValueError(f"{function}: `name` must be {wanted}, got {name!r}")
    if name is not None and not names:
        raise ValueError(f"{function}: `name` must be None, since no average has a name, got {name!r}")
    for state, averages in zip(states, by_name, strict=True):
        if any(average.read for average in averages.values()) and (axes := jnp.shape(state.count)):
            raise ValueError(f"{function}: `opt_state` must be of one run, got one of shape {axes}: use jax.vmap")
    return [averages[name] for averages in by_name if name in averages]


def _is_average(node: Any) -> bool:
    return callable(getattr(type(node), "averages", None))


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
    names = {*node} if isinstance(node, Mapping) else set()
    if not ({"count", "used"} <= names and names & {"x", "z", "ring"}):
        return None
    return f"a {type(node).__name__} of the fields of an average"


def _with_parents(path: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return [path[:depth] for depth in range(len(path) + 1)]


def _is_state_or_optimizer(node: Any) -> bool:
    return _is_average(node) or isinstance(node, OPTIMIZERS) or _untyped(node) is not None


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
    found = [(place, name, value) for place, used in _used("", opt_state) for name, value in _by_name(used)]
    if not found:
        raise ValueError(
            "hyperparameters: `opt_state` must keep the numbers that were used, as states of optim and of "
            "optax.inject_hyperparams(optax.adam)(learning_rate=lr) do, got "
            f"{', '.join(_types(opt_state)) or type(opt_state).__name__}, which keeps none"
        )
    names = [name for _, name, _ in found]
    # As arrays: nnx.Optimizer wraps them.
    return {name if names.count(name) == 1 else f"{place}.{name}": jnp.asarray(value) for place, name, value in found}


def _by_name(used: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What was used, of which there may be several: `coefficient[fast]`."""
    for name, value in used.items():
        several = {f"{name}[{key}]": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
        yield from several.items()


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
    averages = _averages("require_eval_params", opt_state, params, name)
    expected = _evaluated("require_eval_params", averages, params)
    if any(average.needs_trained for average in averages):
        raise ValueError("require_eval_params: `opt_state` must store its average, got one in the lean form")
    for (path, have), want in zip(tree_leaves_with_path(params), jax.tree.leaves(expected), strict=True):
        if have is want or isinstance(have, jax.core.Tracer):
            continue
        if not jnp.array_equal(have, want, equal_nan=True):
            raise ValueError(
                "require_eval_params: `params` must be the averaged parameters, eval_params(opt_state, params), got "
                f"training parameters at {keystr(path) or 'the root'}"
            )
    return params
