"""Schedules as pictures: plots with matplotlib, and the small drawing that notebooks show."""

import html
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from schedules.arguments import built_as, checked
from schedules.core import Nested, Schedule, ScheduleLike
from schedules.inspection import MOST_CHANGES, changes_of, has_end, sampled, values_at, with_plain_numbers
from schedules.kinds import Size
from schedules.numerics import MAX_STEPS
from schedules.sentences import shortened

__all__ = ["plot"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES: Sequence[Any] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000")  # can be distinguished by the colour-blind
LONGEST_LABEL = 24  # in characters, of a label at the end of a line


@checked
def plot(
    schedules: ScheduleLike | Sequence[ScheduleLike] | Mapping[str, ScheduleLike], steps: Size, ax: "Axes | None" = None
) -> "Axes":
    """Plots one schedule or several over the first `steps` updates, with matplotlib.

    **Arguments:** `schedules`: one schedule, a list (labelled by their reprs) or a dict from labels to schedules. A
    schedule made by `stack` is drawn as one line for each schedule in it. `steps`: a number of updates. `ax`: the
    matplotlib axes to draw on, by default those of a new figure.

    Short labels are written at the ends of the lines, long ones in a legend above the axes. If you pass `ax`, create
    its figure with `plt.subplots(layout="constrained")`: without a layout there is no room at the ends of the lines,
    and all labels go into the legend.

    **Returns:** the axes.

    **Raises:** `ImportError` without matplotlib; `ValueError` if `steps` is not a whole number, 1 or more.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError("plot: matplotlib is needed and not installed: pip install matplotlib") from None
    if ax is None:
        ax = plt.subplots(figsize=(7, 3.2), layout="constrained")[1]
    labelled = _labelled(schedules)
    for i, (label, schedule) in enumerate(labelled):
        style, colour = STYLES[(i + i // len(COLOURS)) % len(STYLES)], COLOURS[i % len(COLOURS)]
        for member in members(schedule):
            at, values = sampled(member, steps, most=2000)
            ax.plot(at, values, label=label, linestyle=style, color=colour, linewidth=1.8)
            label = "_nolegend_"
    ax.set(xlabel="step", ylabel="value", xlim=(0, steps))
    ax.spines[["top", "right"]].set_visible(False)
    has_room = ax.get_figure(root=True).get_layout_engine() is not None  # type: ignore[union-attr]
    if len(labelled) > 1 and not (has_room and label_ends(ax)):
        ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1.02), borderaxespad=0)
    return ax


def label_ends(ax: "Axes") -> bool:
    """Writes the label of each line at its end, in its colour. Returns False, without writing any, if the labels are
    too long or too many.

    Labels that would overlap are moved apart, in the order of the lines just before their ends. Call it when the
    limits and the scale of the axes are set.
    """
    lines = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
    labels = [str(line.get_label()) for line in lines]
    drawn = [np.asarray(line.get_xydata(), float) for line in lines]
    drawn = [points[np.isfinite(points).all(1)] for points in drawn]
    size, height = 9.0, ax.get_window_extent().height * 72 / ax.get_figure(root=True).dpi  # type: ignore[union-attr]
    gap = 1.3 * size
    if max(map(len, labels), default=0) > LONGEST_LABEL or not all(map(len, drawn)) or gap * len(lines) > height:
        return False
    to_axes = ax.transScale + ax.transLimits  # from data to fractions of the axes
    fractions = [np.clip(to_axes.transform(points)[:, 1], 0, 1) for points in drawn]
    order = sorted(range(len(lines)), key=lambda i: [fractions[i][-1 - len(drawn[i]) * k // 8] for k in range(8)])
    ends = np.array([height * fractions[i][-1] for i in order])
    for i, end, place in zip(order, ends, apart(ends, gap, 0.0, height), strict=True):
        line = {"color": lines[i].get_color(), "linestyle": lines[i].get_linestyle(), "linewidth": 1}
        ax.annotate(
            labels[i], xy=tuple(drawn[i][-1]), xytext=(20, place - end), textcoords="offset points", fontsize=size,
            color=lines[i].get_color(), va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 1, **line},
        )  # fmt: skip
    return True


def apart(places: Sequence[float] | np.ndarray, gap: float, low: float = -np.inf, high: float = np.inf) -> np.ndarray:
    """`places`, moved as little as possible so that neighbours are `gap` apart and all are in [low, high].

    (In least squares, by isotonic regression: neighbours that would overlap are pooled.)
    """
    order = np.argsort(places, kind="stable")
    gaps = gap * np.arange(len(order))
    pools: list[list[float]] = []
    for place in np.asarray(places, float)[order] - gaps:
        pools.append([place])
        while len(pools) > 1 and np.mean(pools[-2]) >= np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    moved = np.empty(len(order))
    moved[order] = np.clip([np.mean(pool) for pool in pools for _ in pool], low, high - gaps[-1:]) + gaps
    return moved


def members(schedule: Schedule) -> list[Schedule]:
    """The schedules in a stack (made by `stack` or `jax.vmap`), in order; any other schedule alone."""
    try:
        jax.eval_shape(schedule, 0)
        return [schedule]
    except ValueError:
        sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(schedule)}
        if len(sizes) != 1 or () in sizes:
            raise
    ((size,),) = sizes
    held = jax.tree.map(np.asarray, schedule)
    several = [jax.tree.map(lambda leaf, i=i: leaf[i] if leaf.ndim > 1 else leaf[i].item(), held) for i in range(size)]
    return [each for member in several for each in members(member)]


def _labelled(schedules: Any) -> list[tuple[str, Schedule]]:
    if isinstance(schedules, Mapping):
        return [(label, built_as(Nested(), "plot", "schedules", each)) for label, each in schedules.items()]
    if isinstance(schedules, Sequence) and not isinstance(schedules, str):
        several = [built_as(Nested(), "plot", "schedules", each) for each in schedules]
        return [*zip(told_apart([*map(repr, several)], 90), several, strict=True)]
    return _labelled([schedules])


def told_apart(texts: list[str], length: int) -> list[str]:
    """Texts of at most `length` characters, without their common beginning if they would otherwise be equal."""
    short = [shortened(text, length) for text in texts]
    if len({*short}) == len({*texts}):
        return short
    common = next(i for i, letters in enumerate(zip(*texts, strict=False)) if len({*letters}) > 1)
    return [shortened(f"...{text[max(common - length // 3, 0) :]}", length) for text in texts]


# In a notebook --------------------------------------------------------------------------------------

WIDTH, HEIGHT = 360, 96  # of the curves, in pixels
LETTER = 6.5  # the width of a letter, about
POINTS, MOST_LINES = 256, 32  # values per line, and lines per stack
INKS = (0x1F, 0x84, 0xC4), (0xD5, 0x5E, 0x00)  # colours of the first and last line; readable on white and on black


def as_html(schedule: Schedule) -> str | None:
    """What a notebook shows for a schedule: its repr and a small drawing; None if it cannot be drawn."""
    try:
        text, picture = shortened(repr(schedule), 800), svg(schedule)
    except Exception:  # tracers, placeholders, callables that fail: showing a value must not raise
        return None
    style = "margin: 0; font-family: monospace; white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere"
    return f'<div><pre style="{style}">{html.escape(text)}</pre>{picture}</div>'


def svg(schedule: Schedule) -> str:
    """A small drawing of a schedule, or of the first `MOST_LINES` of a stack. Its text has the page's colour.

    It shows the first, the highest and the last value, and the step at which the schedule ends (`_horizon` for a
    schedule without an end).

    **Raises:** `ValueError` if a value is not finite.
    """
    several = members(schedule)
    lines = several[:MOST_LINES]
    end = max(map(_horizon, lines))
    at = _places(lines[0], end, 600 // len(lines))
    values = np.array([_read(line, at) for line in lines])
    if not np.isfinite(values).all():
        raise ValueError("not finite")
    low, high = float(values.min()), float(values.max())
    bottom = low if 0.5 * high < low < 0.99 * high else min(low, 0.0)
    first, last, peak = map(_between, (values[:, 0], values[:, -1], values.max(1)))
    left, right = (8 + LETTER * len(label) for label in (first, last))
    across = left + WIDTH * at / at[-1]
    down = 20 + HEIGHT * (high - values) / ((high - bottom) or 1.0)
    floor = 20 + HEIGHT

    def text(x: float, y: float, anchor: str, words: str) -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{words}</text>'

    marks = [
        text(left - 5, down[:, 0].mean() + 4, "end", first),
        text(left + WIDTH + 5, down[:, -1].mean() + 4, "start", last),
        text(left, floor + 15, "start", "0"),
        text(left + WIDTH * end / at[-1], floor + 15, "end", f"step {end:,}"),
    ]
    if peak not in (first, last):
        summit = across[np.argmax(values.max(0))]
        marks.append(text(np.clip(summit, left + 20, left + WIDTH - 20), 14, "middle", peak))
    if len(several) > 1:
        shown = f", the first {MOST_LINES} shown" if len(several) > MOST_LINES else ""
        marks.append(text(left + WIDTH / 2, floor + 15, "middle", f"{len(several):,} schedules{shown}"))
    shares = np.linspace(0, 1, len(lines))
    curves = [_curve(across, line, _mixed(share)) for line, share in zip(down, shares, strict=True)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + WIDTH + right:.0f}" height="{floor + 20}" '
        'font-family="sans-serif" font-size="11" fill="currentColor" style="display: block">'
        f'<path d="M{left:.0f} {floor}h{WIDTH}" stroke="currentColor" stroke-opacity="0.4"/>'
        f"{''.join(curves)}{''.join(marks)}</svg>"
    )


def _horizon(schedule: Schedule) -> int:
    """The last boundary of a schedule that ends; for others, a number of steps that shows their shape.

    That number is twice the step after which the value stays within a third of its range from its limit (about 4 n for
    1 / (1 + t / n)). It covers at least the first six boundaries, and at least 100 steps.
    """
    schedule = with_plain_numbers(schedule)
    ends = has_end(schedule)
    found = itertools.islice(changes_of(schedule, MAX_STEPS), MOST_CHANGES if ends else 64)
    changes = sorted({*found} - {0})
    if ends and changes:
        return min(changes[-1], MAX_STEPS)
    at = np.unique(np.geomspace(1, MAX_STEPS, POINTS).astype(int))
    values = _read(schedule, at)
    far = np.flatnonzero(np.abs(values - values[-1]) > np.ptp(values) / 3)
    settled = float(f"{2 * at[far[-1] + 1]:.1e}") if len(far) and far[-1] < len(at) - 20 else 0  # a round number
    return max(100, int(settled), *changes[:6][-1:])


def _places(schedule: Schedule, end: int, most: int) -> np.ndarray:
    """Steps from 0 to a little after `end`, including both sides of the first boundaries."""
    near = itertools.islice(changes_of(with_plain_numbers(schedule), end), most // 4)
    sides = {side for b in near for side in (b - 1, b) if 0 <= side <= end}
    last = min(end + max(end // 16, 1), MAX_STEPS)
    return np.unique([*np.linspace(0, last, min(most, POINTS) - len(sides)).astype(int), *sides])


def _read(schedule: Schedule, at: np.ndarray) -> np.ndarray:
    """The values at up to `POINTS` steps, padded so that one compiled program serves all."""
    return values_at(schedule, np.pad(at, (0, POINTS - len(at)), mode="edge"))[: len(at)]


def _between(values: np.ndarray) -> str:
    low, high = (f"{value + 0.0:.3g}" for value in (values.min(), values.max()))  # 0 for -0
    return low if low == high else f"{low} to {high}"


def _curve(across: np.ndarray, down: np.ndarray, colour: str) -> str:
    points = " ".join(f"{x:.5g},{y:.4g}" for x, y in zip(across, down, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>'


def _mixed(share: float) -> str:
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(*INKS, strict=True))
