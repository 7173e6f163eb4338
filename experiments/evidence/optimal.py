"""The best schedules for two models of training: the convex bound, and a law fitted to loss curves."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.evidence.loss_laws import FLOOR, PEAK, published_curves
from experiments.reports.figure import DASHES, DOTS, STYLE, Look, titled
from experiments.reports.labels import label_lines
from experiments.reports.question import Answer, Question
from experiments.reports.text import markdown
from experiments.studies.published import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION
from schedules import (
    Schedule,
    Shape,
    constant,
    cosine,
    linear,
    one_minus_sqrt,
    polynomial,
    tabulate,
    warmup,
    wsd,
)
from theory import Curve, Fit, best_peak, bound, fit, optimize

WARMUP, STEPS = 2_160, 24_000  # of the published runs, with PEAK and FLOOR
COOLDOWNS = ("wsd_20000_24000", "wsdld_20000_24000")  # the law is not fitted to these
DECAYING = STEPS - WARMUP
PIECES = 100
FLOORS = {"to 3e-5": FLOOR, "to 0": 0.0}
OF_BOUND = 10_000  # updates


def measure() -> Answer:
    seen, unseen = published_curves("100m")
    fitted = fit([*seen.values()])
    shown = {"cosine_24000": seen["cosine_24000"], **{name: unseen[name] for name in COOLDOWNS}}
    numbers = {
        "bound": of_bound(),
        "law": dataclasses.asdict(fitted.law),
        "ends": ends(fitted, shown),
        "floors": {name: of_law(fitted, floor) for name, floor in FLOORS.items()},
    }
    return Answer(text(numbers), numbers, {"figure.png": figure(numbers)})


# The bound --------------------------------------------------------------------------------------------


def of_bound() -> dict[str, Any]:
    """Bounds at the best peak by schedule, and what `optimize` finds from two bad starting points."""
    named = {
        "constant": constant(1.0),
        "linear cooldown over 20 %": wsd(1.0, 0, OF_BOUND * 8 // 10, OF_BOUND * 2 // 10),
        "cosine": cosine(1.0, 0.0, OF_BOUND),
        "linear": linear(1.0, 0.0, OF_BOUND),
    }

    def objective(rates: Array) -> Array:
        return bound(rates, OF_BOUND)

    free = optimize(1.0, OF_BOUND, objective, PIECES)
    numbers = optimize(polynomial(1.0, 0.1, OF_BOUND, 3.0), OF_BOUND, objective)
    rates = np.asarray(tabulate(free.schedule, OF_BOUND))
    return {
        "named": {name: float(best_peak(lr, OF_BOUND).bound) for name, lr in named.items()},
        "free": free.after,
        "polynomial": numbers.after,
        "exponent": numbers.schedule.exponent,
        "from linear": float(np.abs(rates / rates[0] - tabulate(named["linear"], OF_BOUND)).max()),
        "rates": (rates / rates[0])[:: OF_BOUND // PIECES].tolist(),
    }


# The law ----------------------------------------------------------------------------------------------


def ends(fitted: Fit, curves: Mapping[str, Curve]) -> dict[str, dict[str, float]]:
    """Means of the last five losses, predicted and published."""

    def means(curve: Curve) -> dict[str, float]:
        predicted = fitted.predict(curve.lr, curve.steps[-5:])
        return {"predicted": float(np.mean(predicted)), "published": float(np.mean(curve.losses[-5:]))}

    return {name: means(curve) for name, curve in curves.items()}


SHAPES: Mapping[str, Shape] = {"linear": linear, "cosine": cosine, "1-sqrt": one_minus_sqrt}
SHARES = range(5, 101, 5)  # percent of the updates after the warm-up


def of_law(fitted: Fit, floor: float) -> dict[str, Any]:
    """The predicted final losses of cooldowns to `floor`, and the best of all schedules that never increase."""
    cooldowns = {
        (shape, share): wsd(PEAK, WARMUP, DECAYING - length, length, floor, SHAPES[shape])
        for shape in SHAPES
        for share in SHARES
        if (length := DECAYING * share // 100)
    }
    named = {("constant", 0): warmup(PEAK, WARMUP), **cooldowns}
    ends = {name: float(fitted.predict(lr, STEPS)) for name, lr in named.items()}
    best = min(ends, key=ends.__getitem__)
    begun = linear(PEAK, floor, DECAYING)
    found = warmup(optimize(begun, DECAYING, Ended(fitted), PIECES, PEAK, floor).schedule, WARMUP)
    rates = np.asarray(tabulate(found, STEPS))[WARMUP:]
    gain, error = gained(fitted, named[best], found)
    return {
        "named": [{"shape": shape, "share": share, "end": end} for (shape, share), end in ends.items()],
        "best": {"shape": best[0], "share": best[1], "end": ends[best]},
        "found": float(fitted.predict(found, STEPS)),
        "gain": gain,
        "error of gain": error,
        "flat": round(float(np.mean(rates > 0.99 * PEAK)), 3),
        "power": best_power(fitted, floor),
        "rates": (rates / PEAK)[:: DECAYING // PIECES].tolist(),
    }


class Ended:
    """The predicted loss at the end of a run, as a function of the rates after the warm-up."""

    def __init__(self, fitted: Fit):
        self.law = fitted.law

    def __call__(self, rates: Array) -> Array:
        before = jnp.arange(WARMUP) * (PEAK / WARMUP)
        return self.law.predict(jnp.concatenate([before, rates]), STEPS)


def gained(fitted: Fit, first: Schedule, second: Schedule) -> tuple[float, float]:
    """How much lower the second schedule is predicted to end, and the standard error from the resampled laws."""
    count = len(jax.tree.leaves(fitted.resampled)[0])
    laws = [fitted.law, *(jax.tree.map(lambda array, i=i: float(array[i]), fitted.resampled) for i in range(count))]
    gains = [float(law.predict(first, STEPS) - law.predict(second, STEPS)) for law in laws]
    return gains[0], float(np.std(gains[1:], ddof=1))


def best_power(fitted: Fit, floor: float) -> dict[str, float]:
    """The best schedule on a grid of those that are flat and then fall as a power of the remaining updates."""
    with jax.enable_x64(True):
        shares, exponents = jnp.arange(2, 41) / 40, jnp.arange(5, 31) / 10
        pairs = jnp.stack([each.ravel() for each in jnp.meshgrid(shares, exponents)], axis=1)
        remains = 1 - jnp.arange(DECAYING) / DECAYING
        end = Ended(fitted)

        def of(pair: Array) -> Array:
            return end(floor + (PEAK - floor) * jnp.minimum(remains / pair[0], 1.0) ** pair[1])

        ends = jax.jit(lambda pairs: jax.lax.map(of, pairs))(pairs)
        (share, exponent), least = pairs[ends.argmin()].tolist(), ends.min().item()
    return {"share": share, "exponent": exponent, "end": least}


# The answer -------------------------------------------------------------------------------------------


def text(numbers: Mapping[str, Any]) -> str:
    of_bound = numbers["bound"]
    supported, beyond = (numbers["floors"][name] for name in FLOORS)
    bounds = {
        **of_bound["named"],
        "`optimize`: the numbers of a polynomial": of_bound["polynomial"],
        f"`optimize`: any that never increases, {PIECES} pieces": of_bound["free"],
    }
    linear = of_bound["named"]["linear"]
    rows = [["schedule", "bound", "above linear"]]
    rows += [[name, f"{value:.6f}", f"{100 * (value / linear - 1):+.2f} %"] for name, value in bounds.items()]
    return f"""It depends on the model of training. For the convex bound, linear decay over the whole run is best. For a
law fitted to a language model, the best schedule is flat for {percent(supported["flat"])} of the run after its warm-up
and then falls about as a power of the remaining updates. It is predicted to end {supported["gain"]:.4f} below the best
named schedule, and {whole(supported) - supported["found"]:.3f} below linear decay over the whole run.

## The convex bound

{OF_BOUND:,} updates, gradients of norm 1, a distance of 1, each schedule at its best peak. `optimize` started from a
constant rate of 1, which is 100 times the best peak of linear decay, and from `polynomial(1.0, 0.1, {OF_BOUND}, 3.0)`.

{markdown(rows)}

The free schedule differs from linear decay by at most {of_bound["from linear"]:.3f} of the peak, and the polynomial
ends up with an exponent of {of_bound["exponent"]:.3f}. There is nothing left to gain over linear decay.

## The law of the 100M model

The multi-power law is fitted to the three [published curves](../../../../tests/curves/README.md) that its authors used
for their fit. The run has {STEPS:,} updates, the first {WARMUP:,} of them a warm-up, and a peak of {PEAK:g}. Predicted
final losses, with the length of the cooldown in percent of the updates after the warm-up:

{markdown([["", *FLOORS], *of_each(numbers["floors"])])}

- **To 3e-5**, the final rate of the curves: {told(supported)}
- **To 0**, which is far from all rates of the curves: {told(beyond)}
- The peak is that of the runs. The law has seen no other peak, and does not know at which one a run diverges.

## How far to trust it

The standard errors come from laws fitted to resampled curves. They do not include the error of the law itself. Two
published runs to which the law was not fitted have a cooldown over the last 4,000 updates. Means of their last five
losses:

{markdown([["run", "predicted", "published"], *compared(numbers["ends"])])}

So the law predicts too low a loss for a short cooldown. Its error is larger than the whole gain over the best named
schedule. But in the runs, too, a short cooldown ends lower than a decay over the whole run.
"""


def of_each(floors: Mapping[str, Any]) -> list[list[str]]:
    """Rows of a table: predicted ends, by floor."""
    constant = next(iter(floors.values()))["named"][0]["end"]
    rows = [["constant", *[f"{constant:.4f}"] * len(floors)]]
    for shape in SHAPES:
        of_shape = [[each for each in floor["named"] if each["shape"] == shape] for floor in floors.values()]
        shortest = [min(each, key=lambda cooldown: cooldown["end"]) for each in of_shape]
        rows.append([f"{shape}, over the whole run", *(f"{each[-1]['end']:.4f}" for each in of_shape)])
        rows.append([f"{shape}, at its best length", *(f"{each['end']:.4f} ({each['share']} %)" for each in shortest)])
    powers = [floor["power"] for floor in floors.values()]
    rows.append(
        ["flat, then a power", *(f"{p['end']:.4f} ({percent(p['share'])}, {p['exponent']:.1f})" for p in powers)]
    )
    return [*rows, ["`optimize`", *(f"{floor['found']:.4f}" for floor in floors.values())]]


def told(floor: Mapping[str, Any]) -> str:
    best, power = floor["best"], floor["power"]
    return f"""the best named schedule is a {best["shape"]} cooldown over {best["share"]} %.
  The schedule of `optimize` ends {floor["gain"]:.5f} ± {floor["error of gain"]:.5f} lower, and is flat for
  {percent(floor["flat"])} of the updates after the warm-up. A simple schedule near it is flat and then, over the last
  {percent(power["share"])}, falls as the power {power["exponent"]:.1f} of the remaining updates."""


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def compared(ends: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    return [[f"`{name}`", f"{end['predicted']:.4f}", f"{end['published']:.4f}"] for name, end in ends.items()]


def whole(floor: Mapping[str, Any]) -> float:
    """The predicted end of linear decay over the whole run."""
    return next(each["end"] for each in floor["named"] if (each["shape"], each["share"]) == ("linear", 100))


# The figure -------------------------------------------------------------------------------------------

LOOKS: Mapping[str, Look] = {
    "linear": {"color": BLUE, "linestyle": DASHES},
    "cosine": {"color": BLACK},
    "1-sqrt": {"color": ORANGE, "linestyle": DOTS},
}
FOUND = dict(zip(FLOORS, (VERMILION, GREEN), strict=True))


def figure(numbers: Mapping[str, Any]) -> Figure:
    with matplotlib.rc_context({**STYLE, "axes.titlesize": "medium"}):
        made = titled("Best schedules, as a search over all of them finds them")
        made.set_size_inches(10.5, 4)
        of_bound, of_law, lengths = made.subplots(1, 3)
        _best(of_bound, "For the convex bound: linear decay", OF_BOUND)
        updates, rates = _over(numbers["bound"]["rates"], 0, OF_BOUND)
        of_bound.plot(updates, rates, color=VERMILION, linewidth=1.6)
        apart = np.max(np.abs(np.array(rates) - 1 + updates / OF_BOUND))
        of_bound.text(
            0.97, 0.85, f"at most {apart:.1g} of the peak\nfrom linear", ha="right", transform=of_bound.transAxes
        )
        _best(of_law, "For a law of a language model’s loss", STEPS)
        of_law.plot([0, WARMUP], [0, 1], color=GREY)
        for name, floor in numbers["floors"].items():
            updates, rates = _over(floor["rates"], WARMUP, STEPS)
            of_law.plot(updates, rates, color=FOUND[name], linewidth=1.6, label=name)
        _lengths(lengths, numbers["floors"]["to 3e-5"])
        label_lines(made)
        return made


def _best(ax: Axes, title: str, steps: int) -> None:
    ax.set(xlabel="updates", ylabel="rate over peak", xlim=(0, steps), ylim=(0, 1.05))
    ax.set_title(title)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter("{x:,.0f}")


def _over(rates: list[float], first: int, last: int) -> tuple[np.ndarray, list[float]]:
    return first + np.arange(len(rates)) * ((last - first) // PIECES), rates


def _lengths(ax: Axes, floor: Mapping[str, Any]) -> None:
    for shape, look in LOOKS.items():
        of_shape = [each for each in floor["named"] if each["shape"] == shape]
        shares, ends = [each["share"] for each in of_shape], [each["end"] for each in of_shape]
        ax.plot(shares, ends, linewidth=1.6, label=shape, **look)
    ax.plot([0, 100], [floor["found"]] * 2, color=FOUND["to 3e-5"], linewidth=1.6, label="best of all")
    ax.set(
        xlabel="length of a cooldown to 3e-5,\n% of the run after its warm-up",
        ylabel="predicted loss at the end",
        xlim=(0, 100),
    )
    ax.set_title("Cooldowns by that law")


OPTIMAL = Question("optimal", "Which schedule is best?", measure)
