"""`average`, which keeps an average of the parameters around any optimizer."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike
from typing_extensions import TypeAliasType

from optim.checks import (
    Base,
    ShareLike,
    not_own,
    require_like,
    require_params,
    require_real,
    require_setting,
    require_state,
)
from optim.coefficients import Remembering
from optim.evaluation import Average
from optim.numerics import is_zero, lerp, like, widen
from schedules import Formula, Schedule, as_schedule
from schedules.arguments import checked
from schedules.sentences import shown

__all__ = ["average", "Coefficient", "AverageState"]


class AverageState(NamedTuple):
    count: Array  # type: ignore[assignment]  # updates applied; int32, shape ()
    x: Any  # the average, to be evaluated; the shapes of the parameters, float32 or wider;
    # a dict by name if there are several averages; None in the lean form
    z: Any  # the raw parameters that the base moves, likewise; None if the caller holds them (beta=0)
    base: Any  # the state of the base
    memory: Any  # the state of the coefficient, () for a schedule; a dict by name if there are several
    used: dict[str, Any]  # the coefficient (a dict by name if there are several) and beta of the last update

    def averages(self) -> Mapping[str | None, Average]:
        """For `eval_params`."""
        coefficient = self.used["coefficient"]
        if isinstance(coefficient, dict):
            return {name: Average(self.x[name]) for name in coefficient}
        if self.x is None:
            return {None: Average(self.z, functools.partial(_recovered, self.used["beta"]), needs_trained=True)}
        return {None: Average(self.x)}


# A schedule, a function of the step, or a `Remembering` such as `weighted(lr)`, but not a number.
Coefficient = TypeAliasType("Coefficient", Schedule | Callable[[Array], ArrayLike] | Remembering)


class _OfStep(NamedTuple):
    """A schedule as a `Remembering` coefficient, with an empty state."""

    schedule: Schedule

    def init(self) -> tuple[()]:
        return ()

    def update(self, count: Array, memory: tuple[()]) -> tuple[Array, tuple[()]]:
        return self.schedule(count), memory


class _Settings(NamedTuple):
    """A pytree of schedules: an argument of the jitted update, so that changing a number compiles nothing."""

    coefficient: Any  # a `Remembering`, or a dict of them by name
    beta: Schedule


@checked
def average(
    base: Base,
    coefficient: Coefficient | Mapping[str, Coefficient],
    beta: ShareLike = 0.0,
    decay_at: Literal["y", "z"] = "y",
    lean: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps an average of the parameters around any optimizer. Read it with `eval_params`.

    There are three sets of weights: z, the raw weights, which `base` moves; x, their average, to be evaluated; and y,
    where gradients are taken. Your training loop holds y.

    $$z \leftarrow z + \mathrm{base}(\nabla f(y)), \qquad x \leftarrow (1 - c_t)\, x + c_t\, z, \qquad
      y \leftarrow (1 - \beta_t)\, z + \beta_t\, x$$

    With `beta=0` (the default) y is z: training is bit for bit that of `base`, and only x is stored. With
    `beta` near 0.9 this is schedule-free optimization (see `schedule_free`), with `beta=1` primal averaging.

    **Arguments:**

    - `base`: any optax transformation whose output is added to the parameters.
    - `coefficient`: c, such as `polyak()`, `ema(decay)`, any other schedule with values in [0, 1], or a `Remembering`
      such as `weighted(...)`. A plain number raises an error. With `beta=0` it may be a dict from names to several of
      these, to keep several averages.
    - `beta`: a number or a schedule. Schedules are read at the number of updates already applied.
    - `decay_at`: which parameters are passed to the base, "y" or "z". Its weight decay is computed from them.
    - `lean`: do not store x, but recover it from y and z as $(y - (1 - \beta) z) / \beta$. This saves 4 bytes per
      parameter, and the average is about as exact. It needs float32 parameters and a beta of 0.5 or more.

    x and z are stored in float32 or wider, and the base computes in float32 or wider if beta is not 0, so the average
    of bfloat16 parameters loses no digits. Put everything that changes updates inside, such as clipping or
    `reduce_on_plateau`: `average(optax.chain(...), c)`.

    **Raises:** `ValueError` if `update` is called without `params`, if a parameter is not real, or if the arguments do
    not go together.
    """
    holds_live = is_zero(beta)
    _require_together(coefficient, beta, lean)
    settings = _Settings(_remembering(coefficient), as_schedule(beta))
    names = sorted(coefficient) if isinstance(coefficient, Mapping) else [None]
    remembered: Any = jax.tree.structure(jax.eval_shape(lambda: _each(lambda c: c.init(), settings.coefficient)))

    def init(params: Any) -> AverageState:
        require_real("average", params)
        _require_width(lean, params)

        def copy() -> Any:
            # Copies, since the caller may donate both parameters and state to one jitted function.
            return jax.tree.map(jnp.copy, widen(params))

        if lean and not isinstance(first := settings.beta(0), jax.core.Tracer) and first < 0.5:
            raise ValueError(f"average: `beta` must be at least 0.5 in the lean form, got {float(first)} at step 0")
        x = {name: copy() for name in coefficient} if isinstance(coefficient, Mapping) else None if lean else copy()
        z = None if holds_live else copy()
        count = jnp.zeros((), jnp.int32)
        memory = _each(lambda c: c.init(), settings.coefficient)
        c, _ = _coefficient(settings, count, memory)
        # Another copy, since some bases keep the parameters they get.
        base_state = base.init(jax.tree.map(jnp.copy, params if holds_live else z))
        return AverageState(count, x, z, base_state, memory, {"coefficient": c, "beta": settings.beta(count)})

    def update(grads: Any, state: AverageState, params: Any = None, **extra_args: Any) -> tuple[Any, AverageState]:
        require_state("average", AverageState, state, x=not lean, z=not holds_live)
        require_setting("average", "coefficient", sorted(state.averages(), key=str), names)
        if jax.tree.structure(state.memory) != remembered:
            raise ValueError(not_own("average", "one with another `memory`"))
        averages = state.x if isinstance(coefficient, Mapping) else {"x": state.x}
        require_like("average", {**averages, "z": state.z}, require_params("average", params), grads=grads)
        if holds_live:
            updates, base_state = base.update(grads, state.base, params, **extra_args)
            return updates, _follow(settings, state, params, updates)._replace(base=base_state)
        y = widen(params)
        shown = y if decay_at == "y" else state.z
        steps, base_state = base.update(widen(grads), state.base, shown, **extra_args)
        updates, state = _interpolate(settings, state, y, steps)
        return like(updates, grads, params), state._replace(base=base_state)

    return optax.GradientTransformationExtraArgs(init, update)


@functools.partial(jax.jit, inline=True)
def _follow(settings: _Settings, state: AverageState, params: Any, updates: Any) -> AverageState:
    """Updates the average of z if the caller holds z (beta=0)."""
    c, memory = _coefficient(settings, state.count, state.memory)
    z = optax.apply_updates(params, updates)  # with the rounding of the caller's own apply_updates

    def averaged(c: Array, x: Any) -> Any:
        return jax.tree.map(lambda x, z: lerp(x, z, c), x, z)

    used = {"coefficient": c, "beta": settings.beta(state.count)}
    count = optax.safe_increment(state.count)
    return state._replace(count=count, x=_each(averaged, c, state.x), memory=memory, used=used)


@functools.partial(jax.jit, inline=True)
def _interpolate(settings: _Settings, state: AverageState, y: Any, steps: Any) -> tuple[Any, AverageState]:
    c, memory = _coefficient(settings, state.count, state.memory)
    beta = settings.beta(state.count)
    z = jax.tree.map(lambda z, s: z + s, state.z, steps)
    if state.x is None:
        updates, x = _lean_updates(steps, z, y, c, beta, state.used["beta"]), None
    else:
        updates, x = interpolated(state.x, z, y, c, beta)
    used, count = {"coefficient": c, "beta": beta}, optax.safe_increment(state.count)
    return updates, state._replace(count=count, x=x, z=z, memory=memory, used=used)


def interpolated(x: Any, z: Any, y: Any, c: Array, beta: Array) -> tuple[Any, Any]:
    """The updates of y, and the average x after z was added to it."""
    x = jax.tree.map(lambda x, z: lerp(x, z, c), x, z)
    return jax.tree.map(lambda z, x, y: lerp(z, x, beta) - y, z, x, y), x


def _lean_updates(steps: Any, z: Any, y: Any, c: Array, beta: Array, last: Array) -> Any:
    r"""The updates of y in the lean form, from the steps s, and z after s was added to it.

    $$(1 - c)(1 - \beta - d)\, s + (c + (1 - c)\, d)(z - y), \qquad d = 1 - \beta / \beta_\mathrm{last}$$

    This is what `interpolated` gives for the x that was recovered from the old z. The old z does not occur in it, so
    the new one can overwrite it: XLA would copy what is read after it was overwritten.
    """
    d = (last - beta) * _inverse(last)
    along, across = (1 - c) * (1 - beta - d), c + (1 - c) * d
    return jax.tree.map(lambda s, z, y: along.astype(z.dtype) * s + across.astype(z.dtype) * (z - y), steps, z, y)


def _recovered(beta: Any, z: Array, y: Any) -> Array:
    """x in the lean form, recovered from the parameters that the caller holds; z where a scheduled beta is 0."""
    return z + _inverse(beta).astype(z.dtype) * (jnp.asarray(y, z.dtype) - z)


def _inverse(beta: Any) -> Array:
    """1 / beta; 0 for a beta of 0, where x cannot be recovered."""
    beta = jnp.asarray(beta)  # nnx.Optimizer wraps it
    return jnp.where(beta > 0, 1 / jnp.where(beta > 0, beta, 1.0), 0.0)


def _each(function: Callable[..., Any], of: Any, *others: Any) -> Any:
    """`function` of one thing, or of each entry of a dict."""
    if not isinstance(of, dict):
        return function(of, *others)
    return {name: function(each, *(other[name] for other in others)) for name, each in of.items()}


def _coefficient(settings: _Settings, count: Array, memory: Any) -> tuple[Any, Any]:
    """The coefficient of the update that follows `count` updates, and the memory after it."""
    pairs = _each(lambda c, memory: c.update(count, memory), settings.coefficient, memory)
    return _each(lambda pair: pair[0], pairs), _each(lambda pair: pair[1], pairs)


def _remembering(coefficient: Any) -> Any:
    if isinstance(coefficient, Mapping):
        return {name: _remembering(each) for name, each in coefficient.items()}
    return as_remembering("average", "coefficient", coefficient)


def as_remembering(function: str, argument: str, coefficient: Any) -> Remembering:
    """The coefficient as a `Remembering`.

    **Raises:** the ValueError of `function` that names its `argument`, if it is not a coefficient.
    """
    if callable(getattr(coefficient, "init", None)) and callable(getattr(coefficient, "update", None)):
        return coefficient
    # Numbers are ambiguous: 0.999 may be meant as the decay of an EMA, and 0.001 as its c.
    expected = "a schedule such as polyak(), ema(0.999) or constant(c)"
    if not callable(coefficient) or isinstance(coefficient, Formula):
        raise ValueError(f"{function}: `{argument}` must be {expected}, got {coefficient!r}")
    schedule = as_schedule(coefficient)
    if schedule is not coefficient:
        try:
            jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
        except (TypeError, ValueError):  # a function of other arguments, such as `ema` that was not called
            raise ValueError(f"{function}: `{argument}` must be {expected}, got {shown(coefficient)}") from None
    return _OfStep(schedule)


def _require_together(coefficient: Any, beta: Any, lean: bool) -> None:
    if isinstance(coefficient, Mapping):
        if not coefficient:
            raise ValueError("average: `coefficient` must be a schedule or a dict of one or more, got an empty dict")
        if not is_zero(beta):
            raise ValueError(f"average: `coefficient` must be one schedule if beta is not 0, got {coefficient!r}")
        for name, each in coefficient.items():
            if not isinstance(name, str):
                raise ValueError(f"average: `coefficient` must have strings as keys, got {name!r}: {each!r}")
    if lean and isinstance(beta, int | float) and beta < 0.5:
        raise ValueError(f"average: `beta` must be at least 0.5 in the lean form, got {beta!r}")


def _require_width(lean: bool, params: Any) -> None:
    narrow = {dtype for dtype in map(jnp.result_type, jax.tree.leaves(params)) if jnp.finfo(dtype).bits < 32}
    if lean and narrow:
        raise ValueError(f"average: `params` must be float32 or wider in the lean form, got {min(map(str, narrow))}")
