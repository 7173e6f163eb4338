"""Reduces the learning rate when a metric stops improving. A schedule cannot do this, since it knows only the step.

`Plateau` is the rule as a pure function, for a metric that you compute once per evaluation. `reduce_on_plateau` is the
rule as a link of an optax chain, for a metric that you have at every update.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.tree_util import GetAttrKey
from jax.typing import ArrayLike
from typing_extensions import TypeAliasType

from optim.checks import Fraction, Inside, NotNegative, require_one, require_real, require_state
from optim.numerics import widen
from schedules.arguments import built_as, checked, kinds_of
from schedules.kinds import Number

__all__ = ["reduce_on_plateau", "Plateau", "PlateauState"]


class PlateauState(NamedTuple):
    scale: Array  # the factor for the rate; float32 (float64 under x64), shape ()
    best: Array  # the best metric so far, infinite before the first; likewise
    bad: Array  # observations in a row without an improvement, not counting a cooldown; int32, shape ()
    cooldown_left: Array  # observations until the end of the cooldown; int32, shape ()

    @property
    def used(self) -> dict[str, Array]:
        """For `hyperparameters`."""
        return {"scale": self.scale}


Mode = Literal["min", "max"]
ThresholdMode = Literal["rel", "abs"]
Observations = TypeAliasType(
    "Observations",
    Annotated[int | Array, Number(int, least=0, unit="observations")],
)


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Plateau:
    r"""The rule of PyTorch's `ReduceLROnPlateau`, for a scale that you multiply with any rate.

    In mode "min", a metric m improves on the best one b if

    $$m < b - \mathrm{threshold} \cdot |b| \ \text{ ("rel")} \qquad \text{or} \qquad
      m < b - \mathrm{threshold} \ \text{ ("abs")}$$

    and in mode "max" if it is above b by as much. After more than `patience` observations in a row without an
    improvement,

    $$\mathrm{scale} \leftarrow \max(\mathrm{factor} \cdot \mathrm{scale},\ \mathrm{min\_scale})$$

    unless that would lower it by `eps` or less. The next `cooldown` observations are then not counted.

        rule = Plateau(patience=5)
        state = rule.init()
        state = rule.update(state, validation_loss)  # once per evaluation
        rate = state.scale * lr  # still a schedule

    **Arguments:**

    - `mode`: "min" if a lower metric is better, "max" if a higher one is.
    - `factor`: above 0 and below 1.
    - `patience`, `cooldown`: whole numbers of observations, that is, of calls of `update`.
    - `threshold`: 0 or more; `threshold_mode`: "rel" or "abs", as above.
    - `min_scale`, `eps`: relative to the rate that you scale: PyTorch's `min_lr` and `eps` divided by its base rate.

    Every number is a leaf of a pytree, and the two modes are structure. So you can jit, scan and vmap over rules, and
    changing a number retraces nothing.

    Metrics may have any sign. (PyTorch compares with `b * (1 - threshold)`, which is above a negative b, so a constant
    negative metric would improve for ever.) A NaN is never an improvement, so the rate of a diverged run is reduced as
    well.

    `patience=n` means the same as in PyTorch: the rate is reduced after more than n bad observations. Optax and Keras
    reduce it after n, so their `patience=n` is `patience=n - 1` here. Optax's `rtol` is the threshold of "rel", its
    `atol` that of "abs".

    **Raises:** `ValueError` if an argument is not as above, or a metric is not one number.

    Source: `torch.optim.lr_scheduler.ReduceLROnPlateau`.
    """

    mode: Mode = "min"
    factor: Inside = 0.1
    patience: Observations = 10
    threshold: NotNegative = 1e-4
    threshold_mode: ThresholdMode = "rel"
    cooldown: Observations = 0
    min_scale: Fraction = 0.0
    eps: NotNegative = 1e-8

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            object.__setattr__(self, name, built_as(kind, "Plateau", name, getattr(self, name)))

    def init(self) -> PlateauState:
        """The state before the first metric: a scale of 1."""
        best = math.inf if self.mode == "min" else -math.inf
        bad, cooldown_left = (jnp.zeros((), jnp.int32) for _ in range(2))  # separate buffers, so they can be donated
        return PlateauState(jnp.ones((), float), jnp.full((), best, float), bad, cooldown_left)

    def update(self, state: PlateauState, metric: ArrayLike) -> PlateauState:
        """The state after one more observation. `metric`: one number."""
        require_one("Plateau: `metric`", metric)
        require_state("Plateau", PlateauState, state)
        return _update(self, state, metric)

    def tree_flatten_with_keys(self) -> tuple[list[tuple[GetAttrKey, Any]], tuple[Any, ...]]:
        numbers = [(GetAttrKey(name), getattr(self, name)) for name, kind in _KINDS.items() if kind.is_leaf]
        return numbers, tuple(getattr(self, name) for name, kind in _KINDS.items() if not kind.is_leaf)

    @classmethod
    def tree_unflatten(cls, modes: tuple[Any, ...], numbers: Iterable[Any]) -> "Plateau":
        rule = object.__new__(cls)  # without checks, since JAX may replace numbers by tracers and placeholders
        leaves, others = iter(numbers), iter(modes)
        rule.__dict__.update({name: next(leaves if kind.is_leaf else others) for name, kind in _KINDS.items()})
        return rule


_KINDS = kinds_of(inspect.signature(Plateau).parameters.values())


@functools.partial(jax.jit, inline=True)
def _update(rule: Plateau, state: PlateauState, metric: ArrayLike) -> PlateauState:
    scale, best, bad, cooldown_left = state
    metric = jnp.asarray(metric, best.dtype)
    improved = _improves(rule, metric, best)
    bad = jnp.where(improved | (cooldown_left > 0), 0, optax.safe_increment(bad))
    out_of_patience = bad > rule.patience
    lower = jnp.maximum(scale * _like(scale, rule.factor), _like(scale, rule.min_scale))
    return PlateauState(
        scale=jnp.where(out_of_patience & (scale - lower > _like(scale, rule.eps)), lower, scale),
        best=jnp.where(improved, metric, best),
        bad=jnp.where(out_of_patience, 0, bad),
        cooldown_left=jnp.where(out_of_patience, _like(bad, rule.cooldown), jnp.maximum(cooldown_left - 1, 0)),
    )


def _improves(rule: Plateau, metric: Array, best: Array) -> Array:
    threshold = _like(best, rule.threshold)
    # `best` is infinite before the first metric, and a difference of infinities would be NaN.
    size = jnp.where(jnp.isfinite(best), jnp.abs(best), 0.0)
    margin = threshold * size if rule.threshold_mode == "rel" else threshold
    return metric < best - margin if rule.mode == "min" else metric > best + margin


def _like(array: Array, number: ArrayLike) -> Array:
    return jnp.asarray(number, array.dtype)


@checked
def reduce_on_plateau(
    mode: Mode = "min",
    factor: Inside = 0.1,
    patience: Observations = 10,
    threshold: NotNegative = 1e-4,
    threshold_mode: ThresholdMode = "rel",
    cooldown: Observations = 0,
    min_scale: Fraction = 0.0,
    eps: NotNegative = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""`Plateau` as the last link of a chain: scales the updates, according to the metric that you pass with each.

        optimizer = optax.chain(adam(1e-3), reduce_on_plateau(patience=500))
        updates, state = optimizer.update(grads, state, params, value=loss)

    $$\Delta \leftarrow \mathrm{scale} \cdot \Delta$$

    with the scale after it has seen `value`, so a reduction already applies to the same update.

    **Arguments:** as in `Plateau`; every update is an observation. The loss of one batch is a noisy metric: use a large
    patience, or pass a running mean. Inside `optax.MultiSteps`, it sees only the value passed with the last batch of
    each update.

    Put it inside an average, since it changes the updates: `average(optax.chain(adam(lr), reduce_on_plateau()), c)`.
    The state is a `PlateauState`. Updates keep their shapes and dtypes.

    **Raises:** as `Plateau`; `ValueError` if `update` is called without `value`.
    """
    rule = Plateau(mode, factor, patience, threshold, threshold_mode, cooldown, min_scale, eps)

    def init(params: Any) -> PlateauState:
        del params
        return rule.init()

    def update(
        updates: Any, state: PlateauState, params: Any = None, *, value: ArrayLike | None = None, **extra_args: Any
    ) -> tuple[Any, PlateauState]:
        del params, extra_args
        if value is None:
            raise ValueError(
                "reduce_on_plateau: `value` must be the metric, passed to update(grads, state, params, value=...), "
                "got None"
            )
        require_one("reduce_on_plateau: `value`", value)
        require_state("reduce_on_plateau", PlateauState, state)
        require_real("reduce_on_plateau", updates, "updates")
        return _scaled(rule, updates, state, value)

    return optax.GradientTransformationExtraArgs(init, update)


@functools.partial(jax.jit, inline=True)
def _scaled(rule: Plateau, updates: Any, state: PlateauState, value: ArrayLike) -> tuple[Any, PlateauState]:
    state = _update(rule, state, value)
    scaled = jax.tree.map(lambda u, wide: (_like(wide, state.scale) * wide).astype(u.dtype), updates, widen(updates))
    return scaled, state
