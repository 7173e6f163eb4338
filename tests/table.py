"""One table of all schedules. Adding a row brings every law of `test_laws.py`.

The oracle is the schedule's definition, written out plainly for one integer step: in 50-digit decimals, where
nothing cancels, or in float64 with other branches and other algebra than the library's.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from decimal import Decimal, getcontext
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from optim import (
    average_like,
    ema,
    ema_relative,
    ema_warmed,
    exponential_average,
    polyak,
    polynomial_average,
    power_ema,
    rectification,
    sampled,
    swa,
    tail,
)
from schedules import (
    Schedule,
    add,
    advance,
    clip,
    constant,
    cooldown,
    cosine,
    delay,
    exponential,
    exponential_decay,
    extend,
    flat_cosine,
    infinite,
    interpolate,
    inverse_sqrt,
    inverse_time,
    join,
    linear,
    maximum,
    minimum,
    multiply,
    multistep,
    noam,
    noise,
    one_cycle,
    one_cycle_momentum,
    one_cycle_three_phase,
    one_minus_sqrt,
    per_epoch,
    per_update,
    piecewise_constant,
    polynomial,
    power,
    power_cooldown,
    power_law,
    restarts,
    rex,
    sgdr,
    square,
    step_decay,
    stretch,
    table,
    tanh,
    triangle,
    triangular,
    warmup,
    warmup_cosine,
    wsd,
)

getcontext().prec = 50


class Row(NamedTuple):
    name: str
    schedule: Schedule
    oracle: Callable[[int], float]
    boundaries: tuple[int, ...] = ()


def linear_at(t: int, start: float, end: float, steps: int) -> float:
    return end if t >= steps else (start * (steps - t) + end * t) / steps


def cosine_at(t: int, start: float, end: float, steps: int) -> float:
    if t >= steps:
        return end
    if start == end or 0.1 * steps < t < 0.9 * steps:
        return end + (start - end) * (1 + math.cos(math.pi * t / steps)) / 2
    # Near its ends even float64 cancels in (1 + cos): haversines of the angle from there.
    share = math.sin(math.pi * t / (2 * steps)) ** 2, math.sin(math.pi * (steps - t) / (2 * steps)) ** 2
    return end * share[0] + start * share[1]


def decimal_ramp(left: Callable[..., Decimal]) -> Callable[..., float]:
    """A ramp from the share of `start` that is left in it, a function of the fraction that has elapsed."""

    def at(t: int, start: float, end: float, steps: int, *options: float) -> float:
        if t >= steps:
            return end
        share = left(Decimal(t) / steps, *map(Decimal, options))
        return float(Decimal(end) + (Decimal(start) - Decimal(end)) * share)

    return at


def decimal_tanh(x: Decimal) -> Decimal:
    return ((2 * x).exp() - 1) / ((2 * x).exp() + 1)


def tanh_left(e: Decimal, low: Decimal = Decimal(-7), high: Decimal = Decimal(3)) -> Decimal:
    top = decimal_tanh(high)
    return (top - decimal_tanh(low * (1 - e) + high * e)) / (top - decimal_tanh(low))


polynomial_at = decimal_ramp(lambda e, p=Decimal(2): (1 - e) ** p)
one_minus_sqrt_at = decimal_ramp(lambda e: 1 - e.sqrt())
square_at = decimal_ramp(lambda e: 1 - e**2)
rex_at = decimal_ramp(lambda e, bend=Decimal("0.5"): (1 - e) / (bend + (1 - bend) * (1 - e)))
tanh_at = decimal_ramp(tanh_left)


def exponential_at(t: int, start: float, end: float, steps: int) -> float:
    return end if t >= steps else float(Decimal(start) * (Decimal(end) / Decimal(start)) ** (Decimal(t) / steps))


def rectification_at(t: int, b2: float) -> float:
    b, t = Decimal(b2), t + 1
    last = 2 / (1 - b) - 1
    rho = last - 2 * t * b**t / (1 - b**t)
    return float(((rho - 4) * (rho - 2) * last / ((last - 4) * (last - 2) * rho)).sqrt()) if rho > 4 else 0.0


def power_at(base: float | Decimal, exponent: Decimal | int) -> float:
    return float(Decimal(base) ** exponent)


def cycle_at(t: int, period: int, growth: float = 1) -> tuple[int, int, int]:
    """Number, local step and length of a cycle, by counting. No length is beyond the last step there is."""
    if growth == 1:
        return t // period, t % period, period
    number, length = 0, period
    while t >= length:
        t, number = t - length, number + 1
        length = min(round(period * growth**number), 2**31 - 1)
    return number, t, length


def restarted_at(t: int, period: int, growth: float) -> float:
    number, local, length = cycle_at(t, period, growth)
    return 0.75**number * cosine_at(local, 1.0, 0.25, length)


def wave_at(t: int, up: int, down: int) -> float:
    local = t % (up + down)
    return local / up if local < up else 1 - (local - up) / down


def noise_at(t: int, scale: float, seed: int) -> float:
    return scale * float(jax.random.normal(jax.random.fold_in(jax.random.key(seed), t), dtype=jnp.float32))


def ema_at(t: int, decay: str) -> float:
    rate = float(1 - Decimal(decay))
    return rate / -math.expm1((t + 1) * math.log1p(-rate))


RAMPS: list[Row] = [
    Row(f"{name}-{steps}{suffix}", ramp(start, end, steps), lambda t, f=at, a=(start, end, steps): f(t, *a), (steps,))
    for name, ramp, at in [("linear", linear, linear_at), ("cosine", cosine, cosine_at)]
    for suffix, start, end in [("-down", 3e-4, 0.0), ("-up", 0.0, 0.7), ("-floor", 2.0, 0.125)]
    for steps in (0, 1, 2, 1000, 100_000, 100_000_000)
]

RAMPS += [
    Row(f"{ramp}-{steps}{suffix}", ramp(start, end, steps), partial(lambda t, f, a: f(t, *a), f=at, a=(start, end, steps)), (steps,))
    for ramp, at in [(polynomial, polynomial_at), (one_minus_sqrt, one_minus_sqrt_at), (square, square_at), (rex, rex_at), (tanh, tanh_at)]
    for suffix, start, end in [("-down", 3e-4, 0.0), ("-up", 0.0, 0.7)]
    for steps in (0, 1, 2, 1000, 100_000_000)
]  # fmt: skip

# Cosine at T of 10^4 and 10^5 is where optax's form is 21 % off at the end, and zero or negative.
RAMPS += [Row(f"cosine-tail-{steps}", cosine(1.0, 0.0, steps), partial(cosine_at, start=1.0, end=0.0, steps=steps), (steps,)) for steps in (10_000, 1_000_000)]  # fmt: skip

SHAPED: list[Row] = [
    *(Row(f"exponential-{n}", exponential(0.7, 3e-4, n), partial(exponential_at, start=0.7, end=3e-4, steps=n), (n,)) for n in (0, 1, 2, 1000)),
    Row("exponential-wider", exponential(1e-20, 1e10, 1000), lambda t: exponential_at(t, 1e-20, 1e10, 1000), (1000,)),
    Row("exponential-down", exponential(1e15, 1e-15, 1000), lambda t: exponential_at(t, 1e15, 1e-15, 1000), (1000,)),
    Row("exponential-wide", exponential(1e-7, 10.0, 100_000_000), lambda t: exponential_at(t, 1e-7, 10.0, 100_000_000), (100_000_000,)),
    *(Row(f"polynomial-{p}", polynomial(0.3, 0.1, 1000, p), lambda t, p=p: polynomial_at(t, 0.3, 0.1, 1000, p), (1000,)) for p in (0.5, 1.0, 1.2, 5.0)),
    Row("polynomial-long", polynomial(1.0, 0.0, 100_000_000, 1.2), lambda t: polynomial_at(t, 1.0, 0.0, 100_000_000, 1.2), (100_000_000,)),
    Row("rex-bend", rex(0.3, 0.0, 1000, 0.125), lambda t: rex_at(t, 0.3, 0.0, 1000, 0.125), (1000,)),
    Row("tanh-wide", tanh(1.0, 0.0, 1000, -20.0, 20.0), lambda t: tanh_at(t, 1.0, 0.0, 1000, -20, 20), (1000,)),
    Row("tanh-wide-up", tanh(0.0, 1.0, 1_000_000, -18.93, 5.4), lambda t: tanh_at(t, 0.0, 1.0, 1_000_000, -18.93, 5.4), (1_000_000,)),
    Row("polynomial-tiny", polynomial(1e20, 0.0, 100_000_000, 5.0), lambda t: polynomial_at(t, 1e20, 0.0, 100_000_000, 5.0), (100_000_000,)),
    Row("tanh-bounds", tanh(0.3, 0.02, 100_000, -5.09, 3.85), lambda t: tanh_at(t, 0.3, 0.02, 100_000, -5.09, 3.85), (100_000,)),
]  # fmt: skip

OPEN_ENDED: list[Row] = [
    *(
        Row(f"exponential_decay-{factor}-{steps}{'-stairs' * stairs}", exponential_decay(0.1, factor, steps, stairs), lambda t, f=factor, n=steps, s=stairs: 0.1 * power_at(f, t // n if s else Decimal(t) / n), (steps, 10 * steps))
        for factor, steps in [(0.97, 2400), (0.9999, 1), (1 - 1e-6, 1), (0.01, 10_000_000)]
        for stairs in (False, True)
    ),
    Row("exponential_decay-growing", minimum(exponential_decay(0.1, 1.5, 10), 2.0), lambda t: min(0.1 * power_at(1.5, Decimal(min(t, 1000)) / 10), 2.0), (10, 73)),
    Row("exponential_decay-large", exponential_decay(1e30, 0.5, 7), lambda t: float(Decimal(10) ** 30 * Decimal("0.5") ** (Decimal(t) / 7)), (7, 1400)),
    Row("power_law-large", power_law(1e30, 8.0, 50), lambda t: 1e30 * power_at(1 + Decimal(t) / 50, -8), (50,)),
    Row("step_decay", step_decay(0.3, 300, 0.7), lambda t: 0.3 * power_at(0.7, t // 300), (300, 600, 90_000)),
    Row("inverse_time", inverse_time(0.3, 0.7, 100), lambda t: 0.3 / (1 + 0.7 * t / 100), (100,)),
    Row("inverse_time-stairs", inverse_time(0.3, 0.7, 100, True), lambda t: 0.3 / (1 + 0.7 * (t // 100)), (100, 1000)),
    Row("power_law", power_law(0.3, 1.3, 50), lambda t: 0.3 * (1 + t / 50) ** -1.3, (50,)),
    Row("inverse_sqrt", inverse_sqrt(0.3, 1000, 250), lambda t: 0.3 / math.sqrt(1 + (t + 250) / 1000), (1000,)),
    Row("interpolate", interpolate([0.1, 0.5, 0.5, 0.0], [10, 20, 1000, 5000]), lambda t: 0.1 if t < 10 else linear_at(t - 10, 0.1, 0.5, 10) if t < 1000 else linear_at(t - 1000, 0.5, 0.0, 4000), (10, 20, 1000, 5000)),
    Row("interpolate-cosine", interpolate([0.1, 0.5, 0.2], [0, 7, 100_000], cosine), lambda t: cosine_at(t, 0.1, 0.5, 7) if t < 7 else cosine_at(t - 7, 0.5, 0.2, 99_993), (7, 100_000)),
    Row("interpolate-jump", interpolate([0.1, 0.5, 0.2], [4, 4, 8]), lambda t: 0.1 if t < 4 else linear_at(t - 4, 0.5, 0.2, 4), (4, 8)),
    Row("noise", noise(0.3, seed=7), lambda t: noise_at(t, 0.3, 7)),
    Row("noise-every", noise(1.0, seed=0, every=3), lambda t: noise_at(t // 3, 1.0, 0), (3,)),
]  # fmt: skip

CYCLES: list[Row] = [
    Row(
        f"restarts-{period}-{growth}",
        restarts(cosine(1.0, 0.25, period), period, growth, 0.75),
        partial(restarted_at, period=period, growth=growth),
        tuple(b for b in (period * sum(growth**j for j in range(k)) for k in range(1, 30)) if b < 2**31),
    )
    for period, growth in [(1, 3), (5, 2), (7, 10), (1000, 1)]
]  # fmt: skip
CYCLES += [
    Row(
        f"restarts-{period}-{growth}-to-1e6",
        join([restarts(linear(1.0, 0.5, period), period, growth), 0.5], [1_000_000]),
        lambda t, p=period, g=growth: 0.5 if t >= 1_000_000 else (lambda i, t, n: linear_at(t, 1.0, 0.5, n))(*cycle_at(t, p, g)),
        (64, 160, 304, 1_000_000),
    )
    for period, growth in [(64, 1.5), (10, 1.1)]
]  # fmt: skip
CYCLES += [
    Row("restarts-of-a-join", restarts(warmup(cosine(1.0, 0.5, 60), 4), 64, 2), lambda t: (lambda i, t, n: t / (4 * 2**i) if t < 4 * 2**i else cosine_at(t - 4 * 2**i, 1.0, 0.5, 60 * 2**i))(*cycle_at(t, 64, 2)), (4, 64, 192)),
    Row("triangular", triangular(0.1, 0.7, 4, 8), lambda t: 0.1 + 0.6 * wave_at(t, 4, 8), (4, 12, 16)),
    Row("triangular2", triangular(0.1, 0.7, 300, 500, decay=0.5), lambda t: 0.1 + 0.6 * wave_at(t, 300, 500) * 0.5 ** (t // 800), (300, 800)),
    Row("exp_range", triangular(0.1, 0.7, 3, 2, fade=0.999), lambda t: 0.1 + 0.6 * wave_at(t, 3, 2) * 0.999**t, (3, 5)),
    Row("sgdr", sgdr(0.3, 50, 2.0, 0.5, 0.01), lambda t: (lambda i, t, n: 0.5**i * cosine_at(t, 0.3, 0.01, n))(*cycle_at(t, 50, 2)), (50, 150)),
]  # fmt: skip

COMBINED: list[Row] = [
    Row("power", power(cosine(1.0, 0.0, 1000), 2.29), lambda t: cosine_at(t, 1.0, 0.0, 1000) ** 2.29, (1000,)),
    Row("minimum", minimum(linear(0.0, 1.0, 100), 0.3), lambda t: min(linear_at(t, 0.0, 1.0, 100), 0.3), (30, 100)),
    Row("maximum", maximum(0.2, linear(1.0, 0.0, 100)), lambda t: max(linear_at(t, 1.0, 0.0, 100), 0.2), (80, 100)),
    Row("clip", clip(linear(1.0, 0.0, 100), 0.2, 0.7), lambda t: min(max(linear_at(t, 1.0, 0.0, 100), 0.2), 0.7), (30, 80)),
    Row("cooldown", cooldown(cosine(1.0, 0.0, 1000), 800, 100, 0.05, one_minus_sqrt), lambda t: cosine_at(t, 1.0, 0.0, 1000) if t < 800 else one_minus_sqrt_at(t - 800, cosine_at(800, 1.0, 0.0, 1000), 0.05, 100), (800, 900)),
    Row("delay", delay(linear(1.0, 0.5, 100), 30), lambda t: linear_at(max(t - 30, 0), 1.0, 0.5, 100), (30, 130)),
    Row("advance", advance(linear(0.0, 1.0, 4), 1), lambda t: min((t + 1) / 4, 1.0), (3,)),
    Row("advance-to-the-end", advance(linear(0.0, 1.0, 2**31 - 1), 2**31 - 5), lambda t: linear_at(t + 2**31 - 5, 0.0, 1.0, 2**31 - 1), (4,)),
    Row("extend", extend(wsd(1.0, 5, 50, 20), 30, 100), lambda t: min(t / 5, 1.0) if t < 155 else linear_at(t - 155, 1.0, 0.0, 20), (5, 30, 130, 155, 175)),
    Row("stretch", stretch(warmup(cosine(1.0, 0.0, 90), 10), 1.5), lambda t: t / 15 if t < 15 else cosine_at(t - 15, 1.0, 0.0, 135), (15, 150)),
    Row("stretch-long", stretch(linear(1.0, 0.0, 3), 33_333_333.0), lambda t: linear_at(t, 1.0, 0.0, 99_999_999), (99_999_999,)),
    Row("stretch-shorter", stretch(join([1.0, table([0.5, 0.2], 8)], [1000]), 0.25), lambda t: 1.0 if t < 250 else 0.5 if t < 252 else 0.2, (250, 252)),
    Row("stretch-of-epochs", stretch(per_epoch(linear(1.0, 0.0, 90), 100), 2.0), lambda t: linear_at(t // 200, 1.0, 0.0, 90), (200, 18_000)),
    Row("stretch-uneven", stretch(linear(1.0, 0.0, 100_000_007), 1.3), lambda t: linear_at(t, 1.0, 0.0, 130_000_009), (130_000_009,)),
    Row("restarts-of-epochs", join([restarts(per_epoch(linear(1.0, 0.0, 10), 10), 100, 2.0), 0.5], [700]), lambda t: 0.5 if t >= 700 else (lambda i, t, n: linear_at(t // (n // 10), 1.0, 0.0, 10))(*cycle_at(t, 100, 2)), (100, 300, 700)),
    Row("per_epoch", per_epoch(cosine(1.0, 0.0, 90), 100), lambda t: cosine_at(t // 100, 1.0, 0.0, 90), (100, 200, 9000)),
    Row("per_update", per_update(linear(1.0, 0.0, 10_500), 1000), lambda t: max(1 - t / 10.5, 0.0), (10, 11)),
]  # fmt: skip

RECIPES: list[Row] = [
    Row("warmup_cosine", warmup_cosine(0.3, 100, 900, 0.01, 0.02), lambda t: linear_at(t, 0.01, 0.3, 100) if t < 100 else cosine_at(t - 100, 0.3, 0.02, 900), (100, 1000)),
    Row("flat_cosine", flat_cosine(0.3, 750, 250), lambda t: cosine_at(max(t - 750, 0), 0.3, 0.0, 250), (750, 1000)),
    Row("wsd", wsd(0.3, 10, 70, 20, 0.03, square), lambda t: 0.03 * t if t < 10 else 0.3 if t < 80 else square_at(t - 80, 0.3, 0.03, 20), (10, 80, 100)),
    Row("power_cooldown", power_cooldown(inverse_time(1.0, 0.5, 10), 100, 50), lambda t: 1 / (1 + 0.05 * t) if t < 100 else polynomial_at(t - 100, 1 / 6, 0.0, 50, 1.2), (100, 150)),
    Row("infinite", infinite(0.3, 0.1, 0.001, 10, 90, 400, 50), lambda t: 0.03 * t if t < 10 else cosine_at(t - 10, 0.3, 0.1, 90) if t < 500 else exponential_at(t - 500, 0.1, 0.001, 50), (10, 100, 500, 550)),
    Row("noam", noam(512, 4000), lambda t: 512**-0.5 * min((t + 1) ** -0.5, (t + 1) * 4000**-1.5), (3999,)),
    Row("triangle", triangle(2.0, 23, 77), lambda t: linear_at(t, 0.4, 2.0, 23) if t < 23 else linear_at(t - 23, 2.0, 0.14, 77), (23, 100)),
    Row("one_cycle", one_cycle(1.0, 300, 700), lambda t: cosine_at(t, 0.04, 1.0, 300) if t < 300 else cosine_at(t - 300, 1.0, 4e-6, 700), (300, 1000)),
    Row("one_cycle_three_phase", one_cycle_three_phase(1.0, 30, 40, 20, 10.0, 100.0, linear), lambda t: linear_at(t, 0.1, 1.0, 30) if t < 30 else linear_at(t - 30, 1.0, 0.1, 40) if t < 70 else linear_at(t - 70, 0.1, 0.001, 20), (30, 70, 90)),
    Row("one_cycle_momentum", one_cycle_momentum(30, 70, 0.95, 0.8), lambda t: cosine_at(t, 0.95, 0.8, 30) if t < 30 else cosine_at(t - 30, 0.8, 0.95, 70), (30, 100)),
    Row("join-of-many", join([linear(i, i + 1, 10) for i in range(40)], list(range(10, 400, 10))), lambda t: min(t / 10, 40.0), (10, 200, 390, 400)),
    Row("join-of-two-kinds", join([0.5, linear(1.0, 0.0, 10), 2.0, linear(0.0, 1.0, 10)], [5, 15, 20]), lambda t: 0.5 if t < 5 else linear_at(t - 5, 1.0, 0.0, 10) if t < 15 else 2.0 if t < 20 else linear_at(t - 20, 0.0, 1.0, 10), (5, 15, 20, 30)),
]  # fmt: skip

TABLE: list[Row] = [
    Row("constant", constant(0.1), lambda t: 0.1),
    *RAMPS,
    *SHAPED,
    *OPEN_ENDED,
    *CYCLES,
    *COMBINED,
    *RECIPES,
    Row(
        "piecewise_constant",
        piecewise_constant([0.5, 0.25, 3.0], [3, 1000]),
        lambda t: [0.5, 0.25, 3.0][bisect_right([3, 1000], t)],
        (3, 1000),
    ),
    Row("piecewise_constant-of-one", piecewise_constant([0.5], []), lambda t: 0.5),
    Row("multistep", multistep(0.4, [10, 20, 20, 2_000_000_000], 0.3), lambda t: 0.4 * 0.3 ** bisect_right([10, 20, 20, 2_000_000_000], t), (10, 20, 2_000_000_000)),
    Row("multistep-default", multistep(1.0, [7]), lambda t: 1.0 if t < 7 else 0.1, (7,)),
    Row("table", table([0.3, 0.1, 0.2]), lambda t: [0.3, 0.1, 0.2][min(t, 2)], (2,)),
    Row(
        "join",
        join([linear(0.0, 1.0, 5), 0.5, cosine(0.5, 0.1, 1000)], [5, 50]),
        lambda t: linear_at(t, 0.0, 1.0, 5) if t < 5 else 0.5 if t < 50 else cosine_at(t - 50, 0.5, 0.1, 1000),
        (5, 50, 1050),
    ),
    Row("join-empty-pieces", join([1.0, 2.0, linear(3.0, 4.0, 9)], [0, 0]), lambda t: linear_at(t, 3.0, 4.0, 9), (9,)),
    Row(
        "warmup",
        warmup(cosine(3e-4, 0.0, 9000), 1000),
        lambda t: 3e-4 * t / 1000 if t < 1000 else cosine_at(t - 1000, 3e-4, 0.0, 9000),
        (1000, 10_000),
    ),
    Row(
        "warmup-cosine-shape",
        warmup(linear(1.0, 0.0, 100_000_000), 10_000_000, init=0.01, shape=cosine),
        lambda t: cosine_at(t, 0.01, 1.0, 10_000_000) if t < 10_000_000 else linear_at(t - 10_000_000, 1.0, 0.0, 100_000_000),
        (10_000_000, 110_000_000),
    ),
    Row("warmup-of-no-steps", warmup(linear(1.0, 0.0, 7), 0), lambda t: linear_at(t, 1.0, 0.0, 7), (7,)),
    Row(
        "multiply",
        multiply(cosine(1.0, 0.0, 1000), linear(0.0, 1.0, 10), 0.5),
        lambda t: 0.5 * cosine_at(t, 1.0, 0.0, 1000) * linear_at(t, 0.0, 1.0, 10),
        (10, 1000),
    ),
    Row("operators", 2.0 * linear(1.0, 0.0, 90) + 0.25, lambda t: 2.0 * linear_at(t, 1.0, 0.0, 90) + 0.25, (90,)),
    Row("add", add(linear(1.0, 0.0, 90), constant(1.0)), lambda t: linear_at(t, 1.0, 0.0, 90) + 1, (90,)),
    Row("polyak", polyak(), lambda t: 1 / (t + 1)),
    *(Row(f"ema-{d}", ema(float(d)), lambda t, d=d: ema_at(t, d)) for d in ("0.5", "0.9", "0.9999", "0.999999")),
    Row("exponential_average-of-one", exponential_average(1.0), lambda t: 1.0),
    Row("tail", tail(50), lambda t: 1 / (max(t - 50, 0) + 1), (50,)),
    # Of numbers that float32 holds exactly: the coefficient is a difference of nearly equal ones.
    Row("average_like", average_like(linear(1.0, 0.0, 1_024), 1_024, of=1.0), lambda t: 1 / (t + 1) if t < 1_024 else 0.0, (1_024,)),
    Row("swa", swa(50, 7), lambda t: 1.0 if t < 50 else 0.0 if (t - 50) % 7 else 1 / ((t - 50) // 7 + 1), (50, 57, 64)),
    Row("sampled", sampled(ema(0.9), 3), lambda t: 0.0 if t % 3 else ema_at(t // 3, "0.9"), (3, 6)),
    Row("polynomial_average", polynomial_average(8.0), lambda t: 9 / (t + 9)),
    *(Row(f"power_ema-{p}", power_ema(p), lambda t, p=p: float(1 - (1 - Decimal(1) / (t + 1)) ** (Decimal(p) + 1)) if t else 1.0) for p in (0.5, 6.94)),
    Row("ema_relative", ema_relative(0.1), lambda t: float(1 - Decimal(2) ** (-1 / (Decimal("0.1") * t))) if t else 1.0),
    Row("ema_warmed", ema_warmed(0.9999), lambda t: max(1e-4, (1 + t) ** (-2 / 3)), (999_999,)),
    *(Row(f"rectification-{b2}", rectification(b2, 4.0), partial(rectification_at, b2=b2)) for b2 in (0.99, 0.999, 0.9999)),
]  # fmt: skip


def steps_to_test(row: Row) -> list[int]:
    """The start, every boundary +-2 and the last 200 steps before it, an irregular grid, and the last step there is."""
    last = 2**31 - 1
    near = {b + d for b in row.boundaries for d in range(-2, 3)}
    tail = {b - d for b in row.boundaries for d in range(1, 200, 7)}
    grid = {round(1.37**i) for i in range(69)}
    return sorted(
        t
        for t in {0, 1, 2, 3, 2**24 + 1, 2**29 + 33, 1_073_760_076, last - 1, last} | near | tail | grid
        if 0 <= t <= last
    )
