"""One table of all schedules. Adding a row brings every law of `test_laws.py`.

The oracle is the schedule's definition, written out plainly in float64 for one integer step, and with other
branches and other algebra than the library's.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

from optim import ema, exponential_average, polyak
from schedules import (
    Schedule,
    add,
    constant,
    cosine,
    join,
    linear,
    multiply,
    multistep,
    piecewise_constant,
    table,
    warmup,
)


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


def ema_at(t: int, decay: str) -> float:
    rate = float(1 - Decimal(decay))
    return rate / -math.expm1((t + 1) * math.log1p(-rate))


RAMPS: list[Row] = [
    Row(f"{name}-{steps}{suffix}", ramp(start, end, steps), lambda t, f=at, a=(start, end, steps): f(t, *a), (steps,))
    for name, ramp, at in [("linear", linear, linear_at), ("cosine", cosine, cosine_at)]
    for suffix, start, end in [("-down", 3e-4, 0.0), ("-up", 0.0, 0.7), ("-floor", 2.0, 0.125)]
    for steps in (0, 1, 2, 1000, 100_000, 100_000_000)
]

TABLE: list[Row] = [
    Row("constant", constant(0.1), lambda t: 0.1),
    *RAMPS,
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
]  # fmt: skip


def steps_to_test(row: Row) -> list[int]:
    """The start, every boundary +-2 and the last 200 steps before it, an irregular grid, and the last step there is."""
    last = 2**31 - 1
    near = {b + d for b in row.boundaries for d in range(-2, 3)}
    tail = {b - d for b in row.boundaries for d in range(1, 200, 7)}
    grid = {round(1.37**i) for i in range(69)}
    return sorted(t for t in {0, 1, 2, 3, 2**24 + 1, last - 1, last} | near | tail | grid if 0 <= t <= last)
