"""Fits a law to the loss curves of a few runs."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from typing_extensions import TypeAliasType

from schedules.arguments import built_as, checked
from schedules.kinds import Fixed, Index, Kind, Number, require
from schedules.numerics import MAX_STEPS
from schedules.sentences import shown
from theory.loss_laws import LossLaw, MultiPower, OfUpdates, Updates, losses_after, read_rates
from theory.rate_changes import Changes, grouped, joined
from theory.rates import OfRates, Rates

__all__ = ["fit", "Fit", "Curve"]

TO_FIT = 0.3  # the width within which changes of the rate are grouped
DELTA = 1e-3  # the residual, a difference of logarithms, above which the Huber loss is linear
LEAST = 1e-9  # replaces a predicted loss that is not positive
BLOCKS = 10  # of each curve, for the bootstrap


class OfSteps(OfUpdates):
    expected = f"an array of ascending numbers of updates from 1 to {MAX_STEPS}"

    def build(self, value: Any) -> np.ndarray:
        steps = super().build(value)
        return require(steps, steps.ndim == 1 and bool(np.all(np.diff(steps) > 0)))


class OfLosses(Kind):
    expected = "an array of positive, finite numbers"

    def build(self, value: Any) -> np.ndarray:
        require(value, not isinstance(value, jax.core.Tracer))
        losses = np.asarray(value, float)
        return require(losses, losses.ndim == 1 and bool(np.all(_usable(losses))))

    def got(self, value: Any) -> str:
        try:
            losses = np.asarray(value, float)
        except (TypeError, ValueError):
            return shown(value)
        return str(losses[~_usable(losses)][0]) if losses.ndim == 1 else f"an array of shape {losses.shape}"


def _usable(losses: np.ndarray) -> np.ndarray:
    return np.isfinite(losses) & (losses > 0)


Shrinkage = TypeAliasType("Shrinkage", Annotated[float, Number(float, least=0)])
Resamples = TypeAliasType("Resamples", Annotated[int, Fixed(int, least=2)])


class Curve(NamedTuple):
    """The losses of one run: `losses[i]` was measured after `steps[i]` updates at the rates of `lr`.

    `lr`: a schedule, or an array with the rate of each update, including the warm-up; `steps`: 1 or more, in ascending
    order. If a loss is the mean over several updates, use the step in the middle of them.
    """

    lr: Any
    steps: Any
    losses: Any


class Fit(NamedTuple):
    """A law fitted to curves, and how certain it is."""

    law: LossLaw
    resampled: LossLaw  # the laws fitted to resampled curves: each parameter is an array
    misfit: float  # the root mean square of the relative errors on the curves

    def predict(self, lr: Rates, steps: Updates) -> Array:
        """The loss after `steps` updates, by `predict` of the law."""
        return self.law.predict(lr, steps)

    @checked
    def standard_error(self, lr: Rates, steps: Updates) -> Array:
        """The standard error of what `predict` returns: the standard deviation over the resampled laws.

        It says how well the curves determine the parameters, not whether the law itself is right. On published curves
        the actual errors are several times as large.

        **Raises:** `ValueError` for the same reasons as `predict`.
        """
        dtype = jnp.result_type(float)
        with jax.enable_x64(True):
            laws = jax.tree.map(jnp.asarray, self.resampled)
            each = jax.vmap(lambda law: losses_after(law, lr, np.asarray(steps)))(laws)
            return jnp.std(each, axis=0, ddof=1).astype(dtype)


@checked
def fit(
    curves: Sequence[Curve],
    law: type[LossLaw] = MultiPower,
    shrinkage: Shrinkage = 1.0,
    resamples: Resamples = 20,
    seed: Index = 0,
) -> Fit:
    r"""Fits a law to the loss curves of a few runs, to predict the losses of other schedules.

    $$\sum_{\text{curves}} \int \frac{H(\log L - \log \hat L)}{\delta^2}\, d\log S
      + \frac{\mathrm{shrinkage}}{2} \big(\log^2 2\beta + \log^2 2\gamma\big) \to \min$$

    H is the Huber loss with δ = 0.001, and S the sum of the rates so far. Because of the integral, the weight of a
    curve depends on the range of log S that it covers, not on how often its loss was recorded.

    Use curves with different decays, one of them with a constant rate, from the end of their warm-ups on. Average noisy
    losses over windows first. A few hundred losses in all are enough. Fitting takes seconds if schedules are smooth or
    have few steps, and longer if rates change irregularly.

    A few curves hardly determine the exponents β and γ of the multi-power law, which trade off against C. `shrinkage`
    pulls them to one half: it is a prior whose standard deviation is a factor of e. On the published curves it improved
    the predictions at 25 and 100 million parameters, on which it was chosen, and made them worse at 400 million, which
    was not looked at before. `Annealing` has no such exponents.

    The objective is minimized by L-BFGS in float64 on the logarithms of the parameters, from three starts that differ
    in how soon a drop of the rate lowers the loss; the best result is kept. The uncertainty comes from a bootstrap:
    each curve is cut into ten blocks with equal numbers of losses, ten blocks are drawn with replacement, and the law
    is fitted again.

    **Arguments:** `curves`: a list of `Curve`; `law`: `MultiPower` or `Annealing`; `shrinkage`: its strength, 0 for
    none; `resamples`: the number of laws that are fitted for the uncertainty; `seed`: the seed of the bootstrap.

    **Returns:** a `Fit`. The parameters of its law are Python floats. Its predictions do not depend on the unit of the
    rate.

    **Raises:** `ValueError` if the `lr`, `steps` or `losses` of a curve are not what `Curve` says, if a loss is not
    positive and finite, if there are fewer losses than the law has parameters, if all rates before a loss are 0, or if
    no rate ever changes.

    Source: Luo et al., arXiv:2503.12811, for the Huber loss; weights and shrinkage are our own.
    """
    curves = checked_curves("fit", curves, law)
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
    """The losses of all curves, concatenated."""

    changes: Changes
    log_losses: np.ndarray
    weights: np.ndarray


def _records(curves: Sequence[Curve]) -> Records:
    changes = [
        grouped(np.asarray(read_rates("fit", curve.lr, int(curve.steps[-1]))), curve.steps, TO_FIT) for curve in curves
    ]
    if any(each.area.min() <= 0 for each in changes):
        raise ValueError("fit: `curves` must have no losses before the first update with a rate above 0")
    weights = [_lengths(np.log(each.area)) for each in changes]
    log_losses = np.concatenate([np.log(curve.losses) for curve in curves])
    records = Records(joined(changes), log_losses, np.concatenate(weights))
    if not np.any(records.changes.drop):
        raise ValueError("fit: `curves` must include a run whose rate changes, got constant rates only")
    return records


def _lengths(x: np.ndarray) -> np.ndarray:
    """The length of the axis around each point, up to the midpoints between it and its neighbours."""
    return np.gradient(x) if len(x) > 1 else np.ones(1)


def _drawn(count: int, random: np.random.Generator) -> np.ndarray:
    """How often the bootstrap draws each record of a curve: as often as its block."""
    times = random.multinomial(BLOCKS, np.full(BLOCKS, 1 / BLOCKS))
    return times[np.arange(count) * BLOCKS // count]


def _minimizer(law: type[LossLaw], shrinkage: float) -> Callable[..., Any]:
    """A function that minimizes the objective of `fit`, from given logarithms of the parameters."""
    from scipy.optimize import minimize  # not at the top, as it is slow to import

    names = [field.name for field in dataclasses.fields(law)]
    shrunk = np.array([names.index(name) for name in law.shrunk], int)

    @jax.jit
    @jax.value_and_grad
    def objective(logs: Array, records: Records) -> Array:
        predicted = law(*jnp.exp(logs)).loss(records.changes)
        residuals = (records.log_losses - jnp.log(jnp.maximum(predicted, LEAST))) / DELTA
        size = jnp.abs(residuals)
        huber = jnp.where(size < 1, size**2 / 2, size - 0.5)
        return jnp.sum(records.weights * huber) + shrinkage / 2 * jnp.sum((logs[shrunk] + np.log(2)) ** 2)

    def minimum(start: np.ndarray, records: Records, precision: float = 1e-11) -> Any:
        records = jax.device_put(records)

        def evaluated(logs: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = objective(logs, records)
            # Too long a step overflows. The line search recovers from a large value, but not from NaN.
            return float(jnp.nan_to_num(value, nan=1e30)), np.nan_to_num(gradient)

        options = {"maxiter": 1_000, "maxfun": 2_000, "maxcor": 20, "ftol": precision, "gtol": 1e-7}
        return minimize(evaluated, start, jac=True, method="L-BFGS-B", options=options)

    return minimum


def _with_linear(start: LossLaw, records: Records) -> np.ndarray:
    """The logarithms of the parameters of `start`, after its linear parameters are fitted by least squares."""
    from scipy.optimize import nnls

    zeros = dict.fromkeys(start.linear, 0.0)
    columns = [dataclasses.replace(start, **zeros | {name: 1.0}).loss(records.changes) for name in start.linear]
    scale = np.sqrt(records.weights) * np.exp(-records.log_losses)
    matrix = np.stack([np.asarray(column) * scale for column in columns], axis=1)
    units = np.abs(matrix).max(axis=0)
    solved = nnls(matrix / units, np.sqrt(records.weights))[0]
    # No parameter may be 0, because 0 has no logarithm.
    found = np.maximum(solved, 1e-3 * solved.max()) / units
    start = dataclasses.replace(start, **dict(zip(start.linear, found.tolist(), strict=True)))
    return np.log(dataclasses.astuple(start))


def checked_curves(owner: str, curves: Any, law: Any) -> list[Curve]:
    """**Raises:** `ValueError` unless there is at least one curve, and enough losses for the law."""
    if not (isinstance(law, type) and issubclass(law, LossLaw) and law is not LossLaw):
        raise ValueError(f"fit: `law` must be a law of loss curves, such as MultiPower, got {shown(law)}")
    if not isinstance(curves, Sequence) or not curves or not all(isinstance(curve, Curve) for curve in curves):
        raise ValueError(f"{owner}: `curves` must be a list of one Curve or more, got {shown(curves)}")
    built = [_checked_curve(owner, i, curve) for i, curve in enumerate(curves)]
    count, parameters = sum(len(curve.steps) for curve in built), len(dataclasses.fields(law))
    if count < parameters:
        raise ValueError(f"{owner}: `curves` must have {parameters} losses, one for each parameter, got {count}")
    return built


def _checked_curve(owner: str, i: int, curve: Curve) -> Curve:
    lr = built_as(OfRates(), owner, f"curves[{i}].lr", curve.lr)
    steps = built_as(OfSteps(), owner, f"curves[{i}].steps", curve.steps)
    losses = built_as(OfLosses(), owner, f"curves[{i}].losses", curve.losses)
    if len(steps) != len(losses):
        raise ValueError(
            f"{owner}: `curves[{i}].losses` must have one loss for each of {len(steps)} steps, got {len(losses)}"
        )
    return Curve(lr, steps, losses)
