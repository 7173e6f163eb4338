"""How many updates of how many arms a second: one program of many, against a loop over one."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.bench.measurement import Measurement, compared, in_turn
from experiments.engine.plan import Plan, Precision
from experiments.engine.program import DTYPES, MATMULS, Program, as_floats, batch_loss, draw

SECONDS, ROUNDS = 0.5, 5  # of one timing, and how many timings, of which the median counts
MOST = 64  # rounds in one timing


class Trainee(NamedTuple):
    """Arms in training: `advance` makes so many more rounds of updates, and has their losses when it returns."""

    name: str
    work: float  # in a round: arm-updates, unless a race says otherwise
    advance: Callable[[int], Any]


def race(ours: Trainee, theirs: Trainee, unit: str = "arm-updates/s", goal: str = "") -> Measurement:
    """The work of both per second, timed in turn."""
    pair = (ours, theirs)
    counts = [paced(each.advance) for each in pair]
    calls = [functools.partial(each.advance, count) for each, count in zip(pair, counts, strict=True)]
    seconds = in_turn(*calls, rounds=ROUNDS)
    rates = [each.work * count / s for each, count, s in zip(pair, counts, seconds, strict=True)]
    return compared(ours.name, rates[0], theirs.name, rates[1], unit, goal)


def sustained(trainee: Trainee, seconds: float) -> float:
    """Its arm-updates per second over about as many seconds."""
    count = paced(trainee.advance)
    begun, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < seconds or not calls:
        trainee.advance(count)
        calls += 1
    return trainee.work * count * calls / spent


def paced(advance: Callable[[int], Any]) -> int:
    """How many rounds take about `SECONDS`."""
    advance(1)  # compiles
    count = 1
    while count < MOST and took(advance, count) < SECONDS / 2:
        count *= 2
    return count


def took(advance: Callable[[int], Any], count: int) -> float:
    begun = time.perf_counter()
    advance(count)
    return time.perf_counter() - begun


def one_program(plan: Plan, names: Sequence[str], seeds: int, precision: Precision, kind: str = "arm") -> Trainee:
    """Arms of the plan with as many seeds, vmapped and sharded over the devices."""
    arms = [arm for arm in plan.arms if arm.name in names]
    program = Program(replace(plan, arms=arms, seeds=tuple(range(seeds)), precision=precision))
    runs = program.start()

    def advance(count: int) -> None:
        nonlocal runs
        runs, _ = program.advance(runs, 0, count * program.inner)

    count = len(arms) * seeds
    return Trainee(row_name(count, precision, kind), count * program.inner, advance)


def row_name(arms: int, precision: Precision, kind: str = "arm") -> str:
    return f"{arms} {kind}{'s' * (arms > 1)}, {precision}"


def published_style(plan: Plan, precision: Precision) -> Trainee:
    """The first arm of the plan as it was published: a batch from the host's arrays, a compiled update and its loss
    read, in a loop."""
    model, data, arm = plan.model, plan.data, plan.arms[0]
    optimizer = arm.optimizer(**arm.hyperparameters)
    params = model.init(jax.random.key(0), jnp.asarray(data.train_images[:1]) / 255, deterministic=True)["params"]
    state, step = optimizer.init(params), 0

    @jax.jit
    def update(params: Any, state: Any, images: Any, labels: Any, key: Any) -> Any:
        with jax.default_matmul_precision(MATMULS[precision]):
            loss_of = functools.partial(batch_loss, model, as_floats(images, DTYPES[precision]), labels, key)
            loss, grads = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(grads, state, params)
        return loss, optax.apply_updates(params, updates), state

    def advance(count: int) -> list[float]:
        nonlocal params, state, step
        losses = []
        for _ in range(count):
            batch, key = draw(jnp.int32(0), jnp.int32(step), plan.batch_size, len(data.train_labels))
            loss, params, state = update(params, state, data.train_images[batch], data.train_labels[batch], key)
            losses.append(float(loss))
            step += 1
        return losses

    return Trainee(f"one arm in the published style, {precision}", 1, advance)
