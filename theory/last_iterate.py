"""The convex bound of the last iterate: which schedule, at which peak, and what to change for a longer run."""

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
    """One norm for each update, or None."""

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
    r"""An upper bound on how far the expected loss of the last of `steps` iterates is above its minimum.

    $$\mathbb{E} f(x_T) - f^\star \le \Omega_T = \frac{D^2}{2 S_1} + \frac{Q_1}{2 S_1}
      + \frac12 \sum_{k=1}^{T-1} \frac{\eta_k}{S_{k+1}} \frac{Q_k}{S_k}, \qquad
      S_k = \sum_{t=k}^T \eta_t, \quad Q_k = \sum_{t=k}^T \eta_t^2 G_t^2$$

    for $x_{t+1} = x_t - \eta_t g_t$ with subgradients $g_t$, of which the last is taken at $x_T$. The rate $\eta_t$ is
    `lr(t - 1)`. If the last rates are 0, the run ends with the last one that is not; other rates of 0 change nothing.

    It holds for convex losses and gradient descent, stochastic or not, and is loose: of linear decay over 100 updates
    the worst case is half of it. For networks it is no bound, but where schedules differ much it ranks them as their
    final losses do. It does not say how long a long cooldown should be: the bound is least for the whole run, while
    in published runs 60 % ended lowest.

    **Arguments:** `lr`: a schedule, or an array of the rates; `gradient_norms`: an array of $G_t$, where $G_t^2$ bounds
    the expected square of the norm, 1 by default; `distance`: D, from the first parameters to the optimum. Units are
    those of the parameters for D, of loss over parameters for G, of loss for the result.

    **Returns:** a scalar of the default dtype. It takes O(T) and can be differentiated in all arguments but `steps`.
    In float32 it is right to six digits after a million updates. Traced rates are not checked: it is infinite if all
    are 0.

    **Raises:** `ValueError` for rates or norms of which one is negative or not finite, or all are 0, for arrays of
    another length than `steps`, and for numbers that are not positive.

    Source: Schaipp et al., *The surprising agreement between convex optimization theory and learning-rate scheduling*,
    arXiv:2501.18965, with the theorem of Defazio et al., arXiv:2310.07831.
    """
    return _bound(*_inputs("bound", lr, steps, gradient_norms), jnp.asarray(distance, float))


class BestPeak(NamedTuple):
    """What `best_peak` finds, as scalars: `factor`, by which all rates should be multiplied; `peak`, the largest rate
    that this makes; and `bound`, the least that the bound becomes."""

    factor: Array
    peak: Array
    bound: Array


@checked
def best_peak(lr: Rates, steps: Size, gradient_norms: Norms = None, distance: Positive = 1.0) -> BestPeak:
    r"""The peak at which a schedule has the least `bound`, and that bound.

    Multiplied by γ, a schedule has the bound $a / \gamma + b \gamma$ with $a = D^2 / 2 S_1$, so that

    $$\gamma^\star = \sqrt{a / b}, \qquad \Omega^\star = 2 \sqrt{a b}.$$

    The peak and the bound do not depend on the scale of `lr`. Since D and G are not known, neither peak means anything
    by itself; the ratio of those of two schedules does, or of one schedule over two lengths of run. Of the rate 1,
    $\gamma^\star = D / (G \sqrt{T (1 + H_{T-1})})$, with the harmonic number H.

    **Arguments:** as of `bound`.

    **Returns:** a `BestPeak` of scalars of the default dtype.

    **Raises:** `ValueError` as `bound`.

    Source: Schaipp et al., arXiv:2501.18965.
    """
    return _best(*_inputs("best_peak", lr, steps, gradient_norms), jnp.asarray(distance, float))


def _inputs(owner: str, lr: Any, steps: int, gradient_norms: Array | None, name: str = "lr") -> tuple[Array, Array]:
    """Rates and norms of all updates."""
    rates = rates_of(owner, lr, steps, name).astype(float)
    require_usual(owner, name, rates)
    if gradient_norms is None:
        return rates, jnp.ones_like(rates)
    if len(gradient_norms) != steps:
        got = f"{steps}, got {len(gradient_norms)}"
        raise ValueError(f"{owner}: `gradient_norms` must hold as many norms as the run has updates, {got}")
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
    """a and b of the bound a / scale + b scale, and the scale, which is that of the rates.

    All sums run from the end, where rates are small: differences of sums from the start would have no digits there.
    """
    peak = jax.lax.stop_gradient(jnp.max(rates))  # on which the bound does not depend
    scale = jnp.where(peak > 0, peak, 1.0)
    shape = rates / scale  # so that its squares are floats
    left = jax.lax.cumsum(shape, reverse=True)
    noise = jax.lax.cumsum((shape * norms) ** 2, reverse=True)
    after = jnp.append(left[1:], 0.0)
    b = _ratio(noise[0], left[0]) + jnp.sum(_ratio(shape, after) * _ratio(noise, left))
    return scale, distance**2 / (2 * left[0]), b / 2


@jax.custom_jvp
def _ratio(a: Array, b: Array) -> Array:
    """a / b, and 0 where b is 0: there the run has ended."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), 0.0)


@_ratio.defjvp
def _ratio_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # Without the 1 / b^2 of JAX's own rule, which is infinite long before the derivative is.
    (a, b), (da, db) = primals, tangents
    ratio = _ratio(a, b)
    return ratio, _ratio(da - ratio * db, b)


# Several schedules ------------------------------------------------------------------------------------


class Compared(NamedTuple):
    """A schedule in a `Comparison`: its `name`; `bound`, at its own best peak; `ratio`, of that to the least of all;
    and `peak`, the best one."""

    name: str
    bound: float
    ratio: float
    peak: float


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds; printed, it is a table. `rows` come in the order of their bounds, the best first."""

    steps: int
    rows: tuple[Compared, ...]

    def peaks(self, name: str, tuned: float) -> dict[str, float]:
        """The peak to give to each schedule if `tuned` is the best one of schedule `name`, found by trying.

        **Raises:** `KeyError` if there is no such schedule.
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
            [*lines, "", f"After {self.steps:,} updates, each at its best peak, here in multiples of the best's."]
        )


@checked
def compare(
    schedules: Mapping[str, Rates], steps: Size, gradient_norms: Norms = None, distance: Positive = 1.0
) -> Comparison:
    """Schedules by their `bound`, each at its own best peak, and how their peaks relate.

    Their scales do not matter. If the best peak of one of them is known, `Comparison.peaks` says that of the others.

    **Arguments:** `schedules`: schedules, or arrays of rates, by name; the others as of `bound`.

    **Returns:** a `Comparison` of Python floats, the best schedule first.

    **Raises:** `ValueError` if `schedules` is not a dict of one or more, or as `bound`.

    Source: Schaipp et al., arXiv:2501.18965.
    """
    if not isinstance(schedules, Mapping) or not schedules:
        raise ValueError(f"compare: `schedules` must be a dict of one schedule or more, got {shown(schedules)}")
    best = {}
    for name, lr in schedules.items():
        if not isinstance(name, str):
            raise ValueError(f"compare: `schedules` must have texts for names, got {shown(name)}")
        argument = f"schedules[{name!r}]"
        rates = built_as(OfRates(), "compare", argument, lr)
        inputs = _inputs("compare", rates, steps, gradient_norms, argument)
        best[name] = _best(*inputs, jnp.asarray(distance, float))
    least = min(float(each.bound) for each in best.values())
    rows = [Compared(k, float(b.bound), float(b.bound) / least, float(b.peak)) for k, b in best.items()]
    return Comparison(steps, tuple(sorted(rows, key=lambda row: row.bound)))


# A longer run -----------------------------------------------------------------------------------------


class Transfer(NamedTuple):
    """What `transfer` finds: two ways to go on from step `start`, of which each is enough.

    `factor`, of the rate from there on, and the schedule `lower` with it; `cooldown_steps`, the length of a cooldown
    from an unchanged rate, and the schedule `longer` with it. These two are None if even a cooldown that begins at
    `start` is too short.
    """

    start: int
    factor: float
    lower: Schedule
    cooldown_steps: int | None
    longer: Schedule | None


@checked
def transfer(lr: ScheduleLike, from_steps: Size, to_steps: Size) -> Transfer:
    r"""How to go on from the start of a cooldown if a run with the best peak for `from_steps` is extended.

    The longer a run, the lower its best peak: in the bound it falls about as $1/\sqrt T$. But the first part of the run
    has been made. The run goes on at the rate it has at the start of the cooldown, and cools down at its new end. Two
    changes make its peak the best one again, as that of the original run was:

    $$\gamma^\star(\text{extended run}) = \gamma^\star(\text{original run})$$

    - `factor`: all rates from the start of the original cooldown on are multiplied by it. The new cooldown takes the
      same share of the new run as the old one of the old run.
    - `cooldown_steps`: the rate stays, and the cooldown is so much longer.

    Where the peak is not too high for the longer run, as for a cooldown in steps, the factor is 1 and the cooldown
    keeps its share.

    The cooldown is what comes after the last of the schedule's `boundaries` at which it is above its last value;
    it is lengthened by `stretch`. That the peak was the best for the original run is taken for granted. In the
    published runs that were compared with the bound, the best peak falls more slowly with the length than the bound
    says; the best factor may be nearer to 1.

    **Arguments:** `lr`: the schedule for the first `from_steps` updates, for example `wsd(0.001, 300, 39_700, 10_000)`
    for 50,000; `to_steps`: how many the longer run has in all.

    **Returns:** a `Transfer`; both schedules are for the whole run, and are `lr` until the start of its cooldown.

    **Raises:** `ValueError` if the schedule does not come down by the end of the run, `stretch` does not make its
    cooldown longer (that of a table or a function), a rate is negative or not finite, or `to_steps` is not above
    `from_steps`.

    Source: Schaipp et al., arXiv:2501.18965.
    """
    lr = as_schedule(lr)
    if to_steps <= from_steps:
        raise ValueError(f"transfer: `to_steps` must be above the {from_steps} of `from_steps`, got {to_steps}")
    wanted = _best(*_inputs("transfer", lr, from_steps, None), jnp.ones(())).factor
    start = _cooldown_start(lr, from_steps)
    _require_stretchable(lr, start, from_steps, to_steps)
    most = to_steps - start

    def extended(cooldown: int) -> Schedule:
        """What follows from `start` on: the rate there, then the cooldown, so many updates long."""
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
    """That of rates which are multiplied by `factor` from `start` on."""
    changed = jnp.where(jnp.arange(len(rates)) < start, rates, factor * rates)
    return _best(changed, jnp.ones_like(rates), jnp.ones(())).factor


def _largest_factor(rates: Array, rest: Array, start: int, wanted: Array) -> float:
    """The largest factor of `rest`, in the place of all rates from `start` on, for which the best peak is the `wanted`.

    Where the rest is no larger in sum than what it replaces, it is less noisy: there the best peak is higher.
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
    """**Raises:** `ValueError` for a cooldown that does not become longer, as that of a table or a function."""
    at, factor = np.linspace(start, from_steps - 1, 11).astype(int), to_steps / from_steps
    off = np.abs(np.asarray(stretch(lr, factor)(np.round(factor * at).astype(int)) - lr(at)))
    if from_steps - start >= 20 and off[1:-1].max() > 0.1 * float(np.max(lr(at))):
        raise ValueError(
            f"transfer: `lr` must have a cooldown whose length can be changed, not one of a table or a function, got "
            f"{shown(lr)}"
        )


def least(suits: Callable[[int], bool], low: int, high: int) -> int:
    """The least number above `low` that suits, of which `high` is one, by bisection."""
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suits(middle) else (middle, high)
    return high


def _cooldown_start(lr: Schedule, steps: int) -> int:
    """The last of the steps at which `lr` changes its form, 0 among them, that it is higher at than at the end."""
    joints = [0, *boundaries(lr, steps)]
    values = np.asarray(lr(np.array([*joints, steps - 1])))
    higher = np.flatnonzero(values[:-1] > values[-1])
    if not higher.size:
        raise ValueError(f"transfer: `lr` must be lower at the end of {steps} updates than before, got {shown(lr)}")
    return joints[int(higher[-1])]
