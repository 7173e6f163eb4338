"""Operations of optimizers in which a plain formula would lose digits or overflow."""

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

    It does not multiply by (1 - weight): for a weight of 1e-4, float32 rounds this factor by up to 3e-4 of the weight,
    in the same direction at every update, so that an exponential average would drift.
    """
    weight, b = weight.astype(a.dtype), b.astype(a.dtype)
    near = weight < 0.5
    # Halve both before subtracting, which is exact and does not overflow.
    between = jnp.where(near, a, b) + jnp.where(near, 2 * weight, 2 * (weight - 1)) * (b / 2 - a / 2)
    return jnp.where(weight == 1, b, between)  # also where a is not finite


def limit(v: Array, m: Array) -> float:
    """The largest gradient for the moments m and v (v holds its square), 9.2e18 in float32.

    See docs/optimizers.md, "Infinite and NaN gradients".
    """
    return min(2.0 ** (jnp.finfo(v.dtype).maxexp // 2 - 1), float(jnp.finfo(m.dtype).max))


def limited(g: Array, like: Array, most: float) -> Array:
    """`g` clipped to [-most, most], in the dtype of `like`; NaN where it is not finite."""
    # g - g is NaN there. A constant NaN would make `jax_debug_nans` stop at every update.
    return jnp.where(jnp.isfinite(g), jnp.clip(g.astype(like.dtype), -most, most), (g - g).astype(like.dtype))


def squared(g: Array, like: Array, most: float) -> Array:
    """The square of `limited`. It is computed from `g`, since XLA would not fuse the moments otherwise."""
    return jnp.minimum(g.astype(like.dtype) ** 2, most**2)


def direction(m: Array, v: Array, unbias1: Array, unbias2: Array, eps: Array, eps_root: Array | None = None) -> Array:
    r"""The step of Adam, $\hat m / (\sqrt{\hat v + \mathrm{eps\_root}} + \mathrm{eps})$.

    It is finite for all finite moments, even if eps is 0: v is raised to the smallest float, since it is 0 for
    gradients whose square underflows. The bias correction is taken out of the root, where it would overflow.
    """
    v = v if eps_root is None else v + (eps_root / unbias2).astype(v.dtype)
    root = jnp.sqrt(jnp.maximum(v, jnp.finfo(v.dtype).tiny)) * jnp.sqrt(unbias2).astype(v.dtype)
    return m * unbias1.astype(v.dtype) / (root + eps.astype(v.dtype))


def one_minus_power(complement: Array, t: Array) -> Array:
    """1 - b**t from the complement 1 - b, without cancellation: `-expm1(t log b)`.

    The argument is the complement, since float32 holds 1 - 0.9999 to seven digits, but keeps only three of them in
    0.9999.
    """
    below_1 = jnp.minimum(complement, 1 - 2.0**-23)  # so that the logarithm and its derivative are finite
    return jnp.where(complement >= 1, 1.0, -jnp.expm1(t.astype(complement.dtype) * jnp.log1p(-below_1)))


def accumulate(total: Split, term: Array) -> Split:
    """total + term, with the rounding error of the sum kept in `lo`.

    In a plain float32 sum of 10,000 equal terms, each further term is added with an error of up to 1e-3 of it.
    """
    term = term + total.lo
    hi = total.hi + term
    return Split(hi, term - (hi - total.hi))  # exact for |total| >= |term|; otherwise off by a digit of the term


def widen(tree: Any) -> Any:
    """`tree` in float32 or wider, since half precision would lose small steps."""
    return jax.tree.map(lambda p: jnp.asarray(p, _wide(p)), tree)


def zeros(tree: Any, dtype: DTypeLike | None = None) -> Any:
    """Zeros of the shapes of `tree`, in `dtype` or else in float32 or wider."""
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype or _wide(p)), tree)


def _wide(p: Any) -> Any:
    # Not promote_types, which raises for half precision under strict dtype promotion.
    dtype = jnp.result_type(p)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def like(updates: Any, grads: Any, params: Any) -> Any:
    """Updates in the dtypes of the parameters, or of the gradients if there are no parameters."""

    def cast(u: Array, p: Any) -> Array:
        # Skip casts to the same dtype: outside of jit, even these cost as much as an operation.
        return u if u.dtype == getattr(p, "dtype", None) else u.astype(jnp.result_type(p))

    return jax.tree.map(cast, updates, grads if params is None else params)


def at(schedules: Any, count: ArrayLike) -> Any:
    """The values of a tree of schedules, each float32 (float64 where x64 is enabled)."""
    return jax.tree.map(lambda s: s(count), schedules, is_leaf=lambda node: isinstance(node, Schedule))


def complement(value: Any) -> Any:
    """1 - value, as a schedule for a schedule. For a Python number it is exact in decimals: 1 - 0.9 is 0.1."""
    return float(1 - Decimal(repr(float(value)))) if isinstance(value, int | float) else 1 - value


def is_zero(value: Any) -> bool:
    """Whether a hyperparameter is the number 0, so that nothing needs to be stored for it."""
    return isinstance(value, int | float) and value == 0
