"""Advice on the learning rate in one paragraph, with the numbers from the other modules."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from optim import ema_relative, half_life
from schedules import (
    Schedule,
    ScheduleLike,
    Shape,
    as_schedule,
    boundaries,
    constant,
    cooldown,
    cosine,
    inverse_sqrt,
    join,
    linear,
    one_minus_sqrt,
    tabulate,
    warmup,
)
from schedules.arguments import built_as, checked
from schedules.kinds import Fixed, Length
from schedules.numerics import MAX_STEPS
from schedules.sentences import shown
from theory.last_iterate import Transfer, best_peak, bound, compare, least, transfer
from theory.loss_fit import Curve, checked_curves, fit
from theory.loss_laws import MultiPower, read_rates

__all__ = ["advise", "Advice"]

NEAR = 0.01  # the bound of a cooldown may be above that of linear decay by this share of it
HORIZONS = (1_000, 10_000, 100_000)  # lengths of run at which schedules without a horizon are compared
HALF_LIFE = 0.1  # of the average, as a share of the run
LONG_ENOUGH = Fixed(int, least=100)


@dataclass(frozen=True)
class Advice:
    """What `advise` returns. Printed, it is a paragraph.

    `lr`: the recommended schedule, with a peak of 1 if the peak is not known; `sentences`: what to do, the numbers
    behind it, and how far to trust them.
    """

    lr: Schedule
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        whole = " ".join(self.sentences).replace(" %", "\xa0%")  # a number and its unit stay on one line
        lines = [line.replace("\xa0", " ") for line in textwrap.wrap(whole, 100)]
        return "\n".join([*lines, "", f"lr = {self.lr}"])


@checked
def advise(
    steps: int | None = None,
    *,
    after: ScheduleLike | None = None,
    at: Length = 0,
    curves: Sequence[Curve] | None = None,
) -> Advice:
    """Recommends a schedule for a run, with the numbers behind it and how far to trust them.

    - `advise(10_000)`: a run of known length. It recommends the shortest cooldown whose `bound` is within 1 % of that
      of linear decay, and says by how much to change a peak that you tuned for another schedule.
    - `advise()`: a run of unknown length. It recommends a constant rate with an average, and says what a
      cooldown gains.
    - `advise(20_000, after=wsd(3e-4, 500, 7_500, 2_000), at=8_000)`: a run that you extend. It says how much to lower
      the rate or lengthen the cooldown (`transfer`) or, if the cooldown has begun, at which rate to go on.
    - `advise(20_000, curves=[...])`: it fits a law of loss curves to your past runs (`fit`), and predicts the final
      loss of other schedules.

    **Arguments:** `steps`: the number of updates of the run, 100 or more, or None if you do not know it; `after`: the
    schedule of the run that you extend to `steps` updates; `at`: the number of updates that it has made. The peak
    of `after` is assumed to be the best one for the length of that run: the last step at which `after` changes its
    form, or `at` if that is later. `curves`: curves of runs with the same peak and warm-up. At least one run must
    decay.

    **Returns:** an `Advice`, which holds the schedule as a value.

    **Raises:** `ValueError` for arguments that are not as above or do not go together, and for the same reasons
    as `fit`.
    """
    length = None if steps is None else int(built_as(LONG_ENOUGH, "advise", "steps", steps))
    if (after is None) != (at == 0):
        raise ValueError(f"advise: `at` must be given if and only if `after` is, got {at!r}")
    if after is None:
        if curves is not None:
            return _from_curves(checked_curves("advise", curves, MultiPower), length)
        return _anytime() if length is None else _for_horizon(length)
    if curves is not None:
        raise ValueError("advise: `curves` must not be given together with `after`")
    if length is None or at >= length:
        raise ValueError(f"advise: `steps` must be above the {at} updates that have been made, got {shown(steps)}")
    return _extended(as_schedule(after), at, length)


# A run of known length ----------------------------------------------------------------------------------


def _cooled(steps: int, share: float, shape: Shape = linear) -> Schedule:
    """A constant rate, then a cooldown to 0 over the last `share` of the run."""
    length = round(share * steps)
    return cooldown(1.0, steps - length, length, shape=shape)


def _for_horizon(steps: int) -> Advice:
    length = _shortest_cooldown(steps)
    lr = cooldown(1.0, steps - length, length)
    found = compare(
        {
            "this": lr,
            "linear": linear(1.0, 0.0, steps),
            "cosine": cosine(1.0, 0.0, steps),
            "constant": constant(1.0),
            "short": _cooled(steps, 0.2),
            "short sqrt": _cooled(steps, 0.2, one_minus_sqrt),
        },
        steps,
    )
    bounds = {row.name: row.bound for row in found.rows}
    above = {name: _percent(each / bounds["linear"] - 1) for name, each in bounds.items()}
    peaks = found.peaks("this", 1.0)
    times = {name: f"{1 / peak:.2f}" for name, peak in peaks.items()}
    return Advice(
        lr,
        (
            f"For {steps:,} updates: after the warm-up that your model needs, keep the rate at its peak, then decay it "
            f"linearly to 0 over the last {length:,} updates ({_share(length / steps)} of the run).",
            "By the convex bound, with each schedule at its own best peak, this is within "
            f"{above['this']} of linear decay over the whole run. Cosine decay is {above['cosine']} above linear "
            f"decay, a linear cooldown over the last fifth {above['short']} (a 1 - sqrt cooldown "
            f"{above['short sqrt']}), and a constant rate {above['constant']}.",
            "Each schedule has its own best peak: multiply a peak that you tuned for cosine decay by "
            f"{times['cosine']}, for linear decay by {times['linear']}, for a constant rate by {times['constant']}.",
            TRUST,
        ),
    )


def _shortest_cooldown(steps: int) -> int:
    """The length of the shortest linear cooldown whose bound is within `NEAR` of that of linear decay."""
    enough = (1 + NEAR) * float(best_peak(linear(1.0, 0.0, steps), steps).bound)

    def suits(length: int) -> bool:
        return float(best_peak(cooldown(1.0, steps - length, length), steps).bound) <= enough

    return least(suits, 0, steps)


# A run of unknown length --------------------------------------------------------------------------------


def _anytime() -> Advice:
    bounds, peaks = [], []
    for steps in HORIZONS:
        anytime = {"constant": constant(1.0), "inverse": inverse_sqrt(1.0, 1), "cooled": _cooled(steps, 0.2)}
        rows = {row.name: row for row in compare({"linear": linear(1.0, 0.0, steps), **anytime}, steps).rows}
        bounds.append({name: rows[name].bound / rows["linear"].bound - 1 for name in anytime})
        peaks.append(rows["constant"].peak)
    above = {name: _listed([_percent(each[name]) for each in bounds]) for name in bounds[0]}
    newest = half_life(ema_relative(HALF_LIFE), HORIZONS[1]) / HORIZONS[1]
    return Advice(
        constant(1.0),
        (
            "If you do not know the length of the run: after the warm-up that your model needs, keep the rate "
            "constant and evaluate an average of the parameters, such as "
            f"`average(optimizer, ema_relative({HALF_LIFE}))`. Half of its weight is on the last {_share(newest)} of "
            "the updates, however long the run is. Begin a cooldown once you know when the run ends.",
            f"By the convex bound, after {_listed([f'{steps:,}' for steps in HORIZONS])} updates a constant rate "
            f"without a cooldown is {above['constant']} above linear decay, a rate that falls as 1 / sqrt(t) "
            f"{above['inverse']}, and a constant rate with a linear cooldown over the last fifth {above['cooled']}.",
            f"By the bound, a run that is ten times as long needs {peaks[1] / peaks[0]:.2f} times the constant rate; "
            "in published runs the best peak fell less with the length.",
            "If you keep checkpoints, `merge` imitates a cooldown afterwards, without further training.",
            TRUST,
        ),
    )


# A run that is extended -----------------------------------------------------------------------------------


class _Extension(NamedTuple):
    """A run at `lr`, whose peak is the best one for `length` updates, extended at step `at` to `steps` in all."""

    lr: Schedule
    length: int
    at: int
    steps: int
    distance: Array

    def bound(self, lr: Schedule) -> Array:
        """The bound of the longer run, at the distance for which the peak is the best one of the shorter run."""
        return bound(lr, self.steps, distance=self.distance)

    def along_a_line(self, rate: float | Array) -> Schedule:
        """The schedule that from step `at` on decays linearly from `rate` to 0."""
        return join([self.lr, linear(rate, 0.0, self.steps - self.at)], [self.at])


def _extended(lr: Schedule, at: int, steps: int) -> Advice:
    ends = [end for end in boundaries(lr, MAX_STEPS) if end < MAX_STEPS]
    never_ends = sum(end >= steps for end in ends) > 1  # it keeps changing its form, as a cycle does
    length = at if never_ends else max([at, *ends])
    if length >= steps:
        raise ValueError(f"advise: `steps` must be above the {length} updates of `after`, got {steps}")
    run = _Extension(lr, length, at, steps, 1 / best_peak(lr, length).factor)
    try:
        moved = transfer(lr, length, steps)
    except ValueError:  # the schedule has no cooldown
        return _along_a_line(run, None)
    return _before_the_cooldown(run, moved) if at <= moved.start else _along_a_line(run, moved)


def _before_the_cooldown(run: _Extension, moved: Transfer) -> Advice:
    if moved.factor == 1.0:
        return Advice(
            moved.lower,
            (
                f"To extend the run from {run.length:,} to {run.steps:,} updates: keep the rate, and cool down over "
                f"the same share of the run as before, {moved.cooldown_steps:,} updates. By the convex bound the peak "
                "is not too high for the longer run.",
                TRUST_IN_LENGTH,
            ),
        )
    share = (run.length - moved.start) / run.length
    unchanged = float(run.bound(join([run.lr, moved.lower.schedules[1] / moved.factor], [moved.start])))
    by_rate = (
        f"multiply the rate by {moved.factor:.2f} from step {moved.start:,} on, and cool down over the last "
        f"{round(share * run.steps):,} updates, {_share(share)} of the run as before"
    )
    by_length = "At an unchanged rate, even a cooldown that begins there is too short."
    if moved.longer is not None:
        by_length = f"Or keep the rate, and cool down over the last {moved.cooldown_steps:,}."
    ways = [way for way in (moved.lower, moved.longer) if way is not None]
    bounds = [float(run.bound(way)) for way in ways]
    less = _listed([_percent(1 - each / unchanged) for each in bounds])
    which = "either change" if len(ways) > 1 else "this change"
    return Advice(
        ways[int(np.argmin(bounds))],
        (
            f"To extend the run from {run.length:,} to {run.steps:,} updates: {by_rate}. {by_length}",
            f"The best peak for {run.length:,} updates is too high for {run.steps:,}. In the convex bound, {which} "
            f"makes it the best one again, and the bound is {less} lower than with a cooldown over the same share of "
            "the run at an unchanged rate.",
            TRUST_IN_LENGTH,
        ),
    )


def _along_a_line(run: _Extension, moved: Transfer | None) -> Advice:
    """Linear decay from the rate with the least bound: when the cooldown has begun, or there is none."""
    peak, now = float(jnp.max(tabulate(run.lr, run.length))), float(run.lr(run.at))
    fractions = jnp.arange(1, 51) / 50
    bounds = jax.lax.map(lambda fraction: run.bound(run.along_a_line(fraction * peak)), fractions)
    best = int(jnp.argmin(bounds))
    lowest = float(bounds[best])
    sentences = [
        f"To extend the run from step {run.at:,} to {run.steps:,} updates: set the rate to {_share(fractions[best])} "
        f"of its peak, over a few updates (it is now at {_share(now / peak)}), and decay it linearly to 0."
    ]
    more = float(run.bound(run.along_a_line(now))) / lowest - 1 if now > 0 else None
    if more is not None and more < 1e-3:
        sentences = [
            f"To extend the run from step {run.at:,} to {run.steps:,} updates: decay the rate linearly to 0 from its "
            "present value."
        ]
    elif more is not None:
        sentences.append(f"By the convex bound, linear decay from the present rate would end {_percent(more)} higher.")
    if moved is not None and (less := 1 - float(run.bound(moved.lower)) / lowest) > 0:
        sentences.append(
            f"If there is a checkpoint from step {moved.start:,}, where the cooldown began, go on from there instead, "
            f"at {moved.factor:.2f} times the rate and with a cooldown over the same share of the run. By the bound, "
            f"this ends {_percent(less)} lower."
        )
    return Advice(run.along_a_line(_plain(float(fractions[best]) * peak)), (*sentences, TRUST_IN_LENGTH))


# Runs that were made ------------------------------------------------------------------------------------


def _from_curves(curves: Sequence[Curve], steps: int | None) -> Advice:
    peak, warm, floor = _rates_of_curves(curves)
    steps = steps or int(max(np.max(curve.steps) for curve in curves))
    rest = steps - warm
    if rest < 1:
        raise ValueError(f"advise: `steps` must be above the {warm} updates of the warm-up of `curves`, got {steps}")

    def warmed(lr: Schedule) -> Schedule:
        return warmup(lr, warm) if warm else lr

    named = {
        "a constant rate": constant(peak),
        "cosine decay": cosine(peak, floor, rest),
        "linear decay": linear(peak, floor, rest),
    }
    for share in (0.1, 0.2, 0.4, 0.6):
        length = min(round(share * steps), rest)
        for way, shape in (("linear", linear), ("1 - sqrt", one_minus_sqrt)):
            name = f"a {way} cooldown over the last {_share(share)}"
            named[name] = cooldown(peak, rest - length, length, floor, shape)
    found = fit(curves)
    ends = {name: float(found.predict(warmed(lr), steps)) for name, lr in named.items()}
    best = min(ends, key=ends.__getitem__)
    error = float(found.standard_error(warmed(named[best]), steps))
    others = [f"{name} {ends[name]:.4f}" for name in ("linear decay", "cosine decay", "a constant rate")]
    after = f" after a warm-up of {warm:,} updates" if warm else ""
    falls = named[best] != constant(peak)
    down = f", down to {floor:.4g}, the lowest rate of your runs" if falls else ""
    return Advice(
        warmed(named[best]),
        (
            f"For {steps:,} updates at the peak of your runs, {peak:.4g}{after}: use {best}{down}.",
            "The multi-power law, fitted to your runs, predicts these final losses: this schedule "
            f"{ends[best]:.4f} ± {error:.4f}, {_listed([other for other in others if not other.startswith(best)])}.",
            f"How far to trust it: on your runs, the law is off by {_percent(found.misfit)} (root mean square). The ± "
            f"says only how well your runs determine the law, not whether the law is right. {TRUST_IN_LAWS}",
        ),
    )


def _rates_of_curves(curves: Sequence[Curve]) -> tuple[float, int, float]:
    """The peak, the number of updates before it, and the lowest rate after it."""
    rates = [np.asarray(read_rates("advise", curve.lr, int(curve.steps[-1]))) for curve in curves]
    peak = max(float(each.max()) for each in rates)
    warm = [int(np.argmax(each > (1 - 1e-6) * each.max())) for each in rates]
    floor = min(float(each[start:].min()) for each, start in zip(rates, warm, strict=True))
    if any(abs(each.max() / peak - 1) > 0.01 for each in rates):
        got = _listed([f"{each.max():.4g}" for each in rates])
        raise ValueError(f"advise: `curves` must have the same peak, got {got}")
    if floor > 0.9 * peak:
        raise ValueError("advise: `curves` must include a run whose rate decays, got none")
    return _plain(peak), max(warm), _plain(floor)


def _plain(number: float) -> float:
    """`number` without the digits that float32 adds to it."""
    return float(f"{number:.6g}")


# In words -------------------------------------------------------------------------------------------------

# The numbers are from `python -m experiments evidence last-iterate` and `loss-laws`. A test compares them with the
# published results.
TRUST = (
    "How far to trust it: the bound is a theorem for convex losses only. For schedules of a language model with 124 "
    "million parameters, its rank correlation with the final loss was 0.68, 0.87 and 0.94 after 15,000, 25,000 and "
    "50,000 updates. The bound prefers decay over the whole run; in those runs a cooldown over 60 % was best."
)
TRUST_IN_LENGTH = (
    "How far to trust it: in the convex bound the best peak falls as the length of the run to the power of -0.51. In "
    "published runs of a language model it fell as the length to the power of -0.18 (15,000 to 50,000 updates), so a "
    "smaller change may be right."
)
TRUST_IN_LAWS = (
    "Fitted to three published runs of a language model, the law predicted six others with mean errors of 0.0036, "
    "0.0037 and 0.0056 at 25, 100 and 400 million parameters. Fitted to two runs of small image models, its "
    "predictions were worse than the guess that every decay gains as much as cosine decay."
)


def _percent(share: ArrayLike) -> str:
    percent = 100 * float(np.asarray(share))
    return f"{percent:.0f} %" if abs(percent) >= 10 else f"{percent:.1f} %"


def _share(share: ArrayLike) -> str:
    return f"{100 * float(np.asarray(share)):.0f} %"


def _listed(items: Sequence[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else items[0]
