"""The figure of the comparison: small multiples, each a question, and all final losses."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.results import Results

PANELS = {
    "How long to decay?": ("constant", "linear-25", "linear-50", "linear-75", "linear-100"),
    "Does the shape matter?": ("constant", "step-25", "step-75", "linear-100", "cosine"),
    "Average instead?": ("constant", "polyak", "ema-short", "ema-long", "cosine"),
    "Schedule-free?": ("constant", "sf-polyak", "ema-long", "cosine", "sf-ema"),
    "One run for every horizon?": ("linear-25", "linear-50", "linear-75", "linear-100", "sf-ema"),
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


def plot(results: Results) -> Figure:
    """Training loss of every arm: curves by question, the middle half of the seeds shaded, and where each arm ends."""
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(12, 7), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        axes = figure.subplots(2, 3).ravel()
        for ax, (question, names) in zip(axes, PANELS.items(), strict=False):
            _curves(ax, results, [name for name in names if name in results.arms])
            ax.set_title(question, loc="left", fontweight="bold")
        _ends(axes[-1], results)
        figure.suptitle(_title(results), x=0.01, ha="left", fontsize=11)
        return figure


def _title(results: Results) -> str:
    shaded = f"; shaded: the middle half of {results.seeds} seeds" if results.seeds > 1 else ""
    return (
        f"{results.title}: training loss over {results.steps:,} updates "
        f"(moving average over {results.window:,}{shaded})"
    )


def _curves(ax: Axes, results: Results, names: Sequence[str]) -> None:
    for name in names:
        style = STYLES[name]
        curves = moving_average(results.train_loss_curve(name), results.window)
        updates = results.window + np.arange(curves.shape[1])
        ax.plot(updates, curves.mean(axis=0), label=name, linewidth=1.6, **style)
        ax.fill_between(
            updates, *np.quantile(curves, (0.25, 0.75), axis=0), color=style["color"], alpha=0.15, linewidth=0
        )
        ax.plot(
            updates[-1],
            curves.mean(axis=0)[-1],
            "o",
            color=style["color"],
            markersize=6,
            markeredgecolor="white",
            zorder=3,
        )
    ax.set_ylim(0, _top(results))
    ax.set_xlim(0, results.steps * 1.01)
    ax.set_xlabel("updates")
    if names:
        ax.legend(frameon=False, handlelength=2.6)


def _ends(ax: Axes, results: Results) -> None:
    names = [*results.arms]
    for row, name in enumerate(names):
        losses = results.train_loss(name)
        ax.plot([losses.min(), losses.max()], [row, row], color="#999999", linewidth=1)
        ax.plot(np.quantile(losses, (0.25, 0.75)), [row, row], color="#999999", linewidth=5, solid_capstyle="butt")
        ax.plot(losses.mean(), row, "o", color="black", markersize=5)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.grid(axis="x", color="#dddddd")
    ax.set_axisbelow(True)
    ax.set_xlabel("training loss at the end (mean, middle half, range)")
    ax.set_title("Where each arm ends", loc="left", fontweight="bold")


def moving_average(curves: np.ndarray, window: int) -> np.ndarray:
    """Means of `window` values in a row along the last axis, which becomes shorter by window - 1."""
    window = min(window, curves.shape[-1])
    windows = np.lib.stride_tricks.sliding_window_view(curves, window, axis=-1)
    return np.asarray(windows.mean(axis=-1, dtype=np.float64))


def _top(results: Results) -> float:
    """The height at which the first tenth of the run, where every arm falls alike, is cut off."""
    early = results.history.train_loss[..., results.done // 10 : results.done // 10 + results.window]
    return float(np.nanmean(early)) * 1.1
