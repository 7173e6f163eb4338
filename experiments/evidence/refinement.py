"""A second run on digits with a schedule that is refined by the gradient norms of a first run."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.engine.plan import Plan
from experiments.engine.train import results_of
from experiments.reports.figure import DASHES, LONG_DASHES, STYLE, Look, moving_average
from experiments.reports.question import Answer, Question
from experiments.reports.results import Loss, Results
from experiments.reports.text import markdown, spread, standard_error
from experiments.studies.published import BLACK, BLUE, GREEN, GREY, VERMILION, decayed_adam
from experiments.studies.study import Arm
from experiments.tasks.digits import DIGITS
from schedules import Schedule, constant, cosine, linear, tabulate
from theory import refine
from theory.refinement import median_filtered

FIRST, SECOND = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)  # seeds
FACTORS = (0.5, 0.7, 1.0, 1.4)  # of the peak rate of the task
SMOOTHING = 0.1
REFINED = {"constant": "refined from constant", "cosine": "refined from cosine"}
NAMED = {"constant": constant(1.0), "linear": linear(1.0, 0.0, DIGITS.steps), "cosine": cosine(1.0, 0.0, DIGITS.steps)}
LOOKS: Mapping[str, Look] = {
    "constant": {"color": GREY},
    "linear": {"color": BLUE, "linestyle": DASHES},
    "cosine": {"color": BLACK},
    "refined from constant": {"color": VERMILION},
    "refined from cosine": {"color": GREEN, "linestyle": LONG_DASHES},
}
LOSSES: tuple[Loss, Loss] = ("training", "validation")


def measure() -> Answer:
    first = trained({name: NAMED[name] for name in REFINED}, [1.0], FIRST)
    norms = {name: mean_norms(first, name) for name in REFINED}
    refined = {REFINED[name]: refine(of_run, "l1", smoothing=SMOOTHING) for name, of_run in norms.items()}
    shapes = {**NAMED, **refined}
    second = trained(shapes, FACTORS, SECOND)
    at_peaks = {f"{factor:g}": {name: name_of(name, factor) for name in shapes} for factor in FACTORS}
    numbers = {
        "peak": DIGITS.learning_rate,
        "seeds": {"first": FIRST, "second": SECOND},
        "peaks": {factor: {of: ends(second, arms, of) for of in LOSSES} for factor, arms in at_peaks.items()},
        "best peak": {of: ends(second, best(second, of), of) for of in LOSSES},
        "schedules": {name: np.round(tabulate(lr, DIGITS.steps), 4).tolist()[::24] for name, lr in refined.items()},
        "norms": {name: np.round(of_run, 2).tolist()[::24] for name, of_run in norms.items()},
    }
    return Answer(text(numbers), numbers, {"figure.png": figure(norms, shapes, second)})


# What is trained --------------------------------------------------------------------------------------


def trained(shapes: Mapping[str, Schedule], factors: Sequence[float], seeds: Sequence[int]) -> Results:
    """Trains every shape at multiples of the peak rate, in one program."""
    arms = [
        Arm(
            name_of(name, factor),
            decayed_adam,
            {"learning_rate": factor * DIGITS.learning_rate * shape, "b1": 0.9},
            DIGITS.steps,
            fields={"policy": name, "factor": factor},
        )
        for name, shape in shapes.items()
        for factor in factors
    ]
    data = DIGITS.load(None)
    plan = Plan(
        DIGITS.title(None),
        DIGITS.model,
        data,
        (*seeds,),
        DIGITS.batch_size,
        "",
        arms,
        DIGITS.steps,
        gradient_norms="l1",
    )
    return results_of(plan)


def name_of(shape: str, factor: float) -> str:
    return f"{shape} x {factor:g}"


def mean_norms(results: Results, shape: str) -> np.ndarray:
    """The mean gradient norm over the seeds, for each record."""
    recorded = results.history.recorded()["gradient_norm"]
    return recorded[results.row(name_of(shape, 1.0))].mean(axis=0, dtype=np.float64)


def best(results: Results, of: Loss) -> dict[str, str]:
    """The arm of each shape at its best peak."""
    return {name: arm for name, arms in results.grid().items() if (arm := results.best(arms, of))}


def ends(results: Results, arms: Mapping[str, str], of: Loss) -> dict[str, dict[str, Any]]:
    """The final losses of all seeds, and how much higher they are than those of cosine with the same seed."""
    losses = {name: results.loss(arm, of) for name, arm in arms.items()}
    above = {name: values - losses["cosine"] for name, values in losses.items()}
    return {
        name: {
            "factor": results.factor(arms[name]),
            "losses": values.tolist(),
            "mean": float(values.mean()),
            "error": float(standard_error(values)),
            "above cosine": float(above[name].mean()),
            "error of that": float(standard_error(above[name])),
        }
        for name, values in losses.items()
    }


# The answer -------------------------------------------------------------------------------------------


def text(numbers: Mapping[str, Any]) -> str:
    return f"""{verdict(numbers)}

First runs with Adam, one at a constant rate and one with cosine decay, recorded the L1 norms of their gradients, with
{len(FIRST)} seeds each. From the mean norms of each, `refine` made a schedule, with a median over
{100 * SMOOTHING:.0f} % of the run. The second runs used these schedules with {len(SECOND)} other seeds. Losses are
those at the end, ± standard error. "Above cosine" is the difference from cosine decay, paired by seed.

## Each at the best of {len(FACTORS)} peaks

{table(numbers["best peak"], with_peak=True)}

The peaks tried are {", ".join(numbers["peaks"])} times {numbers["peak"]:g}, the default rate of the task, which was
chosen for cosine decay. For every schedule, the best peak is chosen by the reported loss itself, on the same seeds.

## All at the same peak, {numbers["peak"]:g}

{table(numbers["peaks"]["1"])}

## Training loss above cosine, by peak

{by_peak(numbers["peaks"])}

## The refined schedules

Gradient norms fall during a run, and fall further when the rate decays. So the refined schedules start below their
peak, like a short warm-up, and are above linear decay for nearly all of the run; the schedule refined from cosine is
the highest. If the peak is too low, this helps as a higher peak does. At the best peak it does not help.
"""


def verdict(numbers: Mapping[str, Any]) -> str:
    """How the refined schedules compare with cosine."""
    at_best = [compared(numbers["best peak"][of], f"in {of} loss") for of in LOSSES]
    lowest, of_lowest = next(iter(numbers["peaks"].items()))
    below = compared(of_lowest["training"], "in training loss")
    return f"Each at its best peak: {'; '.join(at_best)}. All at {lowest} times the default peak: {below}."


def compared(ends: Mapping[str, Mapping[str, Any]], where: str) -> str:
    """The better of the refined schedules, compared with cosine."""
    name = min(REFINED.values(), key=lambda name: ends[name]["mean"])
    above, error = ends[name]["above cosine"], ends[name]["error of that"]
    order = "does not differ clearly from" if abs(above) < 2 * error else "ends below" if above < 0 else "ends above"
    return f"*{name}* {order} cosine {where} ({above:+.3f} ± {error:.3f})"


def table(measured: Mapping[str, Mapping[str, Mapping[str, Any]]], with_peak: bool = False) -> str:
    """A table of the final losses of each schedule, and how far they are above cosine."""
    rows = [["schedule", *(each for of in LOSSES for each in (*["peak"] * with_peak, f"{of} loss", "above cosine"))]]
    for name in LOOKS:
        row = [name]
        for of in LOSSES:
            end = measured[of][name]
            row += [f"{end['factor']:g}"] * with_peak + [spread(np.array(end["losses"]), 3), above_cosine(name, end)]
        rows.append(row)
    return markdown(rows)


def by_peak(peaks: Mapping[str, Any]) -> str:
    rows = [["schedule", *(f"at {factor}" for factor in peaks)]]
    rows += [[name, *(above_cosine(name, at["training"][name]) for at in peaks.values())] for name in LOOKS]
    return markdown(rows)


def above_cosine(name: str, end: Mapping[str, Any]) -> str:
    return "-" if name == "cosine" else f"{end['above cosine']:+.3f} ± {end['error of that']:.3f}"


# The figure -------------------------------------------------------------------------------------------


def figure(norms: Mapping[str, np.ndarray], shapes: Mapping[str, Schedule], second: Results) -> Figure:
    with matplotlib.rc_context({**STYLE, "axes.titlesize": "medium"}):
        made = Figure(figsize=(9.5, 7), layout="constrained")
        (seen, called_for), (losses, peaks) = made.subplots(2, 2)
        _norms(seen, norms)
        _shapes(called_for, shapes)
        _losses(losses, second)
        _peaks(peaks, second)
        made.legend(*losses.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        return made


def _norms(ax: Axes, norms: Mapping[str, np.ndarray]) -> None:
    for name, of_run in norms.items():
        ax.plot(of_run, color=LOOKS[name]["color"], linewidth=0.4, alpha=0.35)
        ax.plot(median_filtered(of_run, SMOOTHING), color=LOOKS[name]["color"], linewidth=2)
        ax.annotate(name, (len(of_run), of_run[-50:].mean()), xytext=(4, 0), textcoords="offset points", va="center")
    ax.set(xlabel="updates", ylabel="L1 norm of the gradient, mean over seeds", ylim=(0, None), xlim=(0, None))
    ax.set_title("Seen in the first run, with its median", loc="left", fontweight="bold")


def _shapes(ax: Axes, shapes: Mapping[str, Schedule]) -> None:
    for name, lr in shapes.items():
        ax.plot(tabulate(lr, DIGITS.steps), linewidth=1.6, **LOOKS[name])
    ax.set(xlabel="updates", ylabel="rate over peak", ylim=(0, 1.05), xlim=(0, None))
    ax.set_title("The schedules of the second run", loc="left", fontweight="bold")


def _losses(ax: Axes, second: Results) -> None:
    for name, look in LOOKS.items():
        curves = moving_average(second.train_loss_curve(name_of(name, 1.0)), second.window).mean(axis=0)
        updates = (second.window + np.arange(len(curves))) * second.every
        ax.plot(updates, curves, linewidth=1.4, label=name, **look)
    ax.set(
        xlabel="updates",
        ylabel=f"training loss, mean of {second.window * second.every} updates",
        yscale="log",
        xlim=(0, None),
    )
    ax.set_yticks([0.1, 0.2, 0.5, 1.0, 2.0], ["0.1", "0.2", "0.5", "1", "2"])
    ax.minorticks_off()
    ax.set_title("The second run, at the same peak", loc="left", fontweight="bold")


def _peaks(ax: Axes, second: Results) -> None:
    for name, look in LOOKS.items():
        losses = np.array([second.train_loss(name_of(name, factor)) for factor in FACTORS])
        peaks = DIGITS.learning_rate * np.array(FACTORS)
        ax.errorbar(peaks, losses.mean(axis=1), standard_error(losses), linewidth=1.4, capsize=2, **look)
    ax.set(xlabel="peak rate", ylabel="training loss at the end, ± standard error", xscale="log", ylim=(0, None))
    ax.set_xticks(peaks, [f"{peak:g}" for peak in peaks])
    ax.minorticks_off()
    ax.set_title("At other peaks", loc="left", fontweight="bold")


REFINEMENT = Question("refinement", "Is a schedule refined by gradient norms better than cosine?", measure)
