"""Evaluates a formula, which is written for one step, at any array of steps."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from schedules.numerics import MAX_STEPS
from schedules.sentences import shown

# What JAX raises where a traced number is used as a Python or NumPy number.
NEEDS_NUMBERS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def computed(schedule: Any, step: ArrayLike) -> Array:
    """The formula, mapped over `step`. All values of schedules are computed here."""
    formula, step = schedule.formula, jnp.asarray(step)
    if step.dtype == bool or not jnp.issubdtype(step.dtype, np.number) or jnp.iscomplexobj(step):
        raise TypeError(f"{formula}: `step` must be integers or floats, got {step.dtype}")
    # The default width: in int8 `300 - step` would wrap, and in bfloat16 steps beyond 256 collide.
    if jnp.issubdtype(step.dtype, np.unsignedinteger):
        step = jnp.minimum(step, jnp.asarray(min(jnp.iinfo(step.dtype).max, MAX_STEPS), step.dtype))
    step = jnp.maximum(step.astype(int if jnp.issubdtype(step.dtype, np.integer) else float), 0)
    arguments = formula.cast(schedule.arguments, step.dtype)

    def at(t: Array) -> Array:
        try:
            found = formula.value(t, arguments)
        except NEEDS_NUMBERS as error:
            raise TypeError(
                f"{formula}: a formula must not need Python numbers, since its step and arguments are traced: use "
                "jnp.where instead of `if`, and jnp.cos instead of math.cos"
            ) from error
        try:
            number = jnp.asarray(found)
        except (TypeError, ValueError):
            number = None
        if number is None or number.shape or jnp.iscomplexobj(number):
            got = shown(found) if number is None else number.dtype if not number.shape else f"shape {number.shape}"
            raise ValueError(f"{formula}: the formula must return one number for one step, got {got}")
        return number.astype(float)

    return jnp.vectorize(at)(step) if step.ndim else at(step)


@functools.partial(jax.jit, static_argnums=0)
def compiled(structure: Any, leaves: Sequence[Any], step: ArrayLike) -> Array:
    """The values of the schedule with this pytree structure and these leaves.

    Its numbers are arguments of the jitted function, so that changing them compiles nothing. It gets them flat, since
    flattening a schedule takes longer than the call. Schedules inside others are not jitted themselves: nested jitted
    functions would be inlined into each other again and again.
    """
    return computed(jax.tree.unflatten(structure, leaves), step)


def on_device(leaves: Sequence[Any]) -> list[Any]:
    """Arrays for the Python numbers among `leaves`."""
    with jax.ensure_compile_time_eval():  # so that it also works while something else is being traced
        return [jnp.asarray(leaf) if isinstance(leaf, int | float) else leaf for leaf in leaves]


BLOCK = 4096


def block_of(schedule: Any, number: int) -> list[float]:
    """The values at steps number * BLOCK, number * BLOCK + 1, ... as Python floats."""
    formula, steps = schedule.formula, np.minimum(number * BLOCK + np.arange(BLOCK), MAX_STEPS)
    try:
        with jax.ensure_compile_time_eval():  # so that it also works while something else is being traced
            return np.asarray(schedule(steps)).tolist()
    except NEEDS_NUMBERS as error:
        raise TypeError(
            f"{formula}.at: the schedule must not be traced: in jitted code, call the schedule itself"
        ) from error


def require_in_range(formula: object, step: Any) -> None:
    if type(step) is int and step <= MAX_STEPS:  # the usual case, told in a tenth of the time
        return
    last = np.max(step, initial=0) if isinstance(step, np.ndarray) and step.dtype.kind in "iuf" else step
    if not isinstance(last, int | float | np.integer | np.floating) or last <= MAX_STEPS:
        return
    if isinstance(last, int | np.integer):  # JAX would silently wrap around NumPy's wide integers
        raise OverflowError(f"{formula}: `step` must be at most {MAX_STEPS}, got {shown(int(last))}")
    if not last < np.inf:
        raise ValueError(f"{formula}: `step` must be finite, got {last}")


def require_numbers(formula: object, step: Any) -> None:
    try:
        jnp.asarray(np.asarray(step) if isinstance(step, str) else step)  # JAX takes "f" for a dtype
    except OverflowError:
        raise OverflowError(f"{formula}: `step` must be at most {MAX_STEPS} in size, got {shown(step)}") from None
    except (TypeError, ValueError):
        raise TypeError(f"{formula}: `step` must be integers or floats, got {shown(step)}") from None
