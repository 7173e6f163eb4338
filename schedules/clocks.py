"""One schedule, read at a step other than the current one: later, earlier, slower, in epochs or in tokens.

A clock is a function of the step. To write your own, you need one line like those below: `boundaries`, `describe` and
`check` find out by themselves at which steps a formula reads the schedules in it.
"""

from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from typing_extensions import TypeAliasType

from schedules import numerics
from schedules.core import Nested, Schedule, ScheduleLike, as_schedule, schedule, stretched
from schedules.kinds import Count, Period, Precise, Steps
from schedules.numerics import MAX_STEPS, divided, lengthen

__all__ = ["delay", "advance", "extend", "stretch", "per_epoch", "per_update"]


@schedule
def delay(step: Array, schedule: ScheduleLike, steps: Steps) -> Array:
    r"""`schedule`, started `steps` updates later. Until then, its first value.

    $$f(t) = \mathrm{schedule}(\max(t - \mathrm{steps},\, 0))$$

    Example: `delay(cosine(0.1, 0, 60), 40)` over 120 steps.
    """
    return as_schedule(schedule)(jnp.maximum(step - steps, 0))


@schedule(changes=lambda **_: [])
def advance(step: Array, schedule: ScheduleLike, steps: Steps) -> Array:
    r"""`schedule` without its first `steps` updates.

    $$f(t) = \mathrm{schedule}(t + \mathrm{steps})$$

    `advance(linear(0.0, peak, W), 1)` is the warm-up (t + 1) / W, whose first update is not zero.

    Example: `advance(cosine(0.1, 0, 100), 40)` over 120 steps.
    """
    return as_schedule(schedule)(numerics.plus(step, steps))


@schedule(changes=lambda start, steps, **_: [start, start + steps])
def extend(step: Array, schedule: ScheduleLike, start: Steps, steps: Steps) -> Array:
    r"""`schedule` made longer: it holds its value at step `start` for `steps` updates, then continues.

    $$f(t) = \mathrm{schedule}\big(t - \min(\max(t - \mathrm{start},\, 0),\, \mathrm{steps})\big)$$

    For example, it makes the stable phase of `wsd` longer and leaves the cooldown unchanged.

    Example: `extend(wsd(0.1, 10, 30, 30), start=30, steps=40)` over 120 steps.
    """
    return as_schedule(schedule)(step - jnp.clip(step - start, 0, steps))


def longer(schedule: Schedule, factor: float) -> Schedule:
    """`schedule` with every duration in it `factor` times as long, if all are Python numbers."""
    return stretched(schedule, lambda steps, least: max(min(round(steps * factor), MAX_STEPS), least))


@schedule(pieces=lambda schedule, factor: [(0, longer(schedule, factor))])
def stretch(step: Array, schedule: ScheduleLike, factor: Precise) -> Array:
    r"""`schedule` with every duration in it `factor` times as long, to the nearest whole step.

    $$f(t) = \mathrm{schedule}(t / \mathrm{factor})$$

    up to this rounding. Rounding the durations instead of t / factor keeps the ends of ramps and boundaries at whole
    steps even after 10^8 steps. But a period of few steps then stretches by a rounded factor, and the derivative with
    respect to `factor` is 0. Only durations stretch: in a formula of your own, annotate each one as `Steps` or
    `Period`.

    Example: `stretch(warmup(cosine(0.1, 0, 40), 10), factor=2)` over 120 steps.
    """
    return lengthened(as_schedule(schedule), factor, step.dtype)(step)


ScheduleInEpochs = TypeAliasType("ScheduleInEpochs", Annotated[ScheduleLike, Nested(stretches=False)])


@schedule
def per_epoch(step: Array, schedule: ScheduleInEpochs, steps_per_epoch: Period) -> Array:
    r"""A schedule written in epochs: it moves on by one step after every `steps_per_epoch` updates.

    $$f(t) = \mathrm{schedule}(\lfloor t / \mathrm{steps\_per\_epoch} \rfloor)$$

    The same as a training loop that calls `scheduler.step()` once per epoch. For a value that changes at every
    update, use `stretch(schedule, steps_per_epoch)`.

    Example: `per_epoch(cosine(0.1, 0, 10), steps_per_epoch=10)` over 120 steps.
    """
    return as_schedule(schedule)(divided(step, steps_per_epoch)[0])


@schedule
def per_update(step: Array, schedule: ScheduleLike, units: Count) -> Array:
    r"""A schedule written in examples, tokens or any other unit; each update processes `units` of them.

    $$f(t) = \mathrm{schedule}(\mathrm{units} \cdot t)$$

    Lengths in `schedule` are whole numbers of units, at most 2^31 - 1. For lengths in fractions of an
    update, choose a small unit: with `units=1000` it is a thousandth of an update. Beyond 2^31 units, which a schedule
    without an end may reach, units are counted in floats.

    Example: `per_update(cosine(0.1, 0, 6_400), units=64)` over 120 steps.
    """
    schedule = as_schedule(schedule)
    counted, fits = numerics.times(step, units)
    if not jnp.issubdtype(step.dtype, jnp.integer):
        return schedule(counted)
    return jnp.where(fits, schedule(counted), schedule(step.astype(float) * jnp.asarray(units, float)))


def lengthened(schedule: Schedule, factor: Any, clock: Any) -> Schedule:
    """`schedule` with every duration in it `factor` times as long, in the dtype of the steps, `clock`.

    All in one product, since nested cycles would otherwise compile a product for every duration at every level.
    """
    found: list[Array] = []
    leasts: list[int] = []

    def collect(steps: Any, least: int) -> Any:
        found.append(jnp.asarray(steps, clock))
        leasts.extend([least] * found[-1].size)
        return steps

    schedule = stretched(schedule, collect)
    if not leasts:
        return schedule
    longer = jnp.maximum(
        lengthen(jnp.concatenate([jnp.ravel(each) for each in found]), factor), jnp.asarray(leasts, clock)
    )
    ends = np.cumsum([each.size for each in found])
    pieces = (part.reshape(each.shape) for each, part in zip(found, jnp.split(longer, ends[:-1]), strict=True))
    return stretched(schedule, lambda steps, least: next(pieces))
