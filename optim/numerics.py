"""The few operations in which optimizers lose digits, done so that they do not."""

from decimal import Decimal
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from schedules import Schedule
from schedules.numerics import Split


def lerp(a: Array, b: Array, weight: Array) -> Array:
    """(1 - weight) a + weight b in the dtype of `a`; exactly `a` at weight 0 and `b` at weight 1.

    A product with (1 - weight) would not do: for a weight of 1e-4 float32 rounds it by as much as 3e-4
    of the weight, the same way at every update, and an exponential average drifts by that much.
    """
    weight, b = weight.astype(a.dtype), b.astype(a.dtype)
    near = weight < 0.5
    # Half the difference, which is exact and does not overflow.
    between = jnp.where(near, a, b) + jnp.where(near, 2 * weight, 2 * (weight - 1)) * (b / 2 - a / 2)
    return jnp.where(weight == 1, b, between)  # also where a is not finite


def limit(v: Array, m: Array) -> float:
    """The largest gradient that enters the moments v, which holds its square, and m; 9.2e18 in float32.

    docs/optimizers.md, "Infinite and NaN gradients", says why.
    """
    return min(2.0 ** (jnp.finfo(v.dtype).maxexp // 2 - 1), float(jnp.finfo(m.dtype).max))


def limited(g: Array, like: Array, most: float) -> Array:
    """`g` from -most to most, in the dtype of `like`; NaN where it is not finite."""
    # The difference is NaN, without a NaN in the code, at which `jax_debug_nans` would stop.
    return jnp.where(jnp.isfinite(g), jnp.clip(g.astype(like.dtype), -most, most), (g - g).astype(like.dtype))


def squared(g: Array, like: Array, most: float) -> Array:
    """The square of `g` limited so. It is formed of `g` itself, since XLA does not fuse the moments if of `limited`."""
    return jnp.minimum(g.astype(like.dtype) ** 2, most**2)


def direction(m: Array, v: Array, unbias1: Array, unbias2: Array, eps: Array, eps_root: Array | None = None) -> Array:
    r"""The step of Adam, $\hat m / (\sqrt{\hat v + \mathrm{eps\_root}} + \mathrm{eps})$.

    It is finite whatever the moments, and also for an eps of 0.

    The mean square is at least the smallest float: it is 0 for a zero gradient, and for one so small that its
    square is. The factor of its correction would overflow inside the root.
    """
    v = v if eps_root is None else v + (eps_root / unbias2).astype(v.dtype)
    root = jnp.sqrt(jnp.maximum(v, jnp.finfo(v.dtype).tiny)) * jnp.sqrt(unbias2).astype(v.dtype)
    return m * unbias1.astype(v.dtype) / (root + eps.astype(v.dtype))


def one_minus_power(complement: Array, t: Array) -> Array:
    """1 - b**t from the complement 1 - b, without cancellation: `-expm1(t log b)`.

    The complement is the argument because float32 holds 1 - 0.9999 to seven digits, but 0.9999 only to
    three digits of the difference.
    """
    below_1 = jnp.minimum(complement, 1 - 2.0**-23)  # where the logarithm and its derivative are finite
    return jnp.where(complement >= 1, 1.0, -jnp.expm1(t.astype(complement.dtype) * jnp.log1p(-below_1)))


def accumulate(total: Split, term: Array) -> Split:
    """total + term, with what the rounding of the sum leaves over kept beside it.

    A plain float32 sum of equal terms takes each of them up to 1e-3 too large or too small once it is
    10,000 of them.
    """
    term = term + total.lo
    hi = total.hi + term
    return Split(hi, term - (hi - total.hi))  # exact for |total| >= |term|; else off by a digit of the term


def widen(tree: Any) -> Any:
    """`tree` in float32 or wider: sums of small steps are lost in half precision."""
    return jax.tree.map(lambda p: jnp.asarray(p, _wide(p)), tree)


def zeros(tree: Any, dtype: DTypeLike | None = None) -> Any:
    """Zeros of the shapes of `tree`, in `dtype` or else in float32 or wider."""
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype or _wide(p)), tree)


def _wide(p: Any) -> Any:
    # Not promote_types, which refuses half precision where promotion is strict.
    dtype = jnp.result_type(p)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def like(updates: Any, grads: Any, params: Any) -> Any:
    """Updates in the dtypes of the parameters, or without parameters of the gradients."""

    def cast(u: Array, p: Any) -> Array:
        # Callers may not have jitted: there even a cast to the same dtype costs as much as an operation.
        return u if u.dtype == getattr(p, "dtype", None) else u.astype(jnp.result_type(p))

    return jax.tree.map(cast, updates, grads if params is None else params)


def at(schedules: Any, count: ArrayLike) -> Any:
    """The values of a tree of schedules, each float32 (float64 where x64 is enabled)."""
    return jax.tree.map(lambda s: s(count), schedules, is_leaf=lambda node: isinstance(node, Schedule))


def complement(value: Any) -> Any:
    """1 - value: of a Python number the decimal that was typed, of a schedule a schedule."""
    return float(1 - Decimal(repr(float(value)))) if isinstance(value, int | float) else 1 - value


def is_zero(value: Any) -> bool:
    """Whether a hyperparameter is the number 0, for which nothing need be stored."""
    return isinstance(value, int | float) and value == 0
