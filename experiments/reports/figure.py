"""The figures of a comparison: curves by question, and where all arms end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from experiments.reports.labels import label_lines
from experiments.reports.results import Loss, Results
from experiments.reports.text import standard_error

Look = Mapping[str, Any]  # keywords of matplotlib for a line: a colour, and what it is called if not by its name


@dataclass(frozen=True)
class Panel:
    """A question, and the arms whose curves answer it: their losses, or how much above those of `baseline` they are."""

    question: str
    arms: tuple[str, ...]
    baseline: str | None = None  # an arm of the same run


# Hues of Okabe and Ito, safe for colour-blind readers, from dark to light, for lines that also differ in dash.
DOTS, DASHES, LONG_DASHES = (0, (1, 1)), (0, (4, 1.5)), (0, (8, 1.5, 1, 1.5))
LOOKS: Sequence[Look] = (
    {"color": "#000000"},
    {"color": "#0072B2", "linestyle": DASHES},
    {"color": "#D55E00", "linestyle": DOTS},
    {"color": "#009E73", "linestyle": LONG_DASHES},
    {"color": "#CC79A7"},
    {"color": "#E69F00", "linestyle": DASHES},
)

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
ENDS = "At the end, lowest first"
WIDTH = 9.0  # inches: on a page that is 830 pixels wide, letters are 12 pixels high


def plot(results: Results, panels: Sequence[Panel], looks: Mapping[str, Look], of: Loss = "training") -> Figure:
    """The loss of every arm: on the left the curves, by question, and on the right where each arm ends."""
    with matplotlib.rc_context(STYLE):
        notes = _notes(results, of, panels), _notes_of_ends(results)
        figure = titled(f"{results.title}: {results.named(of)} over {results.steps:,} updates", *notes)
        figure.set_size_inches(WIDTH, max(0.8 + 2.3 * len(panels), 1.3 + 0.22 * len(results.arms)))
        grid = figure.add_gridspec(max(len(panels), 1), 2 if panels else 1, width_ratios=(5, 4) if panels else (1,))
        for i, panel in enumerate(panels):
            _curves(figure.add_subplot(grid[i, 0]), results, of, panel, looks)
        _ends(figure.add_subplot(grid[:, -1]), results, of, looks if panels else {})
        label_lines(figure)
        return figure


def plot_panels(results: Results, panels: Sequence[Panel], looks: Mapping[str, Look], of: Loss = "training") -> Figure:
    """The curves of some questions, in one row."""
    with matplotlib.rc_context({**STYLE, "axes.titlesize": "medium" if len(panels) < 3 else "small"}):
        figure = titled(f"{results.title}: {results.named(of)}", _notes(results, of, panels))
        figure.set_size_inches(WIDTH, 4)
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, panel in zip(axes, panels, strict=True):
            _curves(ax, results, of, panel, looks)
            ax.label_outer()
        label_lines(figure)
        return figure


def titled(title: str, *notes: str) -> Figure:
    """An empty figure with a title, and below it how to read it."""
    figure = Figure(layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    told = "\n".join(filter(None, (title, *notes)))
    figure.suptitle(told, parse_math=False, x=0.01, ha="left", fontsize="medium")
    return figure


def _notes(results: Results, of: Loss, panels: Sequence[Panel]) -> str:
    """How to read the curves."""
    if not panels:
        return ""
    noisy = of == "training" and not results.exact
    averaged = f"moving averages over {results.window * results.every:,} updates" if noisy else ""
    shaded = f"shaded: the middle half of {len(results.seeds)} seeds" if len(results.seeds) > 1 else ""
    told = "; ".join(filter(None, (averaged, shaded)))
    return f"Curves: {told}" if told else ""


def _notes_of_ends(results: Results) -> str:
    """How to read the dots."""
    several = f"mean ± standard error of {len(results.seeds)} seeds" if len(results.seeds) > 1 else ""
    shorter = "hollow: a shorter run" if any(results.end(arm) < results.done for arm in results.arms) else ""
    told = "; ".join(filter(None, (several, shorter)))
    return f"Dots: {told}" if told else ""


def _curves(ax: Axes, results: Results, of: Loss, panel: Panel, looks: Mapping[str, Look]) -> None:
    baseline = panel.baseline if panel.baseline in results.arms else None
    drawn = {name: _curve(results, of, name, baseline) for name in panel.arms if name in results.arms}
    for name, (updates, curves) in drawn.items():
        look = {"label": name, **looks[name]}
        mean = curves.mean(axis=0)
        ax.plot(updates, mean, linewidth=1.6, **look)
        ax.fill_between(
            updates, *np.quantile(curves, (0.25, 0.75), axis=0), color=look["color"], alpha=0.15, linewidth=0
        )
        ax.plot(updates[-1:], mean[-1:], "o", color=look["color"], markersize=5, zorder=3)
    if limits := _around([*drawn.values()], results) if baseline else _limits(results, of):
        ax.set_ylim(*limits)
    ax.set(xlim=(0, 1.01 * results.steps), xlabel="updates", ylabel=results.named(of))
    if baseline:
        ax.set_ylabel(f"{results.named(of)}\ndifference to {looks[baseline].get('label', baseline)}")
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_formatter("{x:+.3g}")
    ax.set_xticks(np.linspace(0, results.steps, 5))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_title(panel.question)


def _curve(results: Results, of: Loss, name: str, baseline: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """After how many updates, and the losses (seeds, updates), less those of the baseline on the same batches."""
    updates, losses = _measured(results, of, name)
    if baseline:
        shared = min(len(updates), len((below := _measured(results, of, baseline)[1])[0]))
        with np.errstate(invalid="ignore"):  # of infinite losses the difference is no number
            updates, losses = updates[:shared], losses[:, :shared] - below[:, :shared]
    if of == "validation":
        return updates, losses
    averaged = moving_average(losses, results.window)
    return updates[len(updates) - averaged.shape[1] :], averaged


def _measured(results: Results, of: Loss, name: str) -> tuple[np.ndarray, np.ndarray]:
    if of == "validation":
        return results.valid_loss_curve(name)
    losses = results.train_loss_curve(name)
    return (1 + np.arange(losses.shape[1])) * results.every, losses


def _ends(ax: Axes, results: Results, of: Loss, looks: Mapping[str, Look]) -> None:
    """From the lowest loss at the top to the highest; what diverged is last."""
    ends = {name: results.loss(name, of) for name in results.arms}
    means = {name: float(losses.mean()) for name, losses in ends.items()}
    names = sorted(means, key=lambda name: np.nan_to_num(means[name], nan=np.inf))
    for row, name in enumerate(names):
        colour = looks.get(name, {"color": "black"})["color"]
        face = "white" if results.end(name) < results.done else colour
        with np.errstate(invalid="ignore"):  # of infinite losses the spread is no number
            error = standard_error(ends[name]) if len(results.seeds) > 1 else None
        ax.errorbar(means[name], row, xerr=error, fmt="o", color=colour, markersize=5.5, markerfacecolor=face)
    labels = [looks.get(name, {}).get("label", name) for name in names]
    ax.set_yticks(range(len(names)), labels, fontsize="small", parse_math=False)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(color="#e5e5e5")
    ax.set_axisbelow(True)
    scale_for(ax, "x", np.array([*means.values()]))
    ax.set_xlabel(f"{results.named(of)} at the end")
    ax.set_title(ENDS)


def scale_for(ax: Axes, which: Literal["x", "y"], losses: np.ndarray) -> None:
    """An axis for losses, logarithmic where the largest is more than three times the smallest."""
    finite = losses[np.isfinite(losses)]
    axis = ax.xaxis if which == "x" else ax.yaxis
    if finite.size and 0 < 3 * finite.min() < finite.max():
        ax.set(**{f"{which}scale": "log"})
        few = finite.max() < 10 * finite.min()
        axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7) if few else (1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(5))


def _limits(results: Results, of: Loss) -> tuple[float, float] | None:
    """Of losses: without the first tenth of the run, in which every arm falls alike."""
    top = _top(results, of)
    ends = np.array([results.loss(name, of).mean() for name in results.arms])
    return (_floor(ends, top), top) if np.isfinite(top) else None


def _around(drawn: Sequence[tuple[np.ndarray, np.ndarray]], results: Results) -> tuple[float, float] | None:
    """Of differences: all that come after the first quarter of the run, in which some are far larger."""
    late = np.concatenate([curves.mean(axis=0)[updates >= results.steps / 4] for updates, curves in drawn])
    finite = late[np.isfinite(late)]
    room = 0.08 * np.ptp(finite) if finite.size else 0.0
    return (float(finite.min() - room), float(finite.max() + room)) if room else None


def _floor(losses: np.ndarray, top: float) -> float:
    """Where an axis begins: at 0, unless all losses are so far above it that they could not be told apart."""
    lowest = np.min(losses, initial=np.inf, where=np.isfinite(losses))
    return lowest - (top - lowest) / 10 if top / 2 < lowest < np.inf else 0.0


def moving_average(curves: np.ndarray, window: int) -> np.ndarray:
    """Means of `window` values in a row along the last axis, which becomes shorter by window - 1."""
    window = max(min(window, curves.shape[-1]), 1)
    windows = np.lib.stride_tricks.sliding_window_view(curves, window, axis=-1)
    return np.asarray(windows.mean(axis=-1, dtype=np.float64))


def _top(results: Results, of: Loss) -> float:
    """The height at which the first tenth of the run, where every arm falls alike, is cut off."""
    curves = [_curve(results, of, name) for name in results.arms]
    early = [c[:, (u >= results.done / 10) & (u <= results.done / 10 + results.steps / 20)] for u, c in curves]
    seen = np.concatenate([e.ravel() for e in early])
    return float(np.mean(seen[np.isfinite(seen)])) * 1.1 if np.isfinite(seen).any() else np.nan
