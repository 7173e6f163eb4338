"""Reads averages and hyperparameters out of an optimizer's state, wherever they are in a chain.

`eval_params` finds every state with a method `averages() -> {name: Average}`; an average without a name has the key
None. `hyperparameters` finds every named tuple with a dict `used`, the numbers of its last update. Your own state may
have both:

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
    """An average of the parameters, as it is stored in a state.

    **Attributes:**

    - `stored`: a tree of arrays like the parameters, with None or `optax.MaskedNode` where a parameter is not averaged.
    - `read`: a function `(stored array, parameter) -> average`, if the average is not the stored array itself. The
      state must then have a scalar `count`.
    - `axes`: how many axes the stored arrays have in front of those of the parameters.
    - `needs_trained`: whether `read` is right only for the parameters that are trained.
    """

    stored: Any
    read: Callable[[Array, Any], Array] | None = None
    axes: int = 0
    needs_trained: bool = False


OPTIMIZERS = (optax.GradientTransformation, optax.MultiSteps)
# States of optax that keep one number of the last update, and the field that it is in.
KEPT = {
    optax.ScaleByBacktrackingLinesearchState: "learning_rate",
    optax.ScaleByZoomLinesearchState: "learning_rate",
    optax.contrib.ReduceLROnPlateauState: "scale",
}


def eval_params(opt_state: Any, params: Any, name: str | None = None) -> Any:
    """The parameters to evaluate, save and deploy: the average if `opt_state` holds one, else `params`.

    It finds the average inside `optax.chain`, `MultiSteps`, `masked`, `nnx.Optimizer` and any other pytree, so the same
    evaluation loop works for every optimizer. Parameters that are not averaged (masked ones, or None at `init`) come
    from `params`. For an average of an average, it returns the outer one.

    Continue training from `params`, not from the result. In Flax linen and Equinox parameters are values, so the result
    is a copy. A Flax nnx model holds its parameters, so clone the model first:

        averaged = nnx.clone(model)
        nnx.update(averaged, eval_params(optimizer.opt_state, nnx.state(averaged, optimizer.wrt)))

    **Arguments:** `params`: the parameters that you train, never evaluated ones; `name`: which average, if
    `average` keeps several.

    **Returns:** a tree like `params`, with its dtypes.

    **Raises:** `ValueError` if two averages cover the same parameter, if no average has this name, if `params` do not
    have the structure, shapes and precision of the parameters that the state was made for, or if `opt_state` is not a
    state but an optimizer, None, or the plain dictionaries of a checkpoint that was restored without
    `optimizer.init(params)`.
    """
    averages = _averages("eval_params", opt_state, params, name)
    return _evaluated("eval_params", averages, params)


def _evaluated(function: str, averages: list[Average], params: Any) -> Any:
    # Match by path, not by structure: masks leave holes, and Flax wraps state and parameters differently.
    held = by_path(params)
    stored = [(path, leaf, each) for each in averages for path, leaf in tree_leaves_with_path(each.stored, is_hole)]
    averaged = [(path, leaf, each) for path, leaf, each in stored if not is_hole(leaf)]
    expected = {path: jax.ShapeDtypeStruct(leaf.shape[each.axes :], leaf.dtype) for path, leaf, each in averaged}
    if len(expected) != len(averaged):
        raise ValueError(f"{function}: `opt_state` must hold one average of each parameter, got several")
    holes = {path for path, leaf, _ in stored if is_hole(leaf)}
    covered = {path: p for path, p in held.items() if path in expected or holes.isdisjoint(_with_parents(path))}
    if () in expected and () not in held:  # inside optax.flatten
        flat = f"a tree where one array of shape {expected[()].shape} is expected"
        raise ValueError(unlike(function, "params", flat))
    if averages and (what := difference(covered, expected, functools.partial(misfit, whole=True))):
        raise ValueError(unlike(function, "params", what))
    found = {path: each.read(leaf, held[path]) if each.read else leaf for path, leaf, each in averaged}
    return tree_map_with_path(lambda path, p: found[path].astype(jnp.result_type(p)) if path in found else p, params)


def _averages(function: str, opt_state: Any, params: Any, name: str | None) -> list[Average]:
    """The averages of this name, one from each state that holds any."""
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
            raise ValueError(f"{function}: `opt_state` must be of one run, got runs of shape {axes}: use jax.vmap")
    return [averages[name] for averages in by_name if name in averages]


def _is_average(node: Any) -> bool:
    return callable(getattr(type(node), "averages", None))


def _require_places(function: str, opt_state: Any, params: Any) -> None:
    """Raises the ValueError for arguments in the wrong place, which would pass for a state without an average."""
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
                f"{function}: `opt_state` must be the state that init makes, got {untyped}: "
                "restore the checkpoint into optimizer.init(params)"
            )


def _is_nnx_model(params: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")  # where there is a model, it was imported
    return nnx is not None and isinstance(params, nnx.Module)


def _untyped(node: Any) -> str | None:
    """Describes a mapping with the fields of an average, which a checkpoint restored without its types contains."""
    names = {*node} if isinstance(node, Mapping) else set()
    if not ({"count", "used"} <= names and names & {"x", "z", "ring"}):
        return None
    return f"a {type(node).__name__} with the fields of an average"


def _with_parents(path: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return [path[:depth] for depth in range(len(path) + 1)]


def _is_state_or_optimizer(node: Any) -> bool:
    return _is_average(node) or isinstance(node, OPTIMIZERS) or _untyped(node) is not None


def hyperparameters(opt_state: Any) -> dict[str, Array]:
    """The numbers that the last update used, for a log: learning rate, betas, weight decay, averaging coefficient.

    Before the first update, it returns the numbers that the first update will use (a rate that depends on the loss
    is 0 until then). Under gradient accumulation, it returns those of the last applied update. If several optimizers in
    one state use the same name, their places in the state are put in front of it.

    It reads the states of `optim`, of `optax.inject_hyperparams`, and of optax's line searches and `reduce_on_plateau`.
    Other optimizers of optax keep no such numbers, so a chain with `optax.adam(lr)` gives only those of its other
    links. To log them, write `optax.inject_hyperparams(optax.adam)(learning_rate=lr)`, or log `lr(t)`, where t is the
    number of updates before the one you log.

    **Returns:** a dict from names to scalars.

    **Raises:** `ValueError` if the state keeps no numbers.
    """
    found = [(place, name, value) for place, used in _used("", opt_state) for name, value in _by_name(used)]
    if not found:
        raise ValueError(
            "hyperparameters: `opt_state` must keep the numbers of the last update, as states of optim and of "
            "optax.inject_hyperparams(optax.adam)(learning_rate=lr) do, got "
            f"{', '.join(_types(opt_state)) or type(opt_state).__name__}, which keeps none"
        )
    names = [name for _, name, _ in found]
    # As arrays: nnx.Optimizer wraps them.
    return {name if names.count(name) == 1 else f"{place}.{name}": jnp.asarray(value) for place, name, value in found}


def _by_name(used: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The numbers by name, with several of one name as `coefficient[fast]`."""
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
            # If numbers are injected into an optimizer of `optim`, that one records what it used.
            said = {name for _, each in inner for name in each} if field == "hyperparams" else set()
            yield here, {name: value for name, value in used.items() if name not in said}
            yield from inner


def _record(node: Any) -> tuple[str, dict[str, Any]] | None:
    """The field in which a state keeps the numbers of its last update, and these numbers by name."""
    if not hasattr(node, "_fields"):  # not a named tuple, but maybe a dataclass that contains one
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
    """The type names of the innermost states in a state, each once."""
    names: list[str] = []
    for node in jax.tree.leaves(opt_state, is_leaf=lambda node: hasattr(node, "_fields")):
        if hasattr(node, "_fields") and not is_hole(node):
            names += _types(tuple(node)) or [type(node).__name__]
    return list(dict.fromkeys(names))


def require_eval_params(opt_state: Any, params: Any, name: str | None = None) -> Any:
    """Returns `params` if they are the parameters to evaluate and save, and raises an error if they are not.

    Call it in code that saves checkpoints or validates, so that nobody passes the training parameters by mistake: with
    schedule-free optimizers, your training loop holds y, but x from `eval_params` is the result.
    `require_eval_params(state, eval_params(state, params))` passes. So do the training parameters of an optimizer
    without an average.

    **Raises:** `ValueError` as `eval_params`; if `params` differ from the average in `opt_state` (traced values
    are not compared); or if the average is in the lean form, in which x and y cannot be distinguished.
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
