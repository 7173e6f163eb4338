"""The arithmetic of schedules: fractions of a ramp, powers and whole numbers of steps, without lost digits.

Schedules are computed in float32 and must still be right after 2^31 steps. Three things would spoil that:
a difference taken after rounding, an exponent that is rounded before it is multiplied by a logarithm, and
a number such as 0.9999, of whose distance from 1 float32 keeps three digits. Hence integers are subtracted
before they become floats, and exponents and factors are kept as the sum of two floats.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

MAX_STEPS = 2**31 - 1  # steps are counted in int32, as optax counts updates


class Split(NamedTuple):
    """A number as the sum hi + lo of two floats, which together hold twice the digits of one."""

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
    """A whole number in two floats: float32 alone has no odd numbers beyond 2^24."""
    hi = jnp.asarray(n, float)
    return Split(hi, jnp.asarray(n - hi.astype(n.dtype), float))


def progress(step: Array, steps: ArrayLike) -> tuple[Array, Array]:
    """The fractions of a ramp that have elapsed and that remain, each in [0, 1] with full relative
    precision; they add up to 1, and are (1, 0) for a ramp of no steps.

    Both are integer differences before they become floats. Of one fraction e, `1 - e` keeps no digits
    near the end of a long ramp: in float32 a cosine written so is 20 % off after 10,000 steps.
    """
    steps = jnp.asarray(steps)
    elapsed = jnp.clip(step, 0, steps)
    remaining = steps - elapsed
    length = jnp.maximum(steps, 1)
    return jnp.where(steps > 0, elapsed / length, 1.0), remaining / length


def fraction(step: Array, steps: ArrayLike) -> Split:
    """The fraction of a ramp that has elapsed, with twice the digits: an exponent.

    The first 12 bits are taken off as a whole number of 4096ths. What they leave is exact although
    `4096 * elapsed` may overflow: integers wrap around, and the difference is small.
    """
    steps = jnp.asarray(steps)
    elapsed = jnp.clip(step, 0, steps)
    length = jnp.maximum(steps, 1)
    coarse = jnp.round(4096 * (elapsed / length)).astype(length.dtype)
    rest = (4096 * elapsed - coarse * length) / length
    return Split(jnp.where(steps > 0, coarse / 4096, 1.0), rest / 4096)


def timescales(step: Array, timescale: ArrayLike) -> Split:
    """1 + step / timescale with twice the digits."""
    whole, part = count(step // timescale), fraction(step % timescale, timescale)
    beyond = 1 + part.hi  # exact, as the fraction has 12 bits
    below_2 = beyond + part.lo
    hi = whole.hi + below_2
    return Split(hi, (below_2 - (hi - whole.hi)) + (part.lo - (below_2 - beyond)) + whole.lo)


def power(base: Split | ArrayLike, exponent: Split | ArrayLike, scale: ArrayLike = 1.0) -> Array:
    r"""scale * base ** exponent of a base that is not negative; 0 where it is 0.

    $$(h + l)^{e + d} = h^e \exp\big(d \log h + (e + d) \log(1 + l / h)\big)$$

    What grows stops before the largest float; what decays ends at 0.
    """
    (hi, lo), exponent = pair(base), pair(exponent)
    positive = hi > 0
    hi = jnp.where(positive, hi, 1.0)
    # The digits in lo are not worth a derivative, which would overflow for a small hi.
    log, small = jnp.log(hi), lo / jax.lax.stop_gradient(hi)
    rest = small * (1 - small / 2)  # log(1 + small), to the last digit of so small a number
    # Beyond this the result is no longer a float, or for exponents above 1 its derivatives are not.
    largest = np.log(float(jnp.finfo(hi.dtype).max)) * (1 - 1e-6)
    room = jnp.where(jnp.abs(exponent.hi) > 1, 5 + jnp.log(jnp.clip(jnp.abs(exponent.hi), 1, MAX_STEPS)), 0.0)
    taken = jnp.clip(jnp.log(jnp.abs(scale)), -largest, 0.5 * largest)
    most = jnp.where((log + rest) * exponent.hi > 0, largest - room - taken, 5 * largest)
    most = jax.lax.stop_gradient(most / jnp.abs(log + rest))
    e, d = jnp.clip(exponent.hi, -most, most), jnp.where(jnp.abs(exponent.hi) < most, exponent.lo, 0.0)
    # In halves, since h^e alone may be out of range where its product with the scale is not.
    half = hi ** (e / 2)
    return jnp.where(positive, half * (scale * jnp.exp(d * log + (e + d) * rest)) * half, 0.0)


def geometric(start: ArrayLike, end: ArrayLike, step: Array, steps: ArrayLike) -> Array:
    """start^(1 - e) * end^e for the fraction e of a ramp that has elapsed; both are positive."""
    steps = jnp.asarray(steps)
    remaining = fraction(steps - jnp.clip(step, 0, steps), steps)
    left = Split(jnp.where(steps > 0, remaining.hi, 0.0), remaining.lo)
    return power(start, left, power(end, fraction(step, steps)))


def lengthen(steps: Array, factor: Split | ArrayLike) -> Array:
    """`steps * factor` to the nearest whole number, at most MAX_STEPS.

    In three products: the whole part of the factor, 4096ths of the rest times 4096 steps at a time, and what
    is left. The first two are integers.
    """
    factor, length = pair(factor), jnp.asarray(steps, float)
    whole = jnp.floor(factor.hi)
    part = 4096 * (factor.hi - whole)
    coarse = jnp.floor(part)
    fine = (part - coarse) + 4096 * factor.lo
    many, few = steps // 4096, steps % 4096
    rest = jnp.asarray(many, float) * fine + jnp.asarray(few, float) * ((coarse + fine) / 4096)
    product = (
        steps * whole.astype(steps.dtype) + many * coarse.astype(steps.dtype) + jnp.round(rest).astype(steps.dtype)
    )
    # Close to the last step there is, a float is too coarse to tell on which side the product lies.
    beyond = (length * factor.hi > 1.01 * MAX_STEPS) | (product < 0) | (product > MAX_STEPS)
    return jnp.where(beyond, jnp.asarray(MAX_STEPS, steps.dtype), product)


def plus(step: Array, steps: ArrayLike) -> Array:
    """`step + steps`, at most the last step there is: integers would wrap around."""
    return step + jnp.minimum(steps, _last(step) - step)


def times(step: Array, factor: ArrayLike) -> tuple[Array, Array]:
    """`step * factor`, and whether it is; integers stop at the last step there is, where they would wrap around."""
    factor, last = jnp.asarray(factor, step.dtype), _last(step)
    if not jnp.issubdtype(step.dtype, jnp.integer):
        return step * factor, jnp.asarray(True)
    fits = step <= last // jnp.maximum(factor, 1)
    return jnp.where(fits, step * factor, last), fits


def _last(step: Array) -> Array:
    integer = jnp.issubdtype(step.dtype, jnp.integer)
    return jnp.asarray(jnp.iinfo(step.dtype).max if integer else jnp.inf, step.dtype)


def passed(step: Array, boundaries: Any) -> Array:
    """How many of `boundaries` lie at or before `step`.

    A few are compared at once. Many are searched in unrolled bisections, which grow with the logarithm of their
    number and, unlike a loop, never make an accelerator wait for its host.
    """
    boundaries = jnp.asarray(boundaries)
    few = boundaries.shape[0] <= 32
    return jnp.searchsorted(boundaries, step, side="right", method="compare_all" if few else "scan_unrolled")
