"""Adam, written by hand: each line of `_update` is a line of the paper."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from optim.numerics import fraction, lerp, one_minus_power, widen
from schedules import Schedule, ScheduleLike, as_schedule


class AdamState(NamedTuple):
    count: Array  # type: ignore[assignment]  # updates applied; int32, shape ()
    mu: Any  # running mean of the gradients m; the shapes of the parameters, float32 or wider
    nu: Any  # running mean of their squares v; likewise


class _Hyperparameters(NamedTuple):
    """A pytree of schedules: an argument of the jitted update, so that no number is compiled in."""

    learning_rate: Schedule
    a1: Schedule  # 1 - b1
    a2: Schedule  # 1 - b2
    eps: Schedule


def adam(
    learning_rate: ScheduleLike, b1: ScheduleLike = 0.9, b2: ScheduleLike = 0.999, eps: ScheduleLike = 1e-8
) -> optax.GradientTransformationExtraArgs:
    r"""Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1).

    With t = 1 at the first update, which reads every schedule at step 0:

    $$m \leftarrow b_1 m + (1 - b_1)\, g, \qquad v \leftarrow b_2 v + (1 - b_2)\, g^2, \qquad
      \Delta = -\,\mathrm{lr}\, \frac{m / (1 - b_1^t)}{\sqrt{v / (1 - b_2^t)} + \mathrm{eps}}$$

    Every hyperparameter is a number or a schedule. A scheduled b1 or b2 corrects with its present value,
    as PyTorch and optax do. Moments are float32 or wider, updates have the dtype of the gradients.

    **Raises:** `ValueError` if b1 or b2 is a number outside [0, 1), or an argument is no schedule.
    """
    a1, a2 = 1 - fraction("adam", "b1", b1), 1 - fraction("adam", "b2", b2)
    hyperparameters = _Hyperparameters(*map(as_schedule, (learning_rate, a1, a2, eps)))

    def init(params: Any) -> AdamState:
        zeros = jax.tree.map(jnp.zeros_like, widen(params))
        return AdamState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, zeros))

    def update(grads: Any, state: AdamState, params: Any = None, **extra_args: Any) -> tuple[Any, AdamState]:
        del params, extra_args
        return _update(hyperparameters, grads, state)

    return optax.GradientTransformationExtraArgs(init, update)


@functools.partial(jax.jit, inline=True)
def _update(hyperparameters: _Hyperparameters, grads: Any, state: AdamState) -> tuple[Any, AdamState]:
    lr, a1, a2, eps = (schedule(state.count) for schedule in hyperparameters)
    t = optax.safe_increment(state.count)
    mu = jax.tree.map(lambda m, g: lerp(m, g, a1), state.mu, grads)
    nu = jax.tree.map(lambda v, g: lerp(v, g.astype(v.dtype) ** 2, a2), state.nu, grads)
    unbias1, unbias2 = 1 / one_minus_power(a1, t), 1 / one_minus_power(a2, t)

    def step(m: Array, v: Array, g: Array) -> Array:
        m_hat, v_hat = m * unbias1.astype(m.dtype), v * unbias2.astype(v.dtype)
        return (-lr.astype(m.dtype) * m_hat / (jnp.sqrt(v_hat) + eps.astype(v.dtype))).astype(g.dtype)

    return jax.tree.map(step, mu, nu, grads), AdamState(t, mu, nu)
