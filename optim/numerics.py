"""The few operations in which optimizers lose digits, done so that they do not."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from schedules import ScheduleLike, as_schedule


def lerp(a: Array, b: Array, weight: Array) -> Array:
    """(1 - weight) a + weight b in the dtype of `a`; exactly `a` at weight 0 and `b` at weight 1.

    A product with (1 - weight) would not do: for a weight of 1e-4 float32 rounds it by as much as 3e-4
    of the weight, the same way at every update, and an exponential average drifts by that much.
    """
    weight, b = weight.astype(a.dtype), b.astype(a.dtype)
    return jnp.where(weight < 0.5, a + weight * (b - a), b - (1 - weight) * (b - a))


def one_minus_power(complement: Array, t: Array) -> Array:
    """1 - b**t from the complement 1 - b, without cancellation: `-expm1(t log b)`.

    The complement is the argument because float32 holds 1 - 0.9999 to seven digits, but 0.9999 only to
    three digits of the difference.
    """
    return -jnp.expm1(t.astype(complement.dtype) * jnp.log1p(-complement))


def widen(tree: Any) -> Any:
    """`tree` in float32 or wider: sums of small steps are lost in half precision."""
    return jax.tree.map(lambda p: p.astype(jnp.promote_types(p.dtype, jnp.float32)), tree)


def fraction(optimizer: str, name: str, value: ScheduleLike) -> Any:
    """`value` if it is a number in [0, 1); anything but a number as a schedule.

    Numbers stay Python numbers here: 1 - 0.999 must be formed in double precision, before float32.
    """
    if isinstance(value, int | float):
        if not 0 <= value < 1:
            raise ValueError(f"{optimizer}: `{name}` must be a number from 0 to below 1 or a schedule, got {value!r}")
        return value
    return as_schedule(value)
