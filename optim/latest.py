"""LAWA: the average of the latest parameters, which are kept in a queue."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from optim.checks import Base, require_like, require_params, require_real, require_setting, require_state
from optim.evaluation import Average
from optim.numerics import zeros
from schedules.arguments import checked
from schedules.kinds import Count, Index, Size

__all__ = ["lawa", "LawaState"]


class LawaState(NamedTuple):
    count: Array  # type: ignore[assignment]  # updates applied; int32, shape ()
    kept: Array  # parameters kept so far; likewise
    ring: Any  # the latest parameters; the shapes of the parameters with an axis of length `last` in front
    base: Any  # the state of the base
    used: dict[str, Array]  # how many parameters are averaged

    def averages(self) -> Mapping[str | None, Average]:
        """For `eval_params`."""
        return {None: Average(self.ring, functools.partial(_mean, self.used["averaged"]), axes=1)}


@checked
def lawa(base: Base, last: Size, every: Count = 1, start: Index = 0) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the latest parameters around any optimizer. `eval_params` returns their average.

    $$x = \frac1n \sum_{i=1}^{n} p_i, \qquad n \le \mathrm{last}$$

    where $p_i$ are the latest parameters after every `every`-th update, from update `start` on. Before that, x is the
    training parameters. Training is bit for bit that of `base`. It stores `last` copies of the parameters, in float32
    or wider; `average` with `tail` or `swa` stores one, but also averages older parameters.

    Source: LAWA, arXiv:2209.14981 and arXiv:2306.03241.

    **Raises:** `ValueError` unless `last` and `every` are whole numbers, 1 or more, and `start` is one, 0 or more; if a
    parameter is not real; or if `update` is called without `params`.
    """

    def init(params: Any) -> LawaState:
        require_real("lawa", params)
        ring = jax.tree.map(lambda p: jnp.stack([p] * last), zeros(params))  # sharded like the parameters
        base_state = base.init(jax.tree.map(jnp.copy, params))
        count, kept, averaged = (jnp.zeros((), jnp.int32) for _ in range(3))  # separate buffers, so they can be donated
        return LawaState(count, kept, ring, base_state, {"averaged": averaged})

    def update(grads: Any, state: LawaState, params: Any = None, **extra_args: Any) -> tuple[Any, LawaState]:
        require_state("lawa", LawaState, state)
        require_like("lawa", {"ring": state.ring}, require_params("lawa", params), axes=1, grads=grads)
        for leaf in jax.tree.leaves(state.ring):
            require_setting("lawa", "last", len(leaf), last)
        updates, base_state = base.update(grads, state.base, params, **extra_args)
        return updates, _keep(state, optax.apply_updates(params, updates), every, start)._replace(base=base_state)

    return optax.GradientTransformationExtraArgs(init, update)


@functools.partial(jax.jit, inline=True)
def _keep(state: LawaState, params: Any, every: Array, start: Array) -> LawaState:
    since = state.count - start
    keep = (since >= 0) & (since % every == 0)

    def replaced(ring: Array, p: Array) -> Array:
        slot = state.kept % len(ring)
        newest = jnp.where(keep, p.astype(ring.dtype), jax.lax.dynamic_index_in_dim(ring, slot, keepdims=False))
        return jax.lax.dynamic_update_index_in_dim(ring, newest, slot, 0)

    ring = jax.tree.map(replaced, state.ring, params)
    last = max((len(leaf) for leaf in jax.tree.leaves(ring)), default=0)
    count, kept = optax.safe_increment(state.count), state.kept + keep
    return state._replace(count=count, kept=kept, ring=ring, used={"averaged": jnp.minimum(kept, last)})


def _mean(averaged: Any, ring: Array, newest: Any) -> Array:
    averaged = jnp.asarray(averaged)  # nnx.Optimizer wraps it
    kept = jnp.arange(ring.shape[0]) < averaged
    total = jnp.sum(jnp.where(kept.reshape(-1, *[1] * (ring.ndim - 1)), ring, 0), axis=0)
    mean = total / jnp.maximum(averaged, 1).astype(total.dtype)
    return jnp.where(averaged > 0, mean, jnp.asarray(newest, mean.dtype))
