"""The bound of the last iterate: against its double sum, closed forms, and what is known of schedules."""

import json
import math
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from schedules import (
    constant,
    cosine,
    exponential,
    inverse_sqrt,
    linear,
    multistep,
    one_minus_sqrt,
    polynomial,
    power_cooldown,
    stack,
    table,
    tabulate,
    warmup,
    wsd,
)
from theory import best_peak, bound, compare, transfer

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("quick_compilation")


def by_definition(rates, norms=1.0, distance=1.0):
    """The bound as it is printed, a sum of sums, in long doubles."""
    eta, noise = np.asarray(rates, np.longdouble), (np.asarray(rates, np.longdouble) * norms) ** 2
    last = np.flatnonzero(eta)[-1]
    eta, noise = eta[: last + 1], noise[: last + 1]
    pairs = [eta[k] / eta[k + 1 :].sum() * (noise[k:].sum() / eta[k:].sum()) for k in range(last)]
    return float((distance**2 + noise.sum()) / (2 * eta.sum()) + sum(pairs) / 2)


def in_one_pass(rates):
    """The same for long runs, by sums from the end, in long doubles."""
    eta = np.asarray(rates, np.longdouble)[: np.flatnonzero(rates)[-1] + 1]
    left, noise = (np.cumsum(x[::-1])[::-1] for x in (eta, eta**2))
    return float((1 + noise[0]) / (2 * left[0]) + (eta[:-1] / left[1:] * (noise[:-1] / left[:-1])).sum() / 2)


def harmonic(n):
    return math.fsum(1 / k for k in range(1, n + 1))


SCHEDULES = {
    "constant": lambda t: constant(0.03),
    "linear": lambda t: linear(0.03, 0.0, t),
    "cosine": lambda t: cosine(0.03, 0.0, t),
    "1-sqrt": lambda t: one_minus_sqrt(0.03, 0.0, t),
    "wsd": lambda t: wsd(0.03, t // 10, t * 7 // 10, t // 5),
    "warmed-cosine": lambda t: warmup(cosine(0.03, 0.0, t - t // 3), t // 3),
    "ended": lambda t: wsd(0.03, t // 10, t // 5, t // 5),
    "steps": lambda t: multistep(0.03, [t // 2, t * 3 // 4], 0.1),
    "to almost nothing": lambda t: exponential(0.03, 1e-30, t),
    "a steep power": lambda t: polynomial(0.03, 0.0, t, 8.0),
}


@pytest.mark.parametrize("lr", SCHEDULES.values(), ids=SCHEDULES)
def test_it_is_the_double_sum(lr, x64):
    norms = np.random.default_rng(0).lognormal(size=300)
    rates = tabulate(lr(300), 300)
    np.testing.assert_allclose(bound(lr(300), 300), by_definition(rates), rtol=1e-12)
    np.testing.assert_allclose(bound(rates, 300, norms, 7.0), by_definition(rates, norms, 7.0), rtol=1e-12)


LONG = ["constant", "linear", "cosine", "1-sqrt", "wsd", "warmed-cosine"]


@pytest.mark.parametrize("lr", [SCHEDULES[name] for name in LONG], ids=LONG)
def test_a_million_updates_cost_no_digits(lr):
    steps = 1_000_000
    in_float32 = float(bound(lr(steps), steps))
    with jax.enable_x64(True):
        exact = in_one_pass(tabulate(lr(steps), steps))
        np.testing.assert_allclose(bound(lr(steps), steps), exact, rtol=1e-12)
    np.testing.assert_allclose(in_float32, exact, rtol=5e-6)


@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_a_constant_rate_has_a_closed_form(steps, x64):
    noise = (1 + harmonic(steps - 1)) / 2
    np.testing.assert_allclose(bound(0.3, steps), 1 / (2 * 0.3 * steps) + 0.3 * noise, rtol=1e-13)
    best = best_peak(0.3, steps, np.full(steps, 5.0), 2.0)
    peak = 2 / (5 * math.sqrt(steps * 2 * noise))
    np.testing.assert_allclose(best, [peak / 0.3, peak, 10 * math.sqrt(2 * noise / steps)], rtol=1e-13)


@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_linear_decay_has_a_closed_form(steps, x64):
    first = (2 * steps + 1) / (6 * steps)
    rest = (2 * (steps - 1) + 3 * harmonic(steps - 1)) / (3 * steps)
    expected = 1 / (0.3 * (steps + 1)) + 0.3 * (first + rest)
    np.testing.assert_allclose(bound(linear(0.3, 0.0, steps), steps), expected, rtol=1e-13)


def test_it_bounds_the_worst_case_and_is_twice_as_large():
    exact = 0.10003814933  # of linear decay over 100 updates, by PEPit
    assert exact < best_peak(linear(1.0, 0.0, 100), 100).bound < 2.1 * exact


def test_it_is_least_at_the_best_peak():
    lr = wsd(0.03, 10, 50, 40)
    best = best_peak(lr, 100)
    np.testing.assert_allclose(best.peak, best.factor * 0.03, rtol=1e-6)
    np.testing.assert_allclose(bound(float(best.factor) * lr, 100), best.bound, rtol=1e-6)
    for factor in (0.9, 1.1):
        assert bound(factor * float(best.factor) * lr, 100) > 1.001 * best.bound
    np.testing.assert_allclose(best_peak(1e-12 * lr, 100)[1:], best[1:], rtol=1e-5)
    np.testing.assert_allclose(best_peak(1e12 * lr, 100)[1:], best[1:], rtol=1e-5)


def test_units():
    lr, norms = tabulate(wsd(0.03, 10, 50, 40), 100), jnp.linspace(1.0, 2.0, 100)
    of_all = bound(lr, 100, norms, 3.0)
    np.testing.assert_allclose(bound(10 * lr, 100, norms, 30.0), 10 * of_all, rtol=1e-6)
    np.testing.assert_allclose(bound(lr / 10, 100, 10 * norms, 3.0), 10 * of_all, rtol=1e-6)


@pytest.mark.parametrize("places", [[0, 0, 0], [100, 100], [40, 70], [0, 40, 100]])
def test_rates_of_zero_are_as_if_they_were_not_there(places):
    rates, norms = jnp.linspace(1.0, 0.01, 100), jnp.linspace(1.0, 2.0, 100)
    with_zeros, steps = jnp.asarray(np.insert(rates, places, 0.0)), 100 + len(places)
    more = jnp.asarray(np.insert(norms, places, 9.0))
    np.testing.assert_allclose(bound(with_zeros, steps, more), bound(rates, 100, norms), rtol=1e-6)
    assert np.isfinite(jax.grad(bound)(with_zeros, steps, more)).all()


def test_without_any_rate_it_is_infinite_where_that_is_not_an_error():
    assert jax.jit(bound, static_argnums=1)(jnp.zeros(9), 9) == jnp.inf


# Derivatives, batches ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", SCHEDULES.values(), ids=SCHEDULES)
def test_derivatives_are_differences(lr, x64):
    rates, norms = tabulate(lr(30), 30), jnp.linspace(1.0, 2.0, 30)

    def agree(of, at):
        changes = 1e-5 * jnp.diag(at)
        differences = jax.vmap(lambda change: (of(at + change) - of(at - change)) / 2e-5)(changes)
        np.testing.assert_allclose(at * jax.grad(of)(at), differences, rtol=1e-8, atol=1e-9 * float(of(at)))

    agree(lambda r: bound(r, 30, norms), rates)
    agree(lambda g: bound(rates, 30, g), norms)
    agree(lambda r: best_peak(r, 30, norms).factor, rates)


@pytest.mark.parametrize("lr", SCHEDULES.values(), ids=SCHEDULES)
def test_derivatives_are_finite(lr):
    rates = tabulate(lr(1000), 1000)
    assert np.isfinite(jax.grad(bound)(rates, 1000)).all()
    assert np.isfinite(jax.grad(lambda distance: bound(rates, 1000, None, distance))(1.0))


def test_a_number_of_a_schedule_can_be_learned():
    lr = wsd(0.03, 100, 500, 400)
    slope = jax.grad(lambda peak: bound(lr.replace(peak=peak), 1000))
    best = float(best_peak(lr, 1000).peak)
    assert slope(0.9 * best) < 0 < slope(1.1 * best)
    np.testing.assert_allclose(slope(best), 0.0, atol=1e-4)


def test_many_at_once_are_one_by_one():
    sweep = [wsd(0.03, w, 900 - w, 100) for w in (0, 1, 500)]
    at_once = jax.jit(jax.vmap(lambda lr: best_peak(lr, 1000)))(stack(sweep))
    for i, lr in enumerate(sweep):
        np.testing.assert_allclose([part[i] for part in at_once], best_peak(lr, 1000), rtol=1e-6)


# What is known ----------------------------------------------------------------------------------------


def tapered(share, shape=linear, end=0.0, steps=4000):
    down = round(share * steps)
    return float(best_peak(wsd(1.0, 0, steps - down, down, end, shape), steps).bound)


def test_the_longer_the_decay_the_better():
    bounds = [tapered(share) for share in (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)]
    assert (np.diff(bounds) < 0).all()


@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
def test_a_floor_hurts(share):
    assert tapered(share) < tapered(share, end=0.05) < tapered(share, end=0.1) < tapered(share, end=0.5)


def test_one_minus_sqrt_is_for_short_cooldowns():
    assert tapered(0.2, one_minus_sqrt) < tapered(0.2)
    assert tapered(1.0, one_minus_sqrt) > tapered(1.0)


# Several schedules ------------------------------------------------------------------------------------


def test_a_comparison_is_sorted_and_prints_as_a_table():
    steps = 100
    found = compare(
        {"constant": 5.0, "linear": tabulate(linear(0.1, 0.0, steps), steps), "a": cosine(1.0, 0.0, steps)}, steps
    )
    assert [row.name for row in found.rows] == ["linear", "a", "constant"]
    for row, lr in zip(found.rows, (linear(1.0, 0.0, steps), cosine(1.0, 0.0, steps), 1.0), strict=True):
        best = best_peak(lr, steps)
        np.testing.assert_allclose(row[1:], [best.bound, best.bound / found.rows[0].bound, best.peak], rtol=1e-6)
    assert str(found).splitlines() == [
        "schedule      bound  above the best    peak",
        "linear       0.2036               -   1.000",
        "a            0.2091           2.7 %   0.974",
        "constant     0.2485          22.1 %   0.414",
        "",
        "After 100 updates, each at its best peak, in multiples of the first one's.",
    ]  # fmt: skip


def test_a_tuned_peak_says_those_of_others():
    found = compare({"linear": linear(7.0, 0.0, 100), "constant": 1.0}, 100, jnp.linspace(2.0, 1.0, 100), 3.0)
    peaks = found.peaks("linear", 0.01)
    ratio = (
        best_peak(1.0, 100, jnp.linspace(2.0, 1.0, 100)).peak
        / best_peak(linear(1.0, 0.0, 100), 100, jnp.linspace(2.0, 1.0, 100)).peak
    )
    assert peaks["linear"] == pytest.approx(0.01)
    assert peaks["constant"] == pytest.approx(0.01 * float(ratio), rel=1e-6)


# A longer run -----------------------------------------------------------------------------------------

EXTENDED = {
    "wsd": (wsd(0.03, 50, 750, 200), 800, 1200),
    "a short cooldown": (wsd(0.03, 50, 900, 50), 950, 2000),
    "1-sqrt": (wsd(0.03, 50, 850, 100, shape=one_minus_sqrt), 900, 1100),
    "to a floor": (wsd(0.03, 50, 750, 200, 0.01), 800, 1500),
    "after a warm-up": (warmup(cosine(0.03, 0.0, 900), 100), 100, 10_007),
    "of another decay": (power_cooldown(warmup(inverse_sqrt(0.03, 50), 50), 800, 200), 800, 1100),
    "ended": (wsd(0.03, 50, 750, 100), 800, 10_007),
}


@pytest.mark.parametrize(("lr", "start", "steps"), EXTENDED.values(), ids=EXTENDED)
def test_the_peak_of_an_extended_run_is_the_best_again(lr, start, steps):
    found, wanted = transfer(lr, 1000, steps), best_peak(lr, 1000).factor
    assert found.start == start
    assert 0 < found.factor < 1
    lower = tabulate(found.lower, steps)
    np.testing.assert_allclose(best_peak(lower, steps).factor, wanted, rtol=1e-5)
    np.testing.assert_array_equal(lower[:start], tabulate(lr, start))
    np.testing.assert_allclose(lower[start], found.factor * lr(start), rtol=1e-6)
    # The same share of the run, in the same shape.
    there, here = np.linspace(1.0, 0.01, 9) * (1000 - start), np.linspace(1.0, 0.01, 9) * (1000 - start) * steps / 1000
    np.testing.assert_allclose(found.lower(steps - here), found.factor * lr(1000 - there), rtol=0.02, atol=3e-5)
    if found.longer:
        longer = tabulate(found.longer, steps)
        np.testing.assert_array_equal(longer[:start], tabulate(lr, start))
        constant_until = steps - found.cooldown_steps
        np.testing.assert_allclose(longer[start : constant_until + 1], lr(start), rtol=3e-3)  # lengths are rounded
        assert longer[constant_until + 2] < longer[start]
        np.testing.assert_allclose(best_peak(longer, steps).factor, wanted, rtol=2e-3)


def test_only_short_extensions_can_do_with_a_longer_cooldown():
    lr = wsd(0.03, 50, 750, 200)
    lengths = [transfer(lr, 1000, steps).cooldown_steps for steps in (1100, 1300, 1500, 2000)]
    assert lengths == [*sorted(filter(None, lengths)), None]
    assert lengths[0] > 0.2 * 1100
    assert transfer(lr, 1000, 2000).longer is None
    factors = [transfer(lr, 1000, steps).factor for steps in (1100, 1300, 1500, 2000)]
    assert factors == sorted(factors, reverse=True)


def test_a_decay_over_the_whole_run_has_the_factor_of_its_length():
    def noise(steps):  # of linear decay from 1, as above
        return (2 * steps + 1) / (6 * steps) + (2 * (steps - 1) + 3 * harmonic(steps - 1)) / (3 * steps)

    found = transfer(linear(0.03, 0.0, 500), 500, 2000)
    expected = math.sqrt(501 * noise(500) / (2001 * noise(2000)))
    np.testing.assert_allclose(found.factor, expected, rtol=1e-5)
    np.testing.assert_allclose(
        tabulate(found.lower, 2000), tabulate(linear(0.03 * expected, 0.0, 2000), 2000), rtol=1e-5
    )


# Evidence ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_published_evidence_is_that_of_this_code(unrendered):
    from experiments.evidence.last_iterate import LAST_ITERATE

    published = json.loads((ROOT / "experiments/results/evidence/last-iterate/numbers.json").read_text())
    found = LAST_ITERATE.measure().numbers
    for what in ("agreement", "choice", "peaks", "powers"):
        chex.assert_trees_all_close(found[what], published[what], rtol=1e-4)


# Mistakes ---------------------------------------------------------------------------------------------

RATES = "a schedule, or an array of rates with one for each update"
MISTAKES = [
    (lambda: bound("fast", 9), f"bound: `lr` must be {RATES}, got 'fast'"),
    (lambda: bound(0.1, 0), "bound: `steps` must be a whole number from 1 to 2147483647, got 0"),
    (lambda: bound(jnp.ones(8), 9), "bound: `lr` must hold one rate for each of 9 updates, got 8"),
    (lambda: bound(linear(0.1, -0.1, 8), 9), "bound: `lr` must be finite and not negative at every update, got -0.025 at step 5"),
    (lambda: best_peak(0.0, 9), "best_peak: `lr` must be above 0 at some update, got 0 at all 9"),
    (lambda: bound(0.1, 9, 2.0), "bound: `gradient_norms` must be an array of norms with one for each update, or None, got 2.0"),
    (lambda: bound(0.1, 9, np.ones(8)), "bound: `gradient_norms` must hold one norm for each of 9 updates, got 8"),
    (lambda: bound(0.1, 2, [1.0, jnp.nan]), "bound: `gradient_norms` must be finite and not negative at every update, got nan at step 1"),
    (lambda: bound(0.1, 9, distance=0.0), "bound: `distance` must be a positive number, got 0.0"),
    (lambda: compare({}, 9), "compare: `schedules` must be a dict of one schedule or more, got {}"),
    (lambda: compare([0.1], 9), "compare: `schedules` must be a dict of one schedule or more, got [0.1]"),
    (lambda: compare({"a": None}, 9), f"compare: `schedules['a']` must be {RATES}, got None"),
    (lambda: compare({"a": jnp.ones(8)}, 9), "compare: `schedules['a']` must hold one rate for each of 9 updates, got 8"),
    (lambda: compare({"a": 0.0}, 9), "compare: `schedules['a']` must be above 0 at some update, got 0 at all 9"),
    (lambda: transfer(linear(0.1, 0.0, 9), 9, 9), "transfer: `to_steps` must be above `from_steps` = 9, got 9"),
    (lambda: transfer(jnp.ones(9), 9, 10), f"transfer: `lr` must be a schedule, a number or a function of the step, got {jnp.ones(9)!r}"),
    (lambda: transfer(constant(0.1), 9, 10), "transfer: `lr` must decay by the end of 9 updates, got constant(value=0.1)"),
    (lambda: transfer(linear(0.1, -0.1, 8), 9, 10), "transfer: `lr` must be finite and not negative at every update, got -0.025 at step 5"),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_a_mistake_is_one_sentence(mistake, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        mistake()
    assert str(error.value) == message


@pytest.mark.parametrize(
    "lr",
    [lambda t: 1e-3 * (1 - t / 10_000), table(tabulate(linear(1.0, 0.0, 10_000), 10_000))],
    ids=["function", "table"],
)
def test_a_cooldown_that_cannot_be_made_longer_is_refused(lr):
    told = "^transfer: `lr` must have a cooldown that can be stretched, not a table or a function, got "
    with pytest.raises(ValueError, match=told):
        transfer(lr, 10_000, 12_500)


def test_where_the_peak_is_not_too_high_nothing_has_to_change():
    old = multistep(1e-3, [3_000, 6_000])
    moved = transfer(old, 9_000, 18_000)
    assert (moved.factor, moved.cooldown_steps) == (1.0, 2 * (9_000 - moved.start))
    assert moved.lower == moved.longer
    assert best_peak(moved.lower, 18_000).factor >= best_peak(old, 9_000).factor


def test_names_of_schedules_are_texts():
    with pytest.raises(ValueError, match="^compare: `schedules` must have names that are strings, got 1$"):
        compare({"1": 0.1, 1: 0.2}, 9)
