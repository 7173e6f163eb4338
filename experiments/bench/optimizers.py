"""What an update of an optimizer costs, relative to optax and to a copy of as many bytes."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.bench.measurement import Measurement, compared, in_turn, table
from experiments.reports.question import Question
from optim import adam, average, ema, schedule_free_adamw, schedule_free_sgd


def measurements() -> Iterator[Measurement]:
    yield from moved_bytes()
    yield from large_updates()
    yield eager_update()


ARRAYS = 150
RELEASED = optax.contrib.schedule_free_adamw(1e-3, b1=0.9)


def moved_bytes() -> Iterator[Measurement]:
    """What the compiled step reads and writes, against what any step would have to."""
    for what, optimizer in (
        ("Adam", adam(1e-3)),
        ("optax.adam", optax.adam(1e-3)),
        ("EMA of Adam", average(adam(1e-3), ema(0.999))),
        ("schedule-free AdamW", schedule_free_adamw(1e-3)),
        ("schedule-free AdamW, lean", schedule_free_adamw(1e-3, lean=True)),
        ("optax.contrib.schedule_free_adamw", RELEASED),
        ("schedule-free SGD, lean", schedule_free_sgd(0.1, lean=True)),
        ("optax.contrib.schedule_free_sgd", optax.contrib.schedule_free_sgd(0.1)),
    ):
        needed = bytes_needed(optimizer)
        yield Measurement(what, bytes_moved(optimizer), "what is needed", needed, "bytes a parameter")


def large_updates(parameters: int = 50_000_000, calls: int = 1) -> Iterator[Measurement]:
    """A jitted step on float32 parameters, buffers donated, each optimizer against optax's and against a copy.

    **Arguments:** `calls`: of each between two looks at the clock, more where one is so short that its dispatch counts.
    """
    size = -(-parameters // ARRAYS)
    released = "optax.contrib.schedule_free_adamw", RELEASED
    for what, ours, (against, theirs) in (
        ("Adam", adam(1e-3), ("optax.adam", optax.adam(1e-3))),
        ("EMA of Adam", average(adam(1e-3), ema(0.999)), released),
        ("schedule-free AdamW", schedule_free_adamw(1e-3), released),
        ("schedule-free AdamW, lean", schedule_free_adamw(1e-3, lean=True), released),
    ):
        needed = [bytes_needed(each) for each in (ours, theirs)]
        steps = [_large_step(each, size) for each in (ours, theirs)]
        *times, copy = in_turn(*steps, _copy(needed[0], size), rounds=7, calls=calls)
        per_byte = [s / (1e-9 * ARRAYS * size * each) for s, each in zip(times, needed, strict=True)]
        name = f"{what}, {parameters / 1e6:.4g} M parameters"
        yield compared(f"{name}, per byte moved", per_byte[0], against, per_byte[1], "s/GB", "at most 1.0")
        goal = "at most 1.3" if what == "Adam" else ""
        yield compared(name, times[0], "reading and writing as many bytes", copy, "s", goal)


def one_step(optimizer: optax.GradientTransformation) -> Any:
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def _large_step(optimizer: optax.GradientTransformation, size: int) -> Callable[[], Any]:
    step = one_step(optimizer)
    params = [jnp.full(size, 0.1) for _ in range(ARRAYS)]
    grads = [jnp.full(size, 0.01) for _ in range(ARRAYS)]
    state = optimizer.init(params)

    def call() -> jax.Array:
        nonlocal params, state
        params, state = step(params, state, grads)
        return params[0]

    return call


def _copy(moved: float, size: int) -> Callable[[], Any]:
    """Reads and writes `moved` bytes a parameter, in place: new memory would cost more than the copy."""
    arrays = [jnp.full(size, 0.1) for _ in range(int(ARRAYS * moved / 8))]
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


SIZE = 1_000_000


def bytes_per_parameter(optimizer: optax.GradientTransformation) -> float:
    """The size of an optimizer's state, for each float32 parameter."""
    state = jax.eval_shape(optimizer.init, jax.ShapeDtypeStruct((SIZE,), jnp.float32))
    return round(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / SIZE, 3)


def bytes_needed(optimizer: optax.GradientTransformation) -> float:
    """What a step must move for each float32 parameter: it reads the gradient, and reads and writes all else once."""
    return 3 * 4 + 2 * bytes_per_parameter(optimizer)


def bytes_moved(optimizer: optax.GradientTransformation) -> float:
    """What the kernels of the compiled step read and write for each float32 parameter, as XLA counts it."""
    counted: Any = compiled_step(optimizer).cost_analysis()
    return round(counted["bytes accessed"] / SIZE, 2)


def compiled_step(optimizer: optax.GradientTransformation) -> jax.stages.Compiled:
    """A step on one array of `SIZE` float32 parameters, where parameters and state are donated."""
    params = jax.ShapeDtypeStruct((SIZE,), jnp.float32)
    return one_step(optimizer).lower(params, jax.eval_shape(optimizer.init, params), params).compile()


OPTIMIZERS = Question("optimizers", "What does an update of an optimizer cost?", lambda: table(measurements()))
