"""`Formula`: a decorated function of the step and of annotated arguments, which builds schedules when it is called.

`schedules.core` defines `@schedule` with it, and `schedules.composed` defines `@recipe`.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar

from schedules.arguments import built_as, kind_of, without_kind
from schedules.kinds import Kind
from schedules.sentences import listed, shortened, shown

__all__ = ["Formula"]

P = ParamSpec("P")
V = TypeVar("V")
F = TypeVar("F", bound=Callable[..., Any])


class Formula(Generic[P, V]):
    """A schedule's formula: call it with arguments to build a `Schedule`. Made by `@schedule` and `@recipe`.

    **Attributes:** `function`, the plain function that was decorated; `kinds`, the kind of each argument by name;
    `changes`, `pieces` and `ends`, as passed to `@schedule`.
    """

    __name__: str
    __qualname__: str
    __signature__: inspect.Signature
    decorator: ClassVar = "schedule"

    def __init__(
        self,
        function: Callable[..., Any],
        makes: type[V],
        check: Callable[..., str | None] | None = None,
        changes: Callable[..., Iterable[int]] | None = None,
        pieces: Callable[..., Iterable[tuple[int, V]]] | None = None,
        ends: bool = True,
    ):
        if not hasattr(function, "__name__") or isinstance(function, Formula):
            raise TypeError(f"{self.decorator}: `function` must be a function with a name, got {shown(function)}")
        functools.update_wrapper(self, function)
        try:
            signature = inspect.signature(function, eval_str=True)
        except NameError as error:
            raise TypeError(f"{self}: an annotation cannot be read ({error}): import it at run time") from None
        self.function: Callable[..., Any] = function
        self.makes, self.check = makes, check
        self.changes: Callable[..., Iterable[int]] = changes or self._ends_of_phases
        self.pieces, self.ends = pieces, ends
        parameters = self._arguments([*signature.parameters.values()])
        self.kinds = {p.name: self._kind(p) for p in parameters}
        self.leaves = {name: kind for name, kind in self.kinds.items() if kind.is_leaf}
        self.static = [name for name in self.kinds if name not in self.leaves]
        self.positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        self.defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        self.variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        parameters = [p.replace(annotation=without_kind(p.annotation)) for p in parameters]
        self.__signature__ = signature.replace(parameters=parameters, return_annotation=makes)
        self._register()

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> V:
        """Builds the schedule.

        **Raises:** `TypeError` for a missing or unknown argument, `ValueError` for an argument that is not what
        its kind expects. Traced values are not checked.
        """
        return self.build(self._named(args, kwargs))

    # Otherwise IPython shows (*args, **kwargs) below the signature of the formula.
    __call__.__signature__ = NotImplemented  # type: ignore[attr-defined]

    # `help` shows the signature only of objects that have this method, as functions do.
    def __get__(self, instance: object, owner: type | None = None) -> "Formula[P, V]":
        return self  # never bound to an instance, even as an attribute of a class

    @property
    def usage(self) -> str:
        return usage(self)

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Any]:
        """All arguments by name, in order."""
        given = dict(zip(self.positional, args, strict=False))
        named = {**self.defaults, **given, **kwargs}
        everything = len(args) <= len(self.positional) and named.keys() == self.kinds.keys()
        if everything and given.keys().isdisjoint(kwargs) and self.variadic is None:
            return {name: named[name] for name in self.kinds}
        try:  # slower, for what is left: * arguments, and mistakes
            bound = self.__signature__.bind(*args, **kwargs)
        except TypeError as error:
            self.require_known(kwargs)
            raise TypeError(f"{self.usage}: {error}") from None
        bound.apply_defaults()
        return bound.arguments

    def build(self, arguments: Mapping[str, Any]) -> V:
        """Builds the value from all of its arguments, which are checked one by one and together."""
        built = {name: built_as(self.kinds[name], self, name, value) for name, value in arguments.items()}
        mistake = self.check(**built) if self.check else None
        if not isinstance(mistake, str | None):
            raise TypeError(
                f"{self}: `check` must return a string that says what is wrong, or None, got {shown(mistake)}"
            )
        if mistake:
            raise ValueError(f"{self}: {mistake}")
        return self.made(built)

    def made(self, built: Mapping[str, Any]) -> V:
        return self.makes(self, built)  # type: ignore[call-arg]

    def expand(self, arguments: Mapping[str, Any]) -> V | None:
        """What a recipe composes from these arguments; None for a formula that is not a recipe."""
        del arguments
        return None

    def value(self, step: Any, arguments: Mapping[str, Any]) -> Any:
        """The value at one step, from arguments after `cast`."""
        return self.apply(arguments, step)

    def apply(self, arguments: Mapping[str, Any], /, *first: Any) -> Any:
        """Calls the decorated function with the arguments `first` and then these."""
        keywords = dict(arguments)
        positional = [keywords.pop(name) for name in self.positional]
        several = keywords.pop(self.variadic) if self.variadic else ()
        return self.function(*first, *positional, *several, **keywords)

    def cast(self, arguments: Mapping[str, Any], clock: Any) -> dict[str, Any]:
        cast = {}
        for name, value in arguments.items():
            try:
                cast[name] = self.kinds[name].cast(value, clock)
            except ValueError as error:
                raise ValueError(f"{self}: `{name}` {error}") from None
        return cast

    def require_known(self, names: Iterable[str]) -> None:
        if unknown := {*names} - self.kinds.keys():
            raise TypeError(
                f"{self}: has no argument {shortened(listed(sorted(unknown)), 100)}, only {listed(self.kinds)}"
            )

    def _arguments(self, parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
        """All but the step, which is the first."""
        first = parameters[0] if parameters else None
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if first is None or first.name != "step" or first.kind not in positional:
            stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**", "KEYWORD_ONLY": "*, "}
            found = f"`{stars.get(first.kind.name, '')}{first.name}`" if first else "none"
            raise TypeError(f"{self}: the first argument of a formula must be `step`, got {found}")
        return parameters[1:]

    def _kind(self, parameter: inspect.Parameter) -> Kind:
        if hasattr(self.makes, parameter.name) or parameter.name in self.makes.__annotations__:
            raise TypeError(
                f"{self}: an argument cannot be called `{parameter.name}`, since all schedules have this attribute"
            )
        kind, many = kind_of(parameter.annotation), parameter.kind is parameter.VAR_POSITIONAL
        if parameter.kind is parameter.VAR_KEYWORD or (many and not (kind and kind.many)):
            raise TypeError(f"{self}: `{parameter}` must be one argument or a list: only schedules may be * arguments")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(
                f"{self}: `{parameter.name}` must not be positional-only, since it is printed with its name"
            )
        if kind is None:
            annotation = parameter.annotation
            found = "no annotation" if annotation is parameter.empty else repr(annotation)
            raise TypeError(
                f"{self}: `{parameter.name}` must be annotated with its kind, such as Value or Steps, got {found}"
            )
        return kind.many if many and kind.many else kind

    def _ends_of_phases(self, /, **arguments: Any) -> Iterable[int]:
        lists = [self.kinds[name].phases(value) for name, value in arguments.items()]
        return sorted(step for phases in lists for step in phases)

    def _register(self) -> None:
        """Defining a name again replaces it, as in a notebook, except for names that another package exports."""
        if not self.__name__.isidentifier():
            raise TypeError(f"{self}: a formula must have a name, since it is printed and parsed with it: use `def`")
        taken = FORMULAS.get(self.__name__)
        if taken and taken._is_exported() and taken._package != self._package:
            raise ValueError(f"{self}: the name is already taken by {taken.__module__}, choose another")
        FORMULAS[self.__name__] = self

    @property
    def _package(self) -> str:
        return self.__module__.partition(".")[0]

    def _is_exported(self) -> bool:
        package = sys.modules.get(self._package)
        return hasattr(package, "__path__") and getattr(package, self.__name__, None) is self

    def __repr__(self) -> str:
        return self.__name__

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by reference, as functions are


# By name, for `parse`.
FORMULAS: dict[str, Formula[Any, Any]] = {}
SHORTHANDS: dict[str, Callable[..., Any]] = {}


def shorthand(function: F) -> F:
    """Makes a function known to `parse` that is not a formula itself but builds a schedule, such as `ema`."""
    SHORTHANDS[function.__name__] = function
    return function


def usage(function: Callable[..., Any]) -> str:
    """How to call it: `cosine(start, end, steps)`."""
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(function).parameters.values()]
    return f"{function.__name__}({', '.join(map(str, parameters))})"
