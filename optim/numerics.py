"""The few operations in which optimizers lose digits, done so that they do not."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from schedules import Schedule, ScheduleLike, as_schedule
from schedules.numerics import Split


def lerp(a: Array, b: Array, weight: Array) -> Array:
    """(1 - weight) a + weight b in the dtype of `a`; exactly `a` at weight 0 and `b` at weight 1.

    A product with (1 - weight) would not do: for a weight of 1e-4 float32 rounds it by as much as 3e-4
    of the weight, the same way at every update, and an exponential average drifts by that much.
    """
    weight, b = weight.astype(a.dtype), b.astype(a.dtype)
    near = weight < 0.5
    return jnp.where(near, a, b) + jnp.where(near, weight, weight - 1) * (b - a)


def one_minus_power(complement: Array, t: Array) -> Array:
    """1 - b**t from the complement 1 - b, without cancellation: `-expm1(t log b)`.

    The complement is the argument because float32 holds 1 - 0.9999 to seven digits, but 0.9999 only to
    three digits of the difference.
    """
    return -jnp.expm1(t.astype(complement.dtype) * jnp.log1p(-complement))


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
    return jax.tree.map(lambda p: p.astype(jnp.promote_types(p.dtype, jnp.float32)), tree)


def zeros(tree: Any, dtype: DTypeLike | None = None) -> Any:
    """Zeros of the shapes of `tree`, in `dtype` or else in float32 or wider."""
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype or jnp.promote_types(p.dtype, jnp.float32)), tree)


def require_real(optimizer: str, params: Any) -> None:
    """Raises the ValueError that names the first parameter that is not of a real floating dtype."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            place = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise ValueError(f"{optimizer}: `params` must be real floating-point arrays, got {dtype}{place}")


def require_params(optimizer: str, params: Any) -> Any:
    if params is None:
        raise ValueError(f"{optimizer}: `params` must be passed to update(grads, state, params), got None")
    return params


def fraction(optimizer: str, name: str, value: ScheduleLike) -> Any:
    """`value` if it is a number in [0, 1); anything but a number as a schedule.

    Numbers stay Python numbers here: 1 - 0.999 must be formed in double precision, before float32.
    """
    if isinstance(value, int | float):
        if not 0 <= value < 1:
            raise ValueError(f"{optimizer}: `{name}` must be a number from 0 to below 1 or a schedule, got {value!r}")
        return value
    return as_schedule(value)


def at(schedules: Any, count: ArrayLike) -> Any:
    """The values of a tree of schedules, each float32 (float64 where x64 is enabled)."""
    return jax.tree.map(lambda s: s(count), schedules, is_leaf=lambda node: isinstance(node, Schedule))


def is_zero(value: Any) -> bool:
    """Whether a hyperparameter is the number 0, for which nothing need be stored."""
    return isinstance(value, int | float) and value == 0
