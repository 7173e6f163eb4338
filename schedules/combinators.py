"""Schedules made of schedules.

A number in the place of a schedule means `constant`, a plain callable means `function`.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from typing_extensions import TypeAliasType

from schedules import numerics
from schedules.core import (
    Function,
    Nested,
    Schedule,
    ScheduleLike,
    Schedules,
    Shape,
    as_schedule,
    lengthened,
    schedule,
)
from schedules.decays import passed
from schedules.kinds import Boundaries, Count, Period, Precise, Steps, Value, in_order, one_more
from schedules.ramps import linear, polynomial

StepFunction = TypeAliasType("StepFunction", Annotated[Callable[[Array], ArrayLike], Function()])


@schedule
def function(step: Array, of: StepFunction) -> ArrayLike:
    """A plain callable `step -> value`, such as an optax schedule, as a schedule.

    The callable is structure: two are equal if they are the same object, and another one retraces.
    """
    return of(step)


# One clock, several values ---------------------------------------------------------------------------


@schedule
def add(step: Array, *schedules: ScheduleLike) -> ArrayLike:
    r"""The sum of schedules, also written `a + b`.

    $$f(t) = \sum_i f_i(t)$$
    """
    return _folded(jnp.add, schedules, step)


@schedule
def multiply(step: Array, *schedules: ScheduleLike) -> ArrayLike:
    r"""The product of schedules, also written `a * b`.

    $$f(t) = \prod_i f_i(t)$$

    A product runs on one clock: in `warmup_factor * decay` the decay has begun during the warm-up.
    `warmup(decay, steps)` starts the decay after it.
    """
    return _folded(jnp.multiply, schedules, step)


@schedule
def power(step: Array, schedule: ScheduleLike, exponent: Precise) -> Array:
    r"""A power of a schedule that is never negative, also written `a ** exponent`.

    $$f(t) = \mathrm{schedule}(t)^{\mathrm{exponent}}$$
    """
    return numerics.power(as_schedule(schedule)(step), exponent)


@schedule
def minimum(step: Array, *schedules: ScheduleLike) -> ArrayLike:
    r"""The least of schedules at each step.

    $$f(t) = \min_i f_i(t)$$
    """
    return _folded(jnp.minimum, schedules, step)


@schedule
def maximum(step: Array, *schedules: ScheduleLike) -> ArrayLike:
    r"""The greatest of schedules at each step.

    $$f(t) = \max_i f_i(t)$$
    """
    return _folded(jnp.maximum, schedules, step)


def _folded(combine: Any, schedules: Sequence[ScheduleLike], step: Array) -> Array:
    """`combine` over the values of the schedules; many that differ only in their numbers are compiled as one."""
    many = len(schedules) > 32
    groups = [pieces for _, pieces in _alike(schedules)] if many else [[as_schedule(each)] for each in schedules]
    return functools.reduce(combine, (_folded_alike(combine, pieces, step) for pieces in groups))


def _folded_alike(combine: Any, pieces: Sequence[Schedule], step: Array) -> Array:
    if len(pieces) == 1:
        return pieces[0](step)
    return combine.reduce(jax.vmap(lambda piece: piece(step), axis_size=len(pieces))(_stacked(pieces)))


@schedule(check=functools.partial(in_order, "low", "high"))
def clip(step: Array, schedule: ScheduleLike, low: Value, high: Value) -> Array:
    r"""A schedule kept between two values.

    $$f(t) = \min(\max(\mathrm{schedule}(t),\, \mathrm{low}),\, \mathrm{high})$$

    **Raises:** `ValueError` unless `low` is below `high`.
    """
    return jnp.clip(as_schedule(schedule)(step), low, high)


# One after another -----------------------------------------------------------------------------------


@schedule(check=functools.partial(one_more, "schedules", "boundaries"))
def join(step: Array, schedules: Schedules, boundaries: Boundaries) -> Array:
    r"""One schedule after another: the next takes over at each boundary, from its own step 0.

    $$f(t) = f_i(t - b_i), \qquad b_i \le t < b_{i+1}, \quad b_0 = 0$$

    Pieces that differ only in their numbers are evaluated once, with the numbers of the one whose turn it
    is: a join of a thousand ramps costs little more than one ramp.

    **Raises:** `ValueError` unless there is one schedule more than there are boundaries and these never decrease.
    """
    boundaries = jnp.asarray(boundaries)
    starts = jnp.concatenate([jnp.zeros(1, boundaries.dtype), boundaries])
    now = passed(step, boundaries)
    alike = _alike(schedules)
    values = []
    for places, pieces in alike:
        slot = _lookup(len(starts), places, range(len(places)))[now]
        # A piece waits at its step 0 until its turn: one that is not finite before would make the gradient NaN.
        values.append(_pick(pieces, slot)(jnp.maximum(step - starts[np.array(places)][slot], 0)))
    if len(values) == 1:
        return values[0]
    group = functools.reduce(operator.add, (_lookup(len(starts), p, [i] * len(p)) for i, (p, _) in enumerate(alike)))
    return jnp.stack(values)[group[now]]


def _alike(pieces: Sequence[ScheduleLike]) -> list[tuple[list[int], list[Schedule]]]:
    """`pieces` in groups that differ only in their numbers, each with its places in the sequence."""
    groups: dict[object, tuple[list[int], list[Schedule]]] = {}
    for place, piece in enumerate(map(as_schedule, pieces)):
        leaves, structure = jax.tree.flatten(piece)
        places, members = groups.setdefault((structure, tuple(map(np.shape, leaves))), ([], []))
        places.append(place)
        members.append(piece)
    return list(groups.values())


def _pick(pieces: Sequence[Schedule], slot: Array) -> Schedule:
    """`pieces[slot]` of schedules that differ only in their numbers."""
    if len(pieces) == 1:
        return pieces[0]
    return jax.tree.map(lambda leaves: leaves[slot], _stacked(pieces))


def _stacked(pieces: Sequence[Schedule]) -> Schedule:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *pieces)


def _lookup(length: int, places: Sequence[int], entries: Sequence[int]) -> Array:
    table = np.zeros(length, np.int32)
    table[list(places)] = entries
    return jnp.asarray(table)


@schedule(check=lambda init, steps, shape, **_: _misfit(shape, init, 1.0, steps))
def warmup(step: Array, schedule: ScheduleLike, steps: Steps, init: Value = 0.0, shape: Shape = linear) -> Array:
    r"""A ramp from `init` to the first value of `schedule` over `steps` updates, then `schedule` from its step 0.

    $$f(t) = \begin{cases} \mathrm{shape}(\mathrm{init}, f_0(0), \mathrm{steps})(t) & t < \mathrm{steps} \\
                           f_0(t - \mathrm{steps}) & \text{otherwise} \end{cases}$$

    With `init=0` the first update changes nothing; `init=peak / steps` over `steps - 1` updates gives the
    convention (t + 1) / steps of the schedule-free reference. `warmup(f, 0)` has the values of `f`.
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
    r"""`schedule` until `start`, then a ramp from the value it has there to `end` over `steps` updates.

    $$f(t) = \begin{cases} f_0(t) & t < \mathrm{start} \\
             \mathrm{shape}(f_0(\mathrm{start}), \mathrm{end}, \mathrm{steps})(t - \mathrm{start}) & \text{otherwise}
             \end{cases}$$

    Leaves any schedule at any step, so a run can be branched from any of its checkpoints.

    Source: "Scaling laws and compute-optimal training beyond fixed training durations", arXiv:2405.18392.
    """
    value = as_schedule(schedule)(jnp.minimum(step, start))
    return jnp.where(step < start, value, shape(value, end, steps)(jnp.maximum(step - start, 0)))


@schedule(changes=lambda start, steps, **_: [start, start + steps])
def power_cooldown(step: Array, schedule: ScheduleLike, start: Steps, steps: Steps, exponent: Precise = 1.2) -> Array:
    r"""`schedule` until `start`, then what it is there times a power of what remains of `steps` updates.

    $$f(t) = f_0(\min(t, \mathrm{start}))
      \Big(1 - \frac{\min(\max(t - \mathrm{start}, 0), \mathrm{steps})}{\mathrm{steps}}\Big)^{\mathrm{exponent}}$$

    Exponents a little above 1 come out of fitted loss curves (arXiv:2503.12811) and speed-run records.
    """
    remains = polynomial(1.0, 0.0, steps, exponent)(jnp.maximum(step - start, 0))
    return as_schedule(schedule)(jnp.minimum(step, start)) * remains


def _misfit(shape: Shape, start: Value, end: Value, steps: Steps) -> str | None:
    """Why there is no such ramp, for example because an exponential one cannot start at 0."""
    try:
        shape(start, end, steps)
    except ValueError as error:
        return str(error)
    return None


# One value, another clock ----------------------------------------------------------------------------


@schedule
def delay(step: Array, schedule: ScheduleLike, steps: Steps) -> Array:
    r"""`schedule`, begun `steps` updates later; until then its first value.

    $$f(t) = \mathrm{schedule}(\max(t - \mathrm{steps},\, 0))$$
    """
    return as_schedule(schedule)(jnp.maximum(step - steps, 0))


@schedule(changes=lambda **_: [])
def advance(step: Array, schedule: ScheduleLike, steps: Steps) -> Array:
    r"""`schedule` as it is `steps` updates on: the rest of it.

    $$f(t) = \mathrm{schedule}(t + \mathrm{steps})$$

    `advance(linear(0.0, peak, W), 1)` is the warm-up (t + 1) / W, whose first update is not zero.
    """
    return as_schedule(schedule)(numerics.plus(step, steps))


@schedule(changes=lambda at, steps, **_: [at, at + steps])
def extend(step: Array, schedule: ScheduleLike, at: Steps, steps: Steps) -> Array:
    r"""`schedule` made longer: it holds the value it has at step `at` for `steps` updates, then goes on.

    $$f(t) = \mathrm{schedule}\big(t - \min(\max(t - \mathrm{at},\, 0),\, \mathrm{steps})\big)$$

    Of `wsd` it prolongs the stable phase, with the cooldown after it unchanged.
    """
    return as_schedule(schedule)(step - jnp.clip(step - at, 0, steps))


@schedule
def stretch(step: Array, schedule: ScheduleLike, factor: Precise) -> Array:
    r"""`schedule` with every duration in it `factor` times as long, to the nearest whole step.

    $$f(t) = \mathrm{schedule}(t / \mathrm{factor})$$

    but for that rounding: the ends of ramps and boundaries are whole steps also after 10^8 steps, where t / factor
    has lost its digits, and a period of one or two steps stretches by whole factors only. What has no durations
    does not stretch: of formulas of your own, annotate every time as `Steps` or `Period`. As durations are whole
    numbers, the derivative with respect to `factor` is 0.
    """
    return lengthened(as_schedule(schedule), factor, step.dtype)(step)


ScheduleInEpochs = TypeAliasType("ScheduleInEpochs", Annotated[ScheduleLike, Nested(stretches=False)])


@schedule
def per_epoch(step: Array, schedule: ScheduleInEpochs, steps_per_epoch: Period) -> Array:
    r"""A schedule written in epochs: its next value after every `steps_per_epoch` updates.

    $$f(t) = \mathrm{schedule}(\lfloor t / \mathrm{steps\_per\_epoch} \rfloor)$$

    As in a training loop that calls `scheduler.step()` once per epoch. For a value that changes with every
    update instead: `stretch(schedule, steps_per_epoch)`.
    """
    return as_schedule(schedule)(step // steps_per_epoch)


@schedule
def per_update(step: Array, schedule: ScheduleLike, units: Count) -> Array:
    r"""A schedule written in examples, tokens or any other unit of which each update sees `units`.

    $$f(t) = \mathrm{schedule}(\mathrm{units} \cdot t)$$

    Its lengths are whole numbers of units, at most 2^31 - 1: with 1000 units to an update, those of thousandths of an
    update. A schedule without an end goes on beyond 2^31 units, which are counted in floats.
    """
    schedule = as_schedule(schedule)
    counted = schedule(numerics.times(step, units))
    if not jnp.issubdtype(step.dtype, jnp.integer):
        return counted
    last = jnp.iinfo(step.dtype).max // jnp.maximum(units, 1)
    return jnp.where(step <= last, counted, schedule(step.astype(float) * jnp.asarray(units, float)))
