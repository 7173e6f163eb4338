"""Ramps: from `start` to `end` in `steps` updates, then constant.

A ramp is at `start` for t = 0 and at `end` from t = steps on. With `steps=0` it is at `end` from the first update.
All ramps begin with the arguments (start, end, steps), so each can be the `shape` of a warm-up or cooldown.
"""

import functools

import jax.numpy as jnp
from jax import Array

from schedules.core import schedule
from schedules.kinds import Bound, Positive, Precise, Steps, Value, in_order
from schedules.numerics import geometric, pair, power, progress

__all__ = ["linear", "cosine", "exponential", "polynomial", "one_minus_sqrt", "square", "rex", "tanh"]


@schedule
def linear(step: Array, start: Value, end: Value, steps: Steps) -> Array:
    r"""A straight line from `start` to `end` over `steps` updates, then `end`.

    $$f(t) = \mathrm{start}\,(1 - e) + \mathrm{end}\; e, \qquad e = \min(t / \mathrm{steps},\, 1)$$

    Example: `linear(0.1, 0, 100)` over 120 steps.
    """
    elapsed, remaining = progress(step, steps)
    return start * remaining + end * elapsed


@schedule
def cosine(step: Array, start: Value, end: Value, steps: Steps) -> Array:
    r"""Half a cosine from `start` to `end` over `steps` updates, then `end`.

    $$f(t) = \mathrm{end} + \tfrac12 (\mathrm{start} - \mathrm{end})(1 + \cos \pi e)
           = \mathrm{start}\,\sin^2 \tfrac\pi2 (1 - e) + \mathrm{end}\,\sin^2 \tfrac\pi2 e,
      \qquad e = \min(t / \mathrm{steps},\, 1)$$

    The second form is computed. Nothing cancels in it, so the last steps of a long decay keep their digits.

    Source: SGDR, arXiv:1608.03983, equation 5.

    Example: `cosine(0.1, 0, 100)` over 120 steps.
    """
    elapsed, remaining = progress(step, steps)
    return start * jnp.sin(jnp.pi / 2 * remaining) ** 2 + end * jnp.sin(jnp.pi / 2 * elapsed) ** 2


@schedule
def exponential(step: Array, start: Positive, end: Positive, steps: Steps) -> Array:
    r"""From `start` to `end` over `steps` updates with a constant ratio per update (a line in log scale), then `end`.

    $$f(t) = \mathrm{start}^{1 - e}\, \mathrm{end}^{e}, \qquad e = \min(t / \mathrm{steps},\, 1)$$

    Used as the cooldown of MiniCPM (arXiv:2404.06395) and in the learning-rate range test.

    Example: `exponential(0.1, 0.001, 100)` over 120 steps.
    """
    # `where`, so that it is `end` even if `start` is the value of a schedule and 0.
    return jnp.where(step < steps, geometric(start, end, step, steps), end)


@schedule
def polynomial(step: Array, start: Value, end: Value, steps: Steps, exponent: Precise = 2.0) -> Array:
    r"""From `start` to `end` over `steps` updates as a power of the remaining fraction, then `end`.

    $$f(t) = \mathrm{end} + (\mathrm{start} - \mathrm{end})(1 - e)^{\mathrm{exponent}},
      \qquad e = \min(t / \mathrm{steps},\, 1)$$

    An exponent of 1 is `linear`; larger ones leave `start` faster and reach `end` more gently.

    Example: `polynomial(0.1, 0, 100, exponent=3)` over 120 steps.
    """
    elapsed, remaining = progress(step, steps)
    hi, lo = pair(exponent)
    # 1 - remaining^exponent, computed without the cancellation near the start.
    early = -jnp.expm1((hi + lo) * jnp.log1p(-jnp.minimum(elapsed, 0.5)))
    gone = jnp.where(elapsed < 0.5, early, 1 - power(remaining, exponent))
    return power(remaining, exponent, start) + end * gone


@schedule
def one_minus_sqrt(step: Array, start: Value, end: Value, steps: Steps) -> Array:
    r"""From `start` to `end` over `steps` updates, steepest at the start and nearly straight at the end, then `end`.

    $$f(t) = \mathrm{start}\,(1 - \sqrt e) + \mathrm{end}\,\sqrt e, \qquad e = \min(t / \mathrm{steps},\, 1)$$

    The best cooldown in "Scaling laws and compute-optimal training beyond fixed training durations", arXiv:2405.18392.

    Example: `one_minus_sqrt(0.1, 0, 100)` over 120 steps.
    """
    elapsed, remaining = progress(step, steps)
    begun = elapsed > 0
    root = jnp.where(begun, jnp.sqrt(jnp.where(begun, elapsed, 1.0)), 0.0)  # whose derivative is finite at step 0
    return start * remaining / (1 + root) + end * root


@schedule
def square(step: Array, start: Value, end: Value, steps: Steps) -> Array:
    r"""From `start` to `end` over `steps` updates, slowly at first, then `end`.

    $$f(t) = \mathrm{start}\,(1 - e^2) + \mathrm{end}\; e^2, \qquad e = \min(t / \mathrm{steps},\, 1)$$

    One of the cooldowns of arXiv:2405.18392.

    Example: `square(0.1, 0, 100)` over 120 steps.
    """
    elapsed, remaining = progress(step, steps)
    return start * remaining * (1 + elapsed) + end * elapsed**2


@schedule
def rex(step: Array, start: Value, end: Value, steps: Steps, bend: Positive = 0.5) -> Array:
    r"""From `start` to `end` over `steps` updates along the REX curve, a ratio of two lines, then `end`.

    $$f(t) = \mathrm{end} + (\mathrm{start} - \mathrm{end}) \frac{1 - e}{\mathrm{bend}\; e + 1 - e},
      \qquad e = \min(t / \mathrm{steps},\, 1)$$

    A `bend` of 1 is `linear`. Smaller ones stay near `start` for longer.

    Source: REX, arXiv:2107.04197, which uses a bend of 1/2.

    Example: `rex(0.1, 0, 100, bend=0.3)` over 120 steps.
    """
    elapsed, remaining = progress(step, steps)
    bent = bend * elapsed
    return (start * remaining + end * bent) / (bent + remaining)


@schedule(check=functools.partial(in_order, "low", "high"))
def tanh(step: Array, start: Value, end: Value, steps: Steps, low: Bound = -7.0, high: Bound = 3.0) -> Array:
    r"""From `start` to `end` over `steps` updates along a hyperbolic tangent, then `end`.

    $$f(t) = \mathrm{end} + (\mathrm{start} - \mathrm{end})
        \frac{\tanh(\mathrm{high}) - \tanh(x)}{\tanh(\mathrm{high}) - \tanh(\mathrm{low})},
      \qquad x = \mathrm{low}\,(1 - e) + \mathrm{high}\; e, \quad e = \min(t / \mathrm{steps},\, 1)$$

    Source: HTD, arXiv:1806.01593, here scaled so that it starts exactly at `start` and ends exactly at `end`.

    **Raises:** `ValueError` unless `low` is below `high`, both from -20 to 20.

    Example: `tanh(0.1, 0, 100)` over 120 steps.
    """
    elapsed, remaining = progress(step, steps)
    # tanh(a) - tanh(b) is a difference of exp(2a) and exp(2b) over (1 + exp(2a)) (1 + exp(2b)).
    a, b = pair(low), pair(high)
    # Not a factor exp(2 lo), since XLA would add the exponents before it takes one exponential.
    first, last = (jnp.exp(2 * x.hi) * (1 + 2 * x.lo) for x in (a, b))
    width = 2 * ((b.hi - a.hi) + (b.lo - a.lo))
    now = geometric(first, last, step, steps)
    whole = jnp.expm1(-width)
    left = (1 + first) / (1 + now) * jnp.expm1(-width * remaining) / whole
    gone = (1 + last) / (1 + now) * (now / last) * jnp.expm1(-width * elapsed) / whole
    return start * left + end * gone
