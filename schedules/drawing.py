"""Schedules as pictures: lines on matplotlib's axes, and the small drawing that notebooks show."""

import html
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from schedules.arguments import checked
from schedules.core import Schedule, ScheduleLike, as_schedule
from schedules.inspection import MOST_CHANGES, _changes, _ends, _sampled, _values, _with_plain_numbers
from schedules.kinds import Size
from schedules.numerics import MAX_STEPS
from schedules.sentences import shortened

__all__ = ["plot"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES: Sequence[Any] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000")  # told apart by the colour-blind, too
LONGEST_LABEL = 24  # characters, beside a line


@checked
def plot(
    schedules: ScheduleLike | Sequence[ScheduleLike] | Mapping[str, ScheduleLike], steps: Size, ax: "Axes | None" = None
) -> "Axes":
    """Draws one schedule, or several on one axis, over the first `steps` updates.

    **Arguments:** `schedules`: one, a list of them (labelled by their reprs), or a dict of labels; one made by `stack`
    is drawn as a line for each in the stack; `ax`: the matplotlib axes to draw on, by default a new figure's.

    Short labels stand at the ends of the lines, to the right of the axes. Long ones are in a legend above, and so are
    all labels on axes of your own in a figure without a layout (`plt.subplots(layout="constrained")`), which would have
    no room for them.

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
            at, values = _sampled(member, steps, most=2000)
            ax.plot(at, values, label=label, linestyle=style, color=colour, linewidth=1.8)
            label = "_nolegend_"
    ax.set(xlabel="step", ylabel="value", xlim=(0, steps))
    ax.spines[["top", "right"]].set_visible(False)
    has_room = ax.get_figure(root=True).get_layout_engine() is not None  # type: ignore[union-attr]
    if len(labelled) > 1 and not (has_room and label_ends(ax)):
        ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1.02), borderaxespad=0)
    return ax


def label_ends(ax: "Axes") -> bool:
    """Writes the label of each line where it ends, in its colour; whether the labels are short and few enough.

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
    """`places`, moved as little as possible until `gap` lies between neighbours, within `low` and `high`.

    (Least squares: isotonic regression, by pooling neighbours that would overlap.)
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
    """The schedules in a stack, as by `stack` or `jax.vmap`, in order; of any other schedule itself."""
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
        return [(label, as_schedule(schedule)) for label, schedule in schedules.items()]
    if isinstance(schedules, Sequence) and not isinstance(schedules, str):
        several = [as_schedule(each) for each in schedules]
        return [*zip(told_apart([*map(repr, several)], 90), several, strict=True)]
    return _labelled([schedules])


def told_apart(texts: list[str], length: int) -> list[str]:
    """Texts of at most so many characters: without what they begin with in common, where they would else be alike."""
    short = [shortened(text, length) for text in texts]
    if len({*short}) == len({*texts}):
        return short
    common = next(i for i, letters in enumerate(zip(*texts, strict=False)) if len({*letters}) > 1)
    return [shortened(f"...{text[max(common - length // 3, 0) :]}", length) for text in texts]


# In a notebook --------------------------------------------------------------------------------------

WIDTH, HEIGHT = 360, 96  # of the curves, in pixels
LETTER = 6.5  # the width of a letter, about
POINTS, MOST_LINES = 256, 32  # values of a line, and lines of a stack
INKS = (0x1F, 0x84, 0xC4), (0xD5, 0x5E, 0x00)  # of the first and the last line; readable on white and on black


def as_html(schedule: Schedule) -> str | None:
    """What a notebook shows of a schedule: its repr and a small drawing; None if it cannot be drawn."""
    try:
        text, picture = shortened(repr(schedule), 800), svg(schedule)
    except Exception:  # tracers, placeholders, callables that fail: showing a value must not raise
        return None
    style = "margin: 0; font-family: monospace; white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere"
    return f'<div><pre style="{style}">{html.escape(text)}</pre>{picture}</div>'


def svg(schedule: Schedule) -> str:
    """A small drawing of a schedule, or of the first `MOST_LINES` of a stack, in the text's colour and `INKS`.

    It shows the first, the highest and the last value, and the step at which the schedule ends. A schedule without an
    end is drawn over `_horizon`.

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
    """The last boundary of a schedule that ends; of others a number of steps that shows what they do.

    That is twice the step from which on the value stays near its limit (within a third of its range), so for
    1 / (1 + t / n) about 4 n; but the first six boundaries at least, and 100 steps.
    """
    schedule = _with_plain_numbers(schedule)
    ends = _ends(schedule)
    found = itertools.islice(_changes(schedule, MAX_STEPS), MOST_CHANGES if ends else 64)
    changes = sorted({*found} - {0})
    if ends and changes:
        return min(changes[-1], MAX_STEPS)
    at = np.unique(np.geomspace(1, MAX_STEPS, POINTS).astype(int))
    values = _read(schedule, at)
    far = np.flatnonzero(np.abs(values - values[-1]) > np.ptp(values) / 3)
    settled = float(f"{2 * at[far[-1] + 1]:.1e}") if len(far) and far[-1] < len(at) - 20 else 0  # a round number
    return max(100, int(settled), *changes[:6][-1:])


def _places(schedule: Schedule, end: int, most: int) -> np.ndarray:
    """Steps from 0 to a little after `end`, with both sides of the first boundaries among them."""
    near = itertools.islice(_changes(_with_plain_numbers(schedule), end), most // 4)
    sides = {side for b in near for side in (b - 1, b) if 0 <= side <= end}
    last = min(end + max(end // 16, 1), MAX_STEPS)
    return np.unique([*np.linspace(0, last, min(most, POINTS) - len(sides)).astype(int), *sides])


def _read(schedule: Schedule, at: np.ndarray) -> np.ndarray:
    """The values at no more than `POINTS` steps, always by the same program."""
    return _values(schedule, np.pad(at, (0, POINTS - len(at)), mode="edge"))[: len(at)]


def _between(values: np.ndarray) -> str:
    low, high = (f"{value + 0.0:.3g}" for value in (values.min(), values.max()))  # 0 for -0
    return low if low == high else f"{low} to {high}"


def _curve(across: np.ndarray, down: np.ndarray, colour: str) -> str:
    points = " ".join(f"{x:.5g},{y:.4g}" for x, y in zip(across, down, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>'


def _mixed(share: float) -> str:
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(*INKS, strict=True))
