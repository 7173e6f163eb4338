"""A user's program that type checkers accept in strict mode; `tests/test_typing.py` has mypy read it, and runs it."""

from collections.abc import Callable
from typing import Literal, assert_type

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from optim import (
    RangeTest,
    adam,
    adamw,
    average,
    ema,
    eval_params,
    hyperparameters,
    matching,
    per_parameter,
    polyak,
    range_test,
    reduce_on_plateau,
    require_eval_params,
    scale_by_path,
    schedule_free,
    schedule_free_adamw,
    sgd,
    suggest_rate,
    weighted,
)
from schedules import (
    Positive,
    Schedule,
    ScheduleLike,
    Shape,
    Steps,
    Value,
    as_schedule,
    check,
    cosine,
    describe,
    exponential,
    interpolate,
    join,
    linear,
    multistep,
    one_cycle,
    one_cycle_momentum,
    parse,
    polynomial,
    recipe,
    schedule,
    stack,
    tabulate,
    warmup,
    wsd,
)

# Schedules: numbers, arrays and other schedules as arguments, values as results ------------------------------

lr = warmup(cosine(3e-4, 0.0, steps=90), steps=10)
assert_type(lr, Schedule)
assert_type(lr(0), Array)
rates: list[Array] = [lr(0.5), lr(np.arange(100)), lr(jnp.arange(100)), jax.jit(lr)(3)]
assert_type(0.5 * lr + 1e-5, Schedule)
assert_type(jnp.asarray(2.0) * lr**2 * jnp.asarray(2.0), Schedule)
assert_type(lr.replace(steps=20), Schedule)
assert_type(parse(repr(lr)), Schedule)
swept: Schedule = stack([cosine(peak, 0.0, steps) for peak, steps in [(0.1, 50), (0.2, 100)]])
values: Array = jax.vmap(lambda one: one(jnp.arange(100)))(swept)
joined = join([linear(0.0, 1.0, 10), 0.5, optax.cosine_decay_schedule(1.0, 100), lambda step: 1.0], [10, 20, 30])
built: list[Schedule] = [
    multistep(0.1, [30, 60], 0.1),
    multistep(0.1, jnp.array([30, 60]), factor=jnp.asarray(0.1)),
    interpolate((0.0, 1.0, 0.5), [0, 50, 100]),
    wsd(3e-4, 10, 80, 10, shape=polynomial),
    warmup(0.1, 10, shape=exponential, init=1e-3),
]
print(describe(lr, 100), check(lr, steps=100), tabulate(joined, 40).shape)


# Schedules of one's own: annotated for the checker or not, with kinds or with plain types --------------------


@schedule
def sawtooth(step: Array, peak: Value, period: Steps = 4) -> Array:
    return peak * (1 - step % period / period)


@schedule(check=lambda *, low, high, **_: None if low < high else "`low` must be below `high`")
def swing(step: Array, low: float, high: float, mode: Literal["sin", "cos"] = "sin", inverse: bool = False) -> Array:
    wave = jnp.sin(step) if mode == "sin" else jnp.cos(step)
    return low + (high - low) * (-wave if inverse else wave)


@schedule
def doubled(step: Array, of: ScheduleLike) -> Array:
    return 2 * as_schedule(of)(step)


@recipe
def trapezoid(peak: Positive, ramp: Steps, hold: Steps, shape: Shape = linear) -> Schedule:
    return join([shape(0.0, peak, ramp), peak, shape(peak, 0.0, ramp)], [ramp, ramp + hold])


assert_type(sawtooth(1.0, period=8), Schedule)
own: list[Schedule] = [swing(0.0, high=1.0, mode="cos"), doubled(sawtooth(1.0)), doubled(0.1)]
assert_type(trapezoid(0.1, 10, 80, shape=cosine), Schedule)
kept: dict[str, ScheduleLike] = {"lr": lr, "b1": 0.9, "decay": optax.constant_schedule(0.1)}


# Optimizers: real transformations ----------------------------------------------------------------------------

params = {"kernel": jnp.ones((3, 1)), "bias": jnp.zeros(1)}


def loss(params: dict[str, Array], batch: Array) -> Array:
    return jnp.mean((batch @ params["kernel"] + params["bias"] - 1.0) ** 2)


def train(optimizer: optax.GradientTransformation) -> optax.Params:
    transformation = optax.chain(optimizer)  # now of those that are told the loss

    @jax.jit
    def update(params: optax.Params, state: optax.OptState, batch: Array) -> tuple[optax.Params, optax.OptState]:
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = transformation.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    trained, state = update(params, transformation.init(params), jnp.ones((2, 3)))
    read: dict[str, Array] = hyperparameters(state)
    print(read)
    evaluated: optax.Params = eval_params(state, trained)
    return evaluated


momentum = one_cycle_momentum(30, 70)
optimizers: list[optax.GradientTransformation] = [
    optax.inject_hyperparams(optax.adamw)(lr),
    optax.chain(optax.sgd(one_cycle(0.1, 30, 70), momentum=0.9), scale_by_path([("bias", 2.0)])),
    adam(1e-3, b1=momentum),
    adamw(lr, weight_decay=linear(0.1, 0.0, 100), mask=matching("kernel")),
    sgd(lr, 0.9, nesterov=True),
    average(adam(lr), ema(0.999)),
    average(sgd(0.1), polyak()),
    schedule_free(adam(1e-3, b1=0.0), weighted(lr, r=1.0), beta=linear(0.9, 0.95, 100)),
    schedule_free_adamw(lr, warmup_steps=10, decay_at="z"),
    optax.chain(optax.clip_by_global_norm(1.0), adam(lr), reduce_on_plateau(factor=0.5, patience=2, mode="min")),
    per_parameter([("bias", sgd(0.1)), ("kernel", optax.adam(lr))]),
    optax.chain(adam(lr), scale_by_path([("bias", 2.0), ("kernel", sawtooth(1.0))])),
]
results: list[optax.Params] = [train(optimizer) for optimizer in optimizers]
averaged = average(adam(lr), {"long": ema(0.99), "all": polyak()})
require_eval_params(averaged.init(params), params, name="long")

make: Callable[[Schedule], optax.GradientTransformation] = lambda rate: optax.sgd(rate, momentum=0.9)  # noqa: E731
found = range_test(loss, params, jnp.ones((20, 2, 3)), optimizer=make, end=1.0)
assert_type(found, RangeTest)
assert_type(found.losses, Array)
rate: float = suggest_rate(found)
