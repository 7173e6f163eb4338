"""Inspects a schedule: its values as numbers, a description in words, and warnings."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from schedules.arguments import checked
from schedules.composed import StandIn, substituted
from schedules.core import Schedule, ScheduleLike, as_schedule, constant
from schedules.kinds import Length, Size
from schedules.numerics import MAX_STEPS

__all__ = ["tabulate", "describe", "boundaries", "check"]

MOST_SAMPLES = 1_000_000
MOST_CHANGES = 10_000
MOST_READINGS = 16  # how often one schedule may read another at each step


@checked
def tabulate(schedule: ScheduleLike, steps: Length) -> Array:
    """The values of the first `steps` updates.

    **Returns:** an array of shape (steps,), float32 (float64 where x64 is enabled).

    **Raises:** `ValueError` if `steps` is not a whole number, 0 or more.
    """
    return as_schedule(schedule)(jnp.arange(steps))


# In words -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """Steps from `start` until just before `stop`, with the first and the last value in them."""

    start: int
    stop: int
    first: float
    last: float

    def __str__(self) -> str:
        if self.first == self.last:
            return f"{self.start:>11,} to {self.stop - 1:<11,} {self.first:.6g}"
        return f"{self.start:>11,} to {self.stop - 1:<11,} {self.first:.6g} -> {self.last:.6g}"


@dataclass(frozen=True)
class Description:
    """What `describe` found. Print it to get a text with a sketch."""

    schedule: Schedule
    steps: int
    phases: tuple[Phase, ...]
    first: float
    peak: float
    peak_step: int
    last: float
    area: float
    sketch: str

    def __str__(self) -> str:
        shown = [str(phase) for phase in self.phases[:20]]
        if len(self.phases) > 20:
            least = "at least " if len(self.phases) >= MOST_CHANGES // 2 else ""
            shown.append(f"{'':>11} and {least}{len(self.phases) - 20:,} more phases")
        numbers = (
            f"first {self.first:.6g}, peak {self.peak:.6g} at step {self.peak_step:,}, last {self.last:.6g}, "
            f"area under the curve {self.area:.6g}"
        )
        return "\n".join([repr(self.schedule), "", self.sketch, "", *shown, "", numbers])


@checked
def describe(schedule: ScheduleLike, steps: Size) -> Description:
    """Describes a schedule over a run of `steps` updates: phases, first, peak and last value, area, and a sketch.

    Phases begin and end at the `boundaries`: at joints, the ends of ramps, milestones and restarts. The area is the sum
    of all values (for more than a million steps, estimated from evenly spaced ones).

    **Returns:** a `Description`: print it, or read its attributes.

    **Raises:** `ValueError` if `steps` is not a whole number, 1 or more.
    """
    schedule = as_schedule(schedule)
    at, values = sampled(schedule, steps)
    joints = [0, *boundaries(schedule, steps), steps]
    ends = values_at(schedule, np.array([[a, b - 1] for a, b in itertools.pairwise(joints)]))
    phases = tuple(Phase(a, b, *map(float, e)) for (a, b), e in zip(itertools.pairwise(joints), ends, strict=True))
    peak = int(np.argmax(values))
    area = float(np.sum(values)) if len(at) == steps else float(np.trapezoid(values, at)) + float(values[-1])
    return Description(
        schedule, steps, phases, float(values[0]), float(values[peak]), int(at[peak]), float(values[-1]), area,
        _sketch(at, values),
    )  # fmt: skip


@checked
def boundaries(schedule: ScheduleLike, steps: Size) -> list[int]:
    """The steps from 1 to `steps - 1` at which a schedule changes its form, in order; at most ten thousand of them."""
    changes = itertools.islice(changes_of(with_plain_numbers(as_schedule(schedule)), steps), MOST_CHANGES)
    return sorted({int(step) for step in changes if 0 < step < steps})


def with_plain_numbers(schedule: Schedule) -> Schedule:
    """`schedule` with Python numbers instead of arrays."""
    if not any(isinstance(leaf, Array | np.ndarray) for leaf in jax.tree.leaves(schedule)):
        return schedule
    jax.eval_shape(schedule, 0)  # raises for stacked schedules
    return jax.tree.map(lambda leaf: _plain(np.asarray(leaf).tolist()), schedule)


def changes_of(schedule: Schedule, steps: int) -> Iterator[int]:
    """The steps at which a schedule changes its form, up to and including `steps`, in any order."""
    schedule = schedule.expand()
    for start, stop, piece in _pieces(schedule, steps):
        yield start
        until = min(steps, stop - 1) - start
        yield from (start + t for t in changes_of(piece, until) if 0 < t <= until)
    if schedule.formula.pieces is None:
        yield from itertools.takewhile(lambda step: step <= steps, schedule.formula.changes(**schedule.arguments))
        for inner, clock in _read(schedule, steps):
            yield from _times(clock, changes_of(inner, clock.last), steps)


def _pieces(schedule: Schedule, steps: int) -> Iterator[tuple[int, int, Schedule]]:
    """The start, the stop and the schedule of each piece that a schedule declares, for those that start by `steps`."""
    declared = schedule.formula.pieces(**schedule.arguments) if schedule.formula.pieces else ()
    for (start, piece), (stop, _) in itertools.pairwise(itertools.chain(declared, [(MAX_STEPS, schedule)])):
        if start > steps:
            return
        yield start, stop, piece


def _nested(schedule: Schedule) -> list[Schedule]:
    """The schedules among the arguments of a schedule."""
    found: list[Schedule] = []
    substituted(schedule, found.append)
    return found


# Clocks: at which step a schedule reads one of its arguments, found out with stand-ins that record the step ----------


class _Clock(NamedTuple):
    """From the step of a schedule to the step at which it reads one of the schedules in it."""

    outer: Schedule  # with None instead of every schedule in it
    which: int  # which of the schedules in it is read
    reading: int  # which of its readings, if it is read several times
    last: int  # the latest step that is read during the run
    same: bool  # whether it is always read at the current step
    forwards: bool  # whether it is never read at an earlier step than before

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        return np.asarray(_readings(self.outer, steps)[self.which][self.reading])


@jax.jit
def _readings(outer: Schedule, steps: Array) -> dict[int, list[Array]]:
    """For each of `steps`, the steps at which a schedule reads each of the schedules in it."""

    def at(step: Array) -> dict[int, list[Array]]:
        seen: dict[int, list[Array]] = {}

        which = itertools.count()

        def stand_in(_: None) -> StandIn:
            here = next(which)

            def read(step: ArrayLike) -> Array:
                seen.setdefault(here, []).extend(jnp.ravel(jnp.asarray(step))[:MOST_READINGS])
                return jnp.ones(jnp.shape(step))

            return StandIn(read)

        substituted(outer, stand_in)(step)
        return seen

    return jax.vmap(at)(steps)


def _with_nested(schedule: Schedule, which: int, other: Schedule) -> Schedule:
    """`schedule` with one of the schedules in it replaced by `other`."""
    number = itertools.count()
    return substituted(schedule, lambda inner: other if next(number) == which else inner)


def _read(schedule: Schedule, steps: int) -> Iterator[tuple[Schedule, _Clock]]:
    """The schedules that a schedule reads, each with its clock."""
    nested = _nested(schedule)
    if not nested or steps < 0:
        return
    outer = substituted(schedule, lambda _: None)
    at = np.unique(np.geomspace(1, steps + 1, 100).astype(int) - 1)
    try:
        found = _readings(outer, at)
    except (TypeError, jax.errors.UnexpectedTracerError):
        return  # it reads them inside a JAX transformation such as a loop, where the steps cannot be recorded
    for which, readings in found.items():
        for reading, seen in enumerate(np.asarray(each) for each in readings):
            last = int(np.clip(np.ceil(seen.max()), 0, MAX_STEPS))
            same, forwards = bool((seen == at).all()), bool((np.diff(seen) >= 0).all())
            yield nested[which], _Clock(outer, which, reading, last, same, forwards)


def _times(clock: _Clock, shown: Iterator[int], steps: int) -> Iterator[int]:
    """The first steps, up to `steps`, at which a clock has reached each of `shown`, by bisection.

    For a clock that also runs backwards: the steps at which it passes them in either direction, by looking at all
    steps.
    """
    if clock.same:
        yield from shown
        return
    if not clock.forwards:
        read = _every_reading(clock, steps)
        backwards = np.diff(read) < 0
        yield from map(int, np.flatnonzero(backwards[1:] & ~backwards[:-1]) + 2)
        for step in itertools.islice(shown, 1000):
            yield from (t for t, _ in _passing(read, step))
        return
    while batch := [*itertools.islice(shown, 1000)]:
        wanted = np.array(batch)
        low, high = np.full(len(batch), -1), np.full(len(batch), steps)
        while (high - low > 1).any():
            middle = (low + high) // 2
            reached = clock(np.maximum(middle, 0)) >= wanted
            low, high = np.where(reached, low, middle), np.where(reached, middle, high)
        yield from (int(t) for t, inside in zip(high, wanted <= clock.last, strict=True) if inside)


def _crossings(clock: _Clock, shown: int, steps: int) -> Iterator[tuple[int, bool]]:
    """The steps at which a clock passes `shown`, and whether it runs forwards there."""
    if clock.forwards:
        yield from ((t, True) for t in _times(clock, iter([shown]), steps))
        return
    yield from _passing(_every_reading(clock, steps), shown)


def _every_reading(clock: _Clock, steps: int) -> np.ndarray:
    return clock(np.arange(min(steps, MOST_SAMPLES) + 1))


def _passing(read: np.ndarray, shown: int) -> Iterator[tuple[int, bool]]:
    reached = read >= shown
    yield from ((int(t), bool(reached[t])) for t in np.flatnonzero(np.diff(reached)) + 1)


def _plain(value: Any) -> Any:
    """Lists of numbers as tuples, as schedules store them."""
    return tuple(map(_plain, value)) if isinstance(value, list) else value


def values_at(schedule: Schedule, steps: np.ndarray) -> np.ndarray:
    """The values at `steps`, padded to one of a few lengths: each length compiles a program, which is slow."""
    padding = max(64, 1 << (steps.size - 1).bit_length()) - steps.size
    values = schedule(np.pad(steps.ravel(), (0, padding), mode="edge"))
    return np.asarray(values, float)[: steps.size].reshape(steps.shape)


def sampled(schedule: Schedule, steps: int, most: int = MOST_SAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """All steps of a run, or about `most` of them and both sides of every boundary; and the values there."""
    if steps <= most:
        at = np.arange(steps)
    else:
        near = [t for b in boundaries(schedule, steps) for t in (b - 1, b)]
        at = np.unique(np.concatenate([np.linspace(0, steps - 1, most).astype(int), near])).astype(int)
    return at, values_at(schedule, at)


WIDTH = 64  # of a sketch, in characters


def _sketch(at: np.ndarray, values: np.ndarray, height: int = 8) -> str:
    """The curve in block characters, with its highest and lowest value at the side."""
    ((columns,), low, high) = _columns([(at, values)])
    eighths = np.round(columns * height * 8).astype(int)
    return _framed(
        ["".join(" ▁▂▃▄▅▆▇█"[n] for n in np.clip(eighths - 8 * row, 0, 8)) for row in range(height)], low, high
    )


def sketch_together(schedules: Mapping[str, Schedule], steps: int, height: int = 12) -> str:
    """Several curves, each drawn with its key, a letter, and `+` where curves meet."""
    columns, low, high = _columns([sampled(schedule, steps) for schedule in schedules.values()])
    rows = [[" "] * WIDTH for _ in range(height)]
    for letter, column in zip(schedules, columns, strict=True):
        for across, up in enumerate(np.round(column * (height - 1)).astype(int)):
            rows[up][across] = letter if rows[up][across] == " " else "+"
    return _framed(["".join(row) for row in rows], low, high)


def _columns(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[list[np.ndarray], float, float]:
    """The curves at `WIDTH` steps, scaled to [0, 1]; and the values that 0 and 1 stand for."""
    finite = [(at, np.where(np.isfinite(values), values, 0.0)) for at, values in curves]
    low = min(0.0, *(float(np.min(values)) for _, values in finite))
    high = max(float(np.max(values)) for _, values in finite)
    across = [np.interp(np.linspace(at[0], at[-1], WIDTH), at, values) for at, values in finite]
    return [(values - low) / ((high - low) or 1.0) for values in across], low, high


def _framed(rows: Sequence[str], low: float, high: float) -> str:
    """The rows, given from the lowest up, as text, with the highest and the lowest value at the side."""
    labels = [f"{low:.3g}", *[""] * (len(rows) - 2), f"{high:.3g}"]
    return "\n".join(f"{label:>9} |{row}".rstrip() for label, row in reversed([*zip(labels, rows, strict=True)]))


# As warnings ----------------------------------------------------------------------------------------


@checked
def check(schedule: ScheduleLike, steps: Size, *, after: ScheduleLike | None = None, at: Length = 0) -> list[str]:
    """Warnings about a schedule for a run of `steps` updates, one sentence each; empty if nothing looks wrong.

    It warns about values that are not finite, negative, or 0 at the first update; a warm-up longer than the run; a jump
    at a joint; an end that the run does not reach; values that still change after the run, or stop changing early in
    it; and values close to 0 for the last part of the run.

    **Arguments:** `steps`: the length of the run in updates. `after`, `at`: when you continue a run with another
    schedule, the schedule before and the step at which `schedule` replaces it. `check` then warns about a jump at that
    step, and about later steps only: `check(lr.replace(steps=2_000), 2_000, after=lr, at=1_000)`.

    **Returns:** a list of sentences.

    **Raises:** `ValueError` if `steps` is not a whole number, 1 or more; if `at` is not a whole number below `steps`;
    or if only one of `after` and `at` is given.
    """
    schedule = with_plain_numbers(as_schedule(schedule))
    before = None if after is None else as_schedule(after)
    if (after is None) != (at == 0) or at >= steps:
        raise ValueError(
            f"check: `at` must be a step from 1 to {steps - 1} if `after` is given, and 0 if not, got {at!r}"
        )
    places, values = sampled(schedule, steps)
    places, values = places[places >= at], values[places >= at]
    if not np.isfinite(values).all():
        return [f"It is not finite at step {places[~np.isfinite(values)][0]:,}."]
    remarks = [] if before is None else [*_takes_over(schedule, before, at)]
    for rule in (_negative, _zero, _end, _after, _tail, _early):
        remarks += rule(schedule, steps, places, values)
    return remarks + [
        f"It jumps from {left:.6g} to {right:.6g} at step {joint:,}, where one schedule is joined to the next."
        for joint, left, right in dict.fromkeys(_jumps(schedule, steps))
        if joint > at and abs(left - right) > 1e-6 * np.max(np.abs(values))
    ]


def _takes_over(schedule: Schedule, before: Schedule, at: int) -> Iterator[str]:
    left, right = float(before(at)), float(schedule(at))
    if _differ(left, right) or not math.isfinite(left):
        advice = f"`cooldown(before, {at}, ...)` would continue from the old value" if left > 0 else "warm up again"
        where = f"at step {at:,}, where it replaces the schedule before it"
        yield f"It jumps from {left:.6g} to {right:.6g} {where}: {advice}."


def _differ(left: float, right: float) -> bool:
    return abs(left - right) > 0.01 * max(abs(left), abs(right))


def _negative(schedule: Schedule, steps: int, at: np.ndarray, values: np.ndarray) -> Iterator[str]:
    del schedule, steps
    if (values < 0).any():
        yield f"It is negative, first at step {at[values < 0][0]:,}."


def _zero(schedule: Schedule, steps: int, at: np.ndarray, values: np.ndarray) -> Iterator[str]:
    del schedule
    if not values.any():
        yield "It is 0 at every step: the run would learn nothing."
    elif values[0] == 0:
        first = int(at[np.flatnonzero(values)[0]] - at[0])
        many = "update has" if first == 1 else f"{first:,} updates have"
        yield f"The first {many} the value 0 and would not move the weights: start above 0, or use `advance(..., 1)`."


def _end(schedule: Schedule, steps: int, at: np.ndarray, values: np.ndarray) -> Iterator[str]:
    changes = itertools.islice(changes_of(schedule, MAX_STEPS), MOST_CHANGES) if has_end(schedule) else ()
    ahead = [step for step in changes if steps < step < MAX_STEPS]
    if ahead and np.argmax(values) == len(at) - 1 and values[0] < values[-1]:
        yield f"It still rises when the run ends: its warm-up lasts until step {min(ahead):,}."
    elif ahead:
        yield f"The run ends at step {steps:,}, before the end of the schedule at step {max(ahead):,}."


def _after(schedule: Schedule, steps: int, at: np.ndarray, values: np.ndarray) -> Iterator[str]:
    del at, values
    now, later = values_at(schedule, np.array([steps, min(2 * steps, MAX_STEPS)]))
    if not has_end(schedule) and now != later:
        yield f"It has no end: at twice the length of the run it {'rises' if later > now else 'falls'} to {later:.6g}."


def _tail(schedule: Schedule, steps: int, at: np.ndarray, values: np.ndarray) -> Iterator[str]:
    del schedule
    alive = np.flatnonzero(values >= 0.01 * np.max(values))
    if np.max(values) > 0 and at[alive[-1]] - at[0] < 0.8 * (steps - 1 - at[0]):
        gone = at[alive[-1]] + 1
        share = 100 * (steps - gone) / (steps - at[0])
        yield f"It stays below 1 % of its peak from step {gone:,} on, for the last {share:.3g}% of the run."


def _early(schedule: Schedule, steps: int, at: np.ndarray, values: np.ndarray) -> Iterator[str]:
    del at
    peak, last = np.max(values), values[-1]
    if not (0.01 * peak <= last < 0.99 * peak and has_end(schedule)):
        return
    over = max(itertools.islice(changes_of(schedule, MAX_STEPS), MOST_CHANGES), default=0)
    if over < 0.1 * steps:
        rest = f"for the last {100 * (steps - over) / steps:.3g}% of the run"
        yield f"It stays at {last:.6g} from step {over:,} on, {rest}: are its lengths epochs instead of updates?"


def has_end(schedule: Schedule) -> bool:
    """Whether a schedule stops changing its form at some step, and so do the schedules in it."""
    schedule = schedule.expand()
    if not schedule.formula.ends:
        return False
    if schedule.formula.pieces:
        *_, (_, _, last) = _pieces(schedule, MAX_STEPS)
        return has_end(last)
    return all(clock.forwards for _, clock in _read(schedule, MAX_STEPS)) and all(map(has_end, _nested(schedule)))


def _is_joined(schedule: Schedule) -> bool:
    """Whether it runs a finite number of schedules one after another. (Jumps at endless restarts are intended.)"""
    return schedule.formula.pieces is not None and schedule.formula.ends


def _jumps(schedule: Schedule, steps: int) -> Iterator[tuple[int, float, float]]:
    """The joints before `steps` at which a schedule jumps, with the values on both sides."""
    schedule = schedule.expand()
    if _is_joined(schedule):
        pieces = [*_pieces(schedule, steps)]
        for (start, joint, piece), (_, _, following) in itertools.pairwise(pieces):
            before, after = _value(piece, joint - start), _value(following, 0)
            if start < joint < steps and _differ(before, after):
                yield joint, before, after
        for start, stop, piece in pieces:
            yield from ((start + t, one, other) for t, one, other in _jumps(piece, min(steps, stop) - start))
        return
    for inner, clock in _read(schedule, steps):
        for joint, *sides in _jumps(inner, clock.last):
            for t, onwards in _crossings(clock, joint, steps):
                left, right = (float(_with_nested(schedule, clock.which, constant(side))(t)) for side in sides)
                if t < steps and _differ(left, right):
                    yield (t, left, right) if onwards else (t, right, left)


def _value(schedule: Schedule, step: int) -> float:
    """The value at one step; of a join, from the active piece alone, so that only this piece is compiled."""
    schedule = schedule.expand()
    if not _is_joined(schedule):
        return float(schedule(step))
    *_, (start, _, piece) = _pieces(schedule, step)
    return _value(piece, step - start)
