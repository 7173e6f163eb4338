"""Schedules without an end: values that step, decay or vary, for a run of any length.

A boundary b takes effect at t = b.
"""

import functools
import itertools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from schedules.core import Shape, schedule
from schedules.kinds import Boundaries, Index, Period, Positive, Precise, Value, Values, one_more
from schedules.numerics import Split, count, divided, fraction, pair, passed, power, timescales
from schedules.ramps import linear

__all__ = [
    "exponential_decay",
    "multistep",
    "piecewise_constant",
    "interpolate",
    "inverse_time",
    "power_law",
    "table",
    "noise",
]


def _stairs(steps: int, staircase: bool, **_: Any) -> Iterable[int]:
    return itertools.count(steps, steps) if staircase else ()


@schedule(check=functools.partial(one_more, "values", "boundaries"))
def piecewise_constant(step: Array, values: Values, boundaries: Boundaries) -> Array:
    r"""`values[i]` from `boundaries[i-1]` until just before `boundaries[i]`.

    $$f(t) = \mathrm{values}\big[\#\{b \in \mathrm{boundaries} : b \le t\}\big]$$

    **Raises:** `ValueError` unless there is one more value than boundaries, and the boundaries never decrease.

    Example: `piecewise_constant([0.02, 0.1, 0.05], boundaries=[20, 80])` over 120 steps.
    """
    return jnp.asarray(values)[passed(step, boundaries)]


@schedule
def multistep(step: Array, value: Value, milestones: Boundaries, factor: Precise = 0.1) -> Array:
    r"""`value`, multiplied by `factor` at every milestone.

    $$f(t) = \mathrm{value} \cdot \mathrm{factor}^{\#\{m \in \mathrm{milestones} : m \le t\}}$$

    PyTorch's `MultiStepLR(milestones, gamma)`, with `value` as the base rate.

    Example: `multistep(0.1, milestones=[60, 90], factor=0.3)` over 120 steps.
    """
    return power(factor, count(passed(step, milestones)), value)


@schedule(changes=_stairs, ends=False)
def exponential_decay(step: Array, value: Value, factor: Precise, steps: Period, staircase: bool = False) -> Array:
    r"""`value`, multiplied by `factor` every `steps` updates: gradually, or all at once (`staircase=True`).

    $$f(t) = \mathrm{value} \cdot \mathrm{factor}^{t / \mathrm{steps}} \quad\text{or}\quad
      \mathrm{value} \cdot \mathrm{factor}^{\lfloor t / \mathrm{steps} \rfloor}$$

    A factor above 1 makes it grow, up to the largest float.

    Example: `exponential_decay(0.1, factor=0.5, steps=30)` over 120 steps.
    """
    whole, rest = divided(step, steps)
    stairs = power(factor, count(whole), value)
    return stairs if staircase else stairs * power(factor, fraction(rest, steps))


@schedule(changes=_stairs, ends=False)
def inverse_time(step: Array, value: Value, rate: Positive, steps: Period = 1, staircase: bool = False) -> Array:
    r"""`value` divided by 1 + `rate` * t / `steps`, gradually or in stairs of `steps` updates (`staircase=True`).

    $$f(t) = \frac{\mathrm{value}}{1 + \mathrm{rate} \cdot t / \mathrm{steps}} \quad\text{or}\quad
      \frac{\mathrm{value}}{1 + \mathrm{rate} \lfloor t / \mathrm{steps} \rfloor}$$

    Source: Robbins and Monro, *A stochastic approximation method*, 1951.

    Example: `inverse_time(0.1, rate=1, steps=30)` over 120 steps.
    """
    return value / (1 + rate * (jnp.asarray(divided(step, steps)[0], float) if staircase else step / steps))


@schedule(ends=False)
def power_law(step: Array, value: Value, exponent: Precise, timescale: Period = 1) -> Array:
    r"""`value` divided by a power of 1 + t / timescale.

    $$f(t) = \mathrm{value}\, (1 + t / \mathrm{timescale})^{-\mathrm{exponent}}$$

    The anytime schedules of arXiv:2602.03702, and the stable phase of timm's WSD.

    Example: `power_law(0.1, exponent=2, timescale=30)` over 120 steps.
    """
    hi, lo = pair(exponent)
    return power(timescales(step, timescale), Split(-hi, -lo), value)


@schedule(
    check=lambda values, **_: None if len(values) else "`values` must hold at least one number, got none",
    changes=lambda values, every: [every * (len(values) - 1)],
)
def table(step: Array, values: Values, every: Period = 1) -> Array:
    r"""Each of `values` for `every` updates, then the last one.

    $$f(t) = \mathrm{values}\big[\min(\lfloor t / \mathrm{every} \rfloor,\, n - 1)\big]$$

    `table(tabulate(lr, steps))` turns any schedule into numbers, so that you can `stack` schedules of different shapes
    and vmap over them.

    Example: `table([0.1, 0.06, 0.08, 0.03, 0.01], every=20)` over 120 steps.
    """
    values = jnp.asarray(values)
    return values[jnp.minimum(divided(step, every)[0], len(values) - 1).astype(int)]


def _points(values: Any, boundaries: Any, shape: Any) -> str | None:
    points, places = len(values), len(boundaries)
    if points != places or not points:
        return f"`values` and `boundaries` must have the same length, 1 or more, got {points} and {places}"
    try:
        for start, end in itertools.pairwise(values if isinstance(values, tuple) else ()):
            shape(start, end, 1)
    except ValueError as error:
        return f"`values` must be values that `shape` can start and end at ({error})"
    return None


@schedule(check=_points)
def interpolate(step: Array, values: Values, boundaries: Boundaries, shape: Shape = linear) -> Array:
    r"""Goes through the values `values[i]` at the steps `boundaries[i]`, with a ramp from each to the next.

    $$f(t) = \mathrm{shape}(v_i,\, v_{i+1},\, b_{i+1} - b_i)(t - b_i), \qquad b_i \le t < b_{i+1}$$

    Before the first point it has the first value, after the last point the last.

    **Raises:** `ValueError` unless there are as many values as boundaries, at least one, and the boundaries never
    decrease.

    Example: `interpolate([0.01, 0.1, 0.06, 0.08, 0], [0, 20, 50, 70, 110])` over 120 steps.
    """
    values, boundaries = jnp.asarray(values), jnp.asarray(boundaries)
    reached = passed(step, boundaries)
    here, there = jnp.maximum(reached - 1, 0), jnp.minimum(reached, len(values) - 1)
    start = boundaries[here]
    return shape(values[here], values[there], boundaries[there] - start)(jnp.maximum(step - start, 0))


@schedule(ends=False)
def noise(step: Array, scale: Value, seed: Index, every: Period = 1) -> Array:
    r"""Independent normal random numbers with standard deviation `scale`, a new one every `every` updates.

    $$f(t) = \mathrm{scale} \cdot \nu_{\lfloor t / \mathrm{every} \rfloor}, \qquad \nu_i \sim N(0, 1)$$

    A pure function of seed and step, like any other schedule. `lr * (1 + noise(0.1, seed=0))` adds 10 % noise to a
    rate.

    Example: `0.1 * (1 + noise(0.1, seed=0, every=3))` over 120 steps.
    """
    number = jnp.asarray(divided(step, every)[0], jnp.uint32)
    return scale * jax.random.normal(jax.random.fold_in(jax.random.key(seed), number), (), jnp.float32).astype(float)
