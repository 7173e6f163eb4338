"""Direct labels: the name of a line at its end, in its colour, in the place of a legend."""

from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from scipy.optimize import isotonic_regression

RIGHT_OF_IT = 6  # points from the end of a line to its label
OUTLINE = [withStroke(linewidth=2.5, foreground="white")]  # readable where other lines pass


def label_lines(figure: Figure) -> None:
    """Writes the label of every line beside its last point, and moves labels up or down until none overlap.

    Call it when all lines are drawn and all limits are set. A last point outside the axes is labelled at their edge.
    """
    written = [(ax, [_beside(line, str(label), ax) for line, label in _labelled(ax)]) for ax in figure.axes]
    figure.draw_without_rendering()  # only then is known how high the axes and the labels are
    for ax, labels in written:
        for _, ending_together in groupby(sorted(labels, key=_end), key=_end):
            _move_apart([*ending_together], ax.get_window_extent(), 72 / figure.dpi)


def spread(heights: np.ndarray, gap: float, low: float = -np.inf, high: float = np.inf) -> np.ndarray:
    """The heights from `low` to `high` that are at least `gap` apart, in the same order, with the least sum of squared
    moves."""
    order = np.argsort(heights, kind="stable")
    room = gap * np.arange(len(heights))
    closest = isotonic_regression(np.asarray(heights, float)[order] - room).x
    moved = np.empty(len(heights))
    moved[order] = np.clip(closest, low, high - room[-1:]) + room
    return moved


def _labelled(ax: Axes) -> list[tuple[Line2D, str]]:
    handles, labels = ax.get_legend_handles_labels()
    lines = [handle if isinstance(handle, Line2D) else handle[0] for handle in handles]  # of error bars, their line
    return [(line, label) for line, label in zip(lines, labels, strict=True) if np.isfinite(_points(line)).any()]


def _points(line: Line2D) -> np.ndarray:
    """The heights of the points of a line."""
    return np.asarray(line.get_ydata(), float)


def _beside(line: Line2D, label: str, ax: Axes) -> Annotation:
    last = np.flatnonzero(np.isfinite(_points(line)))[-1]
    at = np.asarray(line.get_xdata(), float)[last], np.clip(_points(line)[last], *sorted(ax.get_ylim()))
    written: dict[str, Any] = {"color": line.get_color(), "fontsize": "small", "path_effects": OUTLINE}
    place: dict[str, Any] = {"xytext": (RIGHT_OF_IT, 0), "textcoords": "offset points", "va": "center"}
    return ax.annotate(label, at, annotation_clip=False, **place, **written)


def _end(label: Annotation) -> float:
    return float(label.xy[0])


def _move_apart(labels: list[Annotation], axes: Bbox, points: float) -> None:
    """`points`: of one pixel."""
    boxes = [label.get_window_extent() for label in labels]
    heights = np.array([(box.y0 + box.y1) / 2 for box in boxes])
    gap = max(box.height for box in boxes)
    for label, shift in zip(labels, spread(heights, gap, axes.y0, axes.y1) - heights, strict=True):
        label.set_position((RIGHT_OF_IT, shift * points))
