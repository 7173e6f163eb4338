"""Arguments are checked by the signature that declares them: the annotation of each says what it may be."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from schedules.kinds import STEPS, VALUE, Choice, Kind

F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """`function`, whose arguments are checked and converted by the kinds with which they are annotated.

    Those that are annotated with no kind are left as they are.

    **Raises:** when it is called, `ValueError` for an argument that is not what its kind expects.
    """
    signature = inspect.signature(function)
    kinds = kinds_of(signature.parameters.values())

    @functools.wraps(function)
    def with_checks(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # which says the same with its name
        for name in bound.arguments.keys() & kinds.keys():
            bound.arguments[name] = built_as(kinds[name], function.__name__, name, bound.arguments[name])
        return function(*bound.args, **bound.kwargs)

    return with_checks  # type: ignore[return-value]


def kinds_of(parameters: Iterable[inspect.Parameter]) -> dict[str, Kind]:
    """The kinds of the arguments that are annotated with one, by name."""
    found = {parameter.name: kind_of(parameter.annotation) for parameter in parameters}
    return {name: kind for name, kind in found.items() if kind}


def kind_of(annotation: Any) -> Kind | None:
    """What an annotation says of an argument: a `Kind` within `Annotated`, or that of a plain type."""
    annotation = getattr(annotation, "__value__", annotation)
    kinds = [kind for kind in getattr(annotation, "__metadata__", ()) if isinstance(kind, Kind)]
    if kinds:
        return kinds[-1]
    if get_origin(annotation) is Literal and all(isinstance(option, str | bool) for option in get_args(annotation)):
        return Choice(*get_args(annotation))
    if annotation in PLAIN:
        return PLAIN[annotation]
    return getattr(annotation, "__kind__", None)  # of a class whose values are arguments


PLAIN: Mapping[Any, Kind] = {float: VALUE, int: STEPS, bool: Choice(False, True)}


def without_kind(annotation: Any) -> Any:
    """The type alone, for people to read."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def built_as(kind: Kind, owner: object, name: str, value: Any) -> Any:
    """What `kind` makes of an argument; raises the ValueError that names it, what was expected, and what came."""
    try:
        return kind.build(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{owner}: `{name}` must be {kind.expected}, got {kind.got(value)}") from None
