"""Recipes: schedules known from papers and libraries, composed of the others.

Lengths are numbers of updates. Each counts only its own phase: `one_cycle` lasts `up + down` updates.
"""

import jax.numpy as jnp

from schedules.clocks import advance
from schedules.composed import recipe
from schedules.core import Schedule, Shape
from schedules.cycles import Growth, restarts
from schedules.decays import exponential_decay, power_law
from schedules.kinds import Period, Positive, Precise, Steps, Value
from schedules.ramps import cosine, exponential, linear
from schedules.sequences import cooldown, join, warmup

__all__ = [
    "step_decay",
    "inverse_sqrt",
    "warmup_cosine",
    "flat_cosine",
    "wsd",
    "infinite",
    "sgdr",
    "noam",
    "triangle",
    "one_cycle",
    "one_cycle_three_phase",
    "one_cycle_momentum",
]


@recipe
def step_decay(value: Value, steps: Period, factor: Precise = 0.1) -> Schedule:
    r"""`value`, multiplied by `factor` after every `steps` updates.

    $$f(t) = \mathrm{value} \cdot \mathrm{factor}^{\lfloor t / \mathrm{steps} \rfloor}$$

    PyTorch's `StepLR(step_size, gamma)`, with `value` as the base rate.

    Example: `step_decay(0.1, steps=30, factor=0.5)` over 120 steps.
    """
    return exponential_decay(value, factor, steps, staircase=True)


@recipe
def inverse_sqrt(value: Value, timescale: Period, shift: Steps = 0) -> Schedule:
    r"""`value` divided by the square root of 1 + (t + shift) / timescale.

    $$f(t) = \frac{\mathrm{value}}{\sqrt{1 + (t + \mathrm{shift}) / \mathrm{timescale}}}$$

    The "rsqrt" schedule of big_vision ("Scaling vision transformers", arXiv:2106.04560), without its warm-up.

    Example: `inverse_sqrt(0.1, timescale=10)` over 120 steps.
    """
    return advance(power_law(value, 0.5, timescale), shift)


@recipe
def warmup_cosine(
    peak: Value, warmup_steps: Steps, decay_steps: Steps, init: Value = 0.0, end: Value = 0.0
) -> Schedule:
    """Linear from `init` to `peak`, then half a cosine to `end`.

    `decay_steps` excludes the warm-up, as in Keras; optax's includes it.

    Example: `warmup_cosine(0.1, warmup_steps=20, decay_steps=80)` over 120 steps.
    """
    return cooldown(warmup(peak, warmup_steps, init), warmup_steps, decay_steps, end, cosine)


@recipe
def flat_cosine(peak: Value, flat_steps: Steps, decay_steps: Steps, end: Value = 0.0) -> Schedule:
    """`peak` for `flat_steps`, then half a cosine to `end`, as in fastai's `fit_flat_cos` (flat for 75 % of the run).

    Example: `flat_cosine(0.1, flat_steps=75, decay_steps=25)` over 120 steps.
    """
    return cooldown(peak, flat_steps, decay_steps, end, shape=cosine)


@recipe
def wsd(
    peak: Value,
    warmup_steps: Steps,
    stable_steps: Steps,
    decay_steps: Steps,
    end: Value = 0.0,
    shape: Shape = linear,
) -> Schedule:
    """Warm-up, stable, decay (WSD, trapezoid): linear from 0 to `peak`, constant, then along `shape` to `end`.

    Any length may be 0. With `decay_steps=0` it is at `end` right after the stable phase.

    Source: MiniCPM, arXiv:2404.06395; cooldown shapes in arXiv:2405.18392.

    Example: `wsd(0.1, warmup_steps=10, stable_steps=70, decay_steps=20)` over 120 steps.
    """
    return cooldown(warmup(peak, warmup_steps), warmup_steps + stable_steps, decay_steps, end, shape)


@recipe
def infinite(
    peak: Value,
    plateau: Positive,
    end: Positive,
    warmup_steps: Steps,
    decay_steps: Steps,
    constant_steps: Steps,
    anneal_steps: Steps,
) -> Schedule:
    """Linear from 0 to `peak`, half a cosine to `plateau`, constant for as long as you like, exponential to `end`.

    Source: "Beyond cosine decay: on the effectiveness of infinite learning rate schedule for continual
    pre-training", arXiv:2503.02844.

    Example: `infinite(0.1, 0.04, 0.001, 10, 40, 30, 30)` over 120 steps.
    """
    decay = cooldown(warmup(peak, warmup_steps), warmup_steps, decay_steps, plateau, cosine)
    return cooldown(decay, warmup_steps + decay_steps + constant_steps, anneal_steps, end, exponential)


@recipe
def sgdr(peak: Value, period: Period, growth: Growth = 1.0, decay: Precise = 1.0, end: Value = 0.0) -> Schedule:
    """Cosine with warm restarts: half a cosine from `peak` to `end`, again and again.

    Source: SGDR, arXiv:1608.03983.

    Example: `sgdr(0.1, period=30, growth=2)` over 210 steps.
    """
    return restarts(cosine(peak, end, period), period, growth, decay)


@recipe
def noam(width: Positive, warmup_steps: Period) -> Schedule:
    r"""The schedule of the Transformer: a linear warm-up, then the inverse square root of the step.

    $$f(t) = \mathrm{width}^{-1/2} \min\big((t + 1)^{-1/2},\; (t + 1)\, \mathrm{warmup\_steps}^{-3/2}\big)$$

    Source: "Attention is all you need", arXiv:1706.03762; `width` is the dimension of the model.

    Example: `noam(width=512, warmup_steps=30)` over 240 steps.
    """
    peak = (width * jnp.asarray(warmup_steps, float)) ** -0.5
    return advance(warmup(inverse_sqrt(peak, warmup_steps), warmup_steps), 1)


@recipe
def triangle(peak: Value, up: Steps, down: Steps, start: Value = 0.2, end: Value = 0.07) -> Schedule:
    """Linear from `start * peak` up to `peak`, then linear down to `end * peak`.

    Source: the CIFAR-10 speed runs of airbench (github.com/KellerJordan/cifar10-airbench), with 23 % of the run for
    `up`.

    Example: `triangle(0.1, up=23, down=77)` over 120 steps.
    """
    return join([linear(start * peak, peak, up), linear(peak, end * peak, down)], [up])


@recipe
def one_cycle(
    peak: Value, up: Steps, down: Steps, div: Positive = 25.0, final_div: Positive = 1e4, shape: Shape = cosine
) -> Schedule:
    """From `peak / div` up to `peak`, then down to `peak / div / final_div`.

    Use `one_cycle_momentum` for the momentum. PyTorch's `OneCycleLR(total_steps=T)` goes up for 0.3 T - 1 updates and
    down for 0.7 T.

    Source: Super-convergence, arXiv:1708.07120.

    Example: `one_cycle(0.1, up=30, down=70)` over 120 steps.
    """
    start = peak / div
    return join([shape(start, peak, up), shape(peak, start / final_div, down)], [up])


@recipe
def one_cycle_three_phase(
    peak: Value,
    up: Steps,
    down: Steps,
    anneal: Steps,
    div: Positive = 25.0,
    final_div: Positive = 1e4,
    shape: Shape = cosine,
) -> Schedule:
    """From `peak / div` up to `peak`, back down, then on to `peak / div / final_div` in `anneal` updates.

    Source: A disciplined approach to neural network hyper-parameters, arXiv:1803.09820.

    Example: `one_cycle_three_phase(0.1, up=40, down=40, anneal=20, div=10)` over 120 steps.
    """
    start = peak / div
    return join(
        [shape(start, peak, up), shape(peak, start, down), shape(start, start / final_div, anneal)], [up, up + down]
    )


@recipe
def one_cycle_momentum(
    up: Steps, down: Steps, high: Value = 0.95, low: Value = 0.85, shape: Shape = cosine
) -> Schedule:
    """Momentum (or Adam's b1) for `one_cycle`: from `high` to `low` while the rate rises, then back to `high`.

    Also for `one_cycle_three_phase`: it stays at `high` in the third phase.

    Example: `one_cycle_momentum(up=30, down=70)` over 120 steps.
    """
    return join([shape(high, low, up), shape(low, high, down)], [up])
