"""Recipes: compositions of schedules under one name."""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from schedules.core import Schedule, function
from schedules.evaluate import NEEDS_NUMBERS
from schedules.formula import Formula
from schedules.sentences import shown

__all__ = ["recipe"]

P = ParamSpec("P")


@typing.overload
def recipe(function: Callable[P, Schedule], /) -> Formula[P, Schedule]: ...


@typing.overload
def recipe(*, check: Callable[..., str | None]) -> Callable[[Callable[P, Schedule]], Formula[P, Schedule]]: ...


def recipe(function: Any = None, /, *, check: Any = None) -> Any:
    """Turns a function that composes schedules into a constructor like those of `@schedule`.

    A recipe has no formula of its own: it gives a name and arguments to the composition that its function returns
    (see it with `.expand()`). The arguments are annotated and checked in the same way.

    The function must work with traced numbers: write `jnp.where` instead of `if`, and `9 * steps // 10` instead of
    `int(0.9 * steps)`. If it needs Python numbers, building the schedule raises a `TypeError`.

    ```python
    @recipe
    def tent(peak: Value, up: Steps, down: Steps) -> Schedule:
        return join([linear(0.0, peak, up), linear(peak, 0.0, down)], [up])
    ```
    """
    if not function:
        return functools.partial(recipe, check=check)
    if TYPE_CHECKING:  # for jedi: see `_without_step` in core
        return function
    else:
        return Recipe(function, Schedule, check)


class Recipe(Formula[P, Schedule]):
    """The formula of a recipe, whose function composes schedules and has no step."""

    decorator: ClassVar = "recipe"

    def __init__(self, function: Callable[..., Any], makes: type[Schedule], check: Any = None):
        self._traceable: set[Any] = set()  # pytree structures of arguments that were already tried with traced numbers
        super().__init__(function, makes, check)

    def _arguments(self, parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
        return parameters

    def value(self, step: Any, arguments: Mapping[str, Any]) -> Any:
        return self.apply(arguments)(step)

    def expand(self, arguments: Mapping[str, Any]) -> Schedule:
        composed = self.apply(arguments)
        if not isinstance(composed, Schedule):
            raise TypeError(f"{self}: a recipe must return a schedule, got {shown(composed)}")
        return composed

    def made(self, built: Mapping[str, Any]) -> Schedule:
        """Composes it once, so that mistakes raise where the recipe is called."""
        given = Schedule(self, built)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in given._flat[1]):
            return given
        try:
            self._try(given)
        except ValueError as error:
            raise ValueError(f"{self}: {error}") from None
        except RecursionError:
            raise RecursionError(f"{self}: the recipe is nested too deeply: does it call itself?") from None
        except NEEDS_NUMBERS as error:
            raise self._needs_numbers() from error
        return given

    def _try(self, given: Schedule) -> None:
        """Composes it with its numbers and, once for each pytree structure, with traced numbers.

        Schedules among the arguments are always replaced by stand-ins with a traced value.
        """

        def compose(given: Schedule, value: Array) -> None:
            def stand_in(_: Schedule) -> Schedule:
                return StandIn(lambda step: jnp.full(jnp.shape(step), value, float))

            substituted(given, stand_in).expand()

        if any(kind.nests for kind in self.kinds.values()):
            jax.eval_shape(functools.partial(compose, given), 0.0)
        else:
            given.expand()
        if (structure := given._flat[0]) not in self._traceable:
            try:
                jax.eval_shape(compose, given, 0.0)
            except TypeError as error:  # such as of `[peak] * steps`, which works with Python numbers only
                raise self._needs_numbers() from error
            self._traceable.add(structure)

    def _needs_numbers(self) -> TypeError:
        return TypeError(
            f"{self}: a recipe must not need Python numbers, since its arguments may be traced: use jnp.where instead "
            "of `if`, and formulas such as 9 * steps // 10 instead of `int(0.9 * steps)`"
        )


# Stand-ins for the schedules inside another one -------------------------------------------------------------------


def substituted(schedule: Schedule, change: Callable[[Any], Any]) -> Schedule:
    """`schedule` with every schedule among its arguments passed through `change`."""
    kinds = schedule.formula.kinds
    return Schedule(schedule.formula, {n: kinds[n].substitute(v, change) for n, v in schedule.arguments.items()})


@jax.tree_util.register_static
class StandIn(Schedule):
    """Replaces a schedule inside another one, to return other values or to record at which step it is read."""

    def __init__(self, read: Callable[[ArrayLike], Array]):
        super().__init__(function, {"of": read})

    def __call__(self, step: ArrayLike) -> Array:
        return self.arguments["of"](step)

    def _key(self) -> tuple[Any, ...]:
        return (self.arguments["of"],)
