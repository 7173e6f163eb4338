"""The figures of a comparison: small multiples, each a question, and where all arms end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.reports.results import Loss, Results

Look = Mapping[str, Any]  # keywords of matplotlib for a line; a colour among them


@dataclass(frozen=True)
class Panel:
    """A question, and the arms whose curves answer it."""

    question: str
    arms: tuple[str, ...]


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

STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def plot(
    results: Results, panels: Sequence[Panel], looks: Mapping[str, Look], of: Loss = "training", columns: int = 4
) -> Figure:
    """The loss of every arm: curves by question, the middle half of the seeds shaded, and where each arm ends."""
    with matplotlib.rc_context(STYLE):
        columns = min(len(panels) + 1, columns)
        rows = -(-(len(panels) + 1) // columns)
        ends = 1.5 + 0.25 * len(results.arms)
        size = (3.75 * columns, max(3.5 * rows, ends)) if panels else (9, ends)
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        axes = np.ravel(figure.subplots(rows, columns))
        for ax, panel in zip(axes, panels, strict=False):
            _curves(ax, results, of, panel, looks)
        _ends(axes[len(panels)], results, of)
        for ax in axes[len(panels) + 1 :]:
            ax.set_axis_off()
        figure.suptitle(_title(results, of, bool(panels)), parse_math=False, x=0.01, ha="left", fontsize=11)
        return figure


def plot_panels(results: Results, panels: Sequence[Panel], looks: Mapping[str, Look], of: Loss = "training") -> Figure:
    """Some panels of `plot`, in one row."""
    with matplotlib.rc_context({**STYLE, "axes.titlesize": "medium"}):  # three of them fit beside each other
        figure = Figure(figsize=(9.5, 4), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, panel in zip(axes, panels, strict=True):
            _curves(ax, results, of, panel, looks)
        axes[0].set_ylabel(results.named(of))
        figure.suptitle(_title(results, of, curves=True), parse_math=False, x=0.01, ha="left", fontsize=11)
        return figure


def _title(results: Results, of: Loss, curves: bool) -> str:
    told = f"{results.title}: {results.named(of)} over {results.steps:,} updates"
    if not curves:
        return told
    noisy = of == "training" and not results.exact
    averaged = f"moving average over {results.window * results.every:,}" if noisy else ""
    shaded = f"shaded: the middle half of {len(results.seeds)} seeds" if len(results.seeds) > 1 else ""
    notes = "; ".join(note for note in (averaged, shaded) if note)
    return f"{told} ({notes})" if notes else told


def _curves(ax: Axes, results: Results, of: Loss, panel: Panel, looks: Mapping[str, Look]) -> None:
    names = [name for name in panel.arms if name in results.arms]
    for name in names:
        style = looks[name]
        updates, curves = _curve(results, of, name)
        mean = curves.mean(axis=0)
        ax.plot(updates, mean, label=name, linewidth=1.6, **style)
        middle = np.quantile(curves, (0.25, 0.75), axis=0)
        ax.fill_between(updates, *middle, color=style["color"], alpha=0.15, linewidth=0)
        end = {"color": style["color"], "markersize": 6, "markeredgecolor": "white", "zorder": 3}
        ax.plot(updates[-1:], mean[-1:], "o", **end)
    top = _top(results, of)
    if np.isfinite(top):
        ends = np.array([results.loss(name, of).mean() for name in results.arms])
        ax.set_ylim(_floor(ends, top), top)
    ax.set_xlim(0, results.steps * 1.01)
    ax.set_xlabel("updates")
    if names:
        ax.legend(frameon=False, handlelength=2.6)
    ax.set_title(panel.question, loc="left", fontweight="bold")


def _curve(results: Results, of: Loss, name: str) -> tuple[np.ndarray, np.ndarray]:
    """After how many updates, and the losses (seeds, updates)."""
    if of == "training":
        curves = moving_average(results.train_loss_curve(name), results.window)
        first = min(results.window, results.train_loss_curve(name).shape[1])
        return (first + np.arange(curves.shape[1])) * results.every, curves
    return results.valid_loss_curve(name)


def _ends(ax: Axes, results: Results, of: Loss) -> None:
    names = [*results.arms]
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
    spread = "" if results.exact else "\n(mean, middle half, range)"
    ax.set_xlabel(f"{results.named(of)} at the end{spread}")
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
    curves = [_curve(results, of, name) for name in results.arms]
    early = [c[:, (u >= results.done / 10) & (u <= results.done / 10 + results.steps / 20)] for u, c in curves]
    seen = np.concatenate([e.ravel() for e in early])
    return float(np.mean(seen[np.isfinite(seen)])) * 1.1 if np.isfinite(seen).any() else np.nan
