"""Kinds of argument: checked when a schedule is built, and converted to JAX scalars when it is called."""

import functools
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
from schedules.sentences import shown

__all__ = ["Value", "Positive", "Precise", "Steps", "Period", "Values", "Boundaries"]


class Kind:
    """What an argument may be: `build` checks and converts it once, `cast` readies it for the formula.

    `build` raises ValueError for anything that is not `expected`; the caller adds the names.
    """

    expected: str
    is_leaf = True  # holds numbers, which are leaves of the pytree; False for its structure
    nests = False  # holds schedules
    many: "Kind | None" = None  # the kind of a * argument of these, if it may be one

    def build(self, value: Any) -> Any:
        raise NotImplementedError

    def got(self, value: Any) -> str:
        """How the error shows a value that `build` refused."""
        return shown(value)

    def cast(self, value: Any, clock: Any) -> Any:
        """`value` as the formula gets it; durations are cast to `clock`, the dtype of the steps."""
        del clock
        return value

    def flatten(self, value: Any) -> Any:
        """The leaf or leaves of the pytree that stand for `value`."""
        return value

    def unflatten(self, leaves: Any) -> Any:
        """The inverse of `flatten`; JAX may have put tracers and placeholders where numbers were."""
        return leaves

    def whole(self, value: Any) -> Any:
        """`value` as an attribute of the schedule."""
        return value

    def text(self, value: Any) -> str:
        """`value` as one would type it."""
        return typed(value)

    def stretch(self, value: Any, change: Callable[[Any, int], Any]) -> Any:
        """`value` with every duration in it passed through `change`, together with the least value it may have."""
        del change
        return value

    def substitute(self, value: Any, change: Callable[[Any], Any]) -> Any:
        """`value` with every schedule in it passed through `change`."""
        del change
        return value

    def phases(self, value: Any) -> Sequence[int]:
        """The steps in `value` at which a phase may begin or end."""
        del value
        return ()


class Number(Kind):
    """One number between bounds. Python and NumPy numbers are checked; JAX arrays and tracers pass through.

    **Arguments:** `type`: float or int; `least` and `most`: inclusive bounds; `above` and `below`: exclusive bounds;
    `unit`: what it counts, for messages; `duration`: whether it is a number of steps that `stretch` multiplies.
    """

    def __init__(
        self,
        type: type[float] | type[int],
        *,
        least: float = -math.inf,
        above: float = -math.inf,
        most: float = math.inf,
        below: float = math.inf,
        unit: str = "",
        duration: bool = False,
    ):
        self.type, self.unit, self.duration = type, "steps" if duration else unit, duration
        self.least, self.above, self.below = least, above, below
        self.most = min(most, MAX_STEPS) if type is int else most

    @property
    def expected(self) -> str:  # type: ignore[override]
        return f"a {self.described('number')}"

    def described(self, noun: str) -> str:
        """`noun` with its bounds, in words: "whole number of steps from 1 to 9"."""
        noun = f"{'whole ' * (self.type is int)}{noun}{f' of {self.unit}' if self.unit else ''}"
        bounds = self.least, self.above, self.most, self.below
        least, above, most, below = (f"{bound}" if self.type is int else f"{bound:g}" for bound in bounds)
        match [math.isfinite(bound) for bound in bounds]:
            case [True, _, True, _]:
                return f"{noun} from {least} to {most}"
            case [True, _, _, True]:
                return f"{noun} from {least} to below {below}"
            case [_, True, _, True]:
                return f"{noun} above {above} and below {below}"
            case [_, True, True, _]:
                return f"{noun} above {above}, {most} or less"
            case [True, *_]:
                return f"{noun}, {least} or more" if self.least else f"{noun} that is not negative"
            case [_, True, *_]:
                return f"{noun} above {above}" if self.above else f"positive {noun}"
            case [_, _, True, _]:
                return f"{noun}, {most} or less"
            case [*_, True]:
                return f"{noun} below {below}"
        return f"finite {noun}"

    def build(self, value: Any) -> Any:
        if type(value) in (int, float):  # first, since it is the usual case and quick to tell
            return self._in_range(value)
        if is_traced(value):
            # Any real dtype: inside a formula that composes schedules, durations have the steps' dtype, maybe float.
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
        fits = self.least <= value <= self.most and self.above < value and abs(value) <= self.largest
        fits = fits and (value < self.below or self.below == math.inf)
        return require(self.type(value), fits and self.type(value) == value)

    @property
    def dtypes(self) -> Any:
        return np.number if self.type is float else np.integer

    @property
    def largest(self) -> float:
        return MAX_STEPS if self.type is int else _largest_float(jax.config.jax_enable_x64)  # type: ignore[attr-defined]

    def cast(self, value: Any, clock: Any) -> Any:
        if self.duration and isinstance(value, Array) and jnp.issubdtype(value.dtype, jnp.floating):
            value = jnp.round(value)  # traced floats are not checked: 0.29 * 100 is below 29
        return _of_rank(0, jnp.asarray(value, clock if self.duration else self.type))

    def phases(self, value: Any) -> Sequence[int]:
        return (value,) if self.duration and self.least == 0 else ()  # least 1 means a period, not the end of a phase

    def stretch(self, value: Any, change: Callable[[Any, int], Any]) -> Any:
        return change(value, int(self.least)) if self.duration else value


@functools.cache
def _largest_float(wide: bool) -> float:
    return float(np.finfo(np.float64 if wide else np.float32).max)


class Fixed(Number):
    """A whole number that array shapes depend on: it must be a Python number and cannot be traced."""

    is_leaf = False

    def build(self, value: Any) -> int:
        require(value, not isinstance(value, jax.core.Tracer))
        return int(super().build(value))

    def cast(self, value: Any, clock: Any) -> Any:
        return value


class PreciseNumber(Number):
    """A base or an exponent of a power, stored as two leaves so that it keeps the digits of a Python float.

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

    def unflatten(self, leaves: Any) -> Any:
        is_float = type(leaves.hi) is type(leaves.lo) is float
        return self.whole(leaves) if is_float else leaves

    def whole(self, value: Any) -> Any:
        return value.hi + value.lo if isinstance(value, Split) else value

    def text(self, value: Any) -> str:
        return typed(value.hi if isinstance(value, Split) else value)


class Numbers(Kind):
    """A list of numbers, each of them a leaf; or an array, a single leaf that compiles fast even if it is long."""

    def __init__(self, each: Number, ascending: bool = False):
        self.each, self.ascending = each, ascending
        self.expected = f"a list of {each.described('numbers')}{' that never decreases' * ascending}"

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
        # Compare types as well: True == 1, but 1 is not a boolean.
        return require(value, any(type(value) is type(o) and value == o for o in self.options))


def is_traced(value: Any) -> bool:
    """Whether `value` cannot be checked. Under `jax.disable_jit`, arrays take the place of tracers."""
    return isinstance(value, jax.core.Tracer) or (
        isinstance(value, Array) and jax.config.jax_disable_jit  # type: ignore[attr-defined]
    )


def _is_real(array: Array) -> bool:
    return jnp.issubdtype(array.dtype, np.number) and not jnp.iscomplexobj(array)


def _of_rank(rank: int, array: Array) -> Array:
    if array.ndim != rank:
        axes = "axis" if rank == 1 else "axes"
        raise ValueError(f"must have {rank} {axes}, got shape {array.shape}: call stacked schedules under jax.vmap")
    return array


def typed(value: Any) -> str:
    """`value` as one would type it: arrays as numbers, lists in brackets."""
    if isinstance(value, jax.core.Tracer):
        return str(value)
    if isinstance(value, Array | np.ndarray):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(typed, value))}]"
    return repr(value)


def hashable(leaf: Any) -> Any:
    """A key that is equal for equal leaves: arrays are compared by their numbers, tracers by identity."""
    if isinstance(leaf, jax.core.Tracer):
        return id(leaf)
    if isinstance(leaf, Array | np.ndarray):
        leaf = np.asarray(leaf)
        return str(leaf.dtype), leaf.shape, leaf.tobytes()
    return leaf


# Checks of several arguments together. Each returns what is wrong, in words, or None. Traced values are not checked.


def one_more(many: str, few: str, /, **built: Any) -> str | None:
    """`many` (pieces) must hold one entry more than `few` (the joints between them)."""
    pieces, joints = len(built[many]), len(built[few])
    return (
        None if pieces == joints + 1 else f"`{few}` must have one entry less than `{many}`, got {joints} and {pieces}"
    )


def in_order(low: str, high: str, /, **built: Any) -> str | None:
    """`low` must be below `high`."""
    if isinstance(built[low], Array | Split) or isinstance(built[high], Array | Split) or built[low] < built[high]:
        return None
    return f"`{low}` must be below `{high}`, got {built[low]} and {built[high]}"


def require(value: Any, fits: bool) -> Any:
    """`value` if it fits, else a ValueError, whose message is added where the name of the argument is known."""
    if not fits:
        raise ValueError
    return value


# Named types, so that signatures show these names instead of what they stand for.

VALUE = Number(float)
STEPS = Number(int, least=0, duration=True)
POSITIVE = Number(float, above=0)
INDEX = Number(int, least=0)
COUNT = Number(int, least=1)

Value = TypeAliasType("Value", Annotated[float | Array, VALUE])
Positive = TypeAliasType("Positive", Annotated[float | Array, POSITIVE])
Precise = TypeAliasType("Precise", Annotated[float | Array, PreciseNumber(float, above=0)])
Bound = TypeAliasType("Bound", Annotated[float | Array, PreciseNumber(float, least=-20, most=20)])
Steps = TypeAliasType("Steps", Annotated[int | Array, STEPS])
Period = TypeAliasType("Period", Annotated[int | Array, Number(int, least=1, duration=True)])
Index = TypeAliasType("Index", Annotated[int | Array, INDEX])
Count = TypeAliasType("Count", Annotated[int | Array, COUNT])
Size = TypeAliasType("Size", Annotated[int, Fixed(int, least=1)])
Length = TypeAliasType("Length", Annotated[int, Fixed(int, least=0)])
Values = TypeAliasType("Values", Annotated[Sequence[float | Array] | Array, Numbers(VALUE)])
Boundaries = TypeAliasType("Boundaries", Annotated[Sequence[int | Array] | Array, Numbers(STEPS, ascending=True)])
