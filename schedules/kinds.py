"""What the arguments of a schedule may be: checked when it is built, made JAX scalars when it is called."""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MAX_STEPS = 2**31 - 1  # steps are counted in int32, as optax counts updates


class Kind:
    """What an argument may be: `build` checks and converts it once, `cast` readies it for the formula.

    `build` raises ValueError for anything that is not `expected`; the caller adds the names.
    """

    expected: str
    is_leaf = True  # a number, or holds numbers: part of the pytree, not of its structure

    def build(self, value: Any) -> Any:
        raise NotImplementedError

    def cast(self, value: Any, clock: Any) -> Any:
        """`value` as the formula gets it; durations come in the dtype of the steps, `clock`."""
        del clock
        return value


class Number(Kind):
    """One number. Python and NumPy numbers are checked; JAX arrays and tracers pass through."""

    def __init__(self, type: type[float] | type[int], expected: str, least: float = -math.inf):
        self.type, self.expected, self.least = type, expected, least

    def build(self, value: Any) -> Any:
        if isinstance(value, Array):
            # A formula that composes schedules has its durations in the clock's dtype, which may be a float.
            kinds = np.number if self.type is float or isinstance(value, jax.core.Tracer) else np.integer
            return require(value, value.ndim == 0 and jnp.issubdtype(value.dtype, kinds))
        if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
            value = value.item()
        require(value, isinstance(value, int | float) and not isinstance(value, bool))
        largest = MAX_STEPS if self.type is int else float(jnp.finfo(jnp.result_type(float)).max)
        require(value, self.least <= value <= largest and -largest <= value and self.type(value) == value)
        return self.type(value)

    def cast(self, value: Any, clock: Any) -> Array:
        return _of_rank(0, jnp.asarray(value, clock if self.type is int else float))


class Numbers(Kind):
    """A list of numbers, each a leaf; or one JAX array, which is a single leaf."""

    def __init__(self, each: Number, expected: str, ascending: bool = False):
        self.each, self.expected, self.ascending = each, expected, ascending

    def build(self, value: Any) -> Any:
        if isinstance(value, Array):
            return require(value, value.ndim == 1)
        require(value, isinstance(value, Sequence | np.ndarray) and not isinstance(value, str))
        numbers = tuple(map(self.each.build, value))
        if self.ascending and not any(isinstance(n, Array) for n in numbers):
            require(value, all(a <= b for a, b in itertools.pairwise(numbers)))
        return numbers

    def cast(self, value: Any, clock: Any) -> Array:
        dtype = clock if self.each.type is int else float
        if isinstance(value, tuple):
            return jnp.stack([self.each.cast(n, clock) for n in value]) if value else jnp.zeros(0, dtype)
        return _of_rank(1, jnp.asarray(value, dtype))


class Choice(Kind):
    """One of a few Python values, fixed when the formula is traced."""

    is_leaf = False

    def __init__(self, *options: Any):
        self.options = options
        self.expected = "one of " + ", ".join(map(repr, options))

    def build(self, value: Any) -> Any:
        # By type as well: True == 1, and 1 is not an answer to a yes-or-no question.
        return require(value, any(type(value) is type(o) and value == o for o in self.options))


def _of_rank(rank: int, array: Array) -> Array:
    if array.ndim != rank:
        raise ValueError(f"has shape {array.shape} where {rank} axes are expected: use jax.vmap for stacked schedules")
    return array


def require(value: Any, fits: bool) -> Any:
    """`value` if it fits; the ValueError gets its words where the argument's name is known."""
    if not fits:
        raise ValueError
    return value


VALUE = Number(float, "a finite number")
STEPS = Number(int, f"a whole number of steps from 0 to {MAX_STEPS}", least=0)

Value = Annotated[float | Array, VALUE]
Steps = Annotated[int | Array, STEPS]
Values = Annotated[Sequence[float] | Array, Numbers(VALUE, "a list of finite numbers")]
Boundaries = Annotated[
    Sequence[int] | Array,
    Numbers(STEPS, f"a list of whole numbers from 0 to {MAX_STEPS} that never decreases", ascending=True),
]
