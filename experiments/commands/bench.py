"""How fast schedules are: ratios of two things timed in turn in one run, since single times depend on the machine."""

import functools
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine.devices import require_cache, require_devices
from experiments.engine.machine import machine
from experiments.errors import require_printable
from experiments.files import write_text
from experiments.reports.output import new_report
from optim import adam, average, ema, schedule_free_adamw
from schedules import Schedule, constant, cosine, exponential_decay, join, linear, polynomial, warmup


@dataclass(frozen=True)
class Bench:
    """Time schedules and optimizers against optax, as ratios within one run. Takes about a minute."""

    out: Path | None = None
    """The folder for bench.md and bench.json, which are replaced. [runs/bench]"""


@dataclass(frozen=True)
class Measurement:
    """One thing measured against another, in the same unit and in the same run."""

    what: str
    ours: float
    against: str
    theirs: float
    unit: str
    goal: str = ""

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs

    def row(self) -> str:
        ours, theirs = (f"{_short(number)} {self.unit}".strip() for number in (self.ours, self.theirs))
        return f"| {self.what} | {ours} | {self.against} | {theirs} | {self.ratio:.3f} | {self.goal} |"


def _short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1_000 else f"{number:.4g}"


NUMBERS = "bench.json"
HEAD = "| what | | against | | ratio | goal |\n|---|---|---|---|---|---|"


def bench(options: Bench) -> int:
    """Measures everything, prints rows as they come, and writes them to the folder; returns the exit status."""
    folder = options.out or Path("runs/bench")
    require_printable("out", str(folder), 1000)
    require_devices()
    require_cache()
    new_report(folder, NUMBERS)
    print(HEAD)
    rows = []
    for measurement in measurements():
        rows.append(measurement)
        print(measurement.row(), flush=True)
    about = {**machine(), "rows": [{**asdict(row), "ratio": row.ratio} for row in rows]}
    write_text(folder / NUMBERS, json.dumps(about, indent=1) + "\n")
    write_text(folder / "bench.md", "\n".join([HEAD, *(row.row() for row in rows)]) + "\n")
    print(f"\nIn {folder}: bench.md, {NUMBERS}")
    return 0


def measurements() -> Iterator[Measurement]:
    """All of them, one by one, since each takes seconds."""
    yield eager_call()
    yield host_values()
    yield traces()
    yield adam_step()
    yield joined("trace", _traced)
    yield joined("trace and compile", _compiled, goal="")
    yield joined("evaluate 1,000,000 steps", _evaluated)
    yield imports()
    yield from large_updates()
    yield eager_update()


def in_turn(*functions: Callable[[], Any], rounds: int, calls: int = 1) -> tuple[float, ...]:
    """Median seconds of a call of each, timed in turn: what slows the machine down slows all."""
    for function in functions:
        function()  # compiles
    gc.disable()  # as timeit does: it would strike one of them at random
    try:
        samples = [[_seconds(function, calls) for function in functions] for _ in range(rounds)]
    finally:
        gc.enable()
    return tuple(np.median(samples, axis=0).tolist())


def _seconds(function: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        result = function()
    if isinstance(result, jax.Array):
        result.block_until_ready()
    return (time.perf_counter() - start) / calls


def eager_call() -> Measurement:
    ours = warmup(cosine(3e-4, 0.0, 9000), 1000)
    theirs = optax.warmup_cosine_decay_schedule(0.0, 3e-4, 1000, 10_000)
    times = in_turn(lambda: ours(500), lambda: theirs(500), rounds=30, calls=100)
    return Measurement(
        "one eager call", times[0] * 1e6, "optax, the same schedule", times[1] * 1e6, "µs", "at most 1/5"
    )


def host_values() -> Measurement:
    ours = warmup(cosine(3e-4, 0.0, 9000), 1000)
    theirs = optax.warmup_cosine_decay_schedule(0.0, 3e-4, 1000, 10_000)

    def every(value: Callable[[int], float], steps: int) -> Callable[[], None]:
        def loop() -> None:
            for step in range(steps):
                value(step)

        return loop

    at, called = in_turn(every(ours.at, 10_000), every(lambda step: float(theirs(step)), 100), rounds=9)
    return Measurement(
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


def five_pieces() -> Schedule:
    up, down = linear(0.0, 1e-3, 100), cosine(1e-3, 5e-4, 500)
    return join([up, 1e-3, down, exponential_decay(5e-4, 0.5, 300), polynomial(1e-4, 0.0, 300)], [100, 300, 800, 1200])


def adam_step() -> Measurement:
    five, one = in_turn(_adam_loop(five_pieces()), _adam_loop(constant(1e-3)), rounds=60)
    what = "20 jitted Adam steps, 1 M parameters, five pieces"
    return Measurement(what, five * 1e3, "with a constant", one * 1e3, "ms", "at most 1.02")


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
    schedule = _many(pieces)

    def trace() -> Any:
        jax.clear_caches()
        return jax.jit(lambda s, t: s(t)).trace(schedule, 0)

    return trace


def _compiled(pieces: int) -> Callable[[], Any]:
    trace = _traced(pieces)
    return lambda: trace().lower().compile()


def _evaluated(pieces: int) -> Callable[[], Any]:
    schedule, steps = _many(pieces), jnp.arange(1_000_000) % (10 * pieces)
    evaluate = jax.jit(lambda t: schedule(t)).lower(steps).compile()
    return lambda: evaluate(steps)


def joined(what: str, make: Callable[[int], Callable[[], Any]], goal: str = "at most 4") -> Measurement:
    long, short = in_turn(make(1000), make(250), rounds=9)
    return Measurement(f"{what}, a join of 1,000 pieces", long, "a join of 250", short, "s", goal)


def imports() -> Measurement:
    code = "import time; a = time.perf_counter(); import jax; b = time.perf_counter(); import schedules"
    code += "; print(b - a, time.perf_counter() - b)"
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(9)]
    alone, more = np.median([[float(seconds) for seconds in run.stdout.split()] for run in runs], axis=0)
    return Measurement("`import schedules` after jax", more * 1e3, "`import jax`", alone * 1e3, "ms", "at most 100 ms")


# Optimizers -------------------------------------------------------------------------------------------

ARRAYS = 150


class Contender(NamedTuple):
    """An optimizer and how often an update must read or write each parameter-sized array."""

    optimizer: optax.GradientTransformation
    moved: int


def large_updates(parameters: int = 50_000_000, calls: int = 1) -> Iterator[Measurement]:
    """A jitted step on float32 parameters, buffers donated, each optimizer against optax's and against a copy.

    **Arguments:** `calls`: of each between two looks at the clock, more where one is so short that its dispatch counts.
    """
    size = -(-parameters // ARRAYS)
    released = "optax.contrib.schedule_free_adamw", Contender(optax.contrib.schedule_free_adamw(1e-3, b1=0.9), 7)
    for what, ours, (against, theirs) in (
        # Adam reads parameters, gradients, m and v; it writes all but the gradients.
        ("Adam", Contender(adam(1e-3), 7), ("optax.adam", Contender(optax.adam(1e-3), 7))),
        ("EMA of Adam", Contender(average(adam(1e-3), ema(0.999)), 9), released),
        ("schedule-free AdamW", Contender(schedule_free_adamw(1e-3), 9), released),
        ("schedule-free AdamW, lean", Contender(schedule_free_adamw(1e-3, lean=True), 7), released),
    ):
        steps = [_large_step(each.optimizer, size) for each in (ours, theirs)]
        *times, copy = in_turn(*steps, _copy(ours.moved, size), rounds=7, calls=calls)
        per_byte = [s / (4e-9 * ARRAYS * size * each.moved) for s, each in zip(times, (ours, theirs), strict=True)]
        name = f"{what}, {parameters / 1e6:.4g} M parameters"
        yield Measurement(f"{name}, per byte moved", per_byte[0], against, per_byte[1], "s/GB", "at most 1.0")
        goal = "at most 1.3" if what == "Adam" else ""
        yield Measurement(name, times[0], "reading and writing as many bytes", copy, "s", goal)


def _large_step(optimizer: optax.GradientTransformation, size: int) -> Callable[[], Any]:
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = [jnp.full(size, 0.1) for _ in range(ARRAYS)]
    grads = [jnp.full(size, 0.01) for _ in range(ARRAYS)]
    state = optimizer.init(params)

    def call() -> jax.Array:
        nonlocal params, state
        params, state = step(params, state, grads)
        return params[0]

    return call


def _copy(moved: int, size: int) -> Callable[[], Any]:
    """Reads and writes as many bytes as are moved, in place: new memory would cost more than the copy."""
    arrays = [jnp.full(size, 0.1) for _ in range(ARRAYS * moved // 2)]
    negate = jax.jit(lambda arrays: [-array for array in arrays], donate_argnums=0)

    def call() -> jax.Array:
        nonlocal arrays
        arrays = negate(arrays)
        return arrays[0]

    return call


def eager_update() -> Measurement:
    grads = [jnp.full(100, 0.01) for _ in range(ARRAYS)]

    def update(optimizer: optax.GradientTransformation) -> Callable[[], Any]:
        state = optimizer.init(grads)
        return lambda: optimizer.update(grads, state)[0][0]

    ours, theirs = in_turn(update(adam(1e-3)), update(optax.adam(1e-3)), rounds=9)
    what = "an update of Adam that the caller did not jit, 150 small arrays"
    return Measurement(what, ours * 1e3, "optax.adam", theirs * 1e3, "ms", "at most 1/5")


def bytes_per_parameter(optimizer: optax.GradientTransformation) -> float:
    """The size of an optimizer's state, for each float32 parameter."""
    state = jax.eval_shape(optimizer.init, jax.ShapeDtypeStruct((1_000_000,), jnp.float32))
    return round(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / 1_000_000, 3)
