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

MAX_STEPS = 2**31 - 1  # steps are counted in int32, as optax counts updates


class Split(NamedTuple):
    """A number as the sum hi + lo of two floats, which together hold twice the digits of one."""

    hi: Any
    lo: Any


def split(value: float) -> Split:
    """A Python float in two float32; exact in float64 arithmetic, to 48 bits in float32."""
    hi = float(np.float32(value))
    return Split(hi, value - hi)


def count(n: Array) -> Split:
    """A whole number in two floats: float32 alone has no odd numbers beyond 2^24."""
    hi = jnp.asarray(n, float)
    return Split(hi, jnp.asarray(n - hi.astype(n.dtype), float))


def progress(step: Array, steps: Array) -> tuple[Array, Array]:
    """The fractions of a ramp that have elapsed and that remain, each in [0, 1] with full relative
    precision; they add up to 1, and are (1, 0) for a ramp of no steps.

    Both are integer differences before they become floats. Of one fraction e, `1 - e` keeps no digits
    near the end of a long ramp: in float32 a cosine written so is 20 % off after 10,000 steps.
    """
    elapsed = jnp.clip(step, 0, steps)
    remaining = steps - elapsed
    length = jnp.maximum(steps, 1)
    return jnp.where(steps > 0, elapsed / length, 1.0), remaining / length


def fraction(step: Array, steps: Array) -> Split:
    """The fraction of a ramp that has elapsed, with twice the digits: an exponent.

    The first 12 bits are taken off as a whole number of 4096ths. What they leave is exact although
    `4096 * elapsed` may overflow: integers wrap around, and the difference is small.
    """
    elapsed = jnp.clip(step, 0, steps)
    length = jnp.maximum(steps, 1)
    coarse = jnp.round(4096 * (elapsed / length)).astype(length.dtype)
    rest = (4096 * elapsed - coarse * length) / length
    return Split(jnp.where(steps > 0, coarse / 4096, 1.0), rest / 4096)


def power(base: Split | Array, exponent: Split | Array) -> Array:
    r"""base ** exponent for base >= 0 and exponent > 0 or base > 0, held within the range of floats.

    $$(h + l)^{e + d} = h^e \exp\big(d \log h + (e + d) \log(1 + l / h)\big)$$
    """
    (hi, lo), exponent = _pair(base), _pair(exponent)
    positive = hi > 0
    hi = jnp.where(positive, hi, 1.0)
    # Beyond this a power is neither finite nor accurate, and its derivatives are NaN.
    limit = 0.98 * np.log(float(jnp.finfo(hi.dtype).max))
    log = jnp.log(hi)
    most = limit / jnp.abs(jax.lax.stop_gradient(log))
    e = jnp.clip(exponent.hi, -most, most)
    correction = exponent.lo * log + (e + exponent.lo) * jnp.log1p(lo / hi)
    done = jax.lax.stop_gradient(e * log)
    value = hi**e * jnp.exp(jnp.clip(correction, -limit - done, limit - done))
    return jnp.where(positive, value, 0.0)


def lengthen(steps: Array, factor: Split) -> Array:
    """`steps * factor` to the nearest whole number, at most MAX_STEPS; exact where the factor is whole."""
    whole = jnp.floor(factor.hi)
    part = (factor.hi - whole) + factor.lo
    product = steps * whole.astype(steps.dtype) + jnp.round(steps * part).astype(steps.dtype)
    return jnp.where(steps * factor.hi < MAX_STEPS, product, jnp.asarray(MAX_STEPS, steps.dtype))


def plus(step: Array, steps: Array) -> Array:
    """`step + steps`, at most MAX_STEPS where integers would wrap around."""
    return step + jnp.minimum(steps, MAX_STEPS - step)


def times(step: Array, factor: Array) -> Array:
    """`step * factor`, at most MAX_STEPS where integers would wrap around."""
    return jnp.where(step <= MAX_STEPS // jnp.maximum(factor, 1), step * factor, jnp.asarray(MAX_STEPS, step.dtype))


def _pair(value: Split | Array) -> Split:
    return value if isinstance(value, Split) else Split(value, jnp.zeros_like(value))
