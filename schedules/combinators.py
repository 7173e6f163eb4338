"""Several schedules read at the same step. Sum, product and power, which are operators too, are in `core`."""

import functools

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from schedules.core import ScheduleLike, as_schedule, schedule
from schedules.grouping import folded
from schedules.kinds import Value, in_order

__all__ = ["minimum", "maximum", "clip"]


@schedule
def minimum(step: Array, *schedules: ScheduleLike) -> ArrayLike:
    r"""The lowest value of several schedules at each step.

    $$f(t) = \min_i f_i(t)$$

    Example: `minimum(linear(0, 0.2, 80), cosine(0.1, 0, 100))` over 120 steps.
    """
    return folded(jnp.minimum, [*map(as_schedule, schedules)], step)


@schedule
def maximum(step: Array, *schedules: ScheduleLike) -> ArrayLike:
    r"""The highest value of several schedules at each step.

    $$f(t) = \max_i f_i(t)$$

    Example: `maximum(cosine(0.1, 0, 100), 0.02)` over 120 steps.
    """
    return folded(jnp.maximum, [*map(as_schedule, schedules)], step)


@schedule(check=functools.partial(in_order, "low", "high"))
def clip(step: Array, schedule: ScheduleLike, low: Value, high: Value) -> Array:
    r"""A schedule limited to the range from `low` to `high`.

    $$f(t) = \min(\max(\mathrm{schedule}(t),\, \mathrm{low}),\, \mathrm{high})$$

    **Raises:** `ValueError` unless `low` is below `high`.

    Example: `clip(triangular(0, 0.1, 30, 30), low=0.02, high=0.08)` over 120 steps.
    """
    return jnp.clip(as_schedule(schedule)(step), low, high)
