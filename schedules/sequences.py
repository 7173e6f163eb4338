"""Schedules one after another. Each begins at its own step 0."""

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array

from schedules.core import ScheduleLike, Schedules, Shape, as_schedule, schedule
from schedules.grouping import alike, picked
from schedules.kinds import Boundaries, Precise, Steps, Value, one_more
from schedules.numerics import entry, passed
from schedules.ramps import linear, polynomial

__all__ = ["join", "warmup", "cooldown", "power_cooldown"]


@schedule(
    check=functools.partial(one_more, "schedules", "boundaries"),
    pieces=lambda schedules, boundaries: zip([0, *boundaries], schedules, strict=True),
)
def join(step: Array, schedules: Schedules, boundaries: Boundaries) -> Array:
    r"""Schedules one after another: at each boundary the next one takes over, at its own step 0.

    $$f(t) = f_i(t - b_i), \qquad b_i \le t < b_{i+1}, \quad b_0 = 0$$

    Pieces that differ only in their numbers are evaluated once, with the numbers of the active piece, so a join of a
    thousand ramps costs little more than one ramp.

    **Raises:** `ValueError` unless there is one more schedule than boundaries, and the boundaries never decrease.

    Example: `join([linear(0.02, 0.1, 30), 0.05, cosine(0.08, 0, 40)], [30, 60])` over 120 steps.
    """
    boundaries = jnp.asarray(boundaries)
    now = passed(step, boundaries)
    elapsed = step - entry(jnp.concatenate([jnp.zeros(1, boundaries.dtype), boundaries]), now)
    groups = alike([*map(as_schedule, schedules)])
    if len(groups) == 1:
        return picked(now, groups[0][1])(elapsed)
    tables = np.zeros((2, len(schedules)), np.int32)
    for number, (places, pieces) in enumerate(groups):
        tables[:, places] = [number] * len(pieces), range(len(pieces))
    group, slot = (entry(table, now) for table in tables)
    # Out of its turn, a piece is evaluated at its step 0: a value that is not finite would make the gradient NaN.
    steps = [jnp.where(group == number, elapsed, 0) for number in range(len(groups))]
    slots = [jnp.where(group == number, slot, 0) for number in range(len(groups))]
    return picked(group, [picked(k, pieces)(t) for t, k, (_, pieces) in zip(steps, slots, groups, strict=True)])


@schedule(check=lambda init, steps, shape, **_: _misfit(shape, init, 1.0, steps))
def warmup(step: Array, schedule: ScheduleLike, steps: Steps, init: Value = 0.0, shape: Shape = linear) -> Array:
    r"""A ramp from `init` to the first value of `schedule` over `steps` updates, then `schedule` from its step 0.

    $$f(t) = \begin{cases} \mathrm{shape}(\mathrm{init}, f_0(0), \mathrm{steps})(t) & t < \mathrm{steps} \\
                           f_0(t - \mathrm{steps}) & \text{otherwise} \end{cases}$$

    With `init=0` the rate of the first update is 0. For the convention (t + 1) / steps of the schedule-free reference
    code, use `init=peak / steps` over `steps - 1` updates. `warmup(f, 0)` equals `f`.

    Example: `warmup(cosine(0.1, 0, 80), 20)` over 120 steps.
    """
    value = as_schedule(schedule)(jnp.maximum(step - steps, 0))
    return jnp.where(step < steps, shape(init, value, steps)(step), value)


@schedule(
    check=lambda start, steps, end, shape, **_: _misfit(shape, 1.0, end, steps),
    changes=lambda start, steps, **_: [start, start + steps],
)
def cooldown(
    step: Array, schedule: ScheduleLike, start: Steps, steps: Steps, end: Value = 0.0, shape: Shape = linear
) -> Array:
    r"""`schedule` until `start`, then a ramp from its value there to `end` over `steps` updates.

    $$f(t) = \begin{cases} f_0(t) & t < \mathrm{start} \\
             \mathrm{shape}(f_0(\mathrm{start}), \mathrm{end}, \mathrm{steps})(t - \mathrm{start}) & \text{otherwise}
             \end{cases}$$

    It can start at any step of any schedule, so you can branch a cooldown off any checkpoint of a run.

    Source: "Scaling laws and compute-optimal training beyond fixed training durations", arXiv:2405.18392.

    Example: `cooldown(inverse_sqrt(0.1, 20), start=80, steps=30)` over 120 steps.
    """
    value = as_schedule(schedule)(jnp.minimum(step, start))
    return jnp.where(step < start, value, shape(value, end, steps)(jnp.maximum(step - start, 0)))


@schedule(changes=lambda start, steps, **_: [start, start + steps])
def power_cooldown(step: Array, schedule: ScheduleLike, start: Steps, steps: Steps, exponent: Precise = 1.2) -> Array:
    r"""`schedule` until `start`, then its value there times a power of the remaining fraction of `steps` updates.

    $$f(t) = f_0(\min(t, \mathrm{start}))
      \Big(1 - \frac{\min(\max(t - \mathrm{start}, 0), \mathrm{steps})}{\mathrm{steps}}\Big)^{\mathrm{exponent}}$$

    Fitted loss curves (arXiv:2503.12811) and speed-run records use exponents a little above 1.

    Example: `power_cooldown(inverse_sqrt(0.1, 20), start=60, steps=50, exponent=1.5)` over 120 steps.
    """
    remains = polynomial(1.0, 0.0, steps, exponent)(jnp.maximum(step - start, 0))
    return as_schedule(schedule)(jnp.minimum(step, start)) * remains


def _misfit(shape: Shape, start: Value, end: Value, steps: Steps) -> str | None:
    """Why such a ramp cannot be built (an exponential one, for example, cannot start at 0), or None."""
    try:
        shape(start, end, steps)
    except ValueError as error:
        return str(error)
    return None
