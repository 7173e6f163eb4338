"""The few operations in which optimizers lose digits, done so that they do not; and what arguments must be."""

import functools
import math
from itertools import repeat
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.tree_util import keystr, tree_leaves_with_path
from jax.typing import ArrayLike, DTypeLike

from schedules import Schedule, ScheduleLike, as_schedule
from schedules.core import _shown, shortened
from schedules.kinds import Kind, Number
from schedules.numerics import MAX_STEPS, Split

# What the numbers of optimizers may be.
BELOW_1 = math.nextafter(1.0, 0.0)
POSITIVE = Number(float, "a positive number", above=0)
NOT_NEGATIVE = Number(float, "a number that is not negative", least=0)
SHARE = Number(float, "a number from 0 to 1", least=0, most=1)
FRACTION = Number(float, "a number from 0 to below 1", least=0, most=BELOW_1)
INSIDE = Number(float, "a number above 0 and below 1", above=0, most=BELOW_1)
POWER = Number(float, "a number from 0 to 4", least=0, most=4)
INDEX = Number(int, f"a whole number from 0 to {MAX_STEPS}", least=0)
COUNT = Number(int, f"a whole number from 1 to {MAX_STEPS}", least=1)


def lerp(a: Array, b: Array, weight: Array) -> Array:
    """(1 - weight) a + weight b in the dtype of `a`; exactly `a` at weight 0 and `b` at weight 1.

    A product with (1 - weight) would not do: for a weight of 1e-4 float32 rounds it by as much as 3e-4
    of the weight, the same way at every update, and an exponential average drifts by that much.
    """
    weight, b = weight.astype(a.dtype), b.astype(a.dtype)
    near = weight < 0.5
    # Half the difference, which is exact and does not overflow.
    between = jnp.where(near, a, b) + jnp.where(near, 2 * weight, 2 * (weight - 1)) * (b / 2 - a / 2)
    return jnp.where(weight == 1, b, between)  # also where a is not finite


def limit(v: Array, m: Array) -> float:
    """The largest gradient that enters the moments v, which holds its square, and m; 9.2e18 in float32.

    docs/optimizers.md, "What is not finite", says why.
    """
    return min(2.0 ** (jnp.finfo(v.dtype).maxexp // 2 - 1), float(jnp.finfo(m.dtype).max))


def limited(g: Array, like: Array, most: float) -> Array:
    """`g` from -most to most, in the dtype of `like`; NaN where it is not finite."""
    return jnp.where(jnp.isfinite(g), jnp.clip(g.astype(like.dtype), -most, most), jnp.nan)


def squared(g: Array, like: Array, most: float) -> Array:
    """The square of `g` limited so. It is formed of `g` itself, since XLA does not fuse the moments if of `limited`."""
    return jnp.minimum(g.astype(like.dtype) ** 2, most**2)


def direction(m: Array, v: Array, unbias1: Array, unbias2: Array, eps: Array) -> Array:
    r"""The step of Adam, $\hat m / (\sqrt{\hat v} + \mathrm{eps})$, finite whatever the moments and for an eps of 0.

    The mean square is at least the smallest float: it is 0 for a zero gradient, and for one so small that its
    square is. The factor of its correction would overflow inside the root.
    """
    root = jnp.sqrt(jnp.maximum(v, jnp.finfo(v.dtype).tiny)) * jnp.sqrt(unbias2).astype(v.dtype)
    return m * unbias1.astype(v.dtype) / (root + eps.astype(v.dtype))


def one_minus_power(complement: Array, t: Array) -> Array:
    """1 - b**t from the complement 1 - b, without cancellation: `-expm1(t log b)`.

    The complement is the argument because float32 holds 1 - 0.9999 to seven digits, but 0.9999 only to
    three digits of the difference.
    """
    below_1 = jnp.minimum(complement, 1 - 2.0**-23)  # where the logarithm and its derivative are finite
    return jnp.where(complement >= 1, 1.0, -jnp.expm1(t.astype(complement.dtype) * jnp.log1p(-below_1)))


def accumulate(total: Split, term: Array) -> Split:
    """total + term, with what the rounding of the sum leaves over kept beside it.

    A plain float32 sum of equal terms takes each of them up to 1e-3 too large or too small once it is
    10,000 of them.
    """
    term = term + total.lo
    hi = total.hi + term
    return Split(hi, term - (hi - total.hi))  # exact for |total| >= |term|; else off by a digit of the term


def widen(tree: Any) -> Any:
    """`tree` in float32 or wider: sums of small steps are lost in half precision."""
    return jax.tree.map(lambda p: jnp.asarray(p, _wide(p)), tree)


def zeros(tree: Any, dtype: DTypeLike | None = None) -> Any:
    """Zeros of the shapes of `tree`, in `dtype` or else in float32 or wider."""
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype or _wide(p)), tree)


def _wide(p: Any) -> Any:
    # Not promote_types, which refuses half precision where promotion is strict.
    dtype = jnp.result_type(p)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def like(updates: Any, grads: Any, params: Any) -> Any:
    """Updates in the dtypes of the parameters, or without parameters of the gradients."""

    def cast(u: Array, p: Any) -> Array:
        # Callers may not have jitted: there even a cast to the same dtype costs as much as an operation.
        return u if u.dtype == getattr(p, "dtype", None) else u.astype(jnp.result_type(p))

    return jax.tree.map(cast, updates, grads if params is None else params)


def require_one(argument: str, metric: ArrayLike) -> None:
    if jnp.shape(metric):
        raise ValueError(f"{argument} must be one number, got an array of shape {jnp.shape(metric)}")


def require_base(optimizer: str, base: Any) -> optax.GradientTransformationExtraArgs:
    if not isinstance(base, optax.GradientTransformation):
        raise ValueError(f"{optimizer}: `base` must be an optax transformation, got {base!r}")
    return optax.with_extra_args_support(base)


def require_real(optimizer: str, params: Any) -> None:
    """Raises the ValueError that names the first parameter that is not a real floating-point array or number."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = _dtype(leaf)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            got = type(leaf).__name__ if dtype is None else dtype
            place = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise ValueError(
                f"{optimizer}: `params` must be real floating-point arrays, got {got}{place}; {_advice(dtype)}"
            )


def _dtype(leaf: Any) -> Any:
    """That of an array or a Python number, else None. Not `jnp.result_type`, which takes names of dtypes as well."""
    if isinstance(leaf, bool | int | float | complex):
        return jnp.result_type(leaf)
    is_array = hasattr(leaf, "dtype") and hasattr(leaf, "shape") and not isinstance(leaf, type)
    return leaf.dtype if is_array else None


def _advice(dtype: Any) -> str:
    if dtype is None:
        return "pass arrays only, of an Equinox model eqx.filter(model, eqx.is_inexact_array)"
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return "wrap the optimizer in optax.contrib.split_real_and_imaginary"
    return "leave out what is not trained, and make floating what is"


def require_params(optimizer: str, params: Any) -> Any:
    if params is None:
        raise ValueError(f"{optimizer}: `params` must be passed to update(grads, state, params), got None")
    return params


def require_state(optimizer: str, kind: type, state: Any) -> None:
    if not isinstance(state, kind):
        got = type(state).__name__
        raise ValueError(f"{optimizer}: `state` must be the {kind.__name__} that init makes, got {got}")


def require_like(optimizer: str, expected: Any, params: Any = None, axes: int = 0, **trees: Any) -> None:
    """Raises the ValueError that names the first leaf of `params` or of another tree that does not fit.

    `expected`: what the state holds of every parameter, with so many `axes` in front, or the parameters themselves
    where it holds nothing; None where neither is known. Computes nothing, since callers may not have jitted.
    """
    if expected is None:
        return
    for argument, tree in [*trees.items(), *([] if params is None else [("params", params)])]:
        if what := mismatch(tree, expected, argument == "params", axes):
            raise ValueError(unlike(optimizer, argument, what))


def unlike(function: str, argument: str, what: str) -> str:
    return f"{function}: `{argument}` must be like the parameters that the state was made for, got {what}"


def mismatch(tree: Any, expected: Any, whole: bool = False, axes: int = 0) -> str | None:
    """What is wrong with the first leaf of `tree`, or else with its containers; None if nothing is."""
    structure: Any
    (found, structure), (likes, wanted) = jax.tree.flatten(tree), jax.tree.flatten(expected)
    if structure == wanted and not any(map(misfit, found, likes, repeat(whole), repeat(axes))):
        return None
    containers = (shortened(str(each), 200) for each in (structure, wanted))
    return difference(by_path(tree), by_path(expected), whole, axes) or "{} where {} is expected".format(*containers)


def is_hole(node: Any) -> bool:
    return node is None or isinstance(node, optax.MaskedNode)


def by_path(tree: Any) -> dict[Any, Any]:
    return dict(tree_leaves_with_path(tree))


def difference(found: dict[Any, Any], expected: dict[Any, Any], whole: bool = False, axes: int = 0) -> str | None:
    """What is wrong with the first leaf that is missing, too many, or a `misfit`; None if none is."""
    for path in expected | found:
        place = f" at {keystr(path)}" if path else ""
        if path not in found:
            return f"nothing{place}"
        if path not in expected:
            return f"{_kind(found[path])}{place} where nothing is expected"
        if wrong := misfit(found[path], expected[path], whole, axes):
            got, wanted = wrong
            return f"{got}{place} where {wanted} is expected"
    return None


def misfit(leaf: Any, like: Any, whole: bool, axes: int = 0) -> tuple[str, str] | None:
    """What a leaf is and what was expected, unless it is real, floating and of the shape of `like`.

    Narrower ones fit, such as half-precision gradients and parameters the float32 of a state. Wider ones do
    unless the `whole` of their digits should be kept.
    """
    wanted = like.shape[axes:]
    try:
        shape, dtype = leaf.shape, leaf.dtype
    except AttributeError:
        if not isinstance(leaf, int | float | complex):
            return _kind(leaf), f"shape {wanted}"
        shape, dtype = (), None
    if shape != wanted:
        return f"shape {shape}", f"{wanted}"
    if dtype == like.dtype:
        return None
    return _misfit(dtype if isinstance(leaf, jax.Array) else jnp.result_type(leaf), like.dtype, whole)


@functools.cache
def _misfit(dtype: Any, like: Any, whole: bool) -> tuple[str, str] | None:
    if not jnp.issubdtype(dtype, jnp.floating):
        return f"{dtype}", "a real floating-point array"
    return (f"{dtype}", f"{like}") if whole and jnp.finfo(dtype).bits > jnp.finfo(like).bits else None


def _kind(leaf: Any) -> str:
    return f"shape {leaf.shape}" if hasattr(leaf, "shape") else f"a {type(leaf).__name__}"


def checked(function: str, kind: Kind, **values: Any) -> list[Any]:
    """The arguments, each of which must be of the kind; traced ones are not checked.

    Numbers stay Python numbers here: 1 - 0.999 must be formed in double precision, before float32.
    """
    return [_checked(function, name, value, kind, kind.expected) for name, value in values.items()]


def checked_or_schedules(function: str, kind: Kind, **values: Any) -> list[Any]:
    """The hyperparameters: numbers as by `checked`, and anything else as a schedule, whose values are not checked."""
    return [
        _checked(function, name, value, kind, f"{kind.expected} or a schedule")
        if isinstance(value, int | float | np.generic | np.ndarray | Array)
        else as_named(function, name, value)
        for name, value in values.items()
    ]


def _checked(function: str, name: str, value: Any, kind: Kind, expected: str) -> Any:
    try:
        return kind.build(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{function}: `{name}` must be {expected}, got {_shown(value)}") from None


def as_named(optimizer: str, name: str, value: ScheduleLike) -> Schedule:
    """`value` as a schedule; raises the ValueError that names the hyperparameter if it cannot be one."""
    try:
        return as_schedule(value)
    except ValueError as error:
        raise ValueError(f"{optimizer}: `{name}` must be a number or a schedule ({error})") from None


def scheduled(optimizer: str, **hyperparameters: ScheduleLike) -> dict[str, Schedule]:
    """Each `as_named`."""
    return {name: as_named(optimizer, name, value) for name, value in hyperparameters.items()}


def at(schedules: Any, count: ArrayLike) -> Any:
    """The values of a tree of schedules, each float32 (float64 where x64 is enabled)."""
    return jax.tree.map(lambda s: s(count), schedules, is_leaf=lambda node: isinstance(node, Schedule))


def is_zero(value: Any) -> bool:
    """Whether a hyperparameter is the number 0, for which nothing need be stored."""
    return isinstance(value, int | float) and value == 0
