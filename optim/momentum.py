"""Stochastic gradient descent with momentum."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from optim.checks import FractionLike, require_like, require_real, require_state
from optim.numerics import at, is_zero, like, widen, zeros
from schedules import Schedule, ScheduleLike, as_schedule
from schedules.arguments import checked

__all__ = ["sgd", "SgdState"]


class SgdState(NamedTuple):
    count: Array  # type: ignore[assignment]  # updates applied; int32, shape ()
    trace: Any  # u; the shapes of the parameters, float32 or wider; None if momentum is the number 0
    used: dict[str, Array]  # the hyperparameters of the last update


@checked
def sgd(
    learning_rate: ScheduleLike, momentum: FractionLike = 0.0, nesterov: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent with heavy-ball or Nesterov momentum, as in PyTorch and optax.

    $$u \leftarrow \mathrm{momentum} \cdot u + g, \qquad \Delta = -\,\mathrm{lr}\; u \quad\text{or (Nesterov)}\quad
      \Delta = -\,\mathrm{lr}\,(g + \mathrm{momentum} \cdot u)$$

    Both hyperparameters are numbers or schedules, such as `one_cycle` and `one_cycle_momentum`. For L2 decay, put
    `optax.add_decayed_weights` before it in a chain.

    **Raises:** `ValueError` if momentum is a number outside [0, 1), nesterov is not a bool, another
    argument is neither a number nor a schedule, or a parameter is not real.
    """
    hyperparameters = {"learning_rate": as_schedule(learning_rate), "momentum": as_schedule(momentum)}

    def init(params: Any) -> SgdState:
        require_real("sgd", params)
        trace = None if is_zero(momentum) else zeros(params)
        return SgdState(jnp.zeros((), jnp.int32), trace, at(hyperparameters, 0))

    def update(grads: Any, state: SgdState, params: Any = None, **extra_args: Any) -> tuple[Any, SgdState]:
        del extra_args
        require_state("sgd", SgdState, state, trace=not is_zero(momentum))
        require_like("sgd", {"trace": state.trace}, params, grads=grads)
        updates, state = _update(hyperparameters, grads, state, nesterov)
        return like(updates, grads, params), state

    return optax.GradientTransformationExtraArgs(init, update)


@functools.partial(jax.jit, inline=True, static_argnames="nesterov")
def _update(hyperparameters: dict[str, Schedule], grads: Any, state: SgdState, nesterov: bool) -> tuple[Any, SgdState]:
    used = at(hyperparameters, state.count)
    lr, momentum = used["learning_rate"], used["momentum"]

    def heavy(u: Array, g: Array) -> Array:
        return momentum.astype(u.dtype) * u + g.astype(u.dtype)

    def step(u: Array) -> Array:
        return -lr.astype(u.dtype) * u

    trace = None if state.trace is None else jax.tree.map(heavy, state.trace, grads)
    directions = widen(grads) if trace is None else jax.tree.map(heavy, trace, grads) if nesterov else trace
    return jax.tree.map(step, directions), SgdState(optax.safe_increment(state.count), trace, used)
