"""The arithmetic of schedules: fractions of a ramp, powers and whole numbers of steps, without loss of digits.

Schedules are computed in float32 and must be right up to 2^31 steps. Three things would lose digits: subtracting after
rounding, rounding an exponent before it is multiplied by a logarithm, and numbers such as 0.9999, since float32 keeps
only three digits of the distance from 1. So integers are subtracted before they become floats, and exponents and
factors are stored as the sum of two floats.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

MAX_STEPS = 2**31 - 1  # steps are counted in int32, as optax counts updates
FEW = 32  # up to so many numbers are compared or selected all at once: processors look up one after another


class Split(NamedTuple):
    """A number as the sum hi + lo of two floats, which together have twice the digits of one."""

    hi: Any
    lo: Any


def pair(value: Split | ArrayLike) -> Split:
    """Any number as a `Split`."""
    return value if isinstance(value, Split) else Split(jnp.asarray(value, float), jnp.zeros((), float))


def split(value: float) -> Split:
    """A Python float in two float32; exact in float64 arithmetic, to 48 bits in float32."""
    hi = float(np.float32(value))
    return Split(hi, value - hi)


def count(n: Array) -> Split:
    """A whole number as two floats, since float32 alone has no odd numbers beyond 2^24."""
    hi = jnp.asarray(n, float)
    return Split(hi, jnp.asarray(n - hi.astype(n.dtype), float))


def progress(step: Array, steps: ArrayLike) -> tuple[Array, Array]:
    """The elapsed and the remaining fraction of a ramp, each in [0, 1] with full relative precision. They add up
    to 1, and are (1, 0) for a ramp of 0 steps.

    Both are computed from integer differences. The difference `1 - elapsed` would lose all digits near the end of a
    long ramp: a float32 cosine written this way is 20 % off after 10,000 steps.
    """
    steps = jnp.asarray(steps)
    elapsed = jnp.clip(step, 0, steps)
    remaining = steps - elapsed
    length = jnp.maximum(steps, 1)
    return jnp.where(steps > 0, elapsed / length, 1.0), remaining / length


def fraction(step: Array, steps: ArrayLike) -> Split:
    """The elapsed fraction of a ramp, with twice the digits, for use as an exponent.

    `hi` holds the first 12 bits, a whole number of 4096ths, and `lo` the rest. The rest is exact even if
    `4096 * elapsed` overflows: integers wrap around, and the difference is small.
    """
    steps = jnp.asarray(steps)
    elapsed = jnp.clip(step, 0, steps)
    length = jnp.maximum(steps, 1)
    coarse = jnp.round(4096 * (elapsed / length)).astype(length.dtype)
    rest = (4096 * elapsed - coarse * length) / length
    return Split(jnp.where(steps > 0, coarse / 4096, 1.0), rest / 4096)


def divided(number: Array, by: ArrayLike) -> tuple[Array, Array]:
    """`number // by` and `number % by` of numbers that are not negative, in a third of the operations of `divmod`,
    which takes care of their signs."""
    number, by = jnp.broadcast_arrays(number, jnp.asarray(by, number.dtype))
    rest = jax.lax.rem(number, by)
    if jnp.issubdtype(number.dtype, jnp.integer):
        return jax.lax.div(number, by), rest
    return jnp.round((number - rest) / by), rest


def timescales(step: Array, timescale: ArrayLike) -> Split:
    """1 + step / timescale, with twice the digits."""
    times, rest = divided(step, timescale)
    whole, part = count(times), fraction(rest, timescale)
    beyond = 1 + part.hi  # exact, as the fraction has 12 bits
    below_2 = beyond + part.lo
    hi = whole.hi + below_2
    return Split(hi, (below_2 - (hi - whole.hi)) + (part.lo - (below_2 - beyond)) + whole.lo)


def power(base: Split | ArrayLike, exponent: Split | ArrayLike, scale: ArrayLike | None = None) -> Array:
    r"""scale * base ** exponent for a base that is not negative; 0 where the base is 0.

    $$(h + l)^{e + d} = h^e \exp\big(d \log h + (e + d) \log(1 + l / h)\big)$$

    Results are limited to below the largest float, and become 0 below the smallest.
    """
    (hi, lo), exponent = pair(base), pair(exponent)
    positive = hi > 0
    hi = jnp.where(positive, hi, 1.0)
    # No derivative with respect to lo, since it would overflow for a small hi.
    log, small = jnp.log(hi), lo / jax.lax.stop_gradient(hi)
    rest = small * (1 - small / 2)  # log(1 + small): more terms would not change a digit
    # Limits the exponent where the result would overflow, or for exponents above 1 its derivatives would.
    largest = np.log(float(jnp.finfo(hi.dtype).max)) * (1 - 1e-6)
    size, slope = jnp.abs(exponent.hi), log + rest
    room = jnp.where(size > 1, 5 + jnp.log(jnp.clip(size, 1.0, float(MAX_STEPS))), 0.0)
    taken = 0.0 if scale is None else jnp.clip(jnp.log(jnp.abs(scale)), -largest, 0.5 * largest)
    most = jnp.where(slope * exponent.hi > 0, largest - room - taken, 5 * largest)
    most = jax.lax.stop_gradient(most / jnp.abs(slope))
    e, d = jnp.clip(exponent.hi, -most, most), jnp.where(size < most, exponent.lo, 0.0)
    # Multiply in two halves, since h^e alone may be out of range where its product with the scale is not.
    half = hi ** (e / 2)
    rest = jnp.exp(d * log + (e + d) * rest)
    return jnp.where(positive, half * (rest if scale is None else scale * rest) * half, 0.0)


def geometric(start: ArrayLike, end: ArrayLike, step: Array, steps: ArrayLike) -> Array:
    """start^(1 - e) * end^e for the elapsed fraction e of a ramp; `start` and `end` are positive."""
    steps = jnp.asarray(steps)
    remaining = fraction(steps - jnp.clip(step, 0, steps), steps)
    left = Split(jnp.where(steps > 0, remaining.hi, 0.0), remaining.lo)
    return power(start, left, power(end, fraction(step, steps)))


def lengthen(steps: Array, factor: Split | ArrayLike) -> Array:
    """`steps * factor` to the nearest whole number, at most MAX_STEPS.

    It is the sum of three products: with the whole part of the factor, with the whole 4096ths of its fraction (4096
    steps at a time), and with the rest. The first two are exact, in integers.
    """
    factor, length = pair(factor), jnp.asarray(steps, float)
    whole = jnp.floor(factor.hi)
    part = 4096 * (factor.hi - whole)
    coarse = jnp.floor(part)
    fine = (part - coarse) + 4096 * factor.lo
    many, few = divided(steps, 4096)
    rest = jnp.asarray(many, float) * fine + jnp.asarray(few, float) * ((coarse + fine) / 4096)
    product = (
        steps * whole.astype(steps.dtype) + many * coarse.astype(steps.dtype) + jnp.round(rest).astype(steps.dtype)
    )
    # Near MAX_STEPS a float is too coarse to tell on which side of it the product lies.
    beyond = (length * factor.hi > 1.01 * MAX_STEPS) | (product < 0) | (product > MAX_STEPS)
    return jnp.where(beyond, jnp.asarray(MAX_STEPS, steps.dtype), product)


def plus(step: Array, steps: ArrayLike) -> Array:
    """`step + steps`, at most the last step of the dtype: integers would wrap around."""
    return step + jnp.minimum(steps, _last(step) - step)


def times(step: Array, factor: ArrayLike) -> tuple[Array, Array]:
    """`step * factor`, and whether that fits: integers stop at the last step of the dtype and do not wrap around."""
    factor, last = jnp.asarray(factor, step.dtype), _last(step)
    if not jnp.issubdtype(step.dtype, jnp.integer):
        return step * factor, jnp.asarray(True)
    fits = step <= last // jnp.maximum(factor, 1)
    return jnp.where(fits, step * factor, last), fits


def _last(step: Array) -> Array:
    integer = jnp.issubdtype(step.dtype, jnp.integer)
    return jnp.asarray(jnp.iinfo(step.dtype).max if integer else jnp.inf, step.dtype)


def passed(step: Array, boundaries: Any) -> Array:
    """How many of `boundaries` are at or before `step`.

    A few are compared all at once. Many are searched by an unrolled bisection, whose size grows with the logarithm of
    their number and which, unlike a loop, never makes an accelerator wait for the host.
    """
    boundaries = jnp.asarray(boundaries)
    if boundaries.shape[0] <= FEW:
        return jnp.sum(boundaries <= step, dtype=jnp.int32)
    return jnp.searchsorted(boundaries, step, side="right", method="scan_unrolled")


def entry(table: ArrayLike, place: Array) -> Array:
    """`table[place]` of whole numbers."""
    table = jnp.asarray(table)
    if table.shape[0] > FEW:
        return table[place]
    return jax.lax.select_n(place, *table)
