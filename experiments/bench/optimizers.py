"""What an update of an optimizer costs, relative to optax and to a copy of as many bytes."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.bench.measurement import Measurement, compared, in_turn, table
from experiments.reports.question import Question
from optim import adam, average, ema, schedule_free_adamw


def measurements() -> Iterator[Measurement]:
    yield from large_updates()
    yield eager_update()


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
        yield compared(f"{name}, per byte moved", per_byte[0], against, per_byte[1], "s/GB", "at most 1.0")
        goal = "at most 1.3" if what == "Adam" else ""
        yield compared(name, times[0], "reading and writing as many bytes", copy, "s", goal)


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
    return compared(what, ours * 1e3, "optax.adam", theirs * 1e3, "ms", "at most 1/5")


def bytes_per_parameter(optimizer: optax.GradientTransformation) -> float:
    """The size of an optimizer's state, for each float32 parameter."""
    state = jax.eval_shape(optimizer.init, jax.ShapeDtypeStruct((1_000_000,), jnp.float32))
    return round(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / 1_000_000, 3)


OPTIMIZERS = Question("optimizers", "What does an update of an optimizer cost?", lambda: table(measurements()))
