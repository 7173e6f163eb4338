"""The one wrapper that keeps an average of the parameters, and the queue of the latest ones."""

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
    FLAG,
    SHARE,
    SIZE,
    as_named,
    checked,
    checked_or_schedules,
    require_base,
    require_like,
    require_params,
    require_real,
    require_setting,
    require_state,
)
from optim.coefficients import Weights, WeightSum, add_weight, no_weights
from optim.numerics import is_zero, lerp, like, widen, zeros
from schedules import Formula, Schedule, ScheduleLike, as_schedule
from schedules.kinds import COUNT, INDEX, Choice
from schedules.sentences import shown


class AverageState(NamedTuple):
    count: Array  # type: ignore[assignment]  # updates applied; int32, shape ()
    x: Any  # the average, where the model is evaluated; the shapes of the parameters, float32 or wider;
    # a dict of such averages by name; None in the lean form
    z: Any  # the live parameters that the base moves, likewise; None where the caller holds them
    base: Any  # the state of the base
    weights: WeightSum | None  # of `weighted` averages
    used: dict[str, Array]  # the coefficients and beta of the last update


# A schedule, or a function of the step; no number.
Coefficient = TypeAliasType("Coefficient", Schedule | Callable[[Array], ArrayLike])


class _Settings(NamedTuple):
    """A pytree of schedules: an argument of the jitted update, so that no number is compiled in."""

    coefficient: Any
    beta: Schedule


def average(
    base: optax.GradientTransformation,
    coefficient: Coefficient | Weights | Mapping[str, Coefficient],
    beta: ScheduleLike = 0.0,
    decay_at: Literal["y", "z"] = "y",
    lean: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps an average of the parameters beside any optimizer. `eval_params` reads it.

    Three sequences: z, the live parameters that `base` moves; x, their average; and y between the two,
    which is what the caller holds and takes gradients at.

    $$z \leftarrow z + \mathrm{base}(\nabla f(y)), \qquad x \leftarrow (1 - c_t)\, x + c_t\, z, \qquad
      y \leftarrow (1 - \beta_t)\, z + \beta_t\, x$$

    With `beta=0` (the default) y is z: the run is bit for bit that of `base`, and only x is stored. With
    `beta` near 0.9 this is schedule-free optimization, see `schedule_free`; with `beta=1` primal averaging.

    **Arguments:** `base`: any optax transformation whose output is added to the parameters; `coefficient`:
    c, `polyak()`, `ema(decay)` or any schedule with values in [0, 1], but no number, or `weighted(...)`; with `beta=0`
    also a dict of several, whose averages are kept by name; `beta`: a number or a schedule; `decay_at`: the
    parameters that the base is shown, at which it decays weights; `lean`: x is not stored but recovered from y and
    z as $(y - (1 - \beta) z) / \beta$, for float32 parameters and a beta of 0.5 or more: a third less memory, at
    the price of a last digit at every update. Schedules are read at the number of updates already applied.

    x, z and the arithmetic of the base (where it is given z) are float32 or wider, so averages of
    bfloat16 parameters lose nothing. A wrapper and not a link of a chain, where it could be put before
    the learning rate and average the wrong thing in silence: what changes updates, such as clipping or
    `reduce_on_plateau`, belongs inside, `average(optax.chain(...), c)`.

    **Raises:** `ValueError` if `update` is called without `params`, a parameter is not real, or the arguments do
    not go together.
    """
    base = require_base("average", base)
    (beta,) = checked_or_schedules("average", SHARE, beta=beta)
    holds_live = is_zero(beta)
    _require_together(coefficient, beta, decay_at, lean)
    settings = _Settings(_schedules(coefficient), as_named("average", "beta", beta))
    names = sorted(coefficient) if isinstance(coefficient, Mapping) else []

    def init(params: Any) -> AverageState:
        require_real("average", params)
        _require_width(lean, params)

        def copy() -> Any:
            # Never the caller's buffers: parameters and state may be donated to one jitted function.
            return jax.tree.map(jnp.copy, widen(params))

        if lean and not isinstance(first := settings.beta(0), jax.core.Tracer) and first < 0.5:
            raise ValueError(f"average: `beta` must be at least 0.5 in the lean form, got {float(first)} at step 0")
        x = {name: copy() for name in coefficient} if isinstance(coefficient, Mapping) else None if lean else copy()
        z = None if holds_live else copy()
        count = jnp.zeros((), jnp.int32)
        weights = _no_weights(settings)
        c, _ = _coefficient(settings, count, weights)
        # A copy of its own, since some bases keep what they are given.
        base_state = base.init(jax.tree.map(jnp.copy, params if holds_live else z))
        return AverageState(count, x, z, base_state, weights, _used(c, settings.beta(count)))

    def update(grads: Any, state: AverageState, params: Any = None, **extra_args: Any) -> tuple[Any, AverageState]:
        weighs = isinstance(coefficient, Weights)
        require_state("average", AverageState, state, x=not lean, z=not holds_live, weights=weighs)
        require_setting("average", "coefficient", names_of(state), names)
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
    """The average of parameters that the caller holds."""
    c, weights = _coefficient(settings, state.count, state.weights)
    z = optax.apply_updates(params, updates)  # rounded as the caller's will be

    def averaged(x: Any, c: Array) -> Any:
        return jax.tree.map(lambda x, z: lerp(x, z, c), x, z)

    x = {name: averaged(state.x[name], c[name]) for name in c} if isinstance(c, dict) else averaged(state.x, c)
    used = _used(c, settings.beta(state.count))
    return state._replace(count=optax.safe_increment(state.count), x=x, weights=weights, used=used)


@functools.partial(jax.jit, inline=True)
def _interpolate(settings: _Settings, state: AverageState, y: Any, steps: Any) -> tuple[Any, AverageState]:
    c, weights = _coefficient(settings, state.count, state.weights)
    beta = settings.beta(state.count)
    x = recovered(y, state) if state.x is None else state.x
    z = jax.tree.map(lambda z, s: z + s, state.z, steps)
    x = jax.tree.map(lambda x, z: lerp(x, z, c), x, z)
    updates = jax.tree.map(lambda z, x, y: lerp(z, x, beta) - y, z, x, y)
    count = optax.safe_increment(state.count)
    stored = None if state.x is None else x
    return updates, state._replace(count=count, x=stored, z=z, weights=weights, used=_used(c, beta))


def recovered(y: Any, state: AverageState) -> Any:
    """x of the lean form, from the parameters that the caller holds; z where a scheduled beta of 0 has lost it."""
    beta = jnp.asarray(state.used["beta"])  # nnx.Optimizer wraps it
    outward = jnp.where(beta > 0, 1 / jnp.where(beta > 0, beta, 1.0), 0.0)
    return jax.tree.map(lambda y, z: z + outward.astype(z.dtype) * (jnp.asarray(y, z.dtype) - z), y, state.z)


def _schedules(coefficient: Any) -> Any:
    if isinstance(coefficient, Weights):
        return coefficient
    if isinstance(coefficient, Mapping):
        return {name: _schedules(each) for name, each in coefficient.items()}
    # No number is guessed at: 0.999 may be meant as the decay of an EMA, and 0.001 as its c.
    expected = "a schedule such as polyak(), ema(0.999) or constant(c)"
    if not callable(coefficient) or isinstance(coefficient, Formula):
        raise ValueError(f"average: `coefficient` must be {expected}, got {coefficient!r}")
    schedule = as_schedule(coefficient)
    if schedule is not coefficient:
        try:
            jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
        except (TypeError, ValueError):  # a function of something else, as `ema` without its decay
            raise ValueError(f"average: `coefficient` must be {expected}, got {shown(coefficient)}") from None
    return schedule


def _no_weights(settings: _Settings) -> WeightSum | None:
    return no_weights() if isinstance(settings.coefficient, Weights) else None


def _coefficient(settings: _Settings, count: Array, weights: WeightSum | None) -> tuple[Any, WeightSum | None]:
    if weights is not None:
        return add_weight(settings.coefficient, count, weights)
    if isinstance(settings.coefficient, dict):
        return {name: each(count) for name, each in settings.coefficient.items()}, None
    return settings.coefficient(count), None


def _used(c: Any, beta: Any) -> dict[str, Array]:
    coefficients = (
        {f"coefficient[{name}]": each for name, each in c.items()} if isinstance(c, dict) else {"coefficient": c}
    )
    return {**coefficients, "beta": beta}


def names_of(state: Any) -> list[str]:
    """The names of the averages that a state holds, if they have names."""
    return sorted(key.removeprefix("coefficient[")[:-1] for key in state.used if key.startswith("coefficient["))


def _require_together(coefficient: Any, beta: Any, decay_at: str, lean: bool) -> None:
    checked("average", Choice("y", "z"), decay_at=decay_at)
    checked("average", FLAG, lean=lean)
    if isinstance(coefficient, Mapping):
        if not coefficient:
            raise ValueError("average: `coefficient` must be one schedule or more by name, got an empty mapping")
        if not is_zero(beta):
            raise ValueError(f"average: `coefficient` must be one schedule where beta is not 0, got {coefficient!r}")
        for name, each in coefficient.items():
            if not isinstance(name, str) or isinstance(each, Weights):
                raise ValueError(f"average: `coefficient` must have schedules by name, got {name!r}: {each!r}")
    if lean and isinstance(beta, int | float) and beta < 0.5:
        raise ValueError(f"average: `beta` must be at least 0.5 in the lean form, got {beta!r}")


def _require_width(lean: bool, params: Any) -> None:
    narrow = {dtype for dtype in map(jnp.result_type, jax.tree.leaves(params)) if jnp.finfo(dtype).bits < 32}
    if lean and narrow:
        raise ValueError(f"average: `params` must be float32 or wider in the lean form, got {min(map(str, narrow))}")


# The latest ones --------------------------------------------------------------------------------------


class LawaState(NamedTuple):
    count: Array  # type: ignore[assignment]  # updates applied; int32, shape ()
    kept: Array  # parameters kept so far; likewise
    ring: Any  # the latest of them; the shapes of the parameters with an axis of `last` in front
    base: Any  # the state of the base
    used: dict[str, Array]  # how many the average is of


def lawa(
    base: optax.GradientTransformation, last: int, every: int = 1, start: int = 0
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the latest parameters beside any optimizer, and averages them for evaluation (`eval_params`).

    $$x = \frac1n \sum_{i=1}^{n} p_i, \qquad n \le \mathrm{last}$$

    of the parameters p after every n-th update from update `start` on; before any is kept, x is the caller's.
    The run is bit for bit that of `base`; the memory is that of `last` copies of the parameters, in float32 or
    wider. `average` with `tail` or `swa` forgets nothing but needs one.

    Source: LAWA, arXiv:2209.14981 and arXiv:2306.03241.

    **Raises:** `ValueError` unless `last` and `every` are whole numbers, 1 or more, and `start` 0 or more; if a
    parameter is not real; if `update` is called without `params`.
    """
    (last,) = checked("lawa", SIZE, last=last)
    (every,) = checked("lawa", COUNT, every=every)
    (start,) = checked("lawa", INDEX, start=start)
    base = require_base("lawa", base)

    def init(params: Any) -> LawaState:
        require_real("lawa", params)
        ring = jax.tree.map(lambda p: jnp.stack([p] * last), zeros(params))  # sharded as the parameters are
        base_state = base.init(jax.tree.map(jnp.copy, params))
        count, kept, averaged = (jnp.zeros((), jnp.int32) for _ in range(3))  # a buffer each, to be donated
        return LawaState(count, kept, ring, base_state, {"averaged": averaged})

    def update(grads: Any, state: LawaState, params: Any = None, **extra_args: Any) -> tuple[Any, LawaState]:
        require_state("lawa", LawaState, state)
        require_like("lawa", {"ring": state.ring}, require_params("lawa", params), axes=1, grads=grads)
        for leaf in jax.tree.leaves(state.ring):
            require_setting("lawa", "last", len(leaf), last)
        updates, base_state = base.update(grads, state.base, params, **extra_args)
        return updates, _keep(state, optax.apply_updates(params, updates), every, start)._replace(base=base_state)

    return optax.GradientTransformationExtraArgs(init, update)


@functools.partial(jax.jit, inline=True)
def _keep(state: LawaState, params: Any, every: Array, start: Array) -> LawaState:
    since = state.count - start
    keep = (since >= 0) & (since % every == 0)

    def replaced(ring: Array, p: Array) -> Array:
        slot = state.kept % len(ring)
        newest = jnp.where(keep, p.astype(ring.dtype), jax.lax.dynamic_index_in_dim(ring, slot, keepdims=False))
        return jax.lax.dynamic_update_index_in_dim(ring, newest, slot, 0)

    ring = jax.tree.map(replaced, state.ring, params)
    last = max((len(leaf) for leaf in jax.tree.leaves(ring)), default=0)
    count, kept = optax.safe_increment(state.count), state.kept + keep
    return state._replace(count=count, kept=kept, ring=ring, used={"averaged": jnp.minimum(kept, last)})
