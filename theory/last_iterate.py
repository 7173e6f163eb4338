"""The convex bound on the loss of the last iterate: it compares schedules and peaks, and adapts them to longer runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from typing_extensions import TypeAliasType

from schedules import Schedule, ScheduleLike, advance, as_schedule, boundaries, extend, join, stretch, tabulate
from schedules.arguments import built_as, checked
from schedules.kinds import Kind, Positive, Size, require
from schedules.sentences import shown
from theory.rates import OfRates, Rates, rates_of, require_usual

__all__ = ["bound", "best_peak", "BestPeak", "compare", "Comparison", "Compared", "transfer", "Transfer"]


class OfNorms(Kind):
    """An array with one norm for each update, or None."""

    expected = "an array of norms with one for each update, or None"

    def build(self, value: Any) -> Any:
        if value is None:
            return None
        try:
            norms = jnp.asarray(value)
        except TypeError:
            raise ValueError from None
        is_real = jnp.issubdtype(norms.dtype, jnp.floating) or jnp.issubdtype(norms.dtype, jnp.integer)
        return require(norms.astype(float), norms.ndim == 1 and is_real)


Norms = TypeAliasType("Norms", Annotated[Array | None, OfNorms()])


# The bound --------------------------------------------------------------------------------------------


@checked
def bound(lr: Rates, steps: Size, gradient_norms: Norms = None, distance: Positive = 1.0) -> Array:
    r"""An upper bound on how far the expected loss after `steps` updates is above the minimum.

    $$\mathbb{E} f(x_T) - f^\star \le \Omega_T = \frac{D^2}{2 S_1} + \frac{Q_1}{2 S_1}
      + \frac12 \sum_{k=1}^{T-1} \frac{\eta_k}{S_{k+1}} \frac{Q_k}{S_k}, \qquad
      S_k = \sum_{t=k}^T \eta_t, \quad Q_k = \sum_{t=k}^T \eta_t^2 G_t^2$$

    for $x_{t+1} = x_t - \eta_t g_t$ with subgradients $g_t$; the last one is taken at $x_T$. The rate $\eta_t$ is
    `lr(t - 1)`. Rates of 0 at the end are left out, as if the run ended before them; other rates of 0 change nothing.

    It holds for convex losses and gradient descent, stochastic or not. It is loose: for linear decay over 100 updates
    it is twice the worst case. For networks it is not a bound, but if schedules differ much, it ranks them in the
    order of their final losses. Do not use it to choose between long cooldowns: the bound is least for a cooldown over
    the whole run, while in published runs a cooldown over 60 % of the run ended lowest.

    **Arguments:** `lr`: a schedule, or an array of the rates; `gradient_norms`: an array of $G_t$, where $G_t^2$ bounds
    the expected square of the norm, 1 by default; `distance`: D, the distance from the first parameters to the optimum.
    D is in units of the parameters, G in units of loss over parameters, and the result in units of loss.

    **Returns:** a scalar of the default dtype. It takes O(T) time and is differentiable in all arguments but `steps`.
    In float32 it is accurate to six digits after a million updates. Traced rates are not checked: the bound is infinite
    if all of them are 0.

    **Raises:** `ValueError` if a rate or norm is negative or not finite, if all of them are 0, if an array is not as
    long as `steps`, or if `distance` is not positive.

    Source: Schaipp et al., *The surprising agreement between convex optimization theory and learning-rate scheduling*,
    arXiv:2501.18965, with the theorem of Defazio et al., arXiv:2310.07831.
    """
    return _bound(*_inputs("bound", lr, steps, gradient_norms), jnp.asarray(distance, float))


class BestPeak(NamedTuple):
    """What `best_peak` returns, as scalars: `factor`, by which to multiply all rates; `peak`, the largest rate after
    that; and `bound`, the bound after that."""

    factor: Array
    peak: Array
    bound: Array


@checked
def best_peak(lr: Rates, steps: Size, gradient_norms: Norms = None, distance: Positive = 1.0) -> BestPeak:
    r"""The peak at which a schedule has its least `bound`, and that bound.

    A schedule multiplied by γ has the bound $a / \gamma + b \gamma$ with $a = D^2 / 2 S_1$. It is least at

    $$\gamma^\star = \sqrt{a / b}, \qquad \Omega^\star = 2 \sqrt{a b}.$$

    The peak and the bound do not depend on the scale of `lr`. As D and G are unknown in practice, use ratios of peaks:
    of two schedules, or of one schedule for two lengths of run. For a constant rate of 1,
    $\gamma^\star = D / (G \sqrt{T (1 + H_{T-1})})$, with the harmonic number H.

    **Arguments:** the same as of `bound`.

    **Returns:** a `BestPeak` of scalars of the default dtype.

    **Raises:** `ValueError` for the same reasons as `bound`.

    Source: Schaipp et al., arXiv:2501.18965.
    """
    return _best(*_inputs("best_peak", lr, steps, gradient_norms), jnp.asarray(distance, float))


def _inputs(owner: str, lr: Any, steps: int, gradient_norms: Array | None, name: str = "lr") -> tuple[Array, Array]:
    """The rates and norms of all updates, checked."""
    rates = rates_of(owner, lr, steps, name).astype(float)
    require_usual(owner, name, rates)
    if gradient_norms is None:
        return rates, jnp.ones_like(rates)
    if len(gradient_norms) != steps:
        got = f"got {len(gradient_norms)}"
        raise ValueError(f"{owner}: `gradient_norms` must hold one norm for each of {steps} updates, {got}")
    require_usual(owner, "gradient_norms", gradient_norms)
    return rates, gradient_norms


@jax.jit
def _bound(rates: Array, norms: Array, distance: Array) -> Array:
    scale, a, b = _terms(rates, norms, distance)
    return a / scale + b * scale


@jax.jit
def _best(rates: Array, norms: Array, distance: Array) -> BestPeak:
    scale, a, b = _terms(rates, norms, distance)
    factor = jnp.sqrt(a / b) / scale
    return BestPeak(factor, factor * jnp.max(rates), 2 * jnp.sqrt(a * b))


def _terms(rates: Array, norms: Array, distance: Array) -> tuple[Array, Array, Array]:
    """The scale, a and b of the bound a / scale + b scale; the scale is the largest rate.

    All sums run backwards from the end, where rates are small. Differences of sums from the start would lose their
    digits there.
    """
    peak = jax.lax.stop_gradient(jnp.max(rates))  # the bound does not depend on the choice of the scale
    scale = jnp.where(peak > 0, peak, 1.0)
    shape = rates / scale  # squares of small rates would underflow
    left = jax.lax.cumsum(shape, reverse=True)
    noise = jax.lax.cumsum((shape * norms) ** 2, reverse=True)
    after = jnp.append(left[1:], 0.0)
    b = _ratio(noise[0], left[0]) + jnp.sum(_ratio(shape, after) * _ratio(noise, left))
    return scale, distance**2 / (2 * left[0]), b / 2


@jax.custom_jvp
def _ratio(a: Array, b: Array) -> Array:
    """a / b, and 0 where b is 0, after the end of the run."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), 0.0)


@_ratio.defjvp
def _ratio_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # JAX's own rule has a factor of 1 / b^2, which overflows long before the derivative does.
    (a, b), (da, db) = primals, tangents
    ratio = _ratio(a, b)
    return ratio, _ratio(da - ratio * db, b)


# Several schedules ------------------------------------------------------------------------------------


class Compared(NamedTuple):
    """A schedule in a `Comparison`: its `name`; its `bound` at its own best peak; `ratio`, that bound over the least
    bound of all; and `peak`, its best peak."""

    name: str
    bound: float
    ratio: float
    peak: float


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns. Printed, it is a table. `rows` are in ascending order of their bounds, the best first."""

    steps: int
    rows: tuple[Compared, ...]

    def peaks(self, name: str, tuned: float) -> dict[str, float]:
        """The best peak of each schedule, if you tuned the peak of schedule `name` to `tuned`.

        **Raises:** `KeyError` if there is no schedule `name`.
        """
        unit = tuned / {row.name: row.peak for row in self.rows}[name]
        return {row.name: unit * row.peak for row in self.rows}

    def __str__(self) -> str:
        best = self.rows[0]
        width = max(len("schedule"), *(len(row.name) for row in self.rows))
        lines = [f"{'schedule':<{width}}  {'bound':>9}  {'above the best':>14}  {'peak':>6}"]
        for name, bound, ratio, peak in self.rows:
            above = f"{100 * (ratio - 1):.1f} %" if name != best.name else "-"
            lines.append(f"{name:<{width}}  {bound:9.4g}  {above:>14}  {peak / best.peak:6.3f}")
        return "\n".join(
            [*lines, "", f"After {self.steps:,} updates, each at its best peak, in multiples of the first one's."]
        )


@checked
def compare(
    schedules: Mapping[str, Rates], steps: Size, gradient_norms: Norms = None, distance: Positive = 1.0
) -> Comparison:
    """Compares schedules by their `bound`, each at its own best peak, and how their peaks relate.

    The scale of a schedule does not matter. If you know the best peak of one of them, `Comparison.peaks` gives the best
    peaks of the others.

    **Arguments:** `schedules`: a dict from names to schedules or arrays of rates; the other arguments are the same as
    of `bound`.

    **Returns:** a `Comparison` of Python floats, the best schedule first.

    **Raises:** `ValueError` if `schedules` is not a dict of one or more, and for the same reasons as `bound`.

    Source: Schaipp et al., arXiv:2501.18965.
    """
    if not isinstance(schedules, Mapping) or not schedules:
        raise ValueError(f"compare: `schedules` must be a dict of one schedule or more, got {shown(schedules)}")
    best = {}
    for name, lr in schedules.items():
        if not isinstance(name, str):
            raise ValueError(f"compare: `schedules` must have names that are strings, got {shown(name)}")
        argument = f"schedules[{name!r}]"
        rates = built_as(OfRates(), "compare", argument, lr)
        inputs = _inputs("compare", rates, steps, gradient_norms, argument)
        best[name] = _best(*inputs, jnp.asarray(distance, float))
    least = min(float(each.bound) for each in best.values())
    rows = [Compared(k, float(b.bound), float(b.bound) / least, float(b.peak)) for k, b in best.items()]
    return Comparison(steps, tuple(sorted(rows, key=lambda row: row.bound)))


# A longer run -----------------------------------------------------------------------------------------


class Transfer(NamedTuple):
    """What `transfer` returns: two alternative ways to go on from step `start`.

    Either multiply the rate by `factor` from there on: the schedule `lower`. Or keep the rate and cool down over
    `cooldown_steps` updates: the schedule `longer`. These two are None if even a cooldown that begins at `start` is too
    short.
    """

    start: int
    factor: float
    lower: Schedule
    cooldown_steps: int | None
    longer: Schedule | None


@checked
def transfer(lr: ScheduleLike, from_steps: Size, to_steps: Size) -> Transfer:
    r"""How to extend a run from the start of its cooldown, if its peak is the best one for `from_steps` updates.

    The longer a run, the lower its best peak: in the bound it falls about as $1/\sqrt T$. But the first part of the run
    is already done. So the run goes on from the start of its cooldown, and cools down at its new end. Each of two
    changes makes its peak the best one again, as it was in the original run:

    $$\gamma^\star(\text{extended run}) = \gamma^\star(\text{original run})$$

    - `factor`: from the start of the original cooldown on, multiply all rates by it. The new cooldown takes the same
      share of the new run as the old cooldown took of the old run.
    - `cooldown_steps`: keep the rate, and make the cooldown this long.

    If the peak is not too high for the longer run, as with a step decay, the factor is 1 and the cooldown takes the
    same share of the run as before.

    The cooldown begins at the last of the schedule's `boundaries` at which it is above its final value. `stretch` makes
    it longer. In published runs, the best peak falls more slowly with the length than in the bound, so the best factor
    may be nearer to 1.

    **Arguments:** `lr`: the schedule of the original run, for example `wsd(0.001, 300, 39_700, 10_000)`;
    `from_steps`: its number of updates, here 50,000; `to_steps`: the number of updates of the extended run in all.

    **Returns:** a `Transfer`. Both of its schedules are for the whole run, and equal `lr` before its cooldown.

    **Raises:** `ValueError` if the schedule does not end below an earlier rate, if `stretch` cannot make its cooldown
    longer (because it is a table or a function), if a rate is negative or not finite, or if `to_steps` is not above
    `from_steps`.

    Source: Schaipp et al., arXiv:2501.18965.
    """
    lr = as_schedule(lr)
    if to_steps <= from_steps:
        raise ValueError(f"transfer: `to_steps` must be above `from_steps` = {from_steps}, got {to_steps}")
    wanted = _best(*_inputs("transfer", lr, from_steps, None), jnp.ones(())).factor
    start = _cooldown_start(lr, from_steps)
    _require_stretchable(lr, start, from_steps, to_steps)
    most = to_steps - start

    def extended(cooldown: int) -> Schedule:
        """The schedule from `start` on: the rate there is held, then comes a cooldown of this many updates."""
        factor = cooldown / (from_steps - start)
        longer = stretch(lr, factor)
        coming = advance(longer, _cooldown_start(longer, round(factor * from_steps)))
        return extend(coming, start=0, steps=most - cooldown)

    def suits(cooldown: int) -> bool:
        return bool(_best_factor(tabulate(join([lr, extended(cooldown)], [start]), to_steps)) >= wanted)

    same = round((from_steps - start) / from_steps * to_steps)
    lower = extended(same)
    factor = _largest_factor(tabulate(lr, from_steps), tabulate(lower, most), start, wanted)
    lowered = join([lr, factor * lower], [start])
    if factor == 1.0:
        return Transfer(start, factor, lowered, same, lowered)
    if not suits(most):
        return Transfer(start, factor, lowered, None, None)
    cooldown = least(suits, same, most)
    return Transfer(start, factor, lowered, cooldown, join([lr, extended(cooldown)], [start]))


@jax.jit
def _best_factor(rates: Array, start: ArrayLike = 0, factor: ArrayLike = 1.0) -> Array:
    """The factor of the best peak of `rates`, after they are multiplied by `factor` from `start` on."""
    changed = jnp.where(jnp.arange(len(rates)) < start, rates, factor * rates)
    return _best(changed, jnp.ones_like(rates), jnp.ones(())).factor


def _largest_factor(rates: Array, rest: Array, start: int, wanted: Array) -> float:
    """The largest factor, at most 1, of `rest` with which the peak is not too high; `rest` replaces `rates[start:]`.

    The bisection begins at the factor with which the sum of the rates does not change. There the rest is longer and
    less noisy than what it replaces, so the best peak is higher.
    """
    whole = jnp.concatenate([rates[:start], rest])
    if _best_factor(whole) >= wanted:
        return 1.0
    low, high = float(jnp.sum(rates[start:]) / jnp.sum(rest)), 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _best_factor(whole, start, middle) >= wanted else (low, middle)
    return low


def _require_stretchable(lr: Schedule, start: int, from_steps: int, to_steps: int) -> None:
    """**Raises:** `ValueError` if `stretch` does not make the cooldown longer, because it is a table or a function."""
    at, factor = np.linspace(start, from_steps - 1, 11).astype(int), to_steps / from_steps
    off = np.abs(np.asarray(stretch(lr, factor)(np.round(factor * at).astype(int)) - lr(at)))
    if from_steps - start >= 20 and off[1:-1].max() > 0.1 * float(np.max(lr(at))):
        raise ValueError(
            f"transfer: `lr` must have a cooldown that can be stretched, not a table or a function, got {shown(lr)}"
        )


def least(suits: Callable[[int], bool], low: int, high: int) -> int:
    """The least number above `low` that suits, by bisection; `high` suits."""
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suits(middle) else (middle, high)
    return high


def _cooldown_start(lr: Schedule, steps: int) -> int:
    """The last boundary, or 0, at which `lr` is higher than at the end of the run."""
    joints = [0, *boundaries(lr, steps)]
    values = np.asarray(lr(np.array([*joints, steps - 1])))
    higher = np.flatnonzero(values[:-1] > values[-1])
    if not higher.size:
        raise ValueError(f"transfer: `lr` must decay by the end of {steps} updates, got {shown(lr)}")
    return joints[int(higher[-1])]
