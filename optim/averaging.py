"""Averages of the parameters: the coefficients, and the one wrapper that keeps an average.

A coefficient is a schedule c(t), the weight of the newest parameters in the average:

    x <- (1 - c(t)) x + c(t) z

`polyak()` weighs all parameters alike, `ema(decay)` recent ones more. Both are 1 at the first update,
so that the average begins with the first updated parameters and needs no further correction.
"""

import functools
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from optim.numerics import lerp, one_minus_power, widen
from schedules import Schedule, ScheduleLike, as_schedule, schedule
from schedules.kinds import Number

Window = Annotated[float | Array, Number(float, "a number of updates, 1 or more", least=1)]


@schedule
def polyak(step: Array) -> Array:
    r"""The uniform average of all updated parameters.

    $$c(t) = \frac{1}{t + 1}$$

    Source: Polyak and Juditsky, *Acceleration of stochastic approximation by averaging*, 1992.
    """
    return 1 / (step.astype(float) + 1)  # as a float: the last int32 step has no successor


@schedule
def exponential_average(step: Array, window: Window) -> Array:
    r"""The bias-corrected exponential average over about the last `window` updates.

    $$c(t) = \frac{1 - r}{1 - r^{t+1}}, \qquad r = 1 - 1 / \mathrm{window}$$

    The weight of the parameters k updates ago is proportional to r^k.
    """
    rate = 1 / window
    # Below 1, so that the derivative of the logarithm stays finite at a window of one update.
    inside = jnp.minimum(rate, 1 - 2.0**-23)
    return jnp.minimum(rate / one_minus_power(inside, step.astype(float) + 1), 1.0)


def ema(decay: float | Array) -> Schedule:
    """The bias-corrected exponential average with this decay: `exponential_average(1 / (1 - decay))`.

    The window is formed from the decimal that was typed: `ema(0.9999)` has a window of 10,000 updates,
    where 1 / (1 - 0.9999) in float32 gives 9,998.

    **Raises:** `ValueError` if `decay` is a number outside [0, 1).
    """
    if isinstance(decay, Array):
        return exponential_average(1 / (1 - decay))
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 <= decay < 1:
        raise ValueError(f"ema: `decay` must be a number from 0 to below 1, got {decay!r}")
    return exponential_average(float(1 / (1 - Decimal(repr(float(decay))))))


class AverageState(NamedTuple):
    count: Array  # type: ignore[assignment]  # updates applied; int32, shape ()
    x: Any  # the average, where the model is evaluated; the shapes of the parameters, float32 or wider
    z: Any  # the live parameters that the base moves, likewise; None where the caller holds them
    base: Any  # the state of the base


def average(
    base: optax.GradientTransformation, coefficient: ScheduleLike, beta: ScheduleLike = 0.0
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps an average of the parameters beside any optimizer. `eval_params` reads it.

    Three sequences: z, the live parameters that `base` moves; x, their average; and y between the two,
    which is what the caller holds and takes gradients at.

    $$z \leftarrow z + \mathrm{base}(\nabla f(y)), \qquad x \leftarrow (1 - c_t)\, x + c_t\, z, \qquad
      y \leftarrow (1 - \beta_t)\, z + \beta_t\, x$$

    With `beta=0` (the default) y is z: the run is bit for bit that of `base`, and only x is stored. With
    `beta` near 0.9 this is schedule-free optimization, see `schedule_free`; with `beta=1` primal averaging.

    **Arguments:** `base`: any optax transformation whose output is added to the parameters; `coefficient`:
    c, `polyak()`, `ema(decay)` or any schedule with values in [0, 1]; `beta`: a number or a schedule. All
    are read at the number of updates already applied.

    x, z and the arithmetic of the base (where it is given z) are float32 or wider, so averages of
    bfloat16 parameters lose nothing. A wrapper and not a link of a chain, where it could be put before
    the learning rate and average the wrong thing in silence.

    **Raises:** `ValueError` if `update` is called without `params`.
    """
    base = optax.with_extra_args_support(base)
    holds_live = isinstance(beta, int | float) and beta == 0
    coefficient, beta = as_schedule(coefficient), as_schedule(beta)

    def init(params: Any) -> AverageState:
        def copy() -> Any:
            # Never the caller's buffers: parameters and state may be donated to one jitted function.
            return jax.tree.map(jnp.copy, widen(params))

        z = None if holds_live else copy()
        return AverageState(jnp.zeros((), jnp.int32), copy(), z, base.init(params if holds_live else z))

    def update(grads: Any, state: AverageState, params: Any = None, **extra_args: Any) -> tuple[Any, AverageState]:
        if params is None:
            raise ValueError("average: `params` must be passed to update(grads, state, params), got None")
        count = optax.safe_increment(state.count)
        if holds_live:
            updates, base_state = base.update(grads, state.base, params, **extra_args)
            x = _average(coefficient, state.count, state.x, params, updates)
            return updates, AverageState(count, x, None, base_state)
        y = widen(params)
        steps, base_state = base.update(widen(grads), state.base, y, **extra_args)
        updates, x, z = _interpolate(coefficient, beta, state.count, state.x, state.z, y, steps)
        return updates, AverageState(count, x, z, base_state)

    return optax.GradientTransformationExtraArgs(init, update)


@functools.partial(jax.jit, inline=True)
def _average(coefficient: Schedule, count: Array, x: Any, params: Any, updates: Any) -> Any:
    c = coefficient(count)
    z = optax.apply_updates(params, updates)  # rounded as the caller's will be
    return jax.tree.map(lambda x, z: lerp(x, z, c), x, z)


@functools.partial(jax.jit, inline=True)
def _interpolate(
    coefficient: Schedule, beta: Schedule, count: Array, x: Any, z: Any, y: Any, steps: Any
) -> tuple[Any, Any, Any]:
    c, b = coefficient(count), beta(count)
    z = jax.tree.map(lambda z, s: z + s, z, steps)
    x = jax.tree.map(lambda x, z: lerp(x, z, c), x, z)
    updates = jax.tree.map(lambda z, x, y: lerp(z, x, b) - y, z, x, y)
    return updates, x, z
