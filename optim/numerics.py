"""The few operations in which optimizers lose digits, done so that they do not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from schedules import Schedule, ScheduleLike, as_schedule
from schedules.numerics import Split


def lerp(a: Array, b: Array, weight: Array) -> Array:
    """(1 - weight) a + weight b in the dtype of `a`; exactly `a` at weight 0 and `b` at weight 1.

    A product with (1 - weight) would not do: for a weight of 1e-4 float32 rounds it by as much as 3e-4
    of the weight, the same way at every update, and an exponential average drifts by that much.
    """
    weight, b = weight.astype(a.dtype), b.astype(a.dtype)
    near = weight < 0.5
    between = jnp.where(near, a, b) + jnp.where(near, weight, weight - 1) * (b - a)
    return jnp.where(weight == 1, b, between)  # also where a is not finite


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
        dtype = jnp.result_type(p)
        return u if u.dtype == dtype else u.astype(dtype)

    return jax.tree.map(cast, updates, grads if params is None else params)


def require_one(argument: str, metric: ArrayLike) -> None:
    if jnp.shape(metric):
        raise ValueError(f"{argument} must be one number, got an array of shape {jnp.shape(metric)}")


def require_base(optimizer: str, base: Any) -> optax.GradientTransformationExtraArgs:
    if not isinstance(base, optax.GradientTransformation):
        raise ValueError(f"{optimizer}: `base` must be an optax transformation, got {base!r}")
    return optax.with_extra_args_support(base)


def require_real(optimizer: str, params: Any) -> None:
    """Raises the ValueError that names the first parameter that is not of a real floating dtype."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            place = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise ValueError(f"{optimizer}: `params` must be real floating-point arrays, got {dtype}{place}")


def require_params(optimizer: str, params: Any) -> Any:
    if params is None:
        raise ValueError(f"{optimizer}: `params` must be passed to update(grads, state, params), got None")
    return params


def fraction(optimizer: str, name: str, value: ScheduleLike) -> Any:
    """`value` if it is a number in [0, 1); anything but a number as a schedule.

    Numbers stay Python numbers here: 1 - 0.999 must be formed in double precision, before float32.
    """
    value = plain(value)
    if isinstance(value, int | float):
        if not 0 <= value < 1:
            raise ValueError(f"{optimizer}: `{name}` must be a number from 0 to below 1 or a schedule, got {value!r}")
        return value
    return as_named(optimizer, name, value)


def as_named(optimizer: str, name: str, value: ScheduleLike) -> Schedule:
    """`value` as a schedule; raises the ValueError that names the hyperparameter if it cannot be one."""
    try:
        return as_schedule(value)
    except ValueError as error:
        raise ValueError(f"{optimizer}: `{name}` must be a number or a schedule ({error})") from None


def scheduled(optimizer: str, **hyperparameters: ScheduleLike) -> dict[str, Schedule]:
    """Each `as_named`."""
    return {name: as_named(optimizer, name, value) for name, value in hyperparameters.items()}


def at(schedules: Any, count: ArrayLike) -> Any:
    """The values of a tree of schedules, each float32 (float64 where x64 is enabled)."""
    return jax.tree.map(lambda s: s(count), schedules, is_leaf=lambda node: isinstance(node, Schedule))


def plain(value: Any) -> Any:
    """NumPy scalars as Python numbers."""
    return value.item() if isinstance(value, np.generic) else value


def require_share(optimizer: str, name: str, value: Any) -> None:
    """Numbers must be in [0, 1]; schedules and traced values are not checked."""
    value = plain(value)
    if isinstance(value, int | float) and not 0 <= value <= 1:
        raise ValueError(f"{optimizer}: `{name}` must be a number from 0 to 1 or a schedule, got {value!r}")


def is_zero(value: Any) -> bool:
    """Whether a hyperparameter is the number 0, for which nothing need be stored."""
    return isinstance(value, int | float) and value == 0
