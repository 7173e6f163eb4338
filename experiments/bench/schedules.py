"""What schedules cost, relative to optax and to simpler schedules."""

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench.measurement import Measurement, compared, in_turn, table
from experiments.reports.question import Question
from optim import adam
from schedules import (
    Schedule,
    constant,
    cosine,
    exponential_decay,
    join,
    linear,
    one_cycle,
    polynomial,
    restarts,
    sgdr,
    warmup,
    wsd,
)


def measurements() -> Iterator[Measurement]:
    yield eager_call()
    yield from dispatch()
    yield from built()
    yield host_values()
    yield traces()
    yield from traced()
    yield from evaluated()
    yield adam_step()
    yield joined("trace", _traced)
    yield joined("trace and compile", _compiled, goal="")
    yield joined("evaluate 1,000,000 steps", _evaluated)
    yield imports()


def eager_call() -> Measurement:
    ours = warmup(cosine(3e-4, 0.0, 9000), 1000)
    theirs = optax.warmup_cosine_decay_schedule(0.0, 3e-4, 1000, 10_000)
    times = in_turn(lambda: ours(500), lambda: theirs(500), rounds=30, calls=100)
    return compared("one eager call", times[0] * 1e6, "optax, the same schedule", times[1] * 1e6, "µs", "at most 1/5")


def dispatch() -> Iterator[Measurement]:
    """An eager call against what JAX needs to call anything."""
    lr = warmup(cosine(3e-4, 0.0, 9000), 1000)
    numbers = jax.tree.map(jnp.asarray, tuple(jax.tree.leaves(lr)))
    empty = jax.jit(lambda step: step)
    given = jax.jit(lambda numbers, step: step, keep_unused=True)
    ours, alone, with_numbers = in_turn(
        lambda: lr(500), lambda: empty(500), lambda: given(numbers, 500), rounds=30, calls=100
    )
    what = "one eager call"
    yield compared(what, ours * 1e6, "an empty jitted function", alone * 1e6, "µs", "at most 1.4")
    against = "an empty jitted function that gets the same numbers, as arrays"
    yield compared(what, ours * 1e6, against, with_numbers * 1e6, "µs", "at most 1.4")


def built() -> Iterator[Measurement]:
    """Building a schedule against an empty eager call."""
    empty = jax.jit(lambda step: step)
    makes = {
        "building `warmup(cosine(...), 1000)`": lambda: warmup(cosine(3e-4, 0.0, 9000), 1000),
        "building `wsd(...)`": lambda: wsd(3e-4, 500, 7500, 2000),
    }
    for what, make in makes.items():
        ours, theirs = in_turn(make, lambda: empty(500), rounds=30, calls=100)
        yield compared(what, ours * 1e6, "an empty jitted function, called", theirs * 1e6, "µs", "at most 11")


def host_values() -> Measurement:
    ours = warmup(cosine(3e-4, 0.0, 9000), 1000)
    theirs = optax.warmup_cosine_decay_schedule(0.0, 3e-4, 1000, 10_000)

    def every(value: Callable[[int], float], steps: int) -> Callable[[], None]:
        def loop() -> None:
            for step in range(steps):
                value(step)

        return loop

    at, called = in_turn(every(ours.at, 10_000), every(lambda step: float(theirs(step)), 100), rounds=9)
    return compared(
        "one value as a Python float, in a loop over steps", at / 10_000 * 1e6, "float() of optax's, the same schedule",
        called / 100 * 1e6, "µs", "at most 1 µs",
    )  # fmt: skip


def traces() -> Measurement:
    def count(make: Callable[[int], Any], passed: bool) -> int:
        traced = 0

        def step(params: jax.Array, lr: Any) -> jax.Array:
            nonlocal traced
            traced += 1
            optimizer = optax.sgd(lr)
            return optimizer.update(params, optimizer.init(params))[0]

        # A closure cannot be an argument of a jitted function: it is compiled in, and so is every number in it.
        jitted = jax.jit(step) if passed else jax.jit(step, static_argnums=1)
        for n in range(10):
            jitted(jnp.ones(3), make(n))
        return traced

    ours = count(lambda n: warmup(cosine(3e-4 * (n + 1), 0.0, 9000 + n), 1000 - n), passed=True)
    theirs = count(lambda n: optax.warmup_cosine_decay_schedule(0.0, 3e-4 * (n + 1), 1000 - n, 9000), passed=False)
    return Measurement("traces of a train step, 10 sets of numbers", ours, "optax", theirs, "", "1 against 10")


def traced() -> Iterator[Measurement]:
    """Tracing against optax's equivalents. Its schedule with restarts has as many branches as cycles; ours has a table
    of all cycles within 2^31 steps."""
    cycles = [{"init_value": 0.1, "peak_value": 0.1, "warmup_steps": 0, "decay_steps": 30 * 2**i} for i in range(10)]
    ramps, ends = [(n, n + 1.0, 10) for n in range(10)], [10 * n for n in range(1, 10)]
    pairs = {
        "`sgdr`": (sgdr(0.1, 30, growth=2), "`sgdr_schedule` of 10 cycles", optax.sgdr_schedule(cycles)),
        "`one_cycle`": (one_cycle(0.1, 30, 70), "`cosine_onecycle_schedule`", optax.cosine_onecycle_schedule(100, 0.1)),
        "a `join` of 10 ramps": (
            join([linear(*ramp) for ramp in ramps], ends),
            "`join_schedules`",
            optax.join_schedules([optax.linear_schedule(*ramp) for ramp in ramps], ends),
        ),
    }
    for what, (ours, against, theirs) in pairs.items():
        times = in_turn(_tracing(lambda s, t: s(t), ours, 0), _tracing(theirs, 0), rounds=15)
        yield compared(f"tracing {what}", times[0] * 1e3, f"optax, {against}", times[1] * 1e3, "ms", "at most 2")


def _tracing(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    def trace() -> Any:
        jax.clear_caches()
        return jax.jit(function).trace(*arguments)

    return trace


def evaluated() -> Iterator[Measurement]:
    """A compiled schedule at 1,000,000 steps against a cosine of each."""
    steps = jnp.arange(1_000_000)
    wave = jax.jit(lambda t: jnp.cos(t * 1e-3)).lower(steps).compile()
    several = {
        "`warmup(cosine)`": (warmup(cosine(3e-4, 0.0, 900_000), 100_000), "at most 2"),
        "`one_cycle`": (one_cycle(0.1, 300_000, 700_000), "at most 2"),
        "`restarts(linear)`": (restarts(linear(0.1, 0.0, 1000), 1000, growth=2), "at most 5"),
    }
    for what, (schedule, goal) in several.items():
        curve = jax.jit(lambda s, t: s(t)).lower(schedule, steps).compile()
        ours, theirs = in_turn(functools.partial(curve, schedule, steps), lambda: wave(steps), rounds=30)
        yield compared(f"1,000,000 steps of {what}", ours * 1e3, "`jnp.cos` of each", theirs * 1e3, "ms", goal)


def five_pieces() -> Schedule:
    up, down = linear(0.0, 1e-3, 100), cosine(1e-3, 5e-4, 500)
    return join([up, 1e-3, down, exponential_decay(5e-4, 0.5, 300), polynomial(1e-4, 0.0, 300)], [100, 300, 800, 1200])


def adam_step() -> Measurement:
    five, one = in_turn(_adam_loop(five_pieces()), _adam_loop(constant(1e-3)), rounds=60)
    what = "20 jitted Adam steps, 1 M parameters, five pieces"
    return compared(what, five * 1e3, "with a constant", one * 1e3, "ms", "at most 1.02")


def _adam_loop(lr: Schedule) -> Callable[[], Any]:
    optimizer = adam(lr)
    params = jnp.ones(1_000_000)

    def step(_: int, carry: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state

    loop = jax.jit(lambda carry: jax.lax.fori_loop(0, 20, step, carry))
    carry = params, optimizer.init(params)
    return lambda: loop(carry)[0]


def _many(pieces: int) -> Schedule:
    return join([linear(n, n + 1.0, 10) for n in range(pieces)], [10 * n for n in range(1, pieces)])


def _traced(pieces: int) -> Callable[[], Any]:
    return _tracing(lambda s, t: s(t), _many(pieces), 0)


def _compiled(pieces: int) -> Callable[[], Any]:
    trace = _traced(pieces)
    return lambda: trace().lower().compile()


def _evaluated(pieces: int) -> Callable[[], Any]:
    schedule, steps = _many(pieces), jnp.arange(1_000_000) % (10 * pieces)
    evaluate = jax.jit(lambda t: schedule(t)).lower(steps).compile()
    return lambda: evaluate(steps)


def joined(what: str, make: Callable[[int], Callable[[], Any]], goal: str = "at most 4") -> Measurement:
    long, short = in_turn(make(1000), make(250), rounds=9)
    return compared(f"{what}, a join of 1,000 pieces", long, "a join of 250", short, "s", goal)


def imports() -> Measurement:
    code = "import time; a = time.perf_counter(); import jax; b = time.perf_counter(); import schedules"
    code += "; print(b - a, time.perf_counter() - b)"
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(9)]
    alone, more = np.array([[float(seconds) for seconds in run.stdout.split()] for run in runs]).T
    return compared("`import schedules` after jax", more * 1e3, "`import jax`", alone * 1e3, "ms", "at most 100 ms")


SCHEDULES = Question("schedules", "What do schedules cost?", lambda: table(measurements()))
