"""The learning rates of a run as an array, from a schedule or an array."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from typing_extensions import TypeAliasType

from schedules import Schedule, as_schedule, tabulate
from schedules.kinds import Kind, require


class OfRates(Kind):
    """A schedule, a number or function that `as_schedule` accepts, or an array with one rate for each update."""

    expected = "a schedule, or an array of rates with one for each update"

    def build(self, value: Any) -> Any:
        if isinstance(value, Array | np.ndarray) and value.ndim:
            return require(jnp.asarray(value), value.ndim == 1 and jnp.issubdtype(value.dtype, jnp.floating))
        return as_schedule(value)


Rates = TypeAliasType("Rates", Annotated[Schedule | float | Array | Callable[[Array], ArrayLike], OfRates()])


def require_usual(owner: str, name: str, values: Array, sometimes_positive: bool = True) -> None:
    """**Raises:** `ValueError` if a value is negative or not finite, or if all are 0. Traced values are not checked."""
    if isinstance(values, jax.core.Tracer):
        return
    numbers = np.asarray(values)
    wrong = np.flatnonzero(~(np.isfinite(numbers) & (numbers >= 0)))
    if wrong.size:
        got = f"{numbers[wrong[0]]:g} at step {wrong[0]}"
        raise ValueError(f"{owner}: `{name}` must be finite and not negative at every update, got {got}")
    if sometimes_positive and not numbers.any():
        raise ValueError(f"{owner}: `{name}` must be above 0 at some update, got 0 at all {len(numbers)}")


def rates_of(owner: str, lr: Any, steps: int, name: str = "lr") -> Array:
    """The rate of each update of a run, shape (steps,), from the argument `name` after `Rates` has built it.

    **Raises:** `ValueError` if an array does not have `steps` rates.
    """
    if not isinstance(lr, Array):
        return tabulate(lr, steps)
    if len(lr) != steps:
        raise ValueError(f"{owner}: `{name}` must hold one rate for each of {steps} updates, got {len(lr)}")
    return lr
