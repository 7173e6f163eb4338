"""Coefficients for `average`: schedules c(t), the weight of the newest parameters in the average.

    x <- (1 - c(t)) x + c(t) z

Each is 1 at the first update, so the average begins with the first updated parameters and needs no bias correction. You
can combine them like other schedules: `delay(polyak(), 1000)` averages all parameters after the first thousand updates.
"""

import math
from typing import Annotated, Any, NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from typing_extensions import TypeAliasType

from optim.checks import Fraction, NotNegativeLike, UpTo4
from optim.numerics import accumulate, complement, one_minus_power
from schedules import (
    Period,
    Positive,
    Precise,
    Schedule,
    ScheduleLike,
    Steps,
    as_schedule,
    delay,
    maximum,
    power_law,
    recipe,
    schedule,
)
from schedules.arguments import checked
from schedules.formula import shorthand
from schedules.kinds import Count, Index, Number
from schedules.numerics import Split, pair, power

__all__ = [
    "polyak",
    "tail",
    "swa",
    "sampled",
    "ema",
    "ema_half_life",
    "exponential_average",
    "ema_warmed",
    "ema_relative",
    "polynomial_average",
    "power_ema",
    "relative_width",
    "exponent_of_width",
    "weighted",
    "Weights",
    "Remembering",
]

Exponent = TypeAliasType("Exponent", Annotated[float, Number(float, above=-1)])
Width = TypeAliasType("Width", Annotated[float, Number(float, above=0, below=math.sqrt(1 / 12))])
Window = TypeAliasType("Window", Annotated[float | Array, Number(float, least=1, unit="updates")])


@schedule(ends=False)
def polyak(step: Array) -> Array:
    r"""The uniform (Polyak) average of the parameters after each update.

    $$c(t) = \frac{1}{t + 1}$$

    Source: Polyak and Juditsky, *Acceleration of stochastic approximation by averaging*, 1992.

    Example: `polyak()` over 100 steps.
    """
    return 1 / (step.astype(float) + 1)  # as a float, since the last int32 step plus 1 overflows


@recipe
def tail(start: Steps) -> Schedule:
    r"""The uniform average of the parameters after the first `start` updates; before that, the newest parameters.

    $$c(t) = \frac{1}{\max(t - \mathrm{start},\, 0) + 1}$$

    Suffix averaging: Rakhlin, Shamir and Sridharan, arXiv:1109.5647.

    Example: `tail(60)` over 100 steps.
    """
    return delay(polyak(), start)


@schedule(ends=False)
def sampled(step: Array, coefficient: ScheduleLike, every: Period, start: Steps = 0) -> Array:
    r"""An average of the parameters after every `every`-th update only, from update `start` on.

    $$c(t) = \begin{cases} \mathrm{coefficient}\big(\tfrac{t - \mathrm{start}}{\mathrm{every}}\big) &
                \mathrm{every} \mid t - \mathrm{start} \\ 0 & \text{otherwise} \end{cases},
      \qquad t \ge \mathrm{start}$$

    Before `start`, c is 1: the average is the newest parameters. `swa` samples `polyak()`.

    Example: `sampled(exponential_average(5), every=10)` over 100 steps.
    """
    since = step - start
    drawn = as_schedule(coefficient)(jnp.maximum(since, 0) // every)
    return jnp.where(since < 0, 1.0, jnp.where(since % every == 0, drawn, 0.0))


@recipe
def swa(start: Steps, every: Period) -> Schedule:
    """Stochastic weight averaging: the mean of the parameters after every `every`-th update, from update `start` on.

    If the model has batch norm, re-estimate its statistics with `refresh_batch_stats`.

    Source: Izmailov et al., arXiv:1803.05407.

    Example: `swa(start=50, every=5)` over 100 steps.
    """
    return sampled(polyak(), every, start)


@schedule(ends=False)
def polynomial_average(step: Array, exponent: Precise) -> Array:
    r"""An average in which the parameters after update k have a weight proportional to about k^exponent.

    $$c(t) = \frac{\mathrm{exponent} + 1}{t + 1 + \mathrm{exponent}}$$

    Source: Shamir and Zhang, arXiv:1212.1824; with exponent 8 the averager of DoG, arXiv:2302.12022.

    Example: `polynomial_average(2)` over 100 steps.
    """
    hi, lo = pair(exponent)
    return (hi + lo + 1) / (step.astype(float) + 1 + (hi + lo))


@schedule(ends=False)
def power_ema(step: Array, exponent: Precise) -> Array:
    r"""The power-function average, whose profile of weights scales with the length of the run.

    $$c(t) = 1 - \Big(1 - \frac{1}{t + 1}\Big)^{\mathrm{exponent} + 1}$$

    The weight of the parameters after update k is proportional to about k^exponent. `relative_width` and
    `exponent_of_width` convert between the exponent and the width of the profile, as a fraction of the run.

    Source: Karras et al., arXiv:2312.02696, equation 4.

    Example: `power_ema(7)` over 100 steps.
    """
    hi, lo = pair(exponent)
    t = step.astype(float) + 1
    left = jnp.log1p(-1 / jnp.maximum(t, 2.0))
    return jnp.where(t == 1, 1.0, -jnp.expm1((hi + lo + 1) * left))


@checked
def relative_width(exponent: Exponent) -> float:
    r"""The width of the profile of `power_ema` (its standard deviation) as a fraction of the run.

    $$\sigma = \sqrt{\frac{\gamma + 1}{(\gamma + 2)^2 (\gamma + 3)}}$$

    **Raises:** `ValueError` unless the exponent is a number above -1.
    """
    return math.sqrt((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3)))


@checked
def exponent_of_width(width: Width) -> float:
    """The exponent of the `power_ema` with this relative width: `exponent_of_width(0.10)` is 6.94.

    **Raises:** `ValueError` unless the width is above 0 and below 0.2887, the width of a uniform average.
    """
    low, high = 0.0, min(1 / width, 1e38)  # about the largest exponent that `power_ema` accepts
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if relative_width(middle) > width else (low, middle)
    return low


@schedule(ends=False)
def exponential_average(step: Array, window: Window) -> Array:
    r"""The bias-corrected exponential average over about the last `window` updates.

    $$c(t) = \frac{1 - r}{1 - r^{t+1}}, \qquad r = 1 - 1 / \mathrm{window}$$

    The weight of the parameters k updates ago is proportional to r^k.

    Example: `exponential_average(30)` over 100 steps.
    """
    rate = jnp.maximum(1 / window, 2.0**-100)  # not 0, to avoid 0 / 0; a window of this length is uniform
    # Below 1, so that the derivative of the logarithm is finite for a window of one update.
    inside = jnp.minimum(rate, 1 - 2.0**-23)
    return jnp.minimum(rate / one_minus_power(inside, step.astype(float) + 1), 1.0)


@shorthand
@checked
def ema(decay: Fraction) -> Schedule:
    """The bias-corrected exponential moving average (EMA): `exponential_average(1 / (1 - decay))`.

    The window is computed from the decimal that you typed: `ema(0.9999)` has a window of 10,000 updates, not the 9,998
    that 1 / (1 - 0.9999) gives in float32.

    **Raises:** `ValueError` if `decay` is a number outside [0, 1).

    Example: `ema(0.9)` over 100 steps.
    """
    return exponential_average(1 / complement(decay))


@shorthand
@checked
def ema_half_life(updates: Positive) -> Schedule:
    r"""The bias-corrected exponential average whose weights halve every `updates` updates.

    $$r = 2^{-1 / \mathrm{updates}}$$

    **Raises:** `ValueError` unless `updates` is a positive number.

    Example: `ema_half_life(20)` over 100 steps.
    """
    expm1 = jnp.expm1 if isinstance(updates, Array) else math.expm1
    return exponential_average(-1 / expm1(-math.log(2) / updates))


@shorthand
@checked
def ema_warmed(decay: Fraction, exponent: Positive = 2 / 3, timescale: Count = 1) -> Schedule:
    r"""An exponential average whose decay rises from 0 to `decay`, instead of a bias correction.

    $$c(t) = \max\big(1 - \mathrm{decay},\, (1 + t / \mathrm{timescale})^{-\mathrm{exponent}}\big)$$

    The same as timm's `ModelEmaV3` with warm-up, with the same defaults for the warm-up.

    **Raises:** `ValueError` if `decay` is a number outside [0, 1), or another argument is not positive.

    Example: `ema_warmed(0.95)` over 100 steps.
    """
    return maximum(complement(decay), power_law(1.0, exponent, timescale))


@schedule(ends=False)
def ema_relative(step: Array, half_life: Positive) -> Array:
    r"""An exponential average whose half-life is a fraction of the updates applied so far.

    $$c(t) = 1 - 2^{-1 / (\mathrm{half\_life} \cdot t)}, \qquad c(0) = 1$$

    It forgets the beginning of the run, however long the run is.

    Source: the anytime average of arXiv:2602.03702.

    Example: `ema_relative(0.2)` over 100 steps.
    """
    c = -jnp.expm1(-math.log(2) / (half_life * jnp.maximum(step.astype(float), 1.0)))
    return jnp.where(step < 1, 1.0, c)


# Coefficients with a state -----------------------------------------------------------------------------


class Remembering(Protocol):
    """A coefficient that depends on more than the step, and so has a state. It must be a pytree."""

    def init(self) -> Any:
        """The memory before the first update: a pytree of arrays, no two of which share a buffer."""

    def update(self, count: Array, memory: Any) -> tuple[Array, Any]:
        """The coefficient c of the update that follows `count` updates, and the memory after it."""


class WeightSum(NamedTuple):
    """The memory of `Weights`."""

    total: Split  # the sum of all weights
    largest: Array  # the largest learning rate


class Weights(NamedTuple):
    """The coefficient that `weighted` returns: schedules, read at every update."""

    learning_rate: Schedule
    r: Schedule
    weight_lr_power: Schedule
    scale: Schedule
    start: Schedule

    def init(self) -> WeightSum:
        def zero() -> Array:  # a new buffer each time, so that the state can be donated
            return jnp.zeros((), float)

        return WeightSum(Split(zero(), zero()), zero())

    def update(self, count: Array, memory: WeightSum, rate: ArrayLike | None = None) -> tuple[Array, WeightSum]:
        """`rate`: the learning rate, if it is not that of the schedule."""
        lr = self.learning_rate(count) if rate is None else jnp.asarray(rate)
        largest = jnp.maximum(memory.largest, lr)
        r, lr_power = self.r(count), self.weight_lr_power(count)
        by_rate = jnp.where(lr_power == 0, 1.0, power(largest, lr_power))
        step = count.astype(float)
        # Limited so that the sum of 2^31 weights stays finite.
        weight = jnp.minimum(power(step + 1, r) * by_rate, float(jnp.finfo(by_rate.dtype).max) / 2**32)
        begun = step >= self.start(count)
        total = accumulate(memory.total, jnp.where(begun, weight, 0.0))
        share = self.scale(count) * (weight / jnp.where(total.hi > 0, total.hi, 1.0))
        c = jnp.where(begun, jnp.where(total.hi > 0, jnp.minimum(share, 1.0), 0.0), 1.0)
        return c, WeightSum(total, largest)


@checked
def weighted(
    learning_rate: NotNegativeLike,
    r: UpTo4 = 0.0,
    weight_lr_power: UpTo4 = 2.0,
    scale: Positive = 1.0,
    start: Index = 0,
) -> Weights:
    r"""An average that weights parameters by their step and by the largest learning rate so far.

    $$w_t = (t + 1)^r \max_{s \le t} \mathrm{lr}(s)^{\mathrm{weight\_lr\_power}}, \qquad
      c(t) = \min\Big(\mathrm{scale}\, \frac{w_t}{\sum_{s \le t} w_s},\, 1\Big)$$

    These are the weights of schedule-free optimization: during a warm-up, steps get small weights.

    **Arguments:** `learning_rate`: the rate of the base optimizer, a number or a schedule; `r` and `weight_lr_power`:
    from 0 to 4, since larger powers would overflow a float32 sum (`polynomial_average` has no such limit); `scale`: 1,
    or C (1 - b1) for the refinement of arXiv:2507.09846, with the C of that paper; `start`: the step at which averaging
    starts, before which the average is the newest parameters.

    **Raises:** `ValueError` for a negative rate, powers outside [0, 4], a scale that is not positive, or a `start` that
    is not a whole number, 0 or more.
    """
    return Weights(*map(as_schedule, (learning_rate, r, weight_lr_power, scale, start)))
