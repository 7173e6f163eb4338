"""The figures of a comparison: small multiples, each a question, and where all arms end."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator

from experiments.results import Loss, Results

LINEAR = ("linear-25", "linear-50", "linear-75", "linear-100")
# The five published figures; the last of them has three panels.
PANELS = {
    "How long to decay?": ("constant", *LINEAR),
    "Does the shape matter?": ("constant", "step-25", "step-75", "linear-100", "cosine"),
    "Average instead?": ("constant", "polyak", "ema-short", "ema-long", "cosine"),
    "Schedule-free?": ("constant", "sf-polyak", "ema-long", "cosine", "sf-ema"),
    "Every horizon: schedule-free Polyak?": ("constant", *LINEAR, "sf-polyak"),
    "Every horizon: EMA?": ("constant", *LINEAR, "ema-long"),
    "Every horizon: schedule-free EMA?": ("constant", *LINEAR, "sf-ema"),
}

# An arm looks the same in every panel. Arms of one panel differ in hue (Okabe and Ito's, safe for colour-blind
# readers), in lightness and in dash.
DOTS, DASHES, LONG_DASHES = (0, (1, 1)), (0, (4, 1.5)), (0, (8, 1.5, 1, 1.5))
STYLES: dict[str, dict[str, Any]] = {
    "constant": {"color": "#999999"},
    "linear-25": {"color": "#56B4E9", "linestyle": DOTS},
    "linear-50": {"color": "#56B4E9", "linestyle": DASHES},
    "linear-75": {"color": "#0072B2", "linestyle": DASHES},
    "linear-100": {"color": "#0072B2"},
    "cosine": {"color": "#000000"},
    "step-25": {"color": "#E69F00", "linestyle": DOTS},
    "step-75": {"color": "#D55E00", "linestyle": DASHES},
    "polyak": {"color": "#E69F00", "linestyle": DOTS},
    "ema-short": {"color": "#CC79A7", "linestyle": DASHES},
    "ema-long": {"color": "#009E73", "linestyle": LONG_DASHES},
    "sf-polyak": {"color": "#E69F00", "linestyle": DASHES},
    "sf-ema": {"color": "#D55E00"},
}

LOOK: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def plot(results: Results, of: Loss = "training") -> Figure:
    """The loss of every arm: curves by question, the middle half of the seeds shaded, and where each arm ends."""
    with matplotlib.rc_context(LOOK):
        # Other arms are too many for curves that can be told apart.
        panels = [*PANELS] if set(results.horizons) <= STYLES.keys() else []
        rows, columns = (2, 4) if panels else (1, 1)
        height = 7 if panels else 1.5 + 0.25 * len(results.horizons)
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        figure = Figure(figsize=(15 if panels else 9, height), layout=layout)
        axes = np.ravel(figure.subplots(rows, columns))
        for ax, question in zip(axes, panels, strict=False):
            _curves(ax, results, of, question)
        _ends(axes[-1], results, of)
        figure.suptitle(_title(results, of, bool(panels)), parse_math=False, x=0.01, ha="left", fontsize=11)
        return figure


def plot_questions(results: Results, *questions: str, of: Loss = "training") -> Figure:
    """The panels of `plot` that answer some of its questions, which are the keys of `PANELS`, in one row."""
    with matplotlib.rc_context({**LOOK, "axes.titlesize": "medium"}):  # three of them fit beside each other
        figure = Figure(figsize=(9.5, 4), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        axes = figure.subplots(1, len(questions), sharey=True, squeeze=False)[0]
        for ax, question in zip(axes, questions, strict=True):
            _curves(ax, results, of, question)
        axes[0].set_ylabel(f"{of} loss")
        figure.suptitle(_title(results, of, curves=True), parse_math=False, x=0.01, ha="left", fontsize=11)
        return figure


MARKERS = ("o", "s", "^", "D", "v", "P")


def plot_grid(results: Results) -> Figure:
    """A sweep: final validation loss against the peak rate, a line for each policy, the lowest point of each filled."""
    policies = list(results.grid().items())
    panels = [policies[i : i + len(MARKERS)] for i in range(0, len(policies), len(MARKERS))]
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(5.5 * columns, 3.8 * rows), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        axes = np.ravel(figure.subplots(rows, columns, sharey=True, squeeze=False))
        for ax, panel in zip(axes, panels, strict=False):
            for (policy, arms), style, marker in zip(panel, _LINES, MARKERS, strict=False):
                _line(ax, results, policy, arms, {**style, "marker": marker})
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter("")
            ax.set_xlabel("peak learning rate")
            ax.legend(frameon=False, fontsize="small")
        for ax in axes[::columns]:
            ax.set_ylabel("validation loss")
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        seeds = f", mean of {len(results.seeds)} seeds" if len(results.seeds) > 1 else ""
        title = f"{results.title}: validation loss after {results.steps:,} updates{seeds} (filled: the best rate)"
        figure.suptitle(fill(title, 64 * columns), parse_math=False, x=0.01, ha="left", fontsize=11)
        ends = {arm: results.valid_loss(arm).mean() for arm in results.horizons}
        lowest = [ends[arm] for _, arms in policies if (arm := results.best(arms))]
        if lowest:  # what is far above the others' best is cut off
            highest = max(filter(np.isfinite, ends.values()))
            axes[0].set_ylim(0.95 * min(lowest), min(1.05 * highest, 3 * np.median(lowest)))
        return figure


# Hues of Okabe and Ito from dark to light, for lines that also differ in dash and marker.
_LINES: Sequence[dict[str, Any]] = (
    {"color": "#000000"},
    {"color": "#0072B2", "linestyle": (0, (4, 1.5))},
    {"color": "#D55E00", "linestyle": (0, (1, 1))},
    {"color": "#009E73", "linestyle": (0, (8, 1.5, 1, 1.5))},
    {"color": "#CC79A7"},
    {"color": "#E69F00", "linestyle": (0, (4, 1.5))},
)


def _line(ax: Axes, results: Results, policy: str, arms: Sequence[str], style: dict[str, Any]) -> None:
    rates = [results.rates[arm] for arm in arms]
    losses = np.array([results.valid_loss(arm).mean() for arm in arms])
    ax.plot(rates, losses, label=policy, linewidth=1.5, markersize=5, markerfacecolor="white", **style)
    if best := results.best(arms):
        end = results.valid_loss(best).mean()
        ax.plot(results.rates[best], end, marker=style["marker"], markersize=7, color=style["color"])


def _title(results: Results, of: Loss, curves: bool) -> str:
    told = f"{results.title}: {of} loss over {results.steps:,} updates"
    if not curves:
        return told
    averaged = f"moving average over {results.window * results.every:,}" if of == "training" else ""
    shaded = f"shaded: the middle half of {len(results.seeds)} seeds" if len(results.seeds) > 1 else ""
    notes = "; ".join(note for note in (averaged, shaded) if note)
    return f"{told} ({notes})" if notes else told


def _curves(ax: Axes, results: Results, of: Loss, question: str) -> None:
    names = [name for name in PANELS[question] if name in results.horizons]
    for name in names:
        style = STYLES[name]
        updates, curves = _curve(results, of, name)
        mean = curves.mean(axis=0)
        ax.plot(updates, mean, label=name, linewidth=1.6, **style)
        middle = np.quantile(curves, (0.25, 0.75), axis=0)
        ax.fill_between(updates, *middle, color=style["color"], alpha=0.15, linewidth=0)
        end = {"color": style["color"], "markersize": 6, "markeredgecolor": "white", "zorder": 3}
        ax.plot(updates[-1:], mean[-1:], "o", **end)
    top = _top(results, of)
    if np.isfinite(top):
        ends = np.array([results.loss(name, of).mean() for name in results.horizons])
        ax.set_ylim(_floor(ends, top), top)
    ax.set_xlim(0, results.steps * 1.01)
    ax.set_xlabel("updates")
    if names:
        ax.legend(frameon=False, handlelength=2.6)
    ax.set_title(question, loc="left", fontweight="bold")


def _curve(results: Results, of: Loss, name: str) -> tuple[np.ndarray, np.ndarray]:
    """After how many updates, and the losses (seeds, updates)."""
    if of == "training":
        curves = moving_average(results.train_loss_curve(name), results.window)
        first = min(results.window, results.train_loss_curve(name).shape[1])
        return (first + np.arange(curves.shape[1])) * results.every, curves
    return results.valid_loss_curve(name)


def _ends(ax: Axes, results: Results, of: Loss) -> None:
    names = [*results.horizons]
    for row, name in enumerate(names):
        losses = results.loss(name, of)
        ax.plot([losses.min(), losses.max()], [row, row], color="#999999", linewidth=1)
        ax.plot(np.quantile(losses, (0.25, 0.75)), [row, row], color="#999999", linewidth=5, solid_capstyle="butt")
        ax.plot(losses.mean(), row, "o", color="black", markersize=5)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    shown = np.concatenate([results.loss(name, of) for name in names])
    ax.set_xlim(left=_floor(shown, np.max(shown, initial=0.0, where=np.isfinite(shown))))
    ax.grid(axis="x", color="#dddddd")
    ax.set_axisbelow(True)
    ax.set_xlabel(f"{of} loss at the end (mean, middle half, range)")
    ax.set_title("Where each arm ends", loc="left", fontweight="bold")


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
    curves = [_curve(results, of, name) for name in results.horizons]
    early = [c[:, (u >= results.done / 10) & (u <= results.done / 10 + results.steps / 20)] for u, c in curves]
    seen = np.concatenate([e.ravel() for e in early])
    return float(np.mean(seen[np.isfinite(seen)])) * 1.1 if np.isfinite(seen).any() else np.nan
