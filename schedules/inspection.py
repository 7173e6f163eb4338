"""Looking at a schedule: its values as numbers."""

import jax.numpy as jnp
from jax import Array

from schedules.core import ScheduleLike, as_schedule


def tabulate(schedule: ScheduleLike, steps: int) -> Array:
    """The values of the first `steps` updates.

    **Returns:** an array of shape (steps,), float32 (float64 where x64 is enabled).

    **Raises:** `ValueError` if `steps` is not a whole number, 0 or more.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"tabulate: `steps` must be a whole number, 0 or more, got {steps!r}")
    return as_schedule(schedule)(jnp.arange(steps))
