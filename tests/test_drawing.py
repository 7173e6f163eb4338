"""Schedules as lines on axes, and as what a notebook shows of them."""

import re
import runpy
import sys
from pathlib import Path
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest
from matplotlib.text import Text

from optim import ema, polyak, tail
from schedules import (
    constant,
    cosine,
    exponential_decay,
    function,
    join,
    linear,
    multiply,
    multistep,
    noam,
    one_minus_sqrt,
    plot,
    stack,
    table,
    tabulate,
    triangular,
    warmup,
    wsd,
)
from schedules.drawing import apart

LR = warmup(cosine(3e-4, 0.0, 9000), 1000)
SWEEP = stack([warmup(cosine(peak, 0.0, 900), 100) for peak in (0.1, 0.2, 0.3, 0.4, 0.5)])
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


# On axes --------------------------------------------------------------------------------------------


def test_plots_have_a_line_a_label_and_a_style_for_each():
    axes = plot(LR, 10_000)
    assert axes.get_legend() is None
    assert not axes.texts
    axes = plot({"one": LR, "half": 0.5 * LR, "none": 0.0}, 10_000)
    assert {text.get_text(): text.get_color() for text in axes.texts} == {
        line.get_label(): line.get_color() for line in axes.lines
    }
    assert axes.get_legend() is None
    assert len({(line.get_linestyle(), line.get_color()) for line in axes.lines}) == 3
    assert plot([LR, multiply(2.0, LR)], 100, ax=axes) is axes
    steps, values = axes.lines[0].get_data()
    np.testing.assert_allclose(values, LR(steps), rtol=1e-6)
    assert {999, 1000} <= set(steps)


def test_labels_that_are_long_or_have_no_room_are_in_a_legend():
    for schedules, ax in [
        ([LR, 0.5 * LR], None),
        ({"short": LR, "much longer than one would want beside a line": 0.5 * LR}, None),
        ({"one": LR, "half": 0.5 * LR}, plt.subplots()[1]),  # without a layout
        ({str(n): constant(float(n)) for n in range(40)}, None),
    ]:
        axes = plot(schedules, 100, ax)
        assert not axes.texts
        assert len(axes.get_legend().get_texts()) == len(schedules)


def test_labels_beside_the_lines_do_not_overlap_and_are_in_their_order():
    rates = {
        "wsd": wsd(1.0, 100, 700, 200),
        "cosine": LR / 3e-4,
        "linear": linear(1.0, 0.0, 1000),
        "low": constant(0.0),
    }
    axes = plot(rates, 1000)
    axes.figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the line that leads to it
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    from_above = sorted(zip(boxes, axes.texts, strict=True), key=lambda each: -each[0].y0)
    assert [text.get_text() for _, text in from_above] == ["cosine", "wsd", "linear", "low"]
    assert axes.figure.bbox.containsx(max(box.x1 for box in boxes))


@pytest.mark.parametrize("seed", range(5))
def test_places_are_moved_as_little_as_possible(seed):
    places = np.sort(np.random.default_rng(seed).uniform(0, 10, 6))
    moved = apart(places, 1.0, 0.0, 10.0)
    assert (np.diff(moved) >= 1 - 1e-12).all()
    assert (moved >= 0).all()
    assert (moved <= 10).all()
    # Of the distance, a convex function, no small step that keeps the gaps goes down.
    gaps = np.tri(6, 6) * np.ones(6)  # moves of one and all after it
    for step in [*gaps.T, *(gaps.T - gaps.T[1:2]), *np.eye(6)]:
        for size in (1e-3, -1e-3):
            other = moved + size * step
            if (np.diff(other) >= 1).all() and (other >= 0).all() and (other <= 10).all():
                assert np.sum((other - places) ** 2) >= np.sum((moved - places) ** 2) - 1e-9
    np.testing.assert_allclose(apart(np.arange(5.0), 1.0, 0.0, 10.0), np.arange(5.0))


def test_all_of_a_stack_are_drawn():
    axes = plot({"sweep": SWEEP, "mine": 0.3}, 1000)
    np.testing.assert_allclose(
        [line.get_ydata().max() for line in axes.lines], [0.1, 0.2, 0.3, 0.4, 0.5, 0.3], rtol=1e-6
    )
    assert [text.get_text() for text in axes.texts] == ["sweep", "mine"]
    grid = jax.tree.map(lambda *leaves: jnp.stack(leaves), SWEEP, SWEEP)
    assert len(plot(grid, 1000).lines) == 10


def test_places_in_any_order_stay_in_it():
    np.testing.assert_allclose(apart([5.0, 1.0, 5.2], 1.0), [4.6, 1.0, 5.6])
    np.testing.assert_allclose(apart([0.0, 0.0, 0.0], 1.0, low=0.0, high=9.0), [0.0, 1.0, 2.0])
    np.testing.assert_allclose(apart([9.0, 8.9], 1.0, low=0.0, high=9.0), [9.0, 8.0])
    assert apart([], 1.0).size == 0


def test_curves_whose_reprs_begin_alike_are_all_drawn_and_told_apart():
    axes = plot([wsd(3e-4, 1_000, 80_000, 19_000, shape=s) for s in (linear, cosine, one_minus_sqrt)], 100_000)
    labels = [line.get_label() for line in axes.lines]
    assert [label.partition("shape=")[2] for label in labels] == ["linear)", "cosine)", "one_minus_sqrt)"]
    assert len(plot([constant(1.0), constant(1.0)], 9).lines) == 2


def test_without_matplotlib_there_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="^plot: matplotlib is needed and not installed: pip install matplotlib$"):
        plot(LR, 10)


# In a notebook --------------------------------------------------------------------------------------


def shown(schedule):
    """The text, the labels and the curves that a notebook shows."""
    picture = ElementTree.fromstring(schedule._repr_html_())
    name = "{http://www.w3.org/2000/svg}"
    curves = [
        np.array([xy.split(",") for xy in line.get("points").split()], float)
        for line in picture.iter(f"{name}polyline")
    ]
    return picture.find("pre").text, [text.text for text in picture.iter(f"{name}text")], curves


@pytest.mark.parametrize(
    ("schedule", "peak", "end"),
    [
        (LR, "0.0003", 10_000),
        (LR * 1.0, "0.0003", 10_000),
        (jax.tree.map(jnp.asarray, wsd(0.3, 10, 70, 20)), "0.3", 100),
        (multistep(1.0, [30, 60]), "1", 60),
        (constant(0.1), "0.1", 100),
        (-1.0 * LR, "0", 10_000),
        (table(jnp.linspace(1.0, 0.0, 100_001)), "1", 100_000),
        # Those without an end over six cycles, or until they are far on the way to their limit.
        (triangular(0.85, 0.95, 30, 30), "0.95", 180),
        (cosine(0.1, 0.0, 10_000) * triangular(0.5, 1.0, 100, 100), "0.1", 11_000),
        (exponential_decay(1.0, 0.5, 1000), "1", 3_300),
        (join([0.5, exponential_decay(1.0, 0.5, 1000)], [10]), "1", 3_300),
        (function(optax.cosine_decay_schedule(0.1, 10_000)), "0.1", 13_000),
        (noam(512, 4000), "0.000699", 75_000),
        (polyak(), "1", 100),
        (ema(0.999), "1", 100),
        (tail(1000), "1", 2_200),
    ],
    ids=range(16),
)
def test_a_notebook_shows_the_repr_and_a_small_drawing(schedule, peak, end):
    text, labels, (curve,) = shown(schedule)
    assert text == repr(schedule) or (len(text) == 800 and repr(schedule).startswith(text[:-3]))
    last = end + max(end // 16, 1)
    ends = {f"{float(schedule(step)) + 0.0:.3g}" for step in (0, last)}
    assert {*labels} == {"0", f"step {end:,}", peak, *ends}
    assert len(schedule._repr_html_()) < 10_000
    # The curve goes through the values at its steps, but for the rounding of both to a tenth of a pixel.
    x, y = curve.T
    steps = np.round((x - x[0]) / (x[-1] - x[0]) * last).astype(int)
    near = np.asarray(tabulate(schedule, last + 1), float)[np.clip(steps + np.arange(-40, 41)[:, None], 0, last)]
    if end <= 200:
        near = near[40:41]
    low, high = near.min(0), near.max(0)
    pixels = 96 / (max(high) - min(0.0, *low) if peak != "0.95" else 0.1)
    height = pixels * (max(high) - np.array([high, low])) + y.min()
    assert (height[0] - 0.2 <= y).all()
    assert (y <= height[1] + 0.2).all()


def test_what_a_notebook_shows_is_escaped():
    def nasty(step):
        return step

    nasty.__qualname__ = "<b>&nasty"
    text, *_ = shown(function(nasty))
    assert "<b>&nasty" in text


def test_a_notebook_shows_all_of_a_stack():
    text, labels, curves = shown(SWEEP)
    assert text == repr(SWEEP)
    assert {*labels} == {"0", "0.1 to 0.5", "step 1,000", "5 schedules"}
    assert len(curves) == 5
    heights = [curve[0, 1] - curve[:, 1].min() for curve in curves]
    np.testing.assert_allclose(heights, np.arange(1, 6) * heights[0], rtol=0.01)
    many = stack([cosine(1.0, 0.0, n) for n in range(1, 1001)])
    _, labels, curves = shown(many)
    assert "1,000 schedules, the first 32 shown" in labels
    assert len(curves) == 32
    assert len(many._repr_html_()) < 10_000


def test_a_notebook_shows_the_repr_of_what_cannot_be_drawn():
    def fails(step):
        raise KeyError("no")

    abstract = jax.tree.map(lambda _: jax.ShapeDtypeStruct((), float), LR)
    for schedule in [
        abstract,
        jax.tree.map(lambda _: object(), LR),
        jax.tree.map(lambda _: None, LR),
        function(fails),
        function(lambda step: jnp.log(step - 5.0)),
        function(lambda step: 1 / step),
    ]:
        assert schedule._repr_html_() is None

    @jax.jit
    def traced(schedule):
        assert schedule._repr_html_() is None
        return schedule(3)

    traced(LR)


# In the README --------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_picture_of_the_readme_is_what_its_command_draws(theme):
    """But for a tenth of a pixel, by which the rounding of processors may differ."""
    path = Path(__file__).parent.parent / "docs" / "pictures.py"
    pictures = runpy.run_path(str(path))
    committed = (path.parent / "pictures" / f"compose-{theme}.svg").read_text()
    drawn = pictures["picture"](pictures["THEMES"][theme])
    number = re.compile(r"\d+\.\d+")
    assert number.sub("", drawn) == number.sub("", committed), "python docs/pictures.py draws it anew"
    np.testing.assert_allclose(*([float(n) for n in number.findall(text)] for text in (drawn, committed)), atol=0.11)
