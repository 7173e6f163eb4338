"""Schedules without an end: values that change at given steps, for as long as the run lasts.

A boundary b takes effect at t = b.
"""

import jax.numpy as jnp
from jax import Array

from schedules.core import schedule
from schedules.kinds import Boundaries, Value, Values


def one_more(many: str, few: str, **built: object) -> str | None:
    """What is wrong if `many` does not hold one entry more than `few`: pieces and the joints between."""
    pieces, joints = len(built[many]), len(built[few])  # type: ignore[arg-type]
    if pieces != joints + 1:
        return f"`{few}` must be one fewer than `{many}`, got {joints} and {pieces}"
    return None


@schedule(check=lambda **built: one_more("values", "boundaries", **built))
def piecewise_constant(step: Array, values: Values, boundaries: Boundaries) -> Array:
    r"""`values[i]` from `boundaries[i-1]` until just before `boundaries[i]`.

    $$f(t) = \mathrm{values}\big[\#\{b \in \mathrm{boundaries} : b \le t\}\big]$$

    **Raises:** `ValueError` unless there is one value more than there are boundaries and these never decrease.
    """
    passed = jnp.sum(step >= jnp.asarray(boundaries))
    return jnp.asarray(values)[passed]


@schedule
def multistep(step: Array, value: Value, milestones: Boundaries, factor: Value = 0.1) -> Array:
    r"""`value`, multiplied by `factor` at every milestone.

    $$f(t) = \mathrm{value} \cdot \mathrm{factor}^{\#\{m \in \mathrm{milestones} : m \le t\}}$$

    PyTorch's `MultiStepLR(milestones, gamma)` in absolute terms.
    """
    passed = jnp.sum(step >= jnp.asarray(milestones))
    # As a table of powers: the derivative of factor ** passed is not finite at factor = 0.
    factors = jnp.full(jnp.asarray(milestones).shape, factor)
    powers = jnp.concatenate([jnp.ones(1), jnp.cumprod(factors)])
    return value * powers[passed]


@schedule(check=lambda values: None if len(values) else "`values` must hold at least one number, got none")
def table(step: Array, values: Values) -> Array:
    r"""`values[t]`, then the last of them.

    $$f(t) = \mathrm{values}\big[\min(t,\, n - 1)\big]$$

    `table(tabulate(lr, steps))` is `lr` with its shape turned into numbers, so that schedules of
    different shapes can be stacked and mapped over.
    """
    values = jnp.asarray(values)
    return values[jnp.clip(step, 0, len(values) - 1).astype(int)]
