"""Checks of the arguments of optimizers: numbers in a range, arrays, and trees that fit each other.

Each mistake raises a ValueError of one sentence that names the optimizer, the argument, and in a tree the leaf.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.tree_util import keystr, tree_leaves_with_path
from jax.typing import DTypeLike
from typing_extensions import TypeAliasType

from schedules import ScheduleLike
from schedules.core import Nested
from schedules.kinds import Kind, Number, require
from schedules.sentences import shortened, shown

# Kinds of argument. Numbers stay Python numbers here, so that 1 - 0.999 is computed in double precision. ----------


class Hyperparameter(Nested):
    """A number, which is checked, or a schedule, whose values are not checked."""

    def __init__(self, number: Number):
        super().__init__()
        self.number, self.expected = number, f"{number.expected} or a schedule"

    def build(self, value: Any) -> Any:
        is_number = isinstance(value, int | float | np.generic | np.ndarray | Array)
        return self.number.build(value) if is_number else super().build(value)


class FloatingType(Kind):
    """Anything that `jnp.dtype` converts to a real floating-point dtype, such as `jnp.bfloat16`; or None."""

    expected = "a real floating-point dtype or None"

    def build(self, value: Any) -> Any:
        try:
            return require(value, value is None or jnp.issubdtype(jnp.dtype(value), jnp.floating))
        except TypeError:
            raise ValueError from None


class Transformation(Kind):
    expected = "an optax transformation"

    def build(self, value: Any) -> optax.GradientTransformationExtraArgs:
        require(value, isinstance(value, optax.GradientTransformation))
        return optax.with_extra_args_support(value)


NOT_NEGATIVE, SHARE = Number(float, least=0), Number(float, least=0, most=1)
FRACTION, INSIDE = Number(float, least=0, below=1), Number(float, above=0, below=1)

NotNegative = TypeAliasType("NotNegative", Annotated[float | Array, NOT_NEGATIVE])
Fraction = TypeAliasType("Fraction", Annotated[float | Array, FRACTION])
Inside = TypeAliasType("Inside", Annotated[float | Array, INSIDE])
UpTo4 = TypeAliasType("UpTo4", Annotated[float | Array, Number(float, least=0, most=4)])
From4 = TypeAliasType("From4", Annotated[float | Array, Number(float, least=4)])
NotNegativeLike = TypeAliasType("NotNegativeLike", Annotated[ScheduleLike, Hyperparameter(NOT_NEGATIVE)])
FractionLike = TypeAliasType("FractionLike", Annotated[ScheduleLike, Hyperparameter(FRACTION)])
ShareLike = TypeAliasType("ShareLike", Annotated[ScheduleLike, Hyperparameter(SHARE)])
Floating = TypeAliasType("Floating", Annotated[DTypeLike | None, FloatingType()])
Base = TypeAliasType("Base", Annotated[optax.GradientTransformation, Transformation()])


# Parameters, gradients and states ---------------------------------------------------------------------


# A function of a leaf and what it should be like: returns what it is and what was expected, or None if it fits.
Misfit = Callable[[Any, Any], tuple[str, str] | None]


def require_one(argument: str, metric: Any) -> None:
    dtype = _dtype(metric)
    if not (_is_floating(dtype) or jnp.issubdtype(dtype, jnp.integer)):
        raise ValueError(f"{argument} must be one real number, got {shown(metric) if dtype is None else dtype}")
    if jnp.shape(metric):
        raise ValueError(f"{argument} must be one number, got an array of shape {jnp.shape(metric)}")


def require_real(optimizer: str, params: Any, argument: str = "params") -> None:
    """Raises the ValueError that names the first parameter that is not a real floating-point array or number."""
    _require_leaves(optimizer, params, argument, _is_floating)


def _require_leaves(optimizer: str, params: Any, argument: str, fits: Callable[[Any], bool]) -> None:
    for path, leaf in tree_leaves_with_path(params):
        dtype = _dtype(leaf)
        if not fits(dtype):
            got = type(leaf).__name__ if dtype is None else _name(dtype)
            place = f" at {keystr(path)}" if path else ""
            raise ValueError(
                f"{optimizer}: `{argument}` must be real floating-point arrays, got {got}{place}; {_advice(dtype)}"
            )


def _dtype(leaf: Any) -> Any:
    """The dtype that JAX gives an array or a Python number; None for anything else."""
    if isinstance(leaf, Array):
        return leaf.dtype
    if not isinstance(leaf, np.ndarray | np.generic | bool | int | float | complex):
        return None
    try:
        return jnp.result_type(leaf)
    except TypeError:  # strings and objects, for which JAX has no dtype
        return np.asarray(leaf).dtype


def _name(dtype: Any) -> str:
    return "float0" if dtype == jax.dtypes.float0 else str(dtype)  # NumPy would print float0 as a list of fields


def _is_array(dtype: Any) -> bool:
    return dtype is not None


@functools.cache
def _is_floating(dtype: Any) -> bool:
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)


def _advice(dtype: Any) -> str:
    if dtype is None:
        return "pass arrays only, for an Equinox model eqx.filter(model, eqx.is_inexact_array)"
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return "wrap the optimizer in optax.contrib.split_real_and_imaginary"
    return "leave out what is not trained, and convert the rest to floating point"


def require_params(optimizer: str, params: Any) -> Any:
    if params is None:
        raise ValueError(f"{optimizer}: `params` must be passed to update(grads, state, params), got None")
    return params


def require_state(optimizer: str, kind: type, state: Any, **stored: bool) -> None:
    """Raises the ValueError for a state of another type, or with other fields than those that are `stored`."""
    if not isinstance(state, kind):
        got = type(state).__name__
        raise ValueError(f"{optimizer}: `state` must be the {kind.__name__} that init makes, got {got}")
    for field, is_stored in stored.items():
        if (getattr(state, field) is not None) != is_stored:
            raise ValueError(not_own(optimizer, f"one {'without' if is_stored else 'with'} `{field}`"))


def require_setting(optimizer: str, argument: str, got: Any, expected: Any) -> None:
    """Raises the ValueError for a state that was made with another value of an argument."""
    if got != expected:
        raise ValueError(not_own(optimizer, f"one for `{argument}` {shown(got)}, not {shown(expected)}"))


def not_own(optimizer: str, got: str) -> str:
    return f"{optimizer}: `state` must be the state that its own init makes, got {got}"


def require_like(
    optimizer: str,
    stored: Mapping[str, Any],
    params: Any = None,
    axes: int = 0,
    any_dtype: bool = False,
    **trees: Any,
) -> None:
    """Raises the ValueError that names the first leaf of the state, of `params` or of another tree that does not fit.

    `stored`: the trees of the state that are like the parameters, by field (None for a field that is not stored), with
    `axes` axes in front. Without any, the other trees must be like `params`. `any_dtype`: leave the check of dtypes to
    another optimizer. It computes no arrays, since callers may not have jitted.
    """
    held = {field: tree for field, tree in stored.items() if tree is not None}
    expected = next((tree for tree in (*held.values(), params, *trees.values()) if tree is not None), None)
    for field, tree in list(held.items())[1:]:
        if what := mismatch(tree, expected):
            raise ValueError(not_own(optimizer, f"{what} in `{field}`"))
    for argument, tree in [*trees.items(), *([] if params is None else [("params", params)])]:
        wrong = functools.partial(misfit, whole=argument == "params", axes=axes, any_dtype=any_dtype)
        if what := mismatch(tree, expected, wrong):
            for name, each in (("params", params), (argument, tree)):
                _require_leaves(optimizer, each, name, _is_array)
            raise ValueError(unlike(optimizer, argument, what))


def unlike(function: str, argument: str, what: str) -> str:
    return f"{function}: `{argument}` must be like the parameters that the state was made for, got {what}"


def mismatch(tree: Any, expected: Any, wrong: Misfit | None = None) -> str | None:
    """What is `wrong` with the first bad leaf of `tree`, or else with its containers; None if it fits."""
    structure: Any
    (found, structure), (likes, wanted) = jax.tree.flatten(tree), jax.tree.flatten(expected)
    if structure == wanted and not any(map(wrong or misfit, found, likes)):
        return None
    containers = (shortened(str(each), 200) for each in (structure, wanted))
    return difference(by_path(tree), by_path(expected), wrong) or "{} where {} is expected".format(*containers)


def is_hole(node: Any) -> bool:
    return node is None or isinstance(node, optax.MaskedNode)


def by_path(tree: Any) -> dict[Any, Any]:
    return dict(tree_leaves_with_path(tree))


def difference(found: dict[Any, Any], expected: dict[Any, Any], wrong: Misfit | None = None) -> str | None:
    """What is `wrong` with the first leaf that is bad, missing or unexpected; None if there is none."""
    for path in expected | found:
        place = f" at {keystr(path)}" if path else ""
        if path not in found:
            return f"nothing{place}"
        if path not in expected:
            return f"{_kind(found[path])}{place} where nothing is expected"
        if unfit := (wrong or misfit)(found[path], expected[path]):
            got, wanted = unfit
            return f"{got}{place} where {wanted} is expected"
    return None


def misfit(leaf: Any, like: Any, whole: bool = False, axes: int = 0, any_dtype: bool = False) -> tuple[str, str] | None:
    """What a leaf is and what was expected; None if it is real, floating-point and has the shape of `like`.

    Narrower dtypes fit: half-precision gradients and parameters fit a float32 state. Wider ones fit too, unless `whole`
    says that all their digits should be kept.
    """
    dtype, wanted = _dtype(leaf), getattr(like, "shape", ())[axes:]
    if dtype is None:
        return _kind(leaf), f"shape {wanted}"
    if (shape := getattr(leaf, "shape", ())) != wanted:  # numbers have none
        return f"shape {shape}", f"{wanted}"
    return None if any_dtype else _misfit(dtype, getattr(like, "dtype", None), whole)


@functools.cache
def _misfit(dtype: Any, like: Any, whole: bool) -> tuple[str, str] | None:
    if not _is_floating(dtype):
        return _name(dtype), "a real floating-point array"
    wider = whole and _is_floating(like) and jnp.finfo(dtype).bits > jnp.finfo(like).bits
    return (f"{dtype}", f"{like}") if wider else None


def _kind(leaf: Any) -> str:
    return f"shape {leaf.shape}" if isinstance(leaf, np.ndarray | Array) else f"a {type(leaf).__name__}"
