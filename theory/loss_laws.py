"""Predicting a loss curve: laws of how the loss depends on all rates so far, fitted to the curves of a few runs."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from typing_extensions import TypeAliasType

from schedules.arguments import built_as, checked
from schedules.kinds import Fixed, Index, Kind, Number, require
from schedules.numerics import MAX_STEPS
from schedules.sentences import shown
from theory.rate_changes import Changes, every_change, grouped, joined
from theory.rates import OfRates, Rates, rates_of

__all__ = ["fit", "Fit", "Curve", "MultiPower", "Annealing", "LossLaw"]

TO_PREDICT, TO_FIT = 0.03, 0.3  # the width within which changes of the rate are grouped
DELTA = 1e-3  # the residual, a difference of logarithms, from which on its Huber loss is a line
LEAST = 1e-9  # in place of a predicted loss that is not positive
BLOCKS = 10  # into which a curve is cut to be resampled


class OfUpdates(Kind):
    """Numbers of updates: one, or many in an array."""

    expected = f"a number of updates from 1 to {MAX_STEPS}, or an array of them"

    def build(self, value: Any) -> np.ndarray:
        require(value, not isinstance(value, jax.core.Tracer))
        updates = np.asarray(value)
        require(value, updates.size > 0 and updates.ndim < 2 and np.issubdtype(updates.dtype, np.integer))
        require(value, updates.min() >= 1 and updates.max() <= MAX_STEPS)
        return updates.astype(np.int64)


class OfSteps(OfUpdates):
    expected = f"an array of numbers of updates from 1 to {MAX_STEPS} that increase"

    def build(self, value: Any) -> np.ndarray:
        steps = super().build(value)
        return require(steps, steps.ndim == 1 and bool(np.all(np.diff(steps) > 0)))


class OfLosses(Kind):
    expected = "an array of positive, finite numbers"

    def build(self, value: Any) -> np.ndarray:
        require(value, not isinstance(value, jax.core.Tracer))
        losses = np.asarray(value, float)
        return require(losses, losses.ndim == 1 and bool(np.all((losses > 0) & np.isfinite(losses))))

    def got(self, value: Any) -> str:
        losses = np.asarray(value)
        wrong = losses[~(np.isfinite(losses) & (losses > 0))] if losses.dtype.kind in "fiu" else ()
        return f"{wrong[0]}" if len(wrong) and losses.ndim == 1 else shown(value)


Updates = TypeAliasType("Updates", Annotated[int | Sequence[int] | np.ndarray | Array, OfUpdates()])
Shrinkage = TypeAliasType("Shrinkage", Annotated[float, Number(float, least=0)])
Resamples = TypeAliasType("Resamples", Annotated[int, Fixed(int, least=2)])


class Curve(NamedTuple):
    """The losses of one run: `losses[i]` was measured after `steps[i]` updates at the rates of `lr`.

    `lr`: a schedule, or an array with the rate of each update from the first on, warm-up included; `steps`: from 1 on,
    in ascending order. A loss that is the mean over some updates belongs to the middle of them.
    """

    lr: Any
    steps: Any
    losses: Any


# Laws -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LossLaw:
    """What the laws have in common: all parameters are positive numbers, and a pytree's leaves.

    A law is linear in those named by `linear`. Its exponents named by `shrunk` are poorly known from a few curves.
    """

    linear: ClassVar[tuple[str, ...]]
    shrunk: ClassVar[tuple[str, ...]] = ()

    def loss(self, changes: Changes) -> Array:
        raise NotImplementedError

    @classmethod
    def starts(cls, area: float, updates: int) -> list[Self]:
        """Laws to begin a fit from, of a run of so many updates with this sum of rates.

        Their linear parameters do not matter.
        """
        raise NotImplementedError

    @checked
    def predict(self, lr: Rates, steps: Updates) -> Array:
        """The loss after so many updates at the rates of `lr`, or after each of an array of numbers of updates.

        To 1e-6. Differentiable in the numbers of a schedule, in an array of rates and in the law, also when they are
        traced: then each number of updates takes time in proportion to itself.

        **Arguments:** `lr`: a schedule, or an array of the rates from the first update on; `steps`: numbers of
        updates, from 1 on.

        **Returns:** an array of the default dtype, of the shape of `steps`; formed in float64.

        **Raises:** `ValueError` if `lr` is neither, `steps` are no such numbers, or there is no rate for the last.
        """
        with jax.enable_x64(True):
            losses = _over(self.loss, lr, steps)
        return losses.astype(jnp.result_type(float))


@functools.partial(jax.tree_util.register_dataclass)
@dataclasses.dataclass(frozen=True)
class MultiPower(LossLaw):
    r"""The multi-power law of loss curves.

    $$L(t) = L_0 + A\, S(t)^{-\alpha}
      - B \sum_{k=1}^{t} (\eta_{k-1} - \eta_k) \Big(1 - \big(1 + C\, \eta_k^{-\gamma} S_k(t)\big)^{-\beta}\Big)$$

    $S(t)$ is the sum of all rates so far and $S_k(t)$ of those from update k on, with the latest in both. Each drop of
    the rate lowers the loss, by a power of what has been trained since. A warm-up's rises count as drops below 0, so
    that parameters from runs with a warm-up describe runs with a warm-up.

    Units: $L_0$ and $A$ are losses; B is a loss by rate; $A$ and $C$ depend on the unit of the rate.

    Source: Luo et al., *A multi-power law for loss curve prediction across learning rate schedules*, arXiv:2503.12811.
    """

    L0: float
    A: float
    alpha: float
    B: float
    C: float
    beta: float
    gamma: float

    linear: ClassVar = ("L0", "A", "B")
    shrunk: ClassVar = ("beta", "gamma")

    def loss(self, changes: Changes) -> Array:
        growth = self.C * changes.rate**-self.gamma * changes.area_since
        gained = -jnp.expm1(-self.beta * jnp.log1p(growth))
        return self.L0 + self.A * changes.area**-self.alpha - self.B * jnp.sum(changes.drop * gained, axis=-1)

    @classmethod
    def starts(cls, area: float, updates: int) -> list[Self]:
        # A drop has gained 1 - 1 / sqrt(2) of what it can after so large a share of the run.
        shares = (1e-3, 1e-2, 1e-1)
        return [cls(1.0, 1.0, 0.5, 1.0, (area / updates) ** 0.5 / (share * area), 0.5, 0.5) for share in shares]


@functools.partial(jax.tree_util.register_dataclass)
@dataclasses.dataclass(frozen=True)
class Annealing(LossLaw):
    r"""The law of loss curves with annealing.

    $$L(t) = L_0 + A\, S(t)^{-\alpha} - C \sum_{i=1}^{t} \sum_{k=1}^{i} (\eta_{k-1} - \eta_k)\, \lambda^{i-k},
      \qquad \lambda = e^{-1 / \mathrm{window}}$$

    $S(t)$ is the sum of all rates so far. What a drop of the rate gains comes in within about `window` updates. A
    warm-up's rises count as drops below 0; the authors take the rate to be at its peak from the first update on.

    Units: $L_0$ and $A$ are losses; C is a loss by rate and update; `window` is a number of updates.

    Source: Tissue et al., *Scaling law with learning rate annealing*, arXiv:2408.11029.
    """

    L0: float
    A: float
    alpha: float
    C: float
    window: float

    linear: ClassVar = ("L0", "A", "C")

    def loss(self, changes: Changes) -> Array:
        gained = jnp.expm1(-changes.updates_since / self.window) / jnp.expm1(-1 / self.window)
        return self.L0 + self.A * changes.area**-self.alpha - self.C * jnp.sum(changes.drop * gained, axis=-1)

    @classmethod
    def starts(cls, area: float, updates: int) -> list[Self]:
        return [cls(1.0, 1.0, 0.5, 1.0, share * updates) for share in (1e-2, 3e-2, 1e-1)]


Of = Callable[[Changes], Array]


def _over(function: Of, lr: Any, steps: np.ndarray) -> Array:
    """`function` of the changes of the rate before each of `steps`."""
    rates = _rates("predict", lr, int(steps.max()))
    if isinstance(rates, jax.core.Tracer):
        each = jax.lax.map(lambda t: function(every_change(rates, t)), jnp.ravel(steps))
    else:
        each = jax.jit(function)(grouped(np.asarray(rates), np.ravel(steps), TO_PREDICT))
    return jnp.reshape(each, (*steps.shape, *each.shape[1:]))


def _rates(owner: str, lr: Any, steps: int) -> Array:
    """In float64."""
    if isinstance(lr, Array) and len(lr) < steps:
        raise ValueError(f"{owner}: `steps` must be at most the {len(lr)} updates that `lr` has rates for, got {steps}")
    return rates_of(owner, lr[:steps] if isinstance(lr, Array) else lr, steps).astype(float)


# Fitting ----------------------------------------------------------------------------------------------


class Fit(NamedTuple):
    """A law fitted to curves, and how well it is known."""

    law: LossLaw
    resampled: LossLaw  # fitted to resampled curves: each parameter is an array
    misfit: float  # the root mean square of the relative errors on the curves

    @checked
    def predict(self, lr: Rates, steps: Updates) -> Array:
        """The loss after so many updates: `predict` of the law."""
        return self.law.predict(lr, steps)

    @checked
    def standard_error(self, lr: Rates, steps: Updates) -> Array:
        """The standard error of what `predict` returns: the standard deviation over the resampled laws.

        It says how well the curves determine the parameters, and nothing of where the law itself is wrong:
        predictions for a run unlike those of the curves can be off by more.

        **Raises:** as `predict` does.
        """
        with jax.enable_x64(True):
            laws = jax.tree.map(jnp.asarray, self.resampled)
            each = _over(lambda changes: jax.vmap(lambda law: law.loss(changes), out_axes=-1)(laws), lr, steps)
            error = jnp.std(each, axis=-1, ddof=1)
        return error.astype(jnp.result_type(float))


@checked
def fit(
    curves: Sequence[Curve],
    law: type[LossLaw] = MultiPower,
    shrinkage: Shrinkage = 1.0,
    resamples: Resamples = 20,
    seed: Index = 0,
) -> Fit:
    r"""The law that fits the loss curves of a few runs, to predict those of other schedules.

    $$\sum_{\text{curves}} \int \frac{H(\log L - \log \hat L)}{\delta^2}\, d\log S
      + \frac{\mathrm{shrinkage}}{2} \big(\log^2 2\beta + \log^2 2\gamma\big) \to \min$$

    H is the Huber loss with δ = 0.001 and S the sum of the rates so far. The integral makes a curve count by how far it
    goes on the axis of the law, and not by how often it was recorded. A few curves hardly tell the exponents β and γ
    of the multi-power law, which trade off against C: without `shrinkage`, fits to them are closer and predictions for
    other schedules worse. It holds them to one half, with one standard deviation a factor of e. `Annealing` has no
    such exponents.

    L-BFGS in float64 on the logarithms of the parameters, from three starts that differ in how soon a drop of the rate
    pays; the best is kept. The uncertainty is from a bootstrap: each curve is cut into ten blocks of equal numbers of
    losses, as many are drawn with replacement, and the law is fitted again.

    Take curves with different decays, one of them with a constant rate, from the end of their warm-ups on; average
    noisy losses over windows first. A few hundred losses in all are enough, and take seconds.

    **Arguments:** `curves`: a list of `Curve`; `law`: `MultiPower` or `Annealing`; `shrinkage`: 0 for none;
    `resamples`: how many laws are fitted for the uncertainty; `seed`: of the draws.

    **Returns:** a `Fit`, whose parameters are Python floats. The unit of the rate does not matter to what it predicts.

    **Raises:** `ValueError` if a curve's `lr`, `steps` or `losses` are not what `Curve` says, losses are not positive
    and finite, there are fewer of them than the law has parameters, or no rate ever changes.

    Source: Luo et al., arXiv:2503.12811, for the Huber loss; weights and shrinkage are our own.
    """
    curves = _checked_curves(curves, law)
    with jax.enable_x64(True):
        records = _records(curves)
        minimum = _minimizer(law, shrinkage)
        longest = max(curves, key=lambda curve: curve.steps[-1])
        area = float(np.max(records.changes.area))
        starts = [_with_linear(start, records) for start in law.starts(area, int(longest.steps[-1]))]
        best = min((minimum(start, records) for start in starts), key=lambda found: found.fun).x
        random = np.random.default_rng(seed)
        draws = [np.concatenate([_drawn(len(curve.steps), random) for curve in curves]) for _ in range(resamples)]
        again = [minimum(best, records._replace(weights=records.weights * draw), 1e-7).x for draw in draws]
        fitted = law(*np.exp(best).tolist())
        ratios = fitted.loss(records.changes) / np.exp(records.log_losses)
        misfit = np.sqrt(np.average((np.asarray(ratios) - 1) ** 2, weights=records.weights))
    return Fit(fitted, law(*np.exp(np.reshape(again, (resamples, -1))).T), float(misfit))


class Records(NamedTuple):
    """The losses of all curves, one after another."""

    changes: Changes
    log_losses: np.ndarray
    weights: np.ndarray


def _records(curves: Sequence[Curve]) -> Records:
    changes = []
    for curve in curves:
        rates = np.asarray(_rates("fit", curve.lr, int(curve.steps[-1])))
        changes.append(grouped(rates, curve.steps, TO_FIT))
    weights = [_lengths(np.log(each.area)) for each in changes]
    log_losses = np.concatenate([np.log(curve.losses) for curve in curves])
    records = Records(joined(changes), log_losses, np.concatenate(weights))
    if not np.any(records.changes.drop):
        raise ValueError("fit: `curves` must have rates that change, of which the law is to tell what they do")
    return records


def _lengths(x: np.ndarray) -> np.ndarray:
    """Of which a point stands for: to the middles between it and its neighbours."""
    gaps = np.diff(x)
    return np.concatenate([gaps, gaps[-1:]]) / 2 + np.concatenate([gaps[:1], gaps]) / 2 if len(gaps) else np.ones(1)


def _drawn(count: int, random: np.random.Generator) -> np.ndarray:
    """How often each record of a curve is drawn, with its block."""
    times = random.multinomial(BLOCKS, np.full(BLOCKS, 1 / BLOCKS))
    return times[np.arange(count) * BLOCKS // count]


def _minimizer(law: type[LossLaw], shrinkage: float) -> Callable[..., Any]:
    """Of the objective of `fit`, from the logarithms of the parameters on."""
    from scipy.optimize import minimize  # which takes a while to import

    names = [field.name for field in dataclasses.fields(law)]
    shrunk = np.array([names.index(name) for name in law.shrunk], int)

    @jax.jit
    @jax.value_and_grad
    def objective(logs: Array, records: Records) -> Array:
        predicted = law(*jnp.exp(logs)).loss(records.changes)
        residuals = (records.log_losses - jnp.log(jnp.maximum(predicted, LEAST))) / DELTA
        size = jnp.abs(residuals)
        huber = jnp.where(size < 1, size**2 / 2, size - 0.5)
        return records.weights @ huber + shrinkage / 2 * jnp.sum((logs[shrunk] + np.log(2)) ** 2)

    def minimum(start: np.ndarray, records: Records, precision: float = 1e-11) -> Any:
        records = jax.device_put(records)

        def evaluated(logs: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = objective(logs, records)
            # A step too far overflows: the line search comes back from a large value, and not from NaN.
            return float(jnp.nan_to_num(value, nan=1e30)), np.nan_to_num(gradient)

        options = {"maxiter": 1_000, "maxfun": 2_000, "maxcor": 20, "ftol": precision, "gtol": 1e-7}
        return minimize(evaluated, start, jac=True, method="L-BFGS-B", options=options)

    return minimum


def _with_linear(start: LossLaw, records: Records) -> np.ndarray:
    """The logarithms of the parameters of a start, with the linear ones that fit best."""
    from scipy.optimize import nnls

    zeros = dict.fromkeys(start.linear, 0.0)
    columns = [dataclasses.replace(start, **zeros | {name: 1.0}).loss(records.changes) for name in start.linear]
    scale = np.sqrt(records.weights) * np.exp(-records.log_losses)
    matrix = np.stack([np.asarray(column) * scale for column in columns], axis=1)
    units = np.abs(matrix).max(axis=0)
    solved = nnls(matrix / units, np.sqrt(records.weights))[0]
    # None may be 0, which has no logarithm.
    found = np.maximum(solved, 1e-3 * solved.max()) / units
    start = dataclasses.replace(start, **dict(zip(start.linear, found.tolist(), strict=True)))
    return np.log(dataclasses.astuple(start))


def _checked_curves(curves: Any, law: Any) -> list[Curve]:
    if not (isinstance(law, type) and issubclass(law, LossLaw) and law is not LossLaw):
        raise ValueError(f"fit: `law` must be a law of loss curves, such as MultiPower, got {shown(law)}")
    if not isinstance(curves, Sequence) or not curves or not all(isinstance(curve, Curve) for curve in curves):
        raise ValueError(f"fit: `curves` must be one Curve or more in a list, got {shown(curves)}")
    built = []
    for i, curve in enumerate(curves):
        kinds = zip(curve, Curve._fields, (OfRates(), OfSteps(), OfLosses()), strict=True)
        lr, steps, losses = (built_as(kind, "fit", f"curves[{i}].{name}", value) for value, name, kind in kinds)
        if len(steps) != len(losses):
            got = f"{len(steps)} and {len(losses)}"
            raise ValueError(f"fit: `curves[{i}]` must have as many steps as losses, got {got}")
        built.append(Curve(lr, steps, losses))
    count, parameters = sum(len(curve.steps) for curve in built), len(dataclasses.fields(law))
    if count < parameters:
        raise ValueError(f"fit: `curves` must have a loss for each parameter of the law, {parameters}, got {count}")
    return built
