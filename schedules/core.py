"""A formula becomes a value.

`@schedule` turns a pure function of the step,

    @schedule
    def linear(step, start: Value, end: Value, steps: Steps):
        elapsed, remaining = progress(step, steps)
        return start * remaining + end * elapsed

into a constructor: `linear(0.1, 0.0, steps=100)` is a `Schedule`, which is called with a step and is
itself a value: it prints as what was written, compares, hashes, pickles, and is a JAX pytree.

Every number in it is a leaf of that pytree; everything else (strings, booleans, shapes) is structure.
So changing a number never retraces a jitted function, and peaks, warm-up lengths and horizons can all
be vmapped. A formula is written for one step: arrays of steps are mapped over it here, once.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Generic, Literal, ParamSpec, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import GetAttrKey
from jax.typing import ArrayLike
from typing_extensions import TypeAliasType

from schedules.kinds import STEPS, VALUE, Choice, Kind, Steps, Value, require
from schedules.numerics import MAX_STEPS, Split, lengthen

P = ParamSpec("P")


# Kinds that speak of schedules -----------------------------------------------------------------------


class Nested(Kind):
    """A schedule, or what `as_schedule` turns into one."""

    expected = "a schedule, a number or a function of the step"

    def __init__(self, stretches: bool = True):
        self.stretches = stretches

    def build(self, value: Any) -> Any:
        return as_schedule(value)

    def stretch(self, value: Any, change: Callable[[Any, int], Any]) -> Any:
        return stretched(as_schedule(value), change) if self.stretches else value

    def unread(self, value: Any, stand_in: Array) -> Any:
        return StandIn(lambda step: jnp.full(jnp.shape(step), stand_in))


class NestedList(Kind):
    """One or more schedules."""

    expected = "one or more schedules or numbers"

    def build(self, value: Any) -> Any:
        require(value, isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0)
        return tuple(map(as_schedule, value))

    def stretch(self, value: Any, change: Callable[[Any, int], Any]) -> Any:
        return tuple(stretched(as_schedule(each), change) for each in value)

    def unread(self, value: Any, stand_in: Array) -> Any:
        return tuple(Nested().unread(each, stand_in) for each in value)


class RampShape(Kind):
    """The formula of a ramp: its first arguments are (start, end, steps), any others have defaults."""

    is_leaf = False
    expected = "a ramp such as linear or cosine, itself and not called"

    def build(self, value: Any) -> Any:
        require(value, isinstance(value, Formula) and [*value.kinds][:3] == ["start", "end", "steps"])
        optional = list(value.__signature__.parameters.values())[3:]
        return require(value, all(p.default is not p.empty for p in optional))


class Function(Kind):
    """Any callable of the step, compared by identity."""

    is_leaf = False
    expected = "a function of the step"

    def build(self, value: Any) -> Any:
        return require(value, callable(value) and not isinstance(value, Formula))


# The value ------------------------------------------------------------------------------------------


@jax.tree_util.register_pytree_with_keys_class
class Schedule:
    """A pure function of the step that is also a value. Built by calling a formula such as `cosine`.

    The clock: `schedule(t)` is the value for the update that follows t updates, so the first update
    uses `schedule(0)`.

    **Attributes:** `formula`, the decorated function; `arguments`, its arguments by name, read-only.
    Each argument is also an attribute: `cosine(1.0, 0.0, steps=9).steps == 9`.
    """

    formula: "Formula[...]"
    arguments: Mapping[str, Any]

    # NumPy must leave `array * schedule` to us instead of making an array of objects.
    __array_ufunc__ = None

    def __init__(self, formula: "Formula[...]", arguments: Mapping[str, Any]):
        # As they are, since JAX rebuilds schedules with tracers and placeholders for leaves; `Formula.__call__`
        # is where they are checked.
        object.__setattr__(self, "formula", formula)
        object.__setattr__(self, "arguments", MappingProxyType(dict(arguments)))

    def __call__(self, step: ArrayLike) -> Array:
        """The value at `step`.

        **Arguments:** `step`: updates already applied, a number or an array of any shape, of integers
        or of floats (fractions of a step are interpolated). Before step 0 it is as at step 0.

        **Returns:** an array of the shape of `step`, float32 (float64 where x64 is enabled).

        **Raises:** `TypeError` for a step that is no number, `OverflowError` for a whole number beyond 2^31 - 1,
        `ValueError` for infinity or NaN; these are not looked for in JAX arrays and lists.
        """
        if isinstance(step, jax.core.Tracer) and self._is_traced():
            return _value(self, step)  # within another schedule, or in a jitted function whose argument it is
        _require_in_range(self.formula, step)
        try:
            return _evaluate(self, step)
        except (TypeError, ValueError, OverflowError):
            _require_numbers(self.formula, step)
            raise

    def _is_traced(self) -> bool:
        """Whether all its own numbers are traced; those of the schedules in it decide for themselves."""
        kinds = self.formula.kinds
        own = [
            v for n, v in self.arguments.items() if kinds[n].is_leaf and not isinstance(kinds[n], Nested | NestedList)
        ]
        return all(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(own))

    def expand(self) -> "Schedule":
        """The composition of formulas that a recipe stands for; any other schedule itself."""
        if self.formula.compose is None:
            return self
        bound = self.formula.bind(self.arguments)
        composed = self.formula.compose(*bound.args, **bound.kwargs)
        if not isinstance(composed, Schedule):
            raise TypeError(f"{self.formula}: a recipe must return a schedule, got {shown(composed)}")
        return composed.expand()

    def replace(self, /, **changes: Any) -> "Schedule":
        """The same schedule with some arguments changed: `lr.replace(steps=200)`."""
        self.formula._require_known(changes)
        return self.formula._build({**self.arguments, **changes})

    __replace__ = replace

    def __getattr__(self, name: str) -> Any:
        # Dunder names are asked for by copy and pickle before `arguments` exists.
        if not name.startswith("__") and name in self.arguments:
            value = self.arguments[name]
            return value.hi + value.lo if isinstance(value, Split) else value
        raise AttributeError(f"a {self.__dict__.get('formula', 'Schedule')} schedule has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a schedule is a value and cannot be changed: use .replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a schedule is a value and cannot be changed: {name!r} cannot be deleted")

    def __add__(self, other: "ScheduleLike") -> "Schedule":
        return combined("add", self, other)

    def __radd__(self, other: "ScheduleLike") -> "Schedule":
        return combined("add", other, self)

    def __mul__(self, other: "ScheduleLike") -> "Schedule":
        return combined("multiply", self, other)

    def __rmul__(self, other: "ScheduleLike") -> "Schedule":
        return combined("multiply", other, self)

    def __truediv__(self, divisor: float | Array) -> "Schedule":
        if not isinstance(divisor, int | float | np.number | np.ndarray | Array):
            raise TypeError(f"a schedule can be divided by a number only, got {shown(divisor)}")
        if isinstance(divisor, int | float | np.number) and divisor == 0:
            raise ZeroDivisionError(f"{self.formula}: a schedule cannot be divided by 0")
        return self * (1 / divisor)

    def __pow__(self, exponent: float | Array) -> "Schedule":
        return FORMULAS["power"](self, exponent)

    def __neg__(self) -> "Schedule":
        return -1.0 * self

    def __sub__(self, other: "ScheduleLike") -> "Schedule":
        return self + -1.0 * as_schedule(other)

    def __rsub__(self, other: "ScheduleLike") -> "Schedule":
        return as_schedule(other) - self

    def __repr__(self) -> str:
        return f"{self.formula}({', '.join(self._printed())})"

    def _printed(self) -> list[str]:
        printed: list[str] = []
        for position, (name, kind) in enumerate(self.formula.kinds.items()):
            value = self.arguments[name]
            if name == self.formula.variadic and value is not None:
                printed += map(_text, value)
            elif position == 0 and isinstance(kind, Nested | NestedList):
                printed.append(_text(value))
            else:
                printed.append(f"{name}={_text(value)}")
        return printed

    def _key(self) -> tuple[Any, ...]:
        leaves, structure = jax.tree.flatten(self)
        return structure, *map(_hashable, leaves)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:
        return Schedule, (self.formula, dict(self.arguments))

    def tree_flatten_with_keys(self) -> tuple[list[tuple[GetAttrKey, Any]], tuple[Any, ...]]:
        kinds = self.formula.kinds
        leaves = [(GetAttrKey(n), kinds[n].flatten(v)) for n, v in self.arguments.items() if kinds[n].is_leaf]
        static = tuple(v for n, v in self.arguments.items() if not kinds[n].is_leaf)
        return leaves, (self.formula, static)

    @classmethod
    def tree_unflatten(cls, structure: tuple[Any, ...], leaves: Sequence[Any]) -> "Schedule":
        formula, static = structure
        numbers, others = iter(leaves), iter(static)
        arguments = {n: next(numbers if kind.is_leaf else others) for n, kind in formula.kinds.items()}
        return cls(formula, {n: _united(value) for n, value in arguments.items()})


@jax.tree_util.register_static
class StandIn(Schedule):
    """Takes the place of a schedule inside another, to answer in its stead or to see at which step it is read."""

    def __init__(self, read: Callable[[ArrayLike], Array]):
        super().__init__(FORMULAS["function"], {"of": read})

    def __call__(self, step: ArrayLike) -> Array:
        return self.arguments["of"](step)

    def _key(self) -> tuple[Any, ...]:
        return (self.arguments["of"],)


ScheduleLike = TypeAliasType("ScheduleLike", Annotated[Schedule | float | Array | Callable[..., ArrayLike], Nested()])
Schedules = TypeAliasType(
    "Schedules", Annotated[Sequence[Schedule | float | Array | Callable[..., ArrayLike]], NestedList()]
)
Shape = TypeAliasType("Shape", Annotated[Callable[[Value, Value, Steps], Schedule], RampShape()])


def _value(schedule: Schedule, step: ArrayLike) -> Array:
    """The formula, mapped over `step`: the one place where schedules are computed."""
    formula, step = schedule.formula, jnp.asarray(step)
    if step.dtype == bool or not jnp.issubdtype(step.dtype, np.number) or jnp.iscomplexobj(step):
        raise TypeError(f"{formula}: `step` must be integers or floats, got {step.dtype}")
    # The default width: in int8 `300 - step` would wrap, and in bfloat16 steps beyond 256 collide.
    if jnp.issubdtype(step.dtype, np.unsignedinteger):
        step = jnp.minimum(step, jnp.asarray(min(jnp.iinfo(step.dtype).max, MAX_STEPS), step.dtype))
    step = jnp.maximum(step.astype(int if jnp.issubdtype(step.dtype, np.integer) else float), 0)
    arguments = formula._cast(schedule.arguments, step.dtype)

    def at(t: Array) -> Array:
        try:
            found = formula.function(t, *arguments.args, **arguments.kwargs)
        except NEEDS_NUMBERS as error:
            raise TypeError(
                f"{formula}: a formula must not need its step and numbers as Python's, since they are traced: use "
                "jnp.where in the place of `if`, and jnp.cos in the place of math.cos"
            ) from error
        try:
            value = jnp.asarray(found)
        except (TypeError, ValueError):
            value = None
        if value is None or value.shape or jnp.iscomplexobj(value):
            got = shown(found) if value is None else value.dtype if not value.shape else f"shape {value.shape}"
            raise ValueError(f"{formula}: the formula must return one number for one step, got {got}")
        return value.astype(float)

    return jnp.vectorize(at)(step) if step.ndim else at(step)


# The numbers of a schedule are arguments, so that others compile nothing anew. Schedules inside others are traced as
# they are: a jitted function within each would be inlined into the next, again and again.
_evaluate = jax.jit(_value)


def _require_in_range(formula: "Formula[...]", step: Any) -> None:
    last = np.max(step, initial=0) if isinstance(step, np.ndarray) and step.dtype.kind in "iuf" else step
    if not isinstance(last, int | float | np.integer | np.floating) or last <= MAX_STEPS:
        return
    if isinstance(last, int | np.integer):  # JAX would wrap NumPy's wide integers around in silence
        raise OverflowError(f"{formula}: `step` must be at most {MAX_STEPS}, got {shown(int(last))}")
    if not last < np.inf:
        raise ValueError(f"{formula}: `step` must be finite, got {last}")


def _require_numbers(formula: "Formula[...]", step: Any) -> None:
    try:
        jnp.asarray(np.asarray(step) if isinstance(step, str) else step)  # JAX takes "f" for a dtype
    except OverflowError:
        raise OverflowError(f"{formula}: `step` must be at most {MAX_STEPS} in size, got {shown(step)}") from None
    except (TypeError, ValueError):
        raise TypeError(f"{formula}: `step` must be integers or floats, got {shown(step)}") from None


# What JAX raises where a traced number is asked for as Python's or NumPy's.
NEEDS_NUMBERS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


# The decorator --------------------------------------------------------------------------------------


class Formula(Generic[P]):
    """A schedule's formula: calling it with arguments builds the `Schedule`. Made by `@schedule` and `@recipe`.

    **Attributes:** `function`, the plain function `(step, ...) -> value`; `compose`, of a recipe the plain
    function `(...) -> Schedule`, else None; `kinds`, the kind of each argument by name.
    """

    __name__: str
    __qualname__: str
    __signature__: inspect.Signature

    def __init__(
        self,
        function: Callable[..., Any],
        check: Callable[..., str | None] | None,
        changes: Callable[..., Iterable[int]] | None,
        is_recipe: bool,
    ):
        if not hasattr(function, "__name__") or isinstance(function, Formula):
            decorator = "recipe" if is_recipe else "schedule"
            raise TypeError(f"{decorator}: `function` must be a function with a name, got {shown(function)}")
        functools.update_wrapper(self, function)
        try:
            signature = inspect.signature(function, eval_str=True)
        except NameError as error:
            raise TypeError(f"{self}: an annotation cannot be read ({error}): import it at run time") from None
        parameters = list(signature.parameters.values())
        self.compose: Callable[..., Schedule] | None = function if is_recipe else None
        self.function: Callable[..., Any] = function
        if is_recipe:
            self.function = lambda step, *args, **kwargs: function(*args, **kwargs)(step)
        else:
            _require_step(self, parameters)
            del parameters[:1]
        self.check = check
        self.kinds = {p.name: _kind(self, p) for p in parameters}
        self.changes: Callable[..., Iterable[int]] = changes or self._ends_of_phases
        self.variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        parameters = [p.replace(annotation=_without_kind(p.annotation)) for p in parameters]
        self.__signature__ = signature.replace(parameters=parameters, return_annotation=Schedule)
        self._traceable: set[Any] = set()  # of a recipe, the structures that it was found to compose of traced numbers
        _register(self)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Schedule:
        """Builds the schedule.

        **Raises:** `TypeError` for a missing or unknown argument, `ValueError` for one that is not what
        its kind expects; traced values are not checked.
        """
        try:
            bound = self.__signature__.bind(*args, **kwargs)
        except TypeError as error:
            self._require_known(kwargs)
            raise TypeError(f"{self.usage}: {error}") from None
        bound.apply_defaults()
        return self._build(bound.arguments)

    # Else IPython shows (*args, **kwargs) below the signature of the formula.
    __call__.__signature__ = NotImplemented  # type: ignore[attr-defined]

    # Of what has this method, as functions have, `help` shows the signature.
    def __get__(self, instance: object, owner: type | None = None) -> "Formula[P]":
        return self  # also where it is an attribute of a class: the first argument of a formula is not `self`

    @property
    def usage(self) -> str:
        """How it is called: `cosine(start, end, steps)`."""
        parameters = [p.replace(annotation=p.empty) for p in self.__signature__.parameters.values()]
        return f"{self}({', '.join(map(str, parameters))})"

    def _require_known(self, names: Iterable[str]) -> None:
        if unknown := {*names} - self.kinds.keys():
            raise TypeError(
                f"{self}: has no argument {shortened(_list(sorted(unknown)), 100)}, only {_list(self.kinds)}"
            )

    def _build(self, arguments: Mapping[str, Any]) -> Schedule:
        built = {name: built_as(self.kinds[name], self, name, value) for name, value in arguments.items()}
        mistake = self.check(**built) if self.check else None
        if not isinstance(mistake, str | None):
            raise TypeError(f"{self}: `check` must return what is wrong, in words, or None, got {shown(mistake)}")
        if mistake:
            raise ValueError(f"{self}: {mistake}")
        if self.compose:
            self._try(built)
        return Schedule(self, built)

    def _try(self, built: Mapping[str, Any]) -> None:
        """Composes a recipe once, so that mistakes show where it is built."""
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(built)):
            return
        try:
            self._compose(Schedule(self, built))
        except ValueError as error:
            raise ValueError(f"{self}: {error}") from None
        except RecursionError:
            raise RecursionError(f"{self}: nested too deeply to be composed: does it call itself?") from None
        except NEEDS_NUMBERS as error:
            raise self._needs_numbers() from error

    def _compose(self, given: Schedule) -> None:
        """With its numbers as they are and, of each structure once, traced.

        The values of the schedules that it is given are traced in any case: no more is known than that they are
        numbers.
        """

        def compose(given: Schedule, value: Array) -> None:
            arguments = given.arguments.items()
            Schedule(self, {name: self.kinds[name].unread(each, value) for name, each in arguments}).expand()

        value, structure = jax.ShapeDtypeStruct((), jnp.result_type(float)), jax.tree.structure(given)
        if any(isinstance(kind, Nested | NestedList) for kind in self.kinds.values()):
            jax.eval_shape(functools.partial(compose, given), value)
        else:
            given.expand()
        if structure not in self._traceable:
            try:
                jax.eval_shape(compose, given, value)
            except TypeError as error:  # as of `[peak] * steps`, with numbers no mistake
                raise self._needs_numbers() from error
            self._traceable.add(structure)

    def _needs_numbers(self) -> TypeError:
        return TypeError(
            f"{self}: a recipe must not need its numbers as Python's, since they may be traced: use jnp.where in the "
            "place of `if`, and formulas such as 9 * steps // 10 in the place of `int(0.9 * steps)`"
        )

    def _ends_of_phases(self, /, **arguments: Any) -> Iterable[int]:
        lists = [self.kinds[name].phases(value) for name, value in arguments.items()]
        return sorted(step for phases in lists for step in phases)

    def bind(self, arguments: Mapping[str, Any]) -> inspect.BoundArguments:
        return inspect.BoundArguments(self.__signature__, dict(arguments))

    def _cast(self, arguments: Mapping[str, Any], clock: Any) -> inspect.BoundArguments:
        cast = {}
        for name, value in arguments.items():
            try:
                cast[name] = self.kinds[name].cast(value, clock)
            except ValueError as error:
                raise ValueError(f"{self}: `{name}` {error}") from None
        return self.bind(cast)

    @property
    def is_ours(self) -> bool:
        return self.__module__.partition(".")[0] in ("schedules", "optim")

    def __repr__(self) -> str:
        return self.__name__

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by reference, as functions are


@typing.overload
def schedule(function: Callable[Concatenate[Array, P], ArrayLike], /) -> Formula[P]: ...


@typing.overload
def schedule(
    *, check: Callable[..., str | None] | None = None, changes: Callable[..., Iterable[int]] | None = None
) -> Callable[[Callable[Concatenate[Array, P], ArrayLike]], Formula[P]]: ...


def schedule(function: Any = None, /, *, check: Any = None, changes: Any = None) -> Any:
    """Turns a formula `(step, *hyperparameters) -> value` into a constructor of schedules.

    The formula sees one step and its arguments as JAX scalars (lists as 1-D arrays, schedules as
    schedules). Each argument is annotated with its kind: `Value`, `Steps`, `Values`, `Boundaries`,
    `ScheduleLike`, `Schedules`, `Shape`, `bool` or a `Literal` of strings; `float` means `Value` and
    `int` means `Steps`.

    **Arguments:** `check`, optional: a function of the built arguments that returns what is wrong with
    them together, in words, or None; `changes`, optional: a function of the arguments (numbers, lists, and schedules
    as they are) that returns the steps at which the formula changes its form, in order, for `boundaries`. By default
    those are the arguments annotated `Steps` or `Boundaries`. (Where a schedule within changes its own is found out.)

    **Raises:** `TypeError` if the first argument is not `step`, or another has no kind, is positional-only or has the
    name of an attribute that every schedule has; for `**` arguments, for `*` arguments that are not schedules, and for
    what is not a function with a name.

    ```python
    @schedule
    def sawtooth(step, peak: Value, period: Steps):
        return peak * (1 - step % period / period)
    ```
    """
    if not function:
        return functools.partial(schedule, check=check, changes=changes)
    if TYPE_CHECKING:  # for jedi: see `_without_step`
        return _without_step(function)
    else:
        return Formula(function, check, changes, is_recipe=False)


@typing.overload
def recipe(function: Callable[P, Schedule], /) -> Formula[P]: ...


@typing.overload
def recipe(*, check: Callable[..., str | None]) -> Callable[[Callable[P, Schedule]], Formula[P]]: ...


def recipe(function: Any = None, /, *, check: Any = None) -> Any:
    """Turns a function that composes schedules into a constructor like those of `@schedule`.

    A recipe has no formula of its own: it is the composition that its function returns (`.expand()`), under
    one name and with arguments of its own, which are annotated and checked in the same way.

    Its numbers may be traced: `jnp.where` in the place of `if`, `9 * steps // 10` in the place of `int(0.9 * steps)`.
    One that needs them as Python's raises a `TypeError` when the schedule is built.

    ```python
    @recipe
    def tent(peak: Value, up: Steps, down: Steps) -> Schedule:
        return join([linear(0.0, peak, up), linear(peak, 0.0, down)], [up])
    ```
    """
    if not function:
        return functools.partial(recipe, check=check)
    if TYPE_CHECKING:  # for jedi: see `_without_step`
        return function
    else:
        return Formula(function, check, None, is_recipe=True)


if TYPE_CHECKING:

    def _without_step(function: Any) -> Any:
        """What `schedule` makes of a formula, for jedi, which completes names in notebooks and some editors.

        It does not know `Concatenate`, and shows the step as an argument. So it is given a function of all but the
        step. That it reads the bodies of the two decorators takes `typing.overload`, since after a bare `overload`
        it reads the declarations only; `not function`, where it follows no `is None`; and `TYPE_CHECKING`.
        """

        @functools.wraps(function)
        def constructor(*args: Any, **kwargs: Any) -> Schedule:
            return function(*args, step=0, **kwargs)

        return constructor


FORMULAS: dict[str, Formula[Any]] = {}  # by name, for `parse`


def _register(formula: Formula[Any]) -> None:
    """The last definition of a name counts, as in a notebook; the library's own names stay its own."""
    if not formula.__name__.isidentifier():
        raise TypeError(f"{formula}: a formula must have a name, by which it is printed and parsed: use `def`")
    taken = FORMULAS.get(formula.__name__)
    if taken and taken.is_ours and not formula.is_ours:
        raise ValueError(f"{formula}: the name is taken, choose another")
    FORMULAS[formula.__name__] = formula


def _require_step(formula: "Formula[...]", parameters: Sequence[inspect.Parameter]) -> None:
    first = parameters[0] if parameters else None
    if first is None or first.name != "step" or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**", "KEYWORD_ONLY": "*, "}
        found = f"`{stars.get(first.kind.name, '')}{first.name}`" if first else "none"
        raise TypeError(f"{formula}: the first argument of a formula must be `step`, got {found}")


def _kind(formula: "Formula[...]", parameter: inspect.Parameter) -> Kind:
    if hasattr(Schedule, parameter.name) or parameter.name in Schedule.__annotations__:
        raise TypeError(f"{formula}: an argument cannot be called `{parameter.name}`, as every schedule has its own")
    annotation = getattr(parameter.annotation, "__value__", parameter.annotation)
    kinds = [kind for kind in getattr(annotation, "__metadata__", ()) if isinstance(kind, Kind)]
    if annotation is Schedule:
        kinds = [Nested()]
    many = parameter.kind is parameter.VAR_POSITIONAL
    if parameter.kind is parameter.VAR_KEYWORD or (many and not (kinds and isinstance(kinds[-1], Nested))):
        raise TypeError(f"{formula}: `{parameter}` must be one argument or a list; only schedules may be any number")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise TypeError(f"{formula}: `{parameter.name}` must not be positional-only, as it is printed by its name")
    if annotation in (float, int):
        return VALUE if annotation is float else STEPS
    if annotation is bool:
        return Choice(False, True)
    if get_origin(annotation) is Literal and all(isinstance(option, str | bool) for option in get_args(annotation)):
        return Choice(*get_args(annotation))
    if kinds:
        return NestedList() if many else kinds[-1]
    found = "no annotation" if annotation is parameter.empty else repr(annotation)
    raise TypeError(
        f"{formula}: `{parameter.name}` must be annotated with its kind, such as Value or Steps, got {found}"
    )


def _without_kind(annotation: Any) -> Any:
    """The type alone, for people to read."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


# Working with schedules -----------------------------------------------------------------------------


def as_schedule(value: Any) -> Schedule:
    """`value` as a schedule: itself, a number as `constant`, a plain callable (an optax schedule, a
    lambda) as `function`.

    **Raises:** `ValueError` for anything else, and for a formula that was not called.
    """
    # Imported here: those modules are written with the names above.
    from schedules.combinators import function
    from schedules.ramps import constant

    if isinstance(value, Schedule):
        return value
    if isinstance(value, Formula):
        raise ValueError(f"{value} is a formula, not a schedule: call it with its arguments, {value}(...)")
    return function(value) if callable(value) else constant(value)


def stack(schedules: Schedules) -> Schedule:
    """Schedules that differ only in their numbers as one with a leading axis, for `jax.vmap`.

    `jax.vmap(lambda s: s(step))(stack([cosine(1.0, 0.0, 90), cosine(2.0, 0.0, 60)]))`

    **Raises:** `ValueError` if they differ in anything but numbers (`tabulate` those instead).
    """
    alike = built_as(NestedList(), "stack", "schedules", schedules)
    if len({jax.tree.structure(s) for s in alike}) != 1:
        raise ValueError(
            "stack: `schedules` must be one or more schedules alike in all but their numbers, got "
            f"{_text(alike)}; tabulate schedules of different shapes"
        )
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *alike)


def stretched(schedule: Schedule, change: Callable[[Any, int], Any]) -> Schedule:
    """`schedule` with every duration in it passed through `change`, which is also told the least that it may be;
    of a recipe, in what it composes.

    (The peak of `noam` is formed from its warm-up, which must not change it.)
    """
    schedule = schedule.expand()
    kinds = schedule.formula.kinds
    return Schedule(schedule.formula, {n: kinds[n].stretch(v, change) for n, v in schedule.arguments.items()})


def lengthened(schedule: Schedule, factor: Any, clock: Any) -> Schedule:
    """`schedule` with every duration in it `factor` times as long, in the dtype of the steps, `clock`.

    All of them in one product: cycles within cycles would else compile one for every duration at every level.
    """
    found: list[Array] = []
    leasts: list[int] = []

    def collect(steps: Any, least: int) -> Any:
        found.append(jnp.asarray(steps, clock))
        leasts.extend([least] * found[-1].size)
        return steps

    schedule = stretched(schedule, collect)
    if not leasts:
        return schedule
    longer = jnp.maximum(
        lengthen(jnp.concatenate([jnp.ravel(each) for each in found]), factor), jnp.asarray(leasts, clock)
    )
    ends = np.cumsum([each.size for each in found])
    pieces = (part.reshape(each.shape) for each, part in zip(found, jnp.split(longer, ends[:-1]), strict=True))
    return stretched(schedule, lambda steps, least: next(pieces))


def combined(name: Literal["add", "multiply"], first: Any, *others: Any) -> Schedule:
    """`first + other + ...` (or times) as one sum: a sum of a thousand is wide, not deep."""
    formula = FORMULAS[name]  # by name: they are written with the names above
    is_one = isinstance(first, Schedule) and first.formula is formula
    return formula(*(first.arguments["schedules"] if is_one else [first]), *others)


def _united(value: Any) -> Any:
    """A `Split` of Python floats as the float that it was."""
    return value.hi + value.lo if isinstance(value, Split) and type(value.hi) is type(value.lo) is float else value


def _hashable(leaf: Any) -> Any:
    if isinstance(leaf, jax.core.Tracer):
        return id(leaf)
    if isinstance(leaf, Array | np.ndarray):
        leaf = np.asarray(leaf)
        return str(leaf.dtype), leaf.shape, leaf.tobytes()
    return leaf


def _text(value: Any) -> str:
    """`value` as it is typed: arrays by their numbers, lists in brackets."""
    if isinstance(value, Split):
        value = value.hi
    if isinstance(value, jax.core.Tracer):
        return str(value)
    if isinstance(value, Array | np.ndarray):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_text, value))}]"
    return repr(value)


def built_as(kind: Kind, owner: object, name: str, value: Any, expected: str | None = None) -> Any:
    """What `kind` makes of an argument; raises the ValueError that names it, what was expected, and what came."""
    try:
        return kind.build(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{owner}: `{name}` must be {expected or kind.expected}, got {shown(value)}") from None


def shown(value: Any) -> str:
    try:
        return shortened(repr(value), 200)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "an integer of thousands of digits"


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _list(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
