"""A schedule: a formula and its arguments, called with a step.

`@schedule` turns a pure function of the step,

    @schedule
    def linear(step, start: Value, end: Value, steps: Steps):
        elapsed, remaining = progress(step, steps)
        return start * remaining + end * elapsed

into a constructor: `linear(0.1, 0.0, steps=100)` is a `Schedule`. You call it with a step. It is also a value: it
prints as you wrote it, compares, hashes, pickles, and is a JAX pytree.

Every number in it is a leaf of that pytree. Everything else (strings, booleans, shapes) is structure. So changing a
number never retraces a jitted function, and peaks, warm-up lengths and horizons can all be vmapped. A formula is
written for one step, and is mapped over arrays of steps for you.

The operators `+`, `*` and `**` build the schedules at the end of this file.
"""

import functools
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import index
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Concatenate, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import GetAttrKey
from jax.typing import ArrayLike
from typing_extensions import TypeAliasType

from schedules import numerics
from schedules.arguments import built_as
from schedules.evaluate import BLOCK, block_of, compiled, computed, on_device, require_in_range, require_numbers
from schedules.formula import Formula
from schedules.grouping import folded, stacked
from schedules.kinds import Kind, Precise, Steps, Value, hashable, require
from schedules.sentences import shown

__all__ = [
    "Schedule",
    "ScheduleLike",
    "Schedules",
    "Shape",
    "schedule",
    "as_schedule",
    "stack",
    "constant",
    "function",
    "add",
    "multiply",
    "power",
]

P = ParamSpec("P")


@jax.tree_util.register_pytree_with_keys_class
class Schedule:
    """A pure function of the step that is also a value. Build one by calling a formula such as `cosine`.

    The clock: `schedule(t)` is the value for the update that follows t updates, so the first update
    uses `schedule(0)`.

    **Attributes:** `formula`, the decorated function; `arguments`, its arguments by name, read-only.
    Each argument is an attribute as well: `cosine(1.0, 0.0, steps=9).steps == 9`.
    """

    formula: "Formula[..., Schedule]"
    arguments: Mapping[str, Any]
    __kind__: ClassVar[Kind]  # how a schedule is checked as an argument of another formula
    _block: tuple[int | None, list[float]] = (None, [])  # the values that `at` computed last
    _on_device: tuple[bool | None, list[Array]] = (None, [])  # its numbers, and whether x64 was enabled for them

    # NumPy must leave `array * schedule` to us instead of making an array of objects.
    __array_ufunc__ = None

    def __init__(self, formula: "Formula[..., Schedule]", arguments: Mapping[str, Any]):
        # Not checked here, since JAX rebuilds schedules with tracers and placeholders as leaves; `Formula.__call__`
        # checks them.
        object.__setattr__(self, "formula", formula)
        object.__setattr__(self, "arguments", MappingProxyType(dict(arguments)))

    def __call__(self, step: ArrayLike) -> Array:
        """The value at `step`.

        **Arguments:** `step`: updates already applied, a number or an array of any shape, of integers
        or of floats (fractions of a step are interpolated). Negative steps give the value at step 0.

        **Returns:** an array of the shape of `step`, float32 (float64 where x64 is enabled).

        **Raises:** `TypeError` if `step` is not a number, `OverflowError` for a whole number beyond 2^31 - 1,
        `ValueError` for infinity or NaN. JAX arrays and lists are not checked for these values.
        """
        if isinstance(step, jax.core.Tracer):
            # Traced numbers: inside another schedule, or as an argument of a jitted function.
            return computed(self, step) if self._is_traced() else compiled(*self._flat, step)
        require_in_range(self.formula, step)
        try:
            return compiled(self._flat[0], self._numbers(), step)
        except (TypeError, ValueError, OverflowError):
            require_numbers(self.formula, step)
            raise

    def at(self, step: int) -> float:
        """The value at `step` as a Python float, for code that runs on the host: log lines, progress bars, PyTorch's
        `LambdaLR`.

        It is fast in a loop over steps: it computes the values of 4,096 neighbouring steps at once and keeps them until
        you ask for a step outside of them. `lr.at` can be passed around as a function, and pickled.

        **Arguments:** `step`: updates already applied, a whole number. Negative steps give the value at step 0.

        **Raises:** `TypeError` if `step` is not a whole number, or if it or the schedule is traced (in jitted code,
        call the schedule); `OverflowError` for a step beyond 2^31 - 1; `ValueError` for stacked schedules.
        """
        try:
            number, place = divmod(index(step), BLOCK)
        except (TypeError, jax.errors.TracerIntegerConversionError):
            raise TypeError(f"{self.formula}.at: `step` must be a whole number, got {shown(step)}") from None
        kept, values = self._block
        if kept != number:
            if number < 0:
                return self.at(0)
            require_in_range(self.formula, index(step))
            values = block_of(self, number)
            object.__setattr__(self, "_block", (number, values))
        return values[place]

    def _numbers(self) -> list[Array]:
        """Its numbers as arrays on the device. Transferring them would take most of the time of a call."""
        wide, numbers = self._on_device
        if wide != jax.config.jax_enable_x64:  # type: ignore[attr-defined]
            wide, numbers = jax.config.jax_enable_x64, on_device(self._flat[1])  # type: ignore[attr-defined]
            object.__setattr__(self, "_on_device", (wide, numbers))
        return numbers

    def _is_traced(self) -> bool:
        """Whether all its own numbers are traced, not counting those of the schedules in it."""
        kinds = self.formula.kinds
        own = [v for n, v in self.arguments.items() if kinds[n].is_leaf and not kinds[n].nests]
        return all(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(own))

    def expand(self) -> "Schedule":
        """The composition that a recipe stands for; any other schedule returns itself."""
        composed = self.formula.expand(self.arguments)
        return self if composed is None else composed.expand()

    def replace(self, /, **changes: Any) -> "Schedule":
        """The same schedule with some arguments changed: `lr.replace(steps=200)`."""
        self.formula.require_known(changes)
        return self.formula.build({**self.arguments, **changes})

    __replace__ = replace

    def __getattr__(self, name: str) -> Any:
        # copy and pickle look up dunder names before `arguments` exists.
        if not name.startswith("__") and name in self.arguments:
            return self.formula.kinds[name].whole(self.arguments[name])
        raise AttributeError(f"a {self.__dict__.get('formula', 'Schedule')} schedule has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a schedule is a value and cannot be changed: use .replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a schedule is a value and cannot be changed: {name!r} cannot be deleted")

    def __add__(self, other: "ScheduleLike") -> "Schedule":
        return combined(add, self, other)

    def __radd__(self, other: "ScheduleLike") -> "Schedule":
        return combined(add, other, self)

    def __mul__(self, other: "ScheduleLike") -> "Schedule":
        return combined(multiply, self, other)

    def __rmul__(self, other: "ScheduleLike") -> "Schedule":
        return combined(multiply, other, self)

    def __truediv__(self, divisor: float | Array) -> "Schedule":
        if not isinstance(divisor, int | float | np.number | np.ndarray | Array):
            raise TypeError(f"a schedule can only be divided by a number, got {shown(divisor)}")
        if isinstance(divisor, int | float | np.number) and divisor == 0:
            raise ZeroDivisionError(f"{self.formula}: a schedule cannot be divided by 0")
        return self * (1 / divisor)

    def __pow__(self, exponent: float | Array) -> "Schedule":
        return power(self, exponent)

    def __neg__(self) -> "Schedule":
        return -1.0 * self

    def __sub__(self, other: "ScheduleLike") -> "Schedule":
        return self + -1.0 * as_schedule(other)

    def __rsub__(self, other: "ScheduleLike") -> "Schedule":
        return as_schedule(other) - self

    def __repr__(self) -> str:
        return f"{self.formula}({', '.join(self._printed())})"

    def _repr_html_(self) -> str | None:
        """Its repr and a small drawing, for notebooks."""
        from schedules.drawing import as_html  # here, since drawing imports this module

        return as_html(self)

    def _printed(self) -> list[str]:
        printed: list[str] = []
        for position, (name, kind) in enumerate(self.formula.kinds.items()):
            value = self.arguments[name]
            if name == self.formula.variadic and value is not None:
                printed += map(repr, value)
            else:
                printed.append(kind.text(value) if position == 0 and kind.nests else f"{name}={kind.text(value)}")
        return printed

    @functools.cached_property
    def _flat(self) -> tuple[Any, list[Any]]:
        """Its pytree structure and its leaves."""
        leaves, structure = jax.tree.flatten(self)
        return structure, leaves

    def _key(self) -> tuple[Any, ...]:
        structure, leaves = self._flat
        return structure, *map(hashable, leaves)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:
        return Schedule, (self.formula, dict(self.arguments))

    def tree_flatten(self) -> tuple[list[Any], tuple[Any, ...]]:
        arguments, formula = self.arguments, self.formula
        leaves = [kind.flatten(arguments[name]) for name, kind in formula.leaves.items()]
        return leaves, (formula, tuple([arguments[name] for name in formula.static]))

    def tree_flatten_with_keys(self) -> tuple[list[tuple[GetAttrKey, Any]], tuple[Any, ...]]:
        leaves, structure = self.tree_flatten()
        return [*zip(map(GetAttrKey, self.formula.leaves), leaves, strict=True)], structure

    @classmethod
    def tree_unflatten(cls, structure: tuple[Any, ...], leaves: Sequence[Any]) -> "Schedule":
        formula, static = structure
        numbers, others = iter(leaves), iter(static)
        kinds = formula.kinds.items()
        return cls(formula, {n: k.unflatten(next(numbers)) if k.is_leaf else next(others) for n, k in kinds})


# The decorator -----------------------------------------------------------------------------------------


@typing.overload
def schedule(function: Callable[Concatenate[Array, P], ArrayLike], /) -> Formula[P, Schedule]: ...


@typing.overload
def schedule(
    *,
    check: Callable[..., str | None] | None = None,
    changes: Callable[..., Iterable[int]] | None = None,
    pieces: Callable[..., Iterable[tuple[int, Schedule]]] | None = None,
    ends: bool = True,
) -> Callable[[Callable[Concatenate[Array, P], ArrayLike]], Formula[P, Schedule]]: ...


def schedule(
    function: Any = None, /, *, check: Any = None, changes: Any = None, pieces: Any = None, ends: bool = True
) -> Any:
    """Turns a formula `(step, *hyperparameters) -> value` into a constructor of schedules.

    The formula gets one step and its arguments as JAX scalars (lists as 1-D arrays, schedules as
    schedules). Annotate each argument with its kind: `Value`, `Steps`, `Values`, `Boundaries`,
    `ScheduleLike`, `Schedules`, `Shape`, `bool` or a `Literal` of strings. `float` means `Value` and
    `int` means `Steps`.

    **Arguments**, all optional:

    - `check`: a function of the arguments that returns what is wrong with their combination, in words, or None.
    - `changes`: a function of the arguments that returns, in order, the steps at which the formula changes its form. By
      default these are the arguments annotated `Steps` or `Boundaries`.
    - `pieces`: for a formula that runs one schedule after another, a function of the arguments that returns, in order,
      pairs of a step and the schedule that starts there, at its own step 0.
    - `ends`: False for a formula that never stops changing.

    The last three are for `boundaries`, `describe` and `check`. These find out by themselves at which steps a formula
    reads the schedules in it.

    **Raises:** `TypeError` if `function` is not a function with a name; if its first argument is not `step`; if another
    argument has no kind, is positional-only or has the name of an attribute of every schedule; and for `**`
    arguments and for `*` arguments that are not schedules.

    ```python
    @schedule
    def sawtooth(step, peak: Value, period: Steps):
        return peak * (1 - step % period / period)
    ```
    """
    if not function:
        return functools.partial(schedule, check=check, changes=changes, pieces=pieces, ends=ends)
    if TYPE_CHECKING:  # for jedi: see `_without_step`
        return _without_step(function)
    else:
        return Formula(function, Schedule, check, changes, pieces, ends)


if TYPE_CHECKING:

    def _without_step(function: Any) -> Any:
        """What `schedule` returns, for jedi, which completes names in notebooks and some editors.

        jedi does not know `Concatenate` and would show the step as an argument, so it sees a function without it here.
        It reads the bodies of the two decorators only because they are written with `typing.overload` (after a bare
        `overload` it reads only the declarations), `not function` (it does not follow `is None`) and `TYPE_CHECKING`.
        """

        @functools.wraps(function)
        def constructor(*args: Any, **kwargs: Any) -> Schedule:
            return function(*args, step=0, **kwargs)

        return constructor


# Schedules as arguments --------------------------------------------------------------------------------


class NestedList(Kind):
    """One or more schedules."""

    expected = "one or more schedules or numbers"
    nests = True

    def build(self, value: Any) -> Any:
        require(value, isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0)
        return tuple(map(as_schedule, value))

    def stretch(self, value: Any, change: Callable[[Any, int], Any]) -> Any:
        return tuple(stretched(each, change) for each in value)

    def substitute(self, value: Any, change: Callable[[Any], Any]) -> Any:
        return tuple(map(change, value))


class Nested(Kind):
    """A schedule, or what `as_schedule` turns into one."""

    expected = "a schedule, a number or a function of the step"
    nests = True
    many = NestedList()

    def __init__(self, stretches: bool = True):
        self.stretches = stretches

    def build(self, value: Any) -> Any:
        return as_schedule(value)

    def got(self, value: Any) -> str:
        return f"{value}, which was not called" if isinstance(value, Formula) else shown(value)

    def stretch(self, value: Any, change: Callable[[Any, int], Any]) -> Any:
        return stretched(value, change) if self.stretches else value

    def substitute(self, value: Any, change: Callable[[Any], Any]) -> Any:
        return change(value)


class RampShape(Kind):
    """The formula of a ramp: its first arguments are (start, end, steps), and any others have defaults."""

    is_leaf = False
    expected = "a ramp such as linear or cosine, not called"

    def build(self, value: Any) -> Any:
        require(value, isinstance(value, Formula) and [*value.kinds][:3] == ["start", "end", "steps"])
        return require(value, value.defaults.keys() >= {*[*value.kinds][3:]})


class Function(Kind):
    """Any callable of the step, compared by identity."""

    is_leaf = False
    expected = "a function of the step"

    def build(self, value: Any) -> Any:
        return require(value, callable(value) and not isinstance(value, Formula))


Schedule.__kind__ = Nested()
ScheduleLike = TypeAliasType("ScheduleLike", Annotated[Schedule | float | Array | Callable[..., ArrayLike], Nested()])
Schedules = TypeAliasType(
    "Schedules", Annotated[Sequence[Schedule | float | Array | Callable[..., ArrayLike]], NestedList()]
)
Shape = TypeAliasType("Shape", Annotated[Callable[[Value, Value, Steps], Schedule], RampShape()])
StepFunction = TypeAliasType("StepFunction", Annotated[Callable[[Array], ArrayLike], Function()])


def as_schedule(value: Any) -> Schedule:
    """`value` as a schedule: a schedule stays as it is, a number becomes a `constant`, and a plain callable (an optax
    schedule, a lambda) a `function`.

    **Raises:** `ValueError` for anything else, and for a formula that was not called.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, Formula):
        raise ValueError(f"{value} is a formula, not a schedule: call it with its arguments, {value}(...)")
    return function(value) if callable(value) else constant(value)


def stretched(schedule: Schedule, change: Callable[[Any, int], Any]) -> Schedule:
    """`schedule` with every duration in it passed through `change`, together with the least value it may have.

    A recipe is expanded first: the peak of `noam`, for example, is computed from its warm-up and must not change.
    """
    schedule = as_schedule(schedule).expand()
    kinds = schedule.formula.kinds
    return Schedule(schedule.formula, {n: kinds[n].stretch(v, change) for n, v in schedule.arguments.items()})


# What `as_schedule` and the operators build --------------------------------------------------------------


@schedule
def constant(step: Array, value: Value) -> Array:
    r"""The same value at every step.

    $$f(t) = \mathrm{value}$$

    Example: `constant(0.1)` over 120 steps.
    """
    return jnp.asarray(value)


@schedule(ends=False)
def function(step: Array, of: StepFunction) -> ArrayLike:
    """Turns a plain callable `step -> value`, such as an optax schedule, into a schedule.

    The callable is part of the pytree's structure: two of these schedules are equal only if they hold the same object,
    and a jitted function is traced again for another one.

    Example: `function(lambda t: 0.1 * jnp.exp(-((t - 40) / 20) ** 2))` over 120 steps.
    """
    return of(step)


@schedule
def add(step: Array, *schedules: ScheduleLike) -> ArrayLike:
    r"""The sum of schedules, also written `a + b`.

    $$f(t) = \sum_i f_i(t)$$

    Example: `add(cosine(0.1, 0.02, 100), triangular(0, 0.02, 10, 10))` over 120 steps.
    """
    return folded(jnp.add, [*map(as_schedule, schedules)], step)


@schedule
def multiply(step: Array, *schedules: ScheduleLike) -> ArrayLike:
    r"""The product of schedules, also written `a * b`.

    $$f(t) = \prod_i f_i(t)$$

    Both factors are read at the same step: in `warmup_factor * decay` the decay already runs during the warm-up. To
    start the decay after the warm-up, use `warmup(decay, steps)`.

    Example: `multiply(cosine(0.1, 0, 100), triangular(0.6, 1, 10, 10))` over 120 steps.
    """
    return folded(jnp.multiply, [*map(as_schedule, schedules)], step)


@schedule
def power(step: Array, schedule: ScheduleLike, exponent: Precise) -> Array:
    r"""A power of a schedule whose values are not negative, also written `a ** exponent`.

    $$f(t) = \mathrm{schedule}(t)^{\mathrm{exponent}}$$

    Example: `power(cosine(1, 0, 100), 3)` over 120 steps.
    """
    return numerics.power(as_schedule(schedule)(step), exponent)


def combined(formula: Formula[..., Schedule], first: Any, *others: Any) -> Schedule:
    """`first + other + ...` (or times) as one sum, so that a sum of a thousand schedules is wide and not deep."""
    is_one = isinstance(first, Schedule) and first.formula is formula
    return formula(*(first.arguments["schedules"] if is_one else [first]), *others)


def stack(schedules: Schedules) -> Schedule:
    """Stacks schedules that differ only in their numbers into one with a leading axis, for `jax.vmap`.

    `jax.vmap(lambda s: s(step))(stack([cosine(1.0, 0.0, 90), cosine(2.0, 0.0, 60)]))`

    **Raises:** `ValueError` if they differ in anything else (use `tabulate` for those).
    """
    several = built_as(NestedList(), "stack", "schedules", schedules)
    if len({jax.tree.structure(s) for s in several}) != 1:
        raise ValueError(
            f"stack: `schedules` must be one or more schedules that differ only in their numbers, got {[*several]}; "
            "use `tabulate` for schedules of different shapes"
        )
    return stacked(several)
