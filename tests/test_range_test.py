"""The range test: against the loop and the rules of its pickers written out plainly."""

import bisect
import itertools
import math
import sys

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest

from optim import adam, reduce_on_plateau, schedule_free, schedule_free_plus, sgd
from optim.lr_finder import PICKERS, RangeTest, plot_range_test, range_test, suggest_rate
from schedules import exponential

pytestmark = pytest.mark.usefixtures("quick_compilation")
RNG = np.random.default_rng(0)
STEPS = 60
X = RNG.normal(size=(STEPS, 8, 3))
BATCHES = {"x": X, "y": X @ np.array([1.0, -2.0, 0.5]) + 0.3 + 0.1 * RNG.normal(size=(STEPS, 8))}
PARAMS = {"w": np.zeros(3), "b": np.zeros(())}


def regression(params, batch):
    return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)


def narrow(tree):
    return jax.tree.map(np.float32, tree)


def prescribed(params, batch):
    """A loss that is the batch, whatever the parameters."""
    return batch + 0.0 * params


def curve(losses, **arguments):
    found = range_test(prescribed, jnp.zeros(()), jnp.asarray(losses, float), sgd, **arguments)
    return np.asarray(found.losses), np.asarray(found.smoothed)


# The run --------------------------------------------------------------------------------------------------


def plainly(make, start=1e-7, end=10.0, smoothing=0.98, divergence=4.0, params=PARAMS, batches=BATCHES):
    """Rates, losses and smoothed losses, update by update."""
    rates = start * (end / start) ** (np.arange(STEPS) / STEPS)
    optimizer = optax.with_extra_args_support(make(lambda count: jnp.asarray(rates)[count]))
    params = jax.tree.map(jnp.asarray, params)
    state, losses = jax.jit(optimizer.init)(params), []

    @jax.jit
    def step(params, state, batch):
        value, grads = jax.value_and_grad(regression)(params, batch)
        updates, state = optimizer.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state, value

    for i in range(STEPS):
        params, state, value = step(params, state, jax.tree.map(lambda leaf, i=i: leaf[i], batches))
        losses.append(float(value))
    return rates, *plainly_recorded(losses, smoothing, divergence)


def plainly_recorded(losses, smoothing=0.98, divergence=4.0):
    """Losses and smoothed losses as far as the run goes, by the usual form of the bias-corrected average."""
    recorded = np.full((2, len(losses)), np.nan)
    average, best = 0.0, math.inf
    for i, loss in enumerate(losses):
        average = smoothing * average + (1 - smoothing) * loss
        smoothed = average / (1 - smoothing ** (i + 1))
        recorded[:, i] = loss, smoothed
        best = min(best, smoothed)
        if not math.isfinite(smoothed) or smoothed - best > (divergence - 1) * abs(best):
            break
    return recorded


def momentum(rate):
    return optax.sgd(rate, momentum=0.9)


def clipped(rate):
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def free(rate):
    return schedule_free(sgd(rate))


def plateau(rate):
    return optax.chain(optax.sgd(rate), reduce_on_plateau(patience=0, factor=0.5))


PAIRS = {
    "adam": (adam, optax.adam),
    "momentum": (momentum, momentum),
    "clipped": (clipped, clipped),
    "schedule_free": (free, free),
    "schedule_free_plus": (schedule_free_plus, schedule_free_plus),
    "plateau": (plateau, plateau),
}


@pytest.mark.parametrize(("optimizer", "plain"), PAIRS.values(), ids=PAIRS)
def test_is_the_loop_written_out(optimizer, plain, x64):
    found = range_test(regression, PARAMS, BATCHES, optimizer)
    for actual, desired in zip(found, plainly(plain), strict=True):
        np.testing.assert_allclose(actual, desired, rtol=1e-9)
    assert len(set(np.asarray(found.losses).tolist())) > STEPS // 2


@pytest.mark.parametrize("arguments", [{"start": 1e-3, "end": 1.0}, {"smoothing": 0.9}, {"divergence": 1.5}])
def test_is_the_loop_written_out_for_other_numbers(arguments, x64):
    found = range_test(regression, PARAMS, BATCHES, sgd, **arguments)
    for actual, desired in zip(found, plainly(optax.sgd, **arguments), strict=True):
        np.testing.assert_allclose(actual, desired, rtol=1e-9)


def test_is_the_loop_written_out_in_float32_under_strict_promotion(strict):
    params, batches = narrow(PARAMS), narrow(BATCHES)
    found = range_test(regression, params, batches, adam, end=0.1)
    with jax.numpy_dtype_promotion("standard"):
        expected = plainly(optax.adam, end=0.1, params=params, batches=batches)
    for actual, desired in zip(found, expected, strict=True):
        assert actual.dtype == jnp.float32
        assert np.isfinite(desired).all()
        np.testing.assert_allclose(actual, desired, rtol=1e-5)


def test_runs_end_where_they_diverge():
    stops = [np.isfinite(range_test(regression, narrow(PARAMS), BATCHES, o).smoothed).sum() for o in (adam, sgd)]
    assert stops[0] == STEPS
    assert 40 < stops[1] < STEPS


def test_rates_are_the_schedule_to_an_end_after_the_last_step():
    found = range_test(prescribed, jnp.zeros(()), jnp.ones(100), sgd)
    np.testing.assert_allclose(found.rates, 1e-7 * 1e8 ** (np.arange(100) / 100), rtol=1e-6)
    np.testing.assert_array_equal(found.rates, exponential(1e-7, 10.0, 100)(jnp.arange(100)))


CURVES = {
    "nan-first": [math.nan, *range(1, 20)],
    "nan-later": [*range(20, 10, -1), math.nan, *range(10)],
    "infinite": [*range(20, 10, -1), math.inf, *range(10)],
    "minus-infinite": [*range(20, 10, -1), -math.inf, *range(10)],
    "rising": (2.0 ** np.arange(20)).tolist(),
    "constant": [3.0] * 20,
    "zero": [0.0] * 10 + [1.0] * 10,
    "negative": [-1.0 - i for i in range(10)] + [3.0**i for i in range(10)],
    "across-zero": [5.0 - i for i in range(15)] + [3.0**i for i in range(10)],
    "noise": RNG.normal(size=50).cumsum().tolist(),
}


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.98])
@pytest.mark.parametrize("losses", CURVES.values(), ids=CURVES)
def test_smooths_and_stops_as_written_out(losses, smoothing, x64):
    recorded = curve(losses, smoothing=smoothing)
    np.testing.assert_allclose(recorded, plainly_recorded(losses, smoothing), rtol=1e-12)


def test_the_curves_stop_at_many_places():
    stops = [np.isfinite(plainly_recorded(losses)[1]).sum() for losses in CURVES.values()]
    assert stops[:2] == [0, 10]
    assert len(set(stops)) >= 6
    assert sum(stop == len(losses) for stop, losses in zip(stops, CURVES.values(), strict=True)) <= 4


@pytest.mark.parametrize(
    ("best", "within", "beyond"), [(2.0, 7.9, 8.1), (-2.0, 3.9, 4.1), (0.0, 0.0, 1e-6)], ids=["pos", "neg", "zero"]
)
def test_the_bar_is_above_the_best_whatever_its_sign(best, within, beyond):
    losses = [best + 1, best, within, best, within, beyond, best, best]
    recorded = curve(losses, smoothing=0.0)
    for each in recorded:
        np.testing.assert_array_equal(each, np.float32([*losses[:6], math.nan, math.nan]))


def test_an_infinite_bar_stops_at_nothing_finite():
    losses = [0.0, -1.0, 0.0, 1e30, -1e-30, 0.0, 5.0, math.inf, 1.0]
    np.testing.assert_array_equal(
        curve(losses, smoothing=0.0, divergence=math.inf)[0], np.float32([*losses[:-1], math.nan])
    )


def test_parameters_and_batches_stay_as_they_were():
    params, batches = jax.tree.map(jnp.asarray, narrow((PARAMS, BATCHES)))
    range_test(regression, params, batches)
    chex.assert_trees_all_equal((params, batches), narrow((PARAMS, BATCHES)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_smoothed_in_float32(dtype):
    losses = jnp.asarray(3 + RNG.random(40), dtype)
    found = range_test(prescribed, jnp.zeros((), dtype), losses, adam)
    assert {leaf.dtype.name for leaf in found} == {"float32"}
    np.testing.assert_array_equal(found.losses, losses.astype(jnp.float32))
    np.testing.assert_allclose(found.smoothed, plainly_recorded(losses.tolist())[1], rtol=1e-6)


def test_parameters_may_be_python_numbers_and_batches_keys():
    def noisy(params, key):
        return (params - 1.0) ** 2 + 0.1 * jax.random.uniform(key)

    keys = jax.random.split(jax.random.key(0), 10)
    found = range_test(noisy, 3.0, keys, sgd, start=1e-12, end=1e-11)
    np.testing.assert_allclose(found.losses, 4 + 0.1 * jax.vmap(jax.random.uniform)(keys), rtol=1e-5)


# One program ----------------------------------------------------------------------------------------------


def seeds(number=3):
    rng = np.random.default_rng(1)
    params = {"w": rng.normal(size=(number, 3)), "b": rng.normal(size=number)}
    return narrow(params), narrow(jax.tree.map(lambda leaf: np.stack([rng.permutation(leaf)] * number), BATCHES))


def test_vmapped_over_seeds_is_each_alone():
    params, batches = seeds()
    test = lambda params, batches: range_test(regression, params, batches, adam)  # noqa: E731
    together = jax.vmap(test)(params, batches)
    alone = [test(*jax.tree.map(lambda leaf, i=i: leaf[i], (params, batches))) for i in range(3)]
    for several, each in zip(together, zip(*alone, strict=True), strict=True):
        assert several.shape == (3, STEPS)
        np.testing.assert_allclose(several, each, rtol=1e-5)
    assert len({row[-1] for row in np.asarray(together.losses).tolist()}) == 3
    for picker in PICKERS:
        suggestions = suggest_rate(together, picker)
        assert isinstance(suggestions, np.ndarray)
        np.testing.assert_array_equal(
            suggestions, [suggest_rate(RangeTest(*(leaf[i] for leaf in together)), picker) for i in range(3)]
        )


def test_vmapped_over_numbers():
    ends = jnp.array([0.1, 1.0])
    together = jax.vmap(lambda end: range_test(regression, narrow(PARAMS), narrow(BATCHES), sgd, end=end))(ends)
    for i, end in enumerate(ends):
        alone = range_test(regression, narrow(PARAMS), narrow(BATCHES), sgd, end=end)
        np.testing.assert_allclose(together.losses[i], alone.losses, rtol=1e-5)
        np.testing.assert_allclose(together.rates[i], alone.rates, rtol=1e-6)


def test_inside_a_jitted_function():
    test = lambda params, start: range_test(regression, params, narrow(BATCHES), start=start)  # noqa: E731
    alone, jitted = test(narrow(PARAMS), 1e-5), jax.jit(test)(narrow(PARAMS), 1e-5)
    for actual, desired in zip(jitted, alone, strict=True):
        np.testing.assert_allclose(actual, desired, rtol=1e-6)


def test_changing_numbers_parameters_or_batches_compiles_nothing_anew(compiled):
    def loss(params, batch):
        return regression(params, batch)

    params, batches = narrow((PARAMS, BATCHES))
    range_test(loss, params, batches)
    assert compiled()
    changes = [{"start": 1e-6}, {"end": 1}, {"smoothing": np.float64(0.9)}, {"divergence": jnp.float32(3.0)}]
    changed = [range_test(loss, params, batches, **change).smoothed for change in changes]
    range_test(loss, *jax.tree.map(lambda leaf: leaf + 1, (params, batches)))
    assert not compiled()
    assert not any(np.array_equal(a, b, equal_nan=True) for a, b in itertools.pairwise(changed))


# Reading a rate off the curve -----------------------------------------------------------------------------


def as_found(rates, smoothed):
    """A test whose pickers see just these points: the rest is infinitely good, or after the end."""
    n = next(n for n in range(1000) if n - n // 10 == len(rates) + 5 + 2)
    padding = n - len(rates) - 7
    rates = np.concatenate([rates[0] * 0.5 ** np.arange(padding, 0, -1), rates, rates[-1] * 2.0 ** np.arange(1, 8)])
    smoothed = np.concatenate([np.full(padding, -1e6), smoothed, np.full(5, -1e6), np.full(2, np.nan)])
    return RangeTest(rates, smoothed, smoothed)


def plain_valley(rates, losses):
    """Lengths of decreasing subsequences by patience sorting."""
    tails, lengths = [], []
    for loss in losses:
        place = bisect.bisect_left(tails, -loss)
        tails[place : place + 1] = [-loss]
        lengths.append(place + 1)
    end = lengths.index(max(lengths))
    start = end - max(lengths)
    third = (end - start) / 3
    return rates[max(start + int(third) + int(third / 2), 0)]


def plain_steep(rates, losses):
    points = list(itertools.pairwise(zip(rates, losses, strict=True)))
    slopes = [(l1 - l0) / math.log(r1 / r0) for (r0, l0), (r1, l1) in points]
    return rates[slopes.index(min(slopes))]


def plain_minimum(rates, losses):
    return min(zip(losses, rates, strict=True))[1] / 10


def plain_slide(rates, losses):
    slope = [
        losses[1] - losses[0],
        *((b - a) / 2 for a, b in zip(losses, losses[2:], strict=False)),
        losses[-1] - losses[-2],
    ]
    right = len(losses) - 1
    found = rates[right - 15]
    while right >= 15 and abs(slope[right] - slope[right - 15]) > 0.005:
        found = rates[right - 15]
        right -= 1
    return found


PLAIN = {"valley": plain_valley, "steep": plain_steep, "minimum": plain_minimum, "slide": plain_slide}
each_picker = pytest.mark.parametrize("picker", PICKERS)


def noisy_curve(seed, points):
    """Flat, down, and up again, at rates that are not evenly spaced."""
    rng = np.random.default_rng(seed)
    at = np.sort(rng.uniform(-6, 1, points))
    losses = 2 - 1.5 / (1 + np.exp(-3 * (at + 2))) + np.exp(2 * at) + rng.uniform(0.001, 0.3) * rng.normal(size=points)
    return 10.0**at, losses


@each_picker
def test_pickers_are_the_rules_written_out(picker):
    suggestions = []
    for seed in range(60):
        rates, losses = noisy_curve(seed, points=16 + 2 * seed)
        suggestions.append(suggest_rate(as_found(rates, losses), picker))
        assert suggestions[-1] == PLAIN[picker](rates.tolist(), losses.tolist())
    assert len(set(suggestions)) == 60


RATES = 2.0 ** np.arange(-20, 0)
FALLING = -np.arange(20.0)
BY_HAND = {
    # All 20 points are the valley, which so starts at -1: -1 + 6 + 3.
    "valley-all": ("valley", FALLING, RATES[8]),
    "valley-rising": ("valley", -FALLING, RATES[0]),
    "valley-constant": ("valley", np.ones(20), RATES[0]),
    # From point 4 on 9 points fall, up to point 12: start 3, 3 + 3 + 1.
    "valley-middle": ("valley", np.r_[10.0, 11, 12, 13, np.arange(20.0, 11, -1), 20:27], RATES[7]),
    # With one more that is out of line, the longest subsequence still has 9 points; its end is at 13.
    "valley-noise": ("valley", np.r_[10.0, 11, 12, 13, 20, 19, 18, 30, np.arange(17.0, 11, -1), 20:26], RATES[8]),
    "steep": ("steep", np.r_[np.zeros(5), -np.ones(3), -3 * np.ones(12)], RATES[7]),
    "minimum": ("minimum", np.abs(np.arange(20) - 12.0), RATES[12] / 10),
    "minimum-first-of-two": ("minimum", np.r_[np.ones(4), 0, 1, 0, np.ones(13)], RATES[4] / 10),
    # Straight: the first window, from the last point but 15.
    "slide-straight": ("slide", FALLING, RATES[4]),
    # Slopes are 0 but for the last two points, so that windows end with 19 and 18 are bent and with 17 not.
    "slide-bent": ("slide", np.r_[np.zeros(19), 1], RATES[3]),
    "slide-to-the-end": ("slide", np.arange(20.0) ** 2, RATES[0]),
    "slide-barely": ("slide", np.arange(20.0) ** 2 * 0.0049 / 2 / 15, RATES[4]),
    "slide-just": ("slide", np.arange(20.0) ** 2 * 0.0061 / 2 / 15, RATES[0]),
}


@pytest.mark.parametrize(("picker", "losses", "rate"), BY_HAND.values(), ids=BY_HAND)
def test_pickers_by_hand(picker, losses, rate):
    suggested = suggest_rate(as_found(RATES, losses), picker)
    assert isinstance(suggested, float)
    assert suggested == rate


def test_two_points_are_enough_for_most_and_the_least_number_of_steps_gives_them():
    found = RangeTest(RATES[:7], np.zeros(7), np.r_[2.0, 1, np.full(5, -9)])
    assert [suggest_rate(found, name) for name in ("valley", "steep", "minimum")] == [RATES[0], RATES[0], RATES[1] / 10]
    tested = range_test(prescribed, jnp.zeros(()), jnp.arange(7.0, 0, -1), sgd)
    assert [suggest_rate(tested, name) > 0 for name in ("valley", "steep", "minimum")] == [True] * 3


def test_steep_is_by_the_logarithm_of_the_rate():
    """Of a curve whose slope by it is known, on rates that crowd elsewhere."""
    at = np.r_[np.linspace(-6, -3, 40), np.linspace(-3, 0, 6)[1:]]  # many small steps, then few large ones
    bends = 0.8 / (1 + np.exp(-20 * (at + 4.5))) + 1.2 / (1 + np.exp(-2 * (at + 1.5)))
    slopes = -0.8 * 20 / 4 / np.cosh(10 * (at + 4.5)) ** 2 - 1.2 * 2 / 4 / np.cosh(at + 1.5) ** 2
    steepest = 10.0 ** at[np.argmin(slopes)]
    assert suggest_rate(as_found(10.0**at, -bends), "steep") == pytest.approx(steepest, rel=0.3)
    assert 10.0 ** at[np.argmin(np.gradient(-bends))] > 100 * steepest


@each_picker
def test_pickers_read_the_smoothed_losses(picker):
    rates, losses = noisy_curve(3, 40)
    found = as_found(rates, losses)
    assert suggest_rate(found._replace(losses=found.losses[::-1]), picker) == suggest_rate(found, picker)
    assert suggest_rate(found._replace(smoothed=as_found(rates, losses[::-1]).smoothed), picker) != suggest_rate(found, picker)  # fmt: skip


@pytest.mark.parametrize("end", [math.nan, math.inf, -math.inf])
def test_points_are_those_between_the_first_tenth_and_the_last_five_of_those_recorded(end):
    rates, smoothed = 10.0 ** np.linspace(-7, 1, 100), np.zeros(100)
    smoothed[80:] = end
    for i, seen in [(9, False), (10, True), (74, True), (75, False), (79, False), (95, False)]:
        dented = np.where(np.arange(100) == i, -1.0, smoothed)
        expected = rates[i if seen else 10] / 10
        assert suggest_rate(RangeTest(rates, dented, dented), "minimum") == expected, i


def of_a_quadratic():
    """Of curvature 2: SGD is stable below a rate of 1."""
    batches = {"x": np.tile(np.eye(3) * 3**0.5, (100, 1, 1)), "y": np.ones((100, 3))}
    return range_test(regression, narrow(PARAMS), narrow(batches), sgd)


def test_a_suggestion_is_a_rate_that_trains():
    found = of_a_quadratic()
    for picker in PICKERS:
        assert 1e-4 < suggest_rate(found, picker) < 1.0, picker


def test_suggestions_have_the_leading_axes():
    found = as_found(*noisy_curve(0, 40))
    stacked = RangeTest(*(np.stack([np.stack([leaf, leaf, leaf])] * 2) for leaf in found))
    np.testing.assert_array_equal(suggest_rate(stacked), np.full((2, 3), suggest_rate(found)))


# The picture ----------------------------------------------------------------------------------------------


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def labels(axes):
    return {text.get_text() for text in axes.texts}


def by_rate(picked):
    return [*dict(sorted(picked.items(), key=lambda each: each[1])).values()]


def test_a_plot_of_one_test_has_its_curve_and_suggestions(axes):
    found = of_a_quadratic()
    assert plot_range_test(found, axes) is axes
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "learning rate", "smoothed loss")
    assert labels(axes) == {f"{picker} {suggest_rate(found, picker):.2g}" for picker in PICKERS}
    line, *marks = axes.lines
    np.testing.assert_allclose(line.get_xdata(), found.rates)
    np.testing.assert_allclose(line.get_ydata(), found.smoothed)
    picked = by_rate({picker: suggest_rate(found, picker) for picker in PICKERS})
    assert [np.ravel(mark.get_xdata()).item() for mark in marks] == picked
    assert len({mark.get_marker() for mark in marks}) == 4
    # The default is the one that is filled and in a colour of its own.
    (default,) = (mark for mark in marks if mark.get_markerfacecolor() != "white")
    assert np.ravel(default.get_xdata()).item() == suggest_rate(found)
    assert [mark.get_color() for mark in marks].count(default.get_color()) == 1
    finite = np.asarray(found.smoothed)[: np.isfinite(found.smoothed).sum()]
    low, high = axes.get_ylim()
    assert all(low < np.ravel(mark.get_ydata()).item() < high for mark in marks)
    assert low < finite.min() < finite[0] < high < finite[-1]  # what goes up leaves the frame
    axes.figure.canvas.draw()


def test_a_plot_of_several_has_a_line_for_each_and_medians(axes):
    params, batches = seeds()
    found = jax.vmap(lambda params, batches: range_test(regression, params, batches, sgd))(params, batches)
    plot_range_test(found, axes)
    medians = {picker: np.median(suggest_rate(found, picker)) for picker in PICKERS}
    assert labels(axes) == {f"{name} {rate:.2g}" for name, rate in medians.items()}
    assert axes.get_ylabel() == "smoothed loss, 3 seeds\nand their mean"
    assert len(axes.lines) == 3 + 1 + 4
    np.testing.assert_allclose(axes.lines[3].get_ydata(), np.asarray(found.smoothed, float).mean(0))
    assert [np.ravel(line.get_xdata()).item() for line in axes.lines[4:]] == by_rate(medians)
    axes.figure.canvas.draw()


@pytest.mark.parametrize("losses", [[math.nan] * 10, range(1, 11), [3.0] * 6 + [math.inf] * 4, [0.0] * 10, range(10, 0, -1)])  # fmt: skip
def test_a_plot_is_drawn_whatever_the_losses(losses):
    axes = plot_range_test(range_test(prescribed, jnp.zeros(()), jnp.asarray(losses, float), sgd))
    axes.figure.canvas.draw()
    plt.close(axes.figure)


def test_a_picker_with_too_few_points_is_left_out(axes):
    plot_range_test(range_test(prescribed, jnp.zeros(()), jnp.arange(10.0, 0, -1), sgd), axes)
    assert {label.split()[0] for label in labels(axes)} == {"valley", "steep", "minimum"}


def test_without_matplotlib_there_is_one_clear_error(monkeypatch):
    found = as_found(*noisy_curve(0, 40))
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    message = "^plot_range_test: matplotlib is needed and not installed: pip install matplotlib$"
    with pytest.raises(ImportError, match=message):
        plot_range_test(found)


# Mistakes -------------------------------------------------------------------------------------------------


TEN = np.ones(10, np.float32)
IDENTITY = optax.identity()


def run(loss=prescribed, batches=TEN, optimizer=sgd, **numbers):
    return range_test(loss, 0.0, batches, optimizer, **numbers)


SEVEN = "range_test: `batches` must be arrays with the same number of updates, 7 or more, along their first axes, got the shapes"
FUNCTION = "range_test: `optimizer` must be a function from a schedule to an optax transformation, such as adam, got"


class Model(eqx.Module):
    w: jax.Array

    def loss(self, params, batch):
        return params * self.w @ batch


EARLY = RangeTest(RATES, np.zeros(20), np.r_[np.zeros(8), np.full(12, np.nan)])


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: run(start=0.0), "range_test: `start` must be a positive number, got 0.0"),
        (lambda: run(start=jnp.float32(-1)), "range_test: `start` must be a positive number, got Array(-1., dtype=float32)"),
        (lambda: run(end=math.inf), "range_test: `end` must be a positive number, got inf"),
        (lambda: run(end="high"), "range_test: `end` must be a positive number, got 'high'"),
        (lambda: run(start=1.0, end=1), "range_test: `start` must be below `end`, got 1.0 and 1.0"),
        (lambda: run(smoothing=1.0), "range_test: `smoothing` must be a number from 0 to below 1, got 1.0"),
        (lambda: run(smoothing=-0.1), "range_test: `smoothing` must be a number from 0 to below 1, got -0.1"),
        (lambda: run(divergence=1), "range_test: `divergence` must be a number above 1, got 1"),
        (lambda: run(divergence=math.nan), "range_test: `divergence` must be a number above 1, got nan"),
        (lambda: run(batches=np.ones(6)), f"{SEVEN} (6,)"),
        (lambda: run(batches=[]), f"{SEVEN} []"),
        (lambda: run(batches=2.0), f"{SEVEN} ()"),
        (lambda: run(batches={"x": np.ones((9, 2)), "y": np.ones(8)}), f"{SEVEN} {{'x': (9, 2), 'y': (8,)}}"),
        (lambda: run(optimizer=None), f"{FUNCTION} None"),
        pytest.param(lambda: run(optimizer=IDENTITY), f"{FUNCTION} {IDENTITY!r}", id="identity"),  # else an address
        (lambda: run(optimizer=lambda lr: "adam"), f"{FUNCTION} a function that returns 'adam'"),
        (lambda: run(loss=lambda p, b: p * jnp.ones(3)), "range_test: `loss` must return one number, got the shapes (3,)"),
        (lambda: run(loss=lambda p, b: (p, {"a": b})), "range_test: `loss` must return one number, got the shapes ((), {'a': ()})"),
        (lambda: run(loss=lambda p, b: 1), "range_test: `loss` must return a real float, got int32"),
        (lambda: run(loss=None), "range_test: `loss` must be a function from parameters and a batch to one number, got None"),
        (lambda: run(loss=Model(jnp.ones(2)).loss), "range_test: `loss` must be a function from parameters and a batch to one number, got a BoundMethod, which is not hashable: use def"),
        (
            lambda: run(loss=lambda p, b: p @ b, batches=[TEN] * 20),
            "range_test: `loss` cannot take a list of 20 arrays or trees as a batch; if `batches` is a list of batches, "
            "stack them: jax.tree.map(lambda *several: jnp.stack(several), *batches)",
        ),
        (lambda: suggest_rate("a"), "suggest_rate: `found` must be what range_test returned, got 'a'"),
        (lambda: plot_range_test([1.0]), "plot_range_test: `found` must be what range_test returned, got [1.0]"),
        (lambda: suggest_rate(EARLY, []), "suggest_rate: `picker` must be one of 'valley', 'steep', 'minimum', 'slide', got []"),
        (lambda: suggest_rate(EARLY, "best"), "suggest_rate: `picker` must be one of 'valley', 'steep', 'minimum', 'slide', got 'best'"),
        (
            lambda: suggest_rate(EARLY),
            "suggest_rate: `found` must have 2 or more points for 'valley' after its first tenth and before the last 5 until the loss diverged, got 1",
        ),
        (
            lambda: suggest_rate(as_found(RATES[:15], FALLING[:15]), "slide"),
            "suggest_rate: `found` must have 16 or more points for 'slide' after its first tenth and before the last 5 until the loss diverged, got 15",
        ),
        (
            lambda: suggest_rate(EARLY._replace(smoothed=np.full(20, np.nan)), "minimum"),
            "suggest_rate: `found` must have 2 or more points for 'minimum' after its first tenth and before the last 5 until the loss diverged, got 0",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_sentence(mistake, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, compared whole below
        mistake()
    assert str(caught.value) == message
