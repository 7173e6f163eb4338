"""A schedule from gradient norms, and the best one for an objective."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from schedules import cosine, exponential, linear, polynomial, tabulate, wsd
from theory import best_peak, bound, optimize, refine

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROOT = Path(__file__).parent.parent

# A first run --------------------------------------------------------------------------------------------


def written_out(norms, power):
    """The paper's formula for one gradient more, as large as the last, whose rate is no update's."""
    w = [norm**power for norm in [*norms, norms[-1]]]
    rates = [w[t] * sum(w[t + 1 :]) for t in range(len(norms))]
    return np.array(rates) / max(rates)


NORMS = np.random.default_rng(0).lognormal(0.0, 1.0, 60)


@pytest.mark.parametrize(("norm", "power"), [("l2", -2), ("l1", -1)])
def test_rates_are_those_of_the_formula(norm, power):
    found = refine(NORMS, norm, smoothing=0.0)
    np.testing.assert_allclose(tabulate(found, 60), written_out(NORMS, power), rtol=1e-6)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_constant_norms_give_linear_decay(norm, every, size):
    found = refine([size] * 5, norm, every, peak=0.3)
    np.testing.assert_allclose(tabulate(found, 5 * every), tabulate(linear(0.3, 0.0, 5 * every), 5 * every), rtol=1e-6)
    assert found(10**6) == found(5 * every - 1) > 0


def test_norms_of_several_updates_each_are_those_of_every_one_of_them():
    np.testing.assert_array_equal(
        tabulate(refine(NORMS[:9], every=3, smoothing=0), 27),
        tabulate(refine(np.repeat(NORMS[:9], 3), smoothing=0), 27),
    )


def test_a_warmup_leaves_out_the_norms_that_it_saw():
    found, rest = refine(NORMS, warmup=20, smoothing=0.0), refine(NORMS[20:], smoothing=0.0)
    np.testing.assert_array_equal(tabulate(found, 60)[20:], tabulate(rest, 40))
    np.testing.assert_allclose(tabulate(found, 20), rest(0) * np.arange(20) / 20, rtol=1e-6)


@pytest.mark.parametrize(("smoothing", "width"), [(0.1, 7), (0.12, 7), (0.5, 31), (0.9, 55)])
def test_norms_are_smoothed_by_a_median(smoothing, width):
    half = width // 2
    beyond = [*[NORMS[0]] * half, *NORMS, *NORMS[-2 : -2 - half : -1]]
    smooth = [np.median(beyond[t : t + width]) for t in range(60)]
    np.testing.assert_allclose(tabulate(refine(NORMS, smoothing=smoothing), 60), written_out(smooth, -2), rtol=1e-6)


def test_norms_that_fall_delay_the_decay():
    falling = tabulate(refine(np.linspace(3, 1, 100)), 100)
    assert 20 < np.argmax(falling) < 80
    assert np.all(np.diff(tabulate(refine(np.linspace(1, 3, 100)), 100)) < 0)


A_NORM = "`gradient_norms` must be two or more positive numbers, one for each equal part of a run, got "


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (([1.0],), A_NORM + "[1.0]"),
        (([1.0, 0.0],), A_NORM + "[1.0, 0.0]"),
        (([1.0, float("nan")],), A_NORM + "[1.0, nan]"),
        (([1.0, float("inf")],), A_NORM + "[1.0, inf]"),
        (([[1.0, 2.0]],), A_NORM + "[[1.0, 2.0]]"),
        (("high",), A_NORM + "'high'"),
        (([1, 2], "l3"), "`norm` must be one of 'l2', 'l1', got 'l3'"),
        (([1, 2], "l2", 0), "`every` must be a whole number from 1 to 2147483647, got 0"),
        (([1, 2], "l2", 1, 0.0), "`peak` must be a positive number, got 0.0"),
        (([1, 2], "l2", 2, 1.0, 4), "`warmup` must be shorter than the run of 4 updates, got 4"),
        (([1, 2], "l2", 1, 1.0, 0, 1.0), "`smoothing` must be a number from 0 to below 1, got 1.0"),
    ],
)
def test_mistakes_of_refine_are_told(given, told):
    with pytest.raises(ValueError, match=f"^refine: {re.escape(told)}$"):
        refine(*given)


# The best one -------------------------------------------------------------------------------------------

STEPS = 200


def of_bound(rates):
    return bound(rates, STEPS)


LINEAR = best_peak(linear(1.0, 0.0, STEPS), STEPS).bound
BAD = [1e-4, exponential(3.0, 1e-3, STEPS), linear(0.0, 1.0, STEPS)]


@pytest.mark.parametrize("start", BAD)
def test_the_best_falling_schedule_for_constant_norms_is_nearly_linear(start):
    found = optimize(start, STEPS, of_bound, pieces=40)
    rates = np.asarray(tabulate(found.schedule, STEPS))
    assert found.converged
    assert found.after < LINEAR < found.before
    assert np.all(np.diff(found.schedule.values) <= 0)
    np.testing.assert_allclose(rates / rates[0], 1 - np.arange(STEPS) / STEPS, atol=0.02)
    np.testing.assert_allclose(bound(found.schedule, STEPS), found.after, rtol=1e-5)
    np.testing.assert_allclose(bound(start, STEPS), found.before, rtol=1e-5)


def test_its_own_numbers_are_made_better_and_its_lengths_kept():
    start = wsd(1.0, 0, 100, 100, end=0.5)
    found = optimize(start, STEPS, of_bound)
    assert found.schedule == start.replace(peak=found.schedule.peak, end=found.schedule.end)
    assert isinstance(found.schedule.peak, float)
    ends = np.linspace(0.0, 0.05, 51)
    assert found.after == pytest.approx(
        min(float(best_peak(wsd(1.0, 0, 100, 100, end), STEPS).bound) for end in ends), rel=1e-4
    )


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (linear(1.0, 0.5, STEPS), linear(0.3, 0.1, STEPS)),
        (polynomial(1e3, 0.5, STEPS, 3.0), polynomial(0.3, 0.1, STEPS, 1.5)),
        (cosine(-1.0, 0.0, STEPS), cosine(-0.3, 0.0, STEPS)),
    ],
)
def test_numbers_that_are_known_are_found(start, expected):
    with jax.enable_x64(True):
        wanted = tabulate(expected, STEPS)
    found = optimize(start, STEPS, lambda rates: jnp.sum((rates - wanted) ** 2)).schedule
    assert found.formula == expected.formula
    for name, number in expected.arguments.items():
        assert found.arguments[name] == pytest.approx(number, rel=1e-6), name


def test_a_free_table_is_the_isotonic_regression():
    noisy = np.linspace(1.0, 0.2, 50) + 0.2 * np.random.default_rng(0).standard_normal(50)
    expected = isotonic_regression(noisy, increasing=False).x
    found = optimize(1.0, 50, lambda rates: jnp.sum((rates - noisy) ** 2), pieces=50)
    np.testing.assert_allclose(tabulate(found.schedule, 50), expected, atol=1e-5)
    assert found.after == pytest.approx(np.sum((expected - noisy) ** 2), rel=1e-9)


def test_a_table_keeps_its_peak_and_its_floor():
    def grows_with_late_rates(rates):
        return jnp.sum(rates * jnp.arange(100))

    found = optimize(1.0, 100, grows_with_late_rates, pieces=10, peak=0.5, floor=0.1)
    values = np.asarray(found.schedule.values)
    np.testing.assert_allclose(values[0], 0.5, rtol=1e-6)
    np.testing.assert_allclose(values[1:], 0.1, atol=1e-4)
    assert np.all(values >= np.float32(0.1))


def test_it_finds_the_same_twice():
    first, second = (optimize(cosine(1.0, 0.1, STEPS), STEPS, of_bound) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((0.0, 9, jnp.sum), "`lr` must have a value other than 0 to change (or give `pieces`), got constant(value=0.0)"),
        ((1.0, 0, jnp.sum), "`steps` must be a whole number from 1 to 2147483647, got 0"),
        ((1.0, 9, lambda rates: rates), "`objective` must be a function from the rates to one real number, finite for the rates of `lr`, got the value [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]"),
        ((1.0, 9, lambda rates: jnp.log(rates[0] - 1)), "`objective` must be a function from the rates to one real number, finite for the rates of `lr`, got the value -inf"),
        ((1.0, 9, 0.5), "`objective` must be a function from the rates to one number, got 0.5"),
        ((1.0, 9, jnp.sum, 10), "`pieces` must be at most the 9 updates, got 10"),
        ((1.0, 9, jnp.sum, 0), "`pieces` must be a whole number from 1 to 2147483647, got 0"),
        ((1.0, 9, jnp.sum, 3, -1.0), "`peak` must be a positive number, got -1.0"),
        ((1.0, 9, jnp.sum, 3, None, -1.0), "`floor` must be a number that is not negative, got -1.0"),
        ((1.0, 9, jnp.sum, 3, 0.5, 0.5), "`floor` must be below the highest rate, got 0.5 and 0.5"),
        ((1.0, 9, jnp.sum, 3, None, 2.0), "`floor` must be below the highest rate, got 2.0 and 1.0"),
        ((1.0, 9, jnp.sum, None, 0.5), "`peak` and `floor` must be given with `pieces` only, got 0.5 and 0.0"),
    ],
)  # fmt: skip
def test_mistakes_of_optimize_are_told(given, told):
    with pytest.raises(ValueError, match=f"^optimize: {re.escape(told)}$"):
        optimize(*given)


# Evidence -----------------------------------------------------------------------------------------------


def published(evidence):
    return json.loads((ROOT / "experiments/results/evidence" / evidence / "numbers.json").read_text())


def test_reports_say_what_their_numbers_say():
    from experiments.evidence import optimal, refinement

    for module, about in ((optimal, optimal.OPTIMAL), (refinement, refinement.REFINEMENT)):
        report = (ROOT / "experiments/results/evidence" / about.name / "report.md").read_text()
        assert report == f"# {about.asks}\n\n{module.text(published(about.name)).rstrip()}\n"


def test_the_best_schedules_are_below_the_named_ones():
    numbers = published("optimal")
    assert numbers["bound"]["free"] < min(numbers["bound"]["named"].values())
    for floor in numbers["floors"].values():
        assert floor["found"] < floor["power"]["end"] < max(each["end"] for each in floor["named"])
        assert floor["best"] == min(floor["named"], key=lambda each: each["end"])
        assert floor["gain"] == pytest.approx(floor["best"]["end"] - floor["found"], abs=1e-6)


def test_losses_on_digits_are_compared_by_seed():
    numbers = published("refinement")
    for of_loss in (*numbers["peaks"].values(), numbers["best peak"]):
        for ends in of_loss.values():
            cosine = np.array(ends["cosine"]["losses"])
            for end in ends.values():
                above = np.array(end["losses"]) - cosine
                np.testing.assert_allclose(end["above cosine"], above.mean(), rtol=1e-9)
                np.testing.assert_allclose(end["error of that"], above.std(ddof=1) / np.sqrt(5), rtol=1e-9)


def test_an_objective_may_be_narrow_and_may_have_no_least_value():
    found = optimize(0.1, 10, lambda rates: jnp.sum((rates.astype(jnp.float32) - 0.5) ** 2))
    assert float(found.schedule(0)) == pytest.approx(0.5, rel=1e-3)
    endless = optimize(0.1, 10, lambda rates: -jnp.sum(rates))
    assert not endless.converged
    assert np.isfinite(endless.before)


@pytest.mark.parametrize("objective", [lambda rates: jnp.sum(rates > 0), lambda rates: 1j * jnp.sum(rates), jnp.cumsum])
def test_an_objective_is_one_real_number(objective):
    told = "^optimize: `objective` must be a function from the rates to one real number, finite for the rates of `lr`, "
    with pytest.raises(ValueError, match=told):
        optimize(0.1, 10, objective)
