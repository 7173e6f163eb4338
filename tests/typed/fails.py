"""Mistakes that type checkers must find; `tests/test_typing.py` compares these marks with what mypy says."""

import jax.numpy as jnp
import optax
from jax import Array

from optim import Plateau, adam, average, eval_params, per_parameter, range_test, reduce_on_plateau, schedule_free
from schedules import (
    Schedule,
    Shape,
    Steps,
    Value,
    cosine,
    describe,
    interpolate,
    join,
    linear,
    multiply,
    multistep,
    parse,
    recipe,
    schedule,
    stack,
    warmup,
)

lr = cosine(0.1, 0.0, 100)
optimizer = adam(lr)

# Arguments of a schedule
cosine(0.1, 0.0)  # error: call-arg
cosine(0.1, 0.0, 100, 5)  # error: call-arg
cosine(0.1, 0.0, step=100)  # error: call-arg
cosine("0.1", 0.0, 100)  # error: arg-type
cosine(0.1, 0.0, steps=0.5)  # error: arg-type
cosine(0.1, 0.0, steps=None)  # error: arg-type
cosine(lr, 0.0, 100)  # error: arg-type
multistep(0.1, 30, 0.1)  # error: arg-type
multistep(0.1, [0.5], 0.1)  # error: list-item
interpolate([0.1, "0"], [0, 100])  # error: list-item
interpolate([0.1, 0.0])  # error: call-arg
multiply(lr, "2")  # error: arg-type
warmup("cosine", 10)  # error: arg-type
warmup(lr, 10, shape="cosine")  # error: arg-type
warmup(lr, 10, shape=lr)  # error: arg-type
warmup(lr, 10, shape=cosine(0.0, 0.1, 10))  # error: arg-type
warmup(lr, 10, shape=warmup)  # error: arg-type
join(lr, [10])  # error: arg-type
join([lr, "constant"], [10])  # error: list-item
join([lr, lr], 10)  # error: arg-type
stack(lr)  # error: arg-type
stack([lr, "constant"])  # error: list-item
parse(None)  # error: arg-type

# What a schedule is
lr("0")  # error: arg-type
lr()  # error: call-arg
lr + "1"  # error: operator
lr.arguments["steps"] = 200  # error: index
rate: float = lr(0)  # error: assignment
describe(lr)  # error: call-arg


# The decorators
@schedule
def sawtooth(step: Array, peak: Value, period: Steps) -> Array:
    return peak * (1 - step % period / period)


@recipe
def trapezoid(peak: Value, ramp: Steps, shape: Shape = linear) -> Schedule:
    return join([shape(0.0, peak, ramp), peak], [ramp])


sawtooth(1.0)  # error: call-arg
sawtooth(1.0, 4, 0)  # error: call-arg
sawtooth(jnp.arange(3), 1.0, 4)  # error: arg-type, call-arg
sawtooth("1", 4)  # error: arg-type
sawtooth(peak=1.0, period=4, shape=linear)  # error: call-arg
trapezoid(1.0)  # error: call-arg
trapezoid(1.0, "10")  # error: arg-type


@schedule  # error: arg-type
def named(step: Array) -> str:
    return "0.1"


@schedule  # error: arg-type
def clockless() -> float:
    return 0.1


@recipe  # error: arg-type
def number(peak: Value) -> float:
    return 0.1


@schedule(name="other")  # error: call-overload, untyped-decorator
def renamed(step: Array, peak: Value) -> Value:
    return peak


# Optimizers
adam()  # error: call-arg
adam("0.1")  # error: arg-type
adam(0.1, beta1=0.9)  # error: call-arg
adam(0.1, b1="0.9")  # error: arg-type
adam(0.1, b1=(0.9, 0.999))  # error: arg-type
average(0.1, lr)  # error: arg-type
average(optimizer)  # error: call-arg
average(optimizer, 0.999)  # error: arg-type
average(optimizer, "ema")  # error: arg-type
average(optimizer, lr, decay_at="x")  # error: arg-type
schedule_free(lr)  # error: arg-type
schedule_free(optimizer, beta="0.9")  # error: arg-type
reduce_on_plateau(mode="least")  # error: arg-type
reduce_on_plateau(factor="0.5")  # error: arg-type
Plateau(patience="5")  # error: arg-type
per_parameter({"bias": optimizer})  # error: arg-type
per_parameter([("bias", lr)])  # error: list-item
eval_params(lr)  # error: call-arg
range_test(optimizer, {}, [])  # error: arg-type
range_test(lambda params, batch: 0.1, {}, [], optimizer=optimizer)  # error: arg-type


def make(rate: float) -> optax.GradientTransformation:
    return optax.sgd(rate)


range_test(lambda params, batch: 0.1, {}, [], optimizer=make)  # error: arg-type
