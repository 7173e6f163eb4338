"""ScheduleFree+: schedule-free Adam with a Polyak step, which is computed from the loss, as its learning rate."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from optim.adaptive import moments
from optim.averaging import interpolated
from optim.checks import (
    Fraction,
    FractionLike,
    NotNegativeLike,
    UpTo4,
    require_like,
    require_one,
    require_params,
    require_real,
    require_state,
)
from optim.coefficients import Weights, WeightSum, weighted
from optim.evaluation import Average
from optim.numerics import at, complement, direction, is_zero, lerp, like, limit, one_minus_power, widen, zeros
from schedules import Schedule, as_schedule, constant, exponential
from schedules.arguments import checked
from schedules.kinds import Index

__all__ = ["schedule_free_plus", "ScheduleFreePlusState"]

_LARGEST = 2.0**126  # of norms and rates: a quarter of the range of float32


class ScheduleFreePlusState(NamedTuple):
    count: Array  # type: ignore[assignment]  # updates applied; int32, shape ()
    x: Any  # the average, to be evaluated; the shapes of the parameters, float32 or wider
    z: Any  # the raw parameters, likewise
    mu: Any  # running mean of the gradients, likewise
    nu: Any  # running mean of their squares, likewise
    norm: Array  # running mean of the gradients' scaled L1 norm
    weights: WeightSum
    used: dict[str, Array]  # the learning rate, coefficient and beta of the last update

    def averages(self) -> Mapping[str | None, Average]:
        """For `eval_params`."""
        return {None: Average(self.x)}


class _Hyperparameters(NamedTuple):
    learning_rate: Schedule
    beta: Schedule
    a1: Schedule  # 1 - b1
    a2: Schedule  # 1 - b2
    eps: Schedule
    weight_decay: Schedule
    norm_weight: Schedule  # 1 - polyak_beta


@checked
def schedule_free_plus(
    learning_rate: NotNegativeLike = 1.0,
    beta: Fraction = 0.9,
    beta_max: Fraction = 0.965,
    beta_steps: Index = 0,
    b1: FractionLike = 0.9,
    b2: FractionLike = 0.95,
    eps: NotNegativeLike = 1e-8,
    weight_decay: NotNegativeLike = 0.0,
    polyak_beta: Fraction = 0.0,
    r: UpTo4 = 0.0,
    weight_lr_power: UpTo4 = 2.0,
    newest_until: Index = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""ScheduleFree+ (Defazio, arXiv:2605.19095). Pass the loss: `update(grads, state, params, value=loss)`.

    The rate is a Polyak step towards a loss of 0, computed from the loss f and the gradients g at y:

    $$\gamma_t = \mathrm{lr}\, \frac{\max\big(0,\, f + \beta_t \langle g, z - x \rangle\big)}{\hat e_t}, \qquad
      e \leftarrow \rho\, e + (1 - \rho) \sqrt{\pi / 2}\, \lVert g \rVert_1, \qquad
      \hat e_t = \frac{e}{1 - \rho^{t+1}}$$

    $$z \leftarrow z - \gamma_t^2 \lambda\, y - \gamma_t\, \frac{\hat m}{\sqrt{\hat v} + \mathrm{eps}}, \qquad
      x \leftarrow (1 - c_t)\, x + c_t\, z, \qquad y \leftarrow (1 - \beta_t)\, z + \beta_t\, x$$

    where $c_t$ are the coefficients of `weighted`. The norm and the rate are computed from all parameters of this
    optimizer: inside `optax.partition`, from those of its group.

    **Arguments:**

    - `learning_rate`: lr, either 1 or a warm-up to 1.
    - `beta`, `beta_max`, `beta_steps`: $\beta_t$ goes from beta to beta_max over `beta_steps` updates, with
      $1 - \beta_t$ on a geometric curve. With `beta_steps=0` it stays at beta.
    - `weight_decay`: $\lambda$. It is multiplied by the square of the rate (AdamC, arXiv:2506.02285), so use 20 to 50,
      not 0.1.
    - `polyak_beta`: $\rho$.
    - `r`, `weight_lr_power`: as in `weighted`.
    - `newest_until`: c is 1 for this many updates; use one or two times the length of the warm-up.

    If the gradients are tiny but the loss is not, the rate is huge: see docs/optimizers.md, "Infinite and NaN
    gradients".

    **Raises:** `ValueError` if b1, b2, beta, beta_max or polyak_beta is a number outside [0, 1), if another number is
    negative, or if `update` is called without `params` or without `value`.
    """
    name = "schedule_free_plus"
    if isinstance(beta_steps, Array):  # may be 0, and then beta must stay
        beta_max = jnp.where(beta_steps == 0, beta, beta_max)
    annealed = constant(beta) if is_zero(beta_steps) else 1 - exponential(1 - beta, 1 - beta_max, beta_steps)
    numbers = (learning_rate, annealed, complement(b1), complement(b2), eps, weight_decay, 1 - polyak_beta)
    hyperparameters = _Hyperparameters(*map(as_schedule, numbers))
    weights = weighted(learning_rate, r, weight_lr_power, start=newest_until)

    def init(params: Any) -> ScheduleFreePlusState:
        require_real(name, params)
        x, z = (jax.tree.map(jnp.copy, widen(params)) for _ in range(2))
        used = {"learning_rate": constant(0.0)(0), "coefficient": constant(1.0)(0), "beta": hyperparameters.beta(0)}
        zero, count = constant(0.0)(0), jnp.zeros((), jnp.int32)
        return ScheduleFreePlusState(count, x, z, zeros(params), zeros(params), zero, weights.init(), used)

    def update(
        grads: Any, state: ScheduleFreePlusState, params: Any = None, *, value: Any = None, **extra_args: Any
    ) -> tuple[Any, ScheduleFreePlusState]:
        del extra_args
        require_state(name, ScheduleFreePlusState, state)
        stored = {"x": state.x, "z": state.z, "mu": state.mu, "nu": state.nu}
        require_like(name, stored, require_params(name, params), grads=grads)
        if value is None:
            raise ValueError(f"{name}: `value` must be the loss, update(grads, state, params, value=loss), got None")
        require_one(f"{name}: `value`", value)
        updates, state = _update(hyperparameters, weights, widen(grads), state, widen(params), value, _half(params))
        return like(updates, grads, params), state

    return optax.GradientTransformationExtraArgs(init, update)


@functools.partial(jax.jit, inline=True)
def _update(
    hyperparameters: _Hyperparameters,
    weights: Weights,
    grads: Any,
    state: ScheduleFreePlusState,
    y: Any,
    value: Array,
    room: Any,
) -> tuple[Any, ScheduleFreePlusState]:
    lr, beta, a1, a2, eps, decay, norm_weight = at(hyperparameters, state.count)
    t = optax.safe_increment(state.count)
    # Limited where the sums overflow. Limiting each element would need another pass over memory.
    slope = jnp.nan_to_num(_sum(lambda g, z, x: g * (z - x), grads, state.z, state.x), nan=0.0)
    length = jnp.minimum(jnp.sqrt(jnp.pi / 2) * _sum(jnp.abs, grads), _LARGEST)
    norm = lerp(state.norm, length.astype(state.norm.dtype), norm_weight)
    rate = _rate(lr, value, beta * slope, norm / one_minus_power(norm_weight, t)).astype(norm.dtype)

    most = jax.tree.map(limit, state.nu, state.mu)
    mu, nu = moments(state.mu, state.nu, grads, a1, a2)
    unbias1, unbias2 = 1 / one_minus_power(a1, t), 1 / one_minus_power(a2, t)

    def move(z: Array, m: Array, v: Array, y: Array, most: float, room: Array) -> Array:
        bound = jnp.minimum(most, room).astype(z.dtype)
        gamma = rate.astype(z.dtype)
        shrink = jnp.minimum(gamma * decay.astype(z.dtype) * gamma, bound)  # 0 for a decay of 0, even for a huge gamma
        step = shrink * y + gamma * direction(m, v, unbias1, unbias2, eps)
        return z - jnp.clip(step, z - bound, z + bound)

    z = jax.tree.map(move, state.z, mu, nu, y, most, room)
    c, sums = weights.update(state.count, state.weights, rate)
    updates, x = interpolated(state.x, z, y, c, beta)
    used = {"learning_rate": rate, "coefficient": c, "beta": beta}
    return updates, ScheduleFreePlusState(t, x, z, mu, nu, norm, sums, used)


def _half(params: Any) -> Any:
    """Half of the largest number of each parameter's dtype, so that differences of two parameters do not overflow."""
    return jax.tree.map(lambda p: float(jnp.finfo(jnp.result_type(p)).max) / 2, params)


def _rate(lr: Array, value: Array, slope: Array, norm: Array) -> Array:
    """The Polyak step; 0 where there is no gradient."""
    step = jnp.minimum(jnp.maximum(value + slope, 0.0) / jnp.where(norm == 0, 1.0, norm), _LARGEST)
    rate = jnp.where(norm == 0, 0.0, jnp.minimum(lr * step, _LARGEST))
    return jnp.where(jnp.isfinite(value), rate, value - value)  # NaN, as in `limited`


def _sum(of: Any, *trees: Any) -> Array:
    """The sum of a function over all numbers of all arrays."""
    return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(jax.tree.map(of, *trees))), jnp.zeros(()))
