"""What to do about the learning rate, and by which numbers: the answers of the other modules in a paragraph."""

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

NEAR = 0.01  # how far above linear decay the bound of a shorter cooldown may be, which begins later
HORIZONS = (1_000, 10_000, 100_000)  # at which schedules that need no horizon are compared
HALF_LIFE = 0.1  # of the average, as a share of the run
LONG_ENOUGH = Fixed(int, least=100)


@dataclass(frozen=True)
class Advice:
    """What `advise` finds; printed, a paragraph.

    `lr`: the schedule that is recommended, with a peak of 1 where none is known; `sentences`: what to do, the numbers
    that it follows from, and how far to trust them.
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
    """What theory recommends for a run, with the numbers that it follows from and how far to trust them.

    - `advise(10_000)`: a run of known length. The shortest cooldown whose `bound` is within 1 % of that of linear
      decay, and how a tuned peak carries over to it.
    - `advise()`: a run of unknown length. A constant rate with an average, and what a cooldown gains.
    - `advise(20_000, after=wsd(3e-4, 500, 7_500, 2_000), at=8_000)`: a run that is extended. How much lower the rate
      must become, or how much longer the cooldown (`transfer`); after its cooldown has begun, from which rate to go on.
    - `advise(20_000, curves=[...])`: a law of loss curves is fitted to runs that were made (`fit`), and says what other
      schedules would end at.

    **Arguments:** `steps`: the length of the run, if it is known, 100 or more; `after`, `at`: of a run that is extended
    to `steps`, the schedule it has followed, and how many updates it has made. Its peak is taken to be the best one for
    its length, which is where the schedule last changes its form, or `at` if that is later. `curves`: of runs with the
    same peak and warm-up, of which one decays.

    **Returns:** an `Advice`, which holds the schedule as a value.

    **Raises:** `ValueError` for arguments that are not as above or do not go together, and as `fit` does.
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
    """Constant, and then down to 0 over a share of the run."""
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
            f"For {steps:,} updates: after whatever warm-up your model needs, keep the rate at its peak, and let it "
            f"fall to 0 along a line over the last {length:,} updates ({_share(length / steps)} of the run).",
            "In the convex bound, with each schedule at its own best peak, this is within "
            f"{above['this']} of linear decay over the whole run; above linear decay are cosine decay by "
            f"{above['cosine']}, a linear cooldown over the last fifth by {above['short']} (along 1 - sqrt by "
            f"{above['short sqrt']}), and a constant rate by {above['constant']}.",
            f"Peaks do not carry over: multiply one that was tuned for cosine decay by {times['cosine']}, for linear "
            f"decay by {times['linear']}, for a constant rate by {times['constant']}.",
            TRUST,
        ),
    )


def _shortest_cooldown(steps: int) -> int:
    """The length of the shortest linear cooldown that is near linear decay by its bound."""
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
            "Without a horizon: keep the rate constant after whatever warm-up your model needs, and evaluate an "
            f"average of the parameters, such as `average(optimizer, ema_relative({HALF_LIFE}))`, half of whose weight "
            f"is on the last {_share(newest)} of the updates however long the run is; begin a cooldown when you "
            "know that it ends.",
            f"By the convex bound, after {_listed([f'{steps:,}' for steps in HORIZONS])} updates a constant rate on "
            f"its own is {above['constant']} above linear decay, a rate that falls as 1 / sqrt(t) {above['inverse']}, "
            f"and a constant rate with a linear cooldown over the last fifth {above['cooled']}.",
            f"By the bound, a run that is ten times as long needs {peaks[1] / peaks[0]:.2f} times the constant rate; "
            "in published runs the best peak fell less with the length.",
            "If checkpoints are kept, `merge` imitates a cooldown afterwards, without another update.",
            TRUST,
        ),
    )


# A run that is extended -----------------------------------------------------------------------------------


class _Extension(NamedTuple):
    """A run at `lr`, whose peak suits `length` updates, that goes on from step `at` and is to have `steps` in all."""

    lr: Schedule
    length: int
    at: int
    steps: int
    distance: Array

    def bound(self, lr: Schedule) -> Array:
        """That of the longer run, from as far away as makes the peak the best one of the shorter run."""
        return bound(lr, self.steps, distance=self.distance)

    def along_a_line(self, rate: float | Array) -> Schedule:
        """From step `at` on down to 0, from this rate."""
        return join([self.lr, linear(rate, 0.0, self.steps - self.at)], [self.at])


def _extended(lr: Schedule, at: int, steps: int) -> Advice:
    ends = [end for end in boundaries(lr, MAX_STEPS) if end < MAX_STEPS]
    never_ends = sum(end >= steps for end in ends) > 1  # but changes its form again and again
    length = at if never_ends else max([at, *ends])
    if length >= steps:
        raise ValueError(f"advise: `steps` must be above the {length} updates that `after` lasts, got {steps}")
    run = _Extension(lr, length, at, steps, 1 / best_peak(lr, length).factor)
    try:
        moved = transfer(lr, length, steps)
    except ValueError:  # of a schedule that does not come down
        return _along_a_line(run, None)
    return _before_the_cooldown(run, moved) if at <= moved.start else _along_a_line(run, moved)


def _before_the_cooldown(run: _Extension, moved: Transfer) -> Advice:
    if moved.factor == 1.0:
        return Advice(
            moved.lower,
            (
                f"To go on from {run.length:,} to {run.steps:,} updates: leave the rate as it is, and let its cooldown "
                f"take the same share of the run: {moved.cooldown_steps:,} updates. By the convex bound the peak is "
                "not too high for the longer run.",
                TRUST_IN_LENGTH,
            ),
        )
    share = (run.length - moved.start) / run.length
    unchanged = float(run.bound(join([run.lr, moved.lower.schedules[1] / moved.factor], [moved.start])))
    by_rate = (
        f"multiply the rate by {moved.factor:.2f} from step {moved.start:,} on, and cool down over the last "
        f"{round(share * run.steps):,} updates, {_share(share)} of the run as before"
    )
    by_length = "even a cooldown from there on is too short to keep the rate"
    if moved.longer is not None:
        by_length = f"or keep the rate, and cool down over the last {moved.cooldown_steps:,}"
    ways = [way for way in (moved.lower, moved.longer) if way is not None]
    bounds = [float(run.bound(way)) for way in ways]
    less = _listed([_percent(1 - each / unchanged) for each in bounds])
    return Advice(
        ways[int(np.argmin(bounds))],
        (
            f"To go on from {run.length:,} to {run.steps:,} updates: {by_rate}; {by_length}.",
            f"A peak that is the best one for {run.length:,} updates is too high for {run.steps:,}: by the convex "
            f"bound this makes it the best one again, and ends {less} lower than the same cooldown at an unchanged "
            "rate.",
            TRUST_IN_LENGTH,
        ),
    )


def _along_a_line(run: _Extension, moved: Transfer | None) -> Advice:
    """From the rate with the least bound, where the cooldown has begun, or there is none."""
    peak, now = float(jnp.max(tabulate(run.lr, run.length))), float(run.lr(run.at))
    fractions = jnp.arange(1, 51) / 50
    bounds = jax.lax.map(lambda fraction: run.bound(run.along_a_line(fraction * peak)), fractions)
    best = int(jnp.argmin(bounds))
    lowest = float(bounds[best])
    sentences = [
        f"To go on from step {run.at:,} to {run.steps:,} updates: set the rate to {_share(fractions[best])} of its "
        f"peak, within a few updates (it is at {_share(now / peak)} of it), and let it fall to 0 along a line."
    ]
    more = float(run.bound(run.along_a_line(now))) / lowest - 1 if now > 0 else None
    if more is not None and more < 1e-3:
        sentences = [
            f"To go on from step {run.at:,} to {run.steps:,} updates: let the rate fall to 0 along a line, from where "
            "it is."
        ]
    elif more is not None:
        sentences.append(f"By the convex bound, a line from where the rate is would end {_percent(more)} higher.")
    if moved is not None and (less := 1 - float(run.bound(moved.lower)) / lowest) > 0:
        sentences.append(
            f"If there is a checkpoint from step {moved.start:,}, where the cooldown began, go on from there instead, "
            f"at {moved.factor:.2f} times the rate and with a cooldown over the same share of the run: by the bound "
            f"that ends {_percent(less)} lower."
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
        for way, shape in (("a line", linear), ("1 - sqrt", one_minus_sqrt)):
            name = f"a cooldown along {way} over the last {_share(share)}"
            named[name] = cooldown(peak, rest - length, length, floor, shape)
    found = fit(curves)
    ends = {name: float(found.predict(warmed(lr), steps)) for name, lr in named.items()}
    best = min(ends, key=ends.__getitem__)
    error = float(found.standard_error(warmed(named[best]), steps))
    others = [f"{name} {ends[name]:.4f}" for name in ("linear decay", "cosine decay", "a constant rate")]
    after = f" after a warm-up over {warm:,} updates" if warm else ""
    falls = named[best] != constant(peak)
    down = f", down to {floor:.4g}, the lowest rate that they have been at" if falls else ""
    return Advice(
        warmed(named[best]),
        (
            f"For {steps:,} updates at the peak of your runs, {peak:.4g}{after}: {best}{down}.",
            f"The multi-power law that fits them predicts that this ends at {ends[best]:.4f} ± {error:.4f}, "
            f"{_listed([other for other in others if not other.startswith(best)])}.",
            f"How far to trust it: the law is off by {_percent(found.misfit)} on your runs themselves (root mean "
            f"square), and ± says only how well they determine it. {TRUST_IN_LAWS}",
        ),
    )


def _rates_of_curves(curves: Sequence[Curve]) -> tuple[float, int, float]:
    """The peak, the updates until it is reached, and the lowest rate after that."""
    rates = [np.asarray(read_rates("advise", curve.lr, int(curve.steps[-1]))) for curve in curves]
    peak = max(float(each.max()) for each in rates)
    warm = [int(np.argmax(each > (1 - 1e-6) * each.max())) for each in rates]
    floor = min(float(each[start:].min()) for each, start in zip(rates, warm, strict=True))
    if any(abs(each.max() / peak - 1) > 0.01 for each in rates):
        got = _listed([f"{each.max():.4g}" for each in rates])
        raise ValueError(f"advise: `curves` must have one peak, got {got}")
    if floor > 0.9 * peak:
        raise ValueError("advise: `curves` must hold one whose rate falls after its peak, got none")
    return _plain(peak), max(warm), _plain(floor)


def _plain(number: float) -> float:
    """Without the digits that float32 adds to it."""
    return float(f"{number:.6g}")


# In words -------------------------------------------------------------------------------------------------

# From `python -m experiments evidence last-iterate` and `loss-laws`; a test compares them with what is published.
TRUST = (
    "How far to trust it: the bound is a theorem for convex losses only. Over the schedules of a language model of 124 "
    "million parameters it had rank correlations of 0.68, 0.87 and 0.94 with the final losses after 15,000, 25,000 and "
    "50,000 updates; it prefers decay over the whole run, where a cooldown over 60 % was the best there."
)
TRUST_IN_LENGTH = (
    "How far to trust it: in the convex bound the best peak falls with the length of the run to the power of -0.51; "
    "for the same language model it fell to the power of -0.18 (15,000 to 50,000 updates), so that less of a change "
    "may be right."
)
TRUST_IN_LAWS = (
    "Fitted to three published runs of a language model, the law predicted six others with mean errors of 0.0036, "
    "0.0037 and 0.0056 at 25, 100 and 400 million parameters; fitted to two runs of small models of images, it "
    "predicted worse than the guess that any decay gains as much as cosine decay."
)


def _percent(share: ArrayLike) -> str:
    percent = 100 * float(np.asarray(share))
    return f"{percent:.0f} %" if abs(percent) >= 10 else f"{percent:.1f} %"


def _share(share: ArrayLike) -> str:
    return f"{100 * float(np.asarray(share)):.0f} %"


def _listed(items: Sequence[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else items[0]
