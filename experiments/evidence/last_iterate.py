"""Compares the convex bound with final losses: of a published language model, and of our sweep on digits."""

import csv
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import pearsonr, spearmanr

from experiments.reports.figure import STYLE, titled
from experiments.reports.labels import label_lines
from experiments.reports.question import Answer, Question
from experiments.reports.results import Loss, Results
from experiments.reports.text import markdown
from experiments.studies.policies import SCHEDULES
from experiments.studies.published import BLUE, GREEN, ORANGE
from schedules import Schedule, linear, one_minus_sqrt, warmup, warmup_cosine, wsd
from theory import best_peak

ROOT = Path(__file__).parents[2]
LLAMA = ROOT / "tests/curves/llama_runs.csv"
DIGITS = ROOT / "experiments/results/digits-policies/sweep/history.npz"
LENGTHS = {15_000: GREEN, 25_000: ORANGE, 50_000: BLUE}  # of the runs of LLAMA


@dataclass(frozen=True)
class Point:
    """A schedule of a run, with its final losses by peak and its bound."""

    name: str
    steps: int
    cooldown: int | None  # the length of the linear cooldown in percent of the run; None for other schedules
    losses: Mapping[float, float]
    bound: float  # at the best peak
    bound_peak: float  # the best peak by the bound, up to a factor that all points share

    @property
    def loss(self) -> float:
        """The lowest final loss of all peaks that were tried."""
        return min(self.losses.values())

    @property
    def peak(self) -> float | None:
        """The minimum of a parabola in the logarithm of the peak, through the best peak tried and the two next to it.

        None if fewer than three peaks were tried, or if the minimum is not between them.
        """
        tried = sorted(self.losses)
        first = min(max(tried.index(min(tried, key=self.losses.__getitem__)) - 1, 0), len(tried) - 3)
        if first < 0:
            return None
        near = tried[first : first + 3]
        bend, slope, _ = np.polyfit(np.log(near), [self.losses[peak] for peak in near], 2)
        peak = math.exp(-slope / (2 * bend))
        return peak if near[0] <= peak <= near[-1] else None


def point(name: str, steps: int, cooldown: int | None, losses: Mapping[float, float], lr: Schedule) -> Point:
    best = best_peak(lr, steps)
    return Point(name, steps, cooldown, losses, float(best.bound), float(best.peak))


# What was trained -------------------------------------------------------------------------------------


def llama() -> list[Point]:
    """All schedules of LLAMA, without runs that diverged or whose final rate or shape of decay is not recorded."""
    losses: dict[tuple[int, str, str], dict[float, float]] = {}
    with LLAMA.open() as file:
        for row in csv.DictReader(file):
            is_cosine = row["schedule"] == "cos"
            kind, number = ("cosine", row["final_scale"]) if is_cosine else (row["decay"], row["cooldown"])
            if kind and number and float(row["final_val_loss"]) < 4:
                kind = kind if is_cosine or float(number) else "constant"
                of_peak = losses.setdefault((int(row["steps"]), kind, number), {})
                of_peak[float(row["peak"])] = float(row["final_val_loss"])
    return [_llama(*key, of_peak) for key, of_peak in losses.items()]


def _llama(steps: int, kind: str, number: str, losses: Mapping[float, float]) -> Point:
    up, percent = 300, round(100 * float(number))
    down = steps * percent // 100
    flat = steps - up - down
    match kind:
        case "cosine":
            name = f"cosine to {percent} %"
            return point(name, steps, None, losses, warmup_cosine(1.0, up, steps - up, end=percent / 100))
        case "constant":
            return point(kind, steps, None, losses, warmup(1.0, up))
        case "sqrt":
            return point(f"1-sqrt, {percent} %", steps, None, losses, wsd(1.0, up, flat, down, shape=one_minus_sqrt))
    return point(f"linear, {percent} %", steps, percent, losses, wsd(1.0, up, flat, down, shape=linear))


def digits(of: Loss) -> list[Point]:
    """All schedules for Adam in the sweep on digits, without averages."""
    results = Results.load(DIGITS)
    grid = results.grid()
    return [
        point(name, results.steps, None, _by_rate(results, grid[name], of), lr(1.0, results.steps))
        for name, lr in SCHEDULES.items()
    ]


def _by_rate(results: Results, arms: Iterable[str], of: Loss) -> dict[float, float]:
    return {results.arms[arm].rate: float(results.loss(arm, of).mean()) for arm in arms}


# How they compare -------------------------------------------------------------------------------------


def agreement(points: Sequence[Point]) -> dict[str, float]:
    """Correlations of the bound with the lowest loss, and in how many pairs (`same` of `pairs`) they order alike."""
    bounds, losses = [p.bound for p in points], [p.loss for p in points]
    pairs = [*itertools.combinations(points, 2)]
    return {
        "n": len(points),
        "spearman": float(spearmanr(bounds, losses).statistic),
        "pearson": float(pearsonr(bounds, losses).statistic),
        "pairs": len(pairs),
        "same": sum((a.bound < b.bound) == (a.loss < b.loss) for a, b in pairs),
    }


def line(points: Sequence[Point]) -> tuple[float, float]:
    """Slope and intercept of the loss as a linear function of the bound, by least squares."""
    slope, start = np.polyfit([p.bound for p in points], [p.loss for p in points], 1)
    return float(slope), float(start)


def known_peaks(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    """The best peaks by the bound and in the runs, for points with both; the first are scaled to fit the second."""
    bound, runs = np.array([(p.bound_peak, peak) for p in points if (peak := p.peak)]).T
    return bound * np.exp(np.mean(np.log(runs / bound))), runs


def peaks(points: Sequence[Point]) -> dict[str, float]:
    """How well the bound predicts ratios of best peaks: the correlation of logarithms, and the largest error."""
    bound, runs = np.log(known_peaks(points))
    worst = float(np.exp(np.abs(bound - runs).max()))
    return {"n": len(runs), "pearson": float(pearsonr(bound, runs).statistic), "worst": worst}


def powers(points: Sequence[Point]) -> dict[str, float]:
    """The best peak goes as a power of the length of the run: the exponents by the bound and in the runs."""
    by_name: dict[str, list[tuple[float, float, float]]] = {}
    for p in points:
        if peak := p.peak:
            by_name.setdefault(p.name, []).append((p.steps, p.bound_peak, peak))
    several = [np.log(each) for each in by_name.values() if len(each) > 1]
    steps, bound, runs = np.concatenate([each - each.mean(axis=0) for each in several]).T
    variance = steps @ steps
    return {"schedules": len(several), "bound": float(steps @ bound / variance), "runs": float(steps @ runs / variance)}


def choice(cooldowns: Sequence[Point]) -> dict[str, float | int | None]:
    """The best length of cooldown in percent, by the bound and in the runs, and the loss that the former costs."""
    by_bound, by_runs = (min(cooldowns, key=lambda p: getattr(p, what)) for what in ("bound", "loss"))
    return {"bound": by_bound.cooldown, "runs": by_runs.cooldown, "cost": by_bound.loss - by_runs.loss}


PAIRS = [
    ("linear, 10 %", "constant"),
    ("linear, 20 %", "linear, 10 %"),
    ("1-sqrt, 20 %", "linear, 20 %"),
    ("cosine to 0 %", "cosine to 10 %"),
    ("linear, 90 %", "cosine to 0 %"),
    ("linear, 60 %", "linear, 90 %"),
]


def differences(points: Sequence[Point]) -> list[dict[str, str | int | float]]:
    """Differences in the loss, and relative ones in the bound, between the two schedules of each of PAIRS."""
    by_name = {(p.name, p.steps): p for p in points}
    both = [(by_name.get((a, steps)), by_name.get((b, steps))) for a, b in PAIRS for steps in LENGTHS]
    return [
        {"first": a.name, "second": b.name, "steps": a.steps, "loss": a.loss - b.loss, "bound": a.bound / b.bound - 1}
        for a, b in both
        if a and b
    ]


# The answer -------------------------------------------------------------------------------------------


def measure() -> Answer:
    runs, trained, validated = llama(), digits("training"), digits("validation")
    of_length = {f"Llama, {steps:,} updates": [p for p in runs if p.steps == steps] for steps in LENGTHS}
    cooldowns = {f"{name}, linear cooldowns": [p for p in at if p.cooldown] for name, at in of_length.items()}
    digit = {"digits, training loss": trained, "digits, validation loss": validated}
    numbers = {
        "agreement": {name: agreement(at) for name, at in {**of_length, **cooldowns, **digit}.items()},
        "choice": {name: choice(at) for name, at in cooldowns.items()},
        "differences": differences(runs),
        "peaks": {name: peaks(at) for name, at in {**of_length, **digit}.items()},
        "powers": powers(runs),
        "points": {name: [told(p) for p in at] for name, at in {**of_length, **digit}.items()},
    }
    return Answer(text(numbers), numbers, {"figure.png": figure(runs)})


def told(p: Point) -> dict[str, str | float | None]:
    return {"name": p.name, "loss": p.loss, "bound": p.bound, "peak": p.peak, "bound_peak": p.bound_peak}


def text(numbers: Mapping[str, Any]) -> str:
    """The report."""
    agreements = [
        [name, f"{a['n']}", f"{a['spearman']:.2f}", f"{a['pearson']:.3f}", f"{a['same']} of {a['pairs']}"]
        for name, a in numbers["agreement"].items()
    ]
    pairs = [
        [d["first"], d["second"], f"{d['steps']:,}", f"{d['loss']:+.4f}", f"{100 * d['bound']:+.1f} %"]
        for d in numbers["differences"]
    ]
    best = [[name, f"{p['n']}", f"{p['pearson']:.2f}", f"{p['worst']:.2f}"] for name, p in numbers["peaks"].items()]
    costs = [each["cost"] for each in numbers["choice"].values()]
    chosen = next(iter(numbers["choice"].values()))
    powers = numbers["powers"]
    return f"""Yes for schedules that differ much; no for choosing between long cooldowns. Schedules are compared by
their bound at the best peak (`best_peak`) and by their lowest final loss over all peaks that were tried.

{markdown([["schedules of", "n", "Spearman", "Pearson", "pairs in the same order"], *agreements])}

Llama: final validation losses of published runs of a model with 124 million parameters (`tests/curves/README.md`),
one seed each: the constant rate, cosine decay to 0 and to 10 %, and cooldowns from the constant rate. Digits: the 17
schedules for Adam in [our sweep](../../digits-policies/sweep/report.md), at seven peaks, with two seeds.

## Where they agree, and where they do not

The loss and the bound of the first schedule minus those of the second, each at its best peak:

{markdown([["first", "second", "updates", "loss", "bound"], *pairs], left=2)}

- **They agree** that a cooldown helps much, that 20 % of the run is better than 10 %, that 1-sqrt is better than linear
  for a short cooldown, that a floor of 10 % hurts, and that a long linear decay is not worse than cosine decay.
- **They disagree on the best length of a cooldown.** By the bound it is the whole run, or {chosen["bound"]} % among the
  lengths tried. In the runs it is {chosen["runs"]} %, for each number of updates. Following the bound costs
  {min(costs):.4f} to {max(costs):.4f} in loss. This is why rank correlations are lower among linear cooldowns;
  Pearson's correlation stays high because it depends mostly on the short ones.
- **Digits**: the bound ranks training losses well, but validation losses much less well.

## The best peak

In the runs, the best peak is the minimum of a parabola through the losses at the best peak tried and the two next to
it, in the logarithm of the peak. Schedules whose minimum is not between these are left out. By the bound, the best peak
has an unknown factor D / G, which is fitted for each row:

{markdown([["schedules of", "n", "Pearson, of logarithms", "largest error, a factor of"], *best])}

- **Between schedules** the ratios are about right: a longer cooldown needs a higher peak.
- **Between lengths of run** they are not. For T updates, the best peak of a schedule goes as T to the power of
  {powers["bound"]:.2f} in the bound, and to the power of {powers["runs"]:.2f} in the runs (15,000 to 50,000 updates,
  {powers["schedules"]} schedules).

This is one language model on one data set, with one seed, and with peaks that are a factor of 2 or more apart. With
other seeds, schedules whose losses differ by a few thousandths may change places.
"""


# The figure -------------------------------------------------------------------------------------------

MARKERS = {"linear": "o", "1-sqrt": "^", "cosine": "s", "constant": "D"}


def figure(points: Sequence[Point]) -> Figure:
    with matplotlib.rc_context({**STYLE, "axes.titlesize": "medium"}):
        made = titled(
            "Final losses of a language model, and what a bound for convex losses says of their schedules",
            f"Colours: the length of the run, {', '.join(f'{steps:,}' for steps in LENGTHS)} updates",
        )
        made.set_size_inches(10.5, 4.2)
        lengths, ranks, best = made.subplots(1, 3)
        _lengths(lengths, points)
        _ranks(ranks, points)
        _peaks(best, points)
        label_lines(made)
        return made


def _lengths(ax: Axes, points: Sequence[Point]) -> None:
    for steps, color in LENGTHS.items():
        cooldowns = sorted((p for p in points if p.steps == steps and p.cooldown), key=lambda p: p.cooldown or 0)
        slope, start = line(cooldowns)
        lowest = min(p.loss for p in cooldowns)
        shares = np.array([p.cooldown for p in cooldowns])
        ax.plot(shares, [p.loss - lowest for p in cooldowns], "o-", color=color, label=f"{steps:,}")
        ax.plot(shares, [start + slope * p.bound - lowest for p in cooldowns], "--", color=color)
    ax.set(xlabel="length of the cooldown, % of the run", ylabel="final loss, above the lowest")
    ax.annotate("dots: runs\ndashed: the bound, scaled", (0.35, 0.8), xycoords="axes fraction", color="#555555")
    ax.set_title("How long a cooldown?")


def _ranks(ax: Axes, points: Sequence[Point]) -> None:
    for steps, color in LENGTHS.items():
        at = [p for p in points if p.steps == steps]
        least, lowest = min(p.bound for p in at), min(p.loss for p in at)
        for p in at:
            above, loss = 100 * (p.bound / least - 1), p.loss - lowest
            if above < 20:
                ax.plot(above, loss, _marker(p), color=color, markersize=6, alpha=0.8)
            else:
                ax.annotate(
                    f"{p.name}: {above:.0f} %, {loss:.3f}", (1, 0.01), xycoords="axes fraction", ha="right", color=color
                )
    kinds = ("linear", "1-sqrt", "cosine")
    marks = [Line2D([], [], marker=MARKERS[kind], color="#555555", linestyle="none") for kind in kinds]
    ax.set(xlabel="bound, above the lowest, %", ylabel="final loss, above the lowest")
    ax.set_title("A lower bound, a lower loss?")
    ax.legend(marks, kinds, frameon=False, loc="upper left")


def _peaks(ax: Axes, points: Sequence[Point]) -> None:
    known = [p for p in points if p.peak]
    for p, bound, runs in zip(known, *known_peaks(points), strict=True):
        ax.plot(bound, runs, _marker(p), color=LENGTHS[p.steps], markersize=5)
    ax.axline((1e-3, 1e-3), slope=1, color="#999999", linewidth=1, zorder=0)
    ticks = [3e-4, 5e-4, 1e-3, 2e-3]
    labels = [f"{tick:g}" for tick in ticks]
    ax.set(
        xscale="log", yscale="log", xlabel="best peak rate by the bound, scaled", ylabel="best peak rate of the runs"
    )
    ax.set_xticks(ticks, labels, minor=False)
    ax.set_yticks(ticks, labels, minor=False)
    ax.minorticks_off()
    ax.set_title("The best peak rate?")


def _marker(p: Point) -> str:
    return next(marker for kind, marker in MARKERS.items() if p.name.startswith(kind))


LAST_ITERATE = Question("last-iterate", "Does the convex bound rank schedules by their final losses?", measure)
