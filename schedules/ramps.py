"""Ramps: from `start` to `end` in `steps` updates, then hold. And `constant`, the ramp that stays.

A ramp is at `start` for t = 0 and at `end` for t = steps; with `steps=0` it is already at `end`.
All share the signature (start, end, steps), so each can be the `shape` of a warm-up.
"""

import jax.numpy as jnp
from jax import Array

from schedules.core import schedule
from schedules.kinds import Steps, Value


def progress(step: Array, steps: Steps) -> tuple[Array, Array]:
    """The fractions of a ramp that have elapsed and that remain, each in [0, 1] with full relative
    precision; they add up to 1, and are (1, 0) for a ramp of no steps.

    Both are integer differences before they become floats. Of one fraction e, `1 - e` keeps no digits
    near the end of a long ramp: in float32 a cosine written so is 20 % off after 10,000 steps.
    """
    elapsed = jnp.clip(step, 0, steps)
    remaining = steps - elapsed
    length = jnp.maximum(steps, 1)
    return jnp.where(steps > 0, elapsed / length, 1.0), remaining / length


@schedule
def constant(step: Array, value: Value) -> Array:
    r"""The same value at every step.

    $$f(t) = \mathrm{value}$$
    """
    return jnp.asarray(value)


@schedule
def linear(step: Array, start: Value, end: Value, steps: Steps) -> Array:
    r"""A straight line from `start` to `end` over `steps` updates, then `end`.

    $$f(t) = \mathrm{start}\,(1 - e) + \mathrm{end}\; e, \qquad e = \min(t / \mathrm{steps},\, 1)$$
    """
    elapsed, remaining = progress(step, steps)
    return start * remaining + end * elapsed


@schedule
def cosine(step: Array, start: Value, end: Value, steps: Steps) -> Array:
    r"""Half a cosine from `start` to `end` over `steps` updates, then `end`.

    $$f(t) = \mathrm{end} + \tfrac12 (\mathrm{start} - \mathrm{end})(1 + \cos \pi e)
           = \mathrm{start}\,\sin^2 \tfrac\pi2 (1 - e) + \mathrm{end}\,\sin^2 \tfrac\pi2 e,
      \qquad e = \min(t / \mathrm{steps},\, 1)$$

    The second form is computed: nothing cancels in it, so the last steps of a long decay keep their digits.

    Source: SGDR, arXiv:1608.03983, equation 5.
    """
    elapsed, remaining = progress(step, steps)
    return start * jnp.sin(jnp.pi / 2 * remaining) ** 2 + end * jnp.sin(jnp.pi / 2 * elapsed) ** 2
