"""Schedules that repeat: warm restarts, and the waves built from them."""

from collections.abc import Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array
from typing_extensions import TypeAliasType

from schedules.clocks import lengthened, longer
from schedules.composed import recipe
from schedules.core import Schedule, ScheduleLike, as_schedule, schedule
from schedules.decays import exponential_decay
from schedules.kinds import Period, Precise, PreciseNumber, Steps, Value, require
from schedules.numerics import MAX_STEPS, Split, count, divided, lengthen, pair, power
from schedules.ramps import linear
from schedules.sequences import join

__all__ = ["restarts", "triangular"]

CYCLES = 256  # with a growth of 1.1, more cycles than fit into 2^31 steps


class GrowthNumber(PreciseNumber):
    expected = "1, or a number that is 1.1 or more"

    def build(self, value: Any) -> Any:
        growth = super().build(value)
        require(value, not isinstance(growth, float) or growth == 1 or growth >= 1.1)
        return growth


Growth = TypeAliasType("Growth", Annotated[float | Array, GrowthNumber(float)])


def _cycles(schedule: Schedule, period: int, growth: float, **_: Any) -> Iterator[tuple[int, Schedule]]:
    start, number = 0, 0
    while start <= MAX_STEPS:
        yield start, longer(schedule, growth**number)
        start, number = start + round(period * growth**number), number + 1


@schedule(pieces=_cycles, ends=False)
def restarts(step: Array, schedule: ScheduleLike, period: Period, growth: Growth = 1.0, decay: Precise = 1.0) -> Array:
    r"""`schedule`, restarted after `period` updates, then after cycles that are `growth` times as long each time.

    $$f(t) = \mathrm{decay}^i \cdot \mathrm{schedule}_i(t - s_i), \qquad s_i \le t < s_{i+1}, \qquad
      s_0 = 0, \quad s_{i+1} = s_i + [\mathrm{period} \cdot \mathrm{growth}^i]$$

    Cycle i is growth^i times as long as the first, and so is every duration in its schedule. `decay` multiplies the
    values once per cycle. Lengths are rounded to whole steps and are exact for a whole `growth`. (For other growths,
    cycles of more than 2^23 steps may be a few steps longer or shorter.) The derivative with respect to `growth` is 0,
    since lengths are whole numbers.

    **Raises:** `ValueError` unless `growth` is 1, or 1.1 or more.

    Source: SGDR, arXiv:1608.03983.

    Example: `restarts(cosine(0.1, 0.01, 30), period=30, growth=2, decay=0.8)` over 210 steps.
    """
    number, start, factor = _cycle(step, period, growth)
    again = lengthened(as_schedule(schedule), factor, step.dtype)
    return power(decay, count(number), again(step - start))


def _cycle(step: Array, period: Period, growth: Growth) -> tuple[Array, Array, Split]:
    """The cycle that `step` is in: its number, its first step, and its length relative to the first cycle."""
    rate = jax.lax.stop_gradient(pair(growth))
    factors = _powers(rate, step.dtype)
    starts = _sums(lengthen(jnp.asarray(period, step.dtype), factors))
    # First find the block of sixteen cycles, then the cycle in it: compiles faster than a bisection, and runs nearly as
    # fast. The last starts in the table were cut to MAX_STEPS, which `now` never reaches.
    now, blocks = jnp.minimum(step, MAX_STEPS - 1), starts.reshape(16, CYCLES // 16)
    block = jnp.sum(blocks[:, 0] <= now, dtype=int) - 1
    number = 16 * block + jnp.sum(blocks[block] <= now, dtype=int) - 1
    grown, start = jax.tree.map(lambda each: each[number], (factors, starts))
    same = (rate.hi == 1) & (rate.lo == 0)  # maybe more cycles than the table holds, but a division finds them
    even, elapsed = divided(step, period)
    return (
        jnp.where(same, even, number.astype(step.dtype)),
        jnp.where(same, step - elapsed, start),
        Split(jnp.where(same, 1.0, grown.hi), jnp.where(same, 0.0, grown.lo)),
    )


def _powers(growth: Split, clock: jnp.dtype) -> Split:
    """growth^i for every cycle, exact where `growth` is an integer: float32 alone is not, beyond 2^24."""
    number = jnp.arange(CYCLES, dtype=float)
    real = growth.hi**number * jnp.exp(number * (growth.lo / growth.hi))
    half = jnp.floor(number / 2)
    root = jnp.round(growth.hi**half).astype(clock)  # below 2^16, so that it is exact
    whole = root * root * jnp.where(number > 2 * half, growth.hi.astype(clock), 1)
    is_whole = (growth.hi == jnp.floor(growth.hi)) & (growth.lo == 0) & (real < MAX_STEPS)
    exact = count(whole)
    return Split(jnp.where(is_whole, exact.hi, real), jnp.where(is_whole, exact.lo, 0.0))


def _sums(lengths: Array) -> Array:
    """The sums of the first 0, 1, 2, ... lengths, at most MAX_STEPS: where each cycle starts.

    Where the integers wrap around, the first sum is negative; later ones are recognized by the same sum in floats.
    """
    floats = jnp.asarray(lengths, float)
    sums, real = jnp.cumsum(lengths) - lengths, jnp.cumsum(floats) - floats
    beyond = (sums < 0) | (real > 1.5 * MAX_STEPS)
    return jnp.where(beyond, jnp.asarray(MAX_STEPS, lengths.dtype), sums)


@recipe
def triangular(low: Value, high: Value, up: Steps, down: Steps, decay: Precise = 1.0, fade: Precise = 1.0) -> Schedule:
    r"""A wave from `low` up to `high` in `up` updates, and back in `down` updates.

    $$f(t) = \mathrm{low} + (\mathrm{high} - \mathrm{low}) \cdot \mathrm{decay}^i \cdot \mathrm{fade}^t \cdot v(t)$$

    where v is the wave from 0 to 1 and i the number of the cycle. The three modes of PyTorch's `CyclicLR` are
    "triangular" (the default), "triangular2" (`decay=0.5`) and "exp_range" (`fade=gamma`).

    Source: Cyclical learning rates, arXiv:1506.01186.

    Example: `triangular(0.02, 0.1, up=15, down=25, decay=0.5)` over 160 steps.
    """
    wave = join([linear(0.0, high - low, up), linear(high - low, 0.0, down)], [up])
    return low + restarts(wave, up + down, decay=decay) * exponential_decay(1.0, fade, 1)
