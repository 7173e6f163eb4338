"""What the arguments of a schedule may be: checked when it is built, made JAX scalars when it is called."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from typing_extensions import TypeAliasType

from schedules.numerics import MAX_STEPS, Split, split


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

    def flatten(self, value: Any) -> Any:
        """The leaf or leaves that `value` is in a pytree."""
        return value

    def stretch(self, value: Any, change: Callable[[Any, int], Any]) -> Any:
        """`value` with every duration in it passed through `change`, together with the least that it may be."""
        del change
        return value

    def phases(self, value: Any) -> Sequence[int]:
        """The steps, of those that `value` is, at which a phase begins or ends."""
        del value
        return ()

    def unread(self, value: Any, stand_in: Array) -> Any:
        """`value` with every schedule in it replaced by one whose values are `stand_in`."""
        del stand_in
        return value


class Number(Kind):
    """One number. Python and NumPy numbers are checked; JAX arrays and tracers pass through."""

    def __init__(
        self,
        type: type[float] | type[int],
        expected: str,
        least: float = -math.inf,
        above: float = -math.inf,
        most: float = math.inf,
        duration: bool = False,
    ):
        self.type, self.expected, self.duration = type, expected, duration
        self.least, self.above, self.most = least, above, most

    def build(self, value: Any) -> Any:
        if is_traced(value):
            # Of any real dtype: a formula that composes schedules has its durations in the clock's, maybe a float's.
            return require(value, value.ndim == 0 and _is_real(value))
        if isinstance(value, Array):
            require(value, value.ndim == 0 and _is_real(value) and jnp.issubdtype(value.dtype, self.dtypes))
            self._in_range(value.item())
            return value
        if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
            value = value.item()
        require(value, isinstance(value, int | float) and not isinstance(value, bool))
        return self._in_range(value)

    def _in_range(self, value: float) -> float:
        require(value, max(self.least, -self.largest) <= value <= min(self.most, self.largest) and value > self.above)
        require(value, self.type(value) == value)
        return self.type(value)

    @property
    def dtypes(self) -> Any:
        return np.number if self.type is float else np.integer

    @property
    def largest(self) -> float:
        return MAX_STEPS if self.type is int else float(jnp.finfo(jnp.result_type(float)).max)

    def cast(self, value: Any, clock: Any) -> Any:
        if self.duration and isinstance(value, Array) and jnp.issubdtype(value.dtype, jnp.floating):
            value = jnp.round(value)  # traced, as of 0.29 * 100
        return _of_rank(0, jnp.asarray(value, clock if self.duration else self.type))

    def phases(self, value: Any) -> Sequence[int]:
        return (value,) if self.duration and self.least == 0 else ()  # a period, of 1 at least, comes again

    def stretch(self, value: Any, change: Callable[[Any, int], Any]) -> Any:
        return change(value, int(self.least)) if self.duration else value


class PreciseNumber(Number):
    """A number that is raised to powers, or is one: two leaves, so that no digit of it is lost.

    In float32 the factor 0.9999 is 0.99989998, and its 50,000th power is off by 8e-4. Formulas get a
    `Split`, for `schedules.numerics.power`. Only `hi` is differentiated.
    """

    largest = float(jnp.finfo(jnp.float32).max)

    def build(self, value: Any) -> Any:
        return value if isinstance(value, Split) else super().build(value)

    def cast(self, value: Any, clock: Any) -> Split:
        hi, lo = (super(PreciseNumber, self).cast(part, clock) for part in self.flatten(value))
        return Split(hi, jax.lax.stop_gradient(lo))

    def flatten(self, value: Any) -> Split:
        if isinstance(value, Split):
            return value
        return split(value) if isinstance(value, float) else Split(value, 0.0)


class Numbers(Kind):
    """A list of numbers, each a leaf; or one array, which is a single leaf: long ones compile in a moment."""

    def __init__(self, each: Number, expected: str, ascending: bool = False):
        self.each, self.expected, self.ascending = each, expected, ascending

    def build(self, value: Any) -> Any:
        if is_traced(value):
            return require(value, value.ndim == 1 and _is_real(value))
        if isinstance(value, Array):
            require(value, value.ndim == 1 and _is_real(value) and jnp.issubdtype(value.dtype, self.each.dtypes))
            self.build(np.asarray(value).tolist())
            return value
        if isinstance(value, np.ndarray):
            self.build(value.tolist())
            return jnp.asarray(value, self.each.type)
        require(value, isinstance(value, Sequence) and not isinstance(value, str))
        numbers = tuple(map(self.each.build, value))
        if self.ascending and not any(isinstance(n, Array) for n in numbers):
            require(value, all(a <= b for a, b in itertools.pairwise(numbers)))
        return numbers

    def cast(self, value: Any, clock: Any) -> Array:
        dtype = clock if self.each.duration else float
        if isinstance(value, tuple):
            return jnp.stack([self.each.cast(n, clock) for n in value]) if value else jnp.zeros(0, dtype)
        return _of_rank(1, jnp.asarray(value, dtype))

    def phases(self, value: Any) -> Sequence[int]:
        return [step for each in value for step in self.each.phases(each)]

    def stretch(self, value: Any, change: Callable[[Any, int], Any]) -> Any:
        if isinstance(value, tuple):
            return tuple(self.each.stretch(n, change) for n in value)
        return self.each.stretch(value, change)


class Choice(Kind):
    """One of a few Python values, fixed when the formula is traced."""

    is_leaf = False

    def __init__(self, *options: Any):
        self.options = options
        self.expected = "one of " + ", ".join(map(repr, options))

    def build(self, value: Any) -> Any:
        # By type as well: True == 1, and 1 is not an answer to a yes-or-no question.
        return require(value, any(type(value) is type(o) and value == o for o in self.options))


def is_traced(value: Any) -> bool:
    """Whether `value` is not to be checked. Under `jax.disable_jit`, what would be a tracer is an array."""
    return isinstance(value, jax.core.Tracer) or (
        isinstance(value, Array) and jax.config.jax_disable_jit  # type: ignore[attr-defined]
    )


def _is_real(array: Array) -> bool:
    return jnp.issubdtype(array.dtype, np.number) and not jnp.iscomplexobj(array)


def _of_rank(rank: int, array: Array) -> Array:
    if array.ndim != rank:
        raise ValueError(f"has shape {array.shape} where {rank} axes are expected: use jax.vmap for stacked schedules")
    return array


# Checks of arguments together: what is wrong, in words, or None. Traced values are not checked.


def one_more(many: str, few: str, /, **built: Any) -> str | None:
    """`many` must hold one entry more than `few`: pieces and the joints between them."""
    pieces, joints = len(built[many]), len(built[few])
    return None if pieces == joints + 1 else f"`{few}` must be one fewer than `{many}`, got {joints} and {pieces}"


def in_order(low: str, high: str, /, **built: Any) -> str | None:
    """`low` must be below `high`."""
    if isinstance(built[low], Array | Split) or isinstance(built[high], Array | Split) or built[low] < built[high]:
        return None
    return f"`{low}` must be below `{high}`, got {built[low]} and {built[high]}"


def require(value: Any, fits: bool) -> Any:
    """`value` if it fits; the ValueError gets its words where the argument's name is known."""
    if not fits:
        raise ValueError
    return value


# Named types: signatures show the names, and not what they stand for.

VALUE = Number(float, "a finite number")
STEPS = Number(int, f"a whole number of steps from 0 to {MAX_STEPS}", least=0, duration=True)
POSITIVE = Number(float, "a positive number", above=0)
INDEX = Number(int, f"a whole number from 0 to {MAX_STEPS}", least=0)
COUNT = Number(int, f"a whole number from 1 to {MAX_STEPS}", least=1)

Value = TypeAliasType("Value", Annotated[float | Array, VALUE])
Positive = TypeAliasType("Positive", Annotated[float | Array, POSITIVE])
Precise = TypeAliasType("Precise", Annotated[float | Array, PreciseNumber(float, "a positive number", above=0)])
Bound = TypeAliasType(
    "Bound", Annotated[float | Array, PreciseNumber(float, "a number from -20 to 20", least=-20, most=20)]
)
Steps = TypeAliasType("Steps", Annotated[int | Array, STEPS])
Count = TypeAliasType("Count", Annotated[int | Array, COUNT])
Period = TypeAliasType(
    "Period",
    Annotated[int | Array, Number(int, f"a whole number of steps from 1 to {MAX_STEPS}", least=1, duration=True)],
)
Seed = TypeAliasType("Seed", Annotated[int | Array, INDEX])
Values = TypeAliasType("Values", Annotated[Sequence[float | Array] | Array, Numbers(VALUE, "a list of finite numbers")])
Boundaries = TypeAliasType(
    "Boundaries",
    Annotated[
        Sequence[int | Array] | Array,
        Numbers(STEPS, f"a list of whole numbers from 0 to {MAX_STEPS} that never decreases", ascending=True),
    ],
)
