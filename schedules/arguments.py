"""Checks arguments by their annotations, which say what each may be."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from schedules.kinds import STEPS, VALUE, Choice, Kind

F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """`function` with its arguments checked and converted according to the kinds in their annotations.

    Arguments without a kind are passed on unchanged.

    **Raises:** when it is called, `ValueError` for an argument that is not what its kind expects.
    """
    signature = inspect.signature(function)
    kinds = kinds_of(signature.parameters.values())

    @functools.wraps(function)
    def with_checks(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # raises the same error, with the function's name
        for name in bound.arguments.keys() & kinds.keys():
            bound.arguments[name] = built_as(kinds[name], function.__name__, name, bound.arguments[name])
        return function(*bound.args, **bound.kwargs)

    return with_checks  # type: ignore[return-value]


def kinds_of(parameters: Iterable[inspect.Parameter]) -> dict[str, Kind]:
    """The kinds of the arguments that are annotated with one, by name."""
    found = {parameter.name: kind_of(parameter.annotation) for parameter in parameters}
    return {name: kind for name, kind in found.items() if kind}


def kind_of(annotation: Any) -> Kind | None:
    """The kind in an annotation: a `Kind` within `Annotated`, or that of a plain type; None if there is none."""
    annotation = getattr(annotation, "__value__", annotation)
    kinds = [kind for kind in getattr(annotation, "__metadata__", ()) if isinstance(kind, Kind)]
    if kinds:
        return kinds[-1]
    if get_origin(annotation) is Literal and all(isinstance(option, str | bool) for option in get_args(annotation)):
        return Choice(*get_args(annotation))
    if annotation in PLAIN:
        return PLAIN[annotation]
    return getattr(annotation, "__kind__", None)  # a class, such as `Schedule`, whose values are arguments


PLAIN: Mapping[Any, Kind] = {float: VALUE, int: STEPS, bool: Choice(False, True)}


def without_kind(annotation: Any) -> Any:
    """The annotation without its kind, for people to read."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def built_as(kind: Kind, owner: object, name: str, value: Any) -> Any:
    """An argument converted by `kind`; else raises the ValueError that names it, what was expected, and what came."""
    try:
        return kind.build(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{owner}: `{name}` must be {kind.expected}, got {kind.got(value)}") from None
