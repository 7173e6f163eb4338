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


def power(base: Split | ArrayLike, exponent: Split | ArrayLike, growth: float = 0.7) -> Array:
    r"""base ** exponent of a base and an exponent that are not negative, held within the range of floats.

    $$(h + l)^{e + d} = h^e \exp\big(d \log h + (e + d) \log(1 + l / h)\big)$$
    """
    (hi, lo), exponent = pair(base), pair(exponent)
    positive = hi > 0
    hi = jnp.where(positive, hi, 1.0)
    # The digits in lo are not worth a derivative, which would overflow for a small hi.
    log, small = jnp.log(hi), lo / jax.lax.stop_gradient(hi)
    rest = small * (1 - small / 2)  # log(1 + small), to the last digit of so small a number
    # Beyond these a power is not finite, or for large exponents its derivatives are not.
    limit = np.log(float(jnp.finfo(hi.dtype).max)) * jnp.where(log + rest > 0, growth, 0.98)
    most = limit / jnp.abs(jax.lax.stop_gradient(log + rest))
    e, d = jnp.minimum(exponent.hi, most), jnp.where(exponent.hi < most, exponent.lo, 0.0)
    # In halves, since h^e alone may be out of range.
    half = hi ** (e / 2)
    return jnp.where(positive, half * jnp.exp(d * log + (e + d) * rest) * half, 0.0)


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
    return jnp.where(length * factor.hi < MAX_STEPS, product, jnp.asarray(MAX_STEPS, steps.dtype))


def plus(step: Array, steps: ArrayLike) -> Array:
    """`step + steps`, at most the last step there is: integers would wrap around."""
    return step + jnp.minimum(steps, _last(step) - step)


def times(step: Array, factor: ArrayLike) -> Array:
    """`step * factor`, at most the last step there is: integers would wrap around."""
    factor, last = jnp.asarray(factor, step.dtype), _last(step)
    if not jnp.issubdtype(step.dtype, jnp.integer):
        return step * factor
    return jnp.where(step <= last // jnp.maximum(factor, 1), step * factor, last)


def _last(step: Array) -> Array:
    integer = jnp.issubdtype(step.dtype, jnp.integer)
    return jnp.asarray(jnp.iinfo(step.dtype).max if integer else jnp.inf, step.dtype)
