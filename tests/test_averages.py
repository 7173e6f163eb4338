"""Averages: their coefficients against their definitions, and what can be read and chosen of them."""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_optim import GRADS, PARAMS, as_jax, close, replay, trained

from experiments.bench.optimizers import SIZE, compiled_step
from optim import (
    Average,
    Snapshot,
    adam,
    adamw,
    average,
    ema,
    ema_half_life,
    ema_relative,
    ema_warmed,
    eval_params,
    exponent_of_width,
    gpa,
    hyperparameters,
    lawa,
    polyak,
    polynomial_average,
    post_hoc_ema,
    power_ema,
    radam,
    relative_width,
    require_eval_params,
    sampled,
    schedule_free,
    schedule_free_adamw,
    schedule_free_plus,
    schedule_free_radam,
    schedule_free_sgd,
    sgd,
    swa,
    tail,
    weighted,
)
from optim.post_hoc import coefficients
from schedules import join, linear

pytestmark = pytest.mark.usefixtures("quick_compilation")
GOLDEN = Path(__file__).parent / "golden"


def held(optimizer=None):
    """What the caller held after every update, in float64."""
    return np.array([y["w"] for y, _ in replay(optimizer or adam(0.05))], np.float64)


def averaged(coefficient):
    return np.array([x["w"] for _, x in replay(average(adam(0.05), coefficient))], np.float64)


# Each average as the weights that it gives to the parameters after updates 0 to k.
DEFINITIONS = {
    "polyak": (polyak(), lambda k: np.ones(k + 1)),
    "tail": (tail(20), lambda k: np.r_[np.zeros(min(k, 20)), np.ones(k + 1 - min(k, 20))]),
    "swa": (swa(10, 5), lambda k: np.array([float(i >= 10 and i % 5 == 0) if k >= 10 else i == k for i in range(k + 1)])),
    "ema": (ema(0.9), lambda k: 0.9 ** np.arange(k + 1)[::-1]),
    "ema_half_life": (ema_half_life(7.0), lambda k: 0.5 ** (np.arange(k + 1)[::-1] / 7)),
    "polynomial": (polynomial_average(8.0), lambda k: np.exp([math.lgamma(i + 9) - math.lgamma(i + 1) for i in range(k + 1)])),
    "power_ema": (power_ema(6.94), lambda k: np.diff(np.arange(k + 2.0) ** 7.94)),
    "sampled-ema": (sampled(ema(0.5), 3), lambda k: np.array([0.5 ** ((k // 3) - i / 3) if i % 3 == 0 else 0.0 for i in range(k + 1)])),
}  # fmt: skip


@pytest.mark.parametrize(("coefficient", "weights"), DEFINITIONS.values(), ids=DEFINITIONS)
def test_an_average_is_the_weighted_mean_that_defines_it(coefficient, weights):
    points, found = held(), averaged(coefficient)
    for k in (0, 1, 2, 9, 10, 20, 21, 40, 59):
        expected = np.average(points[: k + 1], axis=0, weights=weights(k))
        np.testing.assert_allclose(found[k], expected, rtol=0, atol=2e-6 * np.abs(points).max())


def test_averages_with_a_rising_decay_follow_their_recursion():
    points = held()
    for coefficient, c in [
        (ema_warmed(0.9), lambda t: max(0.1, (1 + t) ** (-2 / 3))),
        (ema_relative(0.1), lambda t: 1.0 if t == 0 else 1 - 0.5 ** (1 / (0.1 * t))),
    ]:
        x = points[0]
        for t, (point, found) in enumerate(zip(points, averaged(coefficient), strict=True)):
            x = (1 - c(t)) * x + c(t) * point
            np.testing.assert_allclose(found, x, rtol=0, atol=2e-6 * np.abs(points).max())


def test_widths_and_exponents_belong_together():
    np.testing.assert_allclose(exponent_of_width(0.10), 6.9372, rtol=1e-4)  # published
    for exponent in (0.5, 6.94, 16.97):
        np.testing.assert_allclose(exponent_of_width(relative_width(exponent)), exponent, rtol=1e-12)


def recorded_averages():
    cases = json.loads((GOLDEN / "torch.json").read_text())["cases"]
    return [pytest.param(c, id=c["name"]) for c in cases if c["kind"] == "average"]


@pytest.mark.parametrize("case", recorded_averages())
def test_equals_what_pytorch_recorded_of_its_averaged_model(case, x64):
    k = case["kwargs"]
    every, start = k.get("every", 1), k.get("start", 0)
    plain = polyak() if k["average"] == "uniform" else join([1.0, 1 - k["decay"]], [1])
    optimizer = average(optax.sgd(1.0), sampled(plain, every, start))
    params = jnp.zeros(len(case["inputs"][0]))
    state = optimizer.init(params)
    assert case["update_at"] == list(range(start, len(case["inputs"]), every))
    tolerance = 3e-7 if "defect" in case else 1e-12  # PyTorch rounds one of its weights to float32
    for i, (point, expected) in enumerate(zip(case["inputs"], case["values"], strict=True)):
        updates, state = optimizer.update(params - jnp.array(point), state, params)
        params = optax.apply_updates(params, updates)
        if i >= start:
            np.testing.assert_allclose(eval_params(state, params), expected, atol=tolerance * np.max(np.abs(expected)))


# Equivalences ---------------------------------------------------------------------------------------------


def test_gpa_at_its_edges_is_the_base_heavy_ball_and_nesterov():
    beta, rate = 0.9, 0.02
    scaled = optax.sgd(rate / (1 - beta))
    for (y, _), (plain, _) in zip(replay(gpa(adam(0.05), 0.0)), replay(adam(0.05)), strict=True):
        close(y, plain, 1e-5)  # y passes through x and z
    for (_, x), (heavy, _) in zip(replay(gpa(scaled, beta, 1.0)), replay(sgd(rate, beta)), strict=True):
        close(x, heavy, 1e-5)
    for (y, _), (nesterov, _) in zip(
        replay(gpa(scaled, beta, beta)), replay(sgd(rate, beta, nesterov=True)), strict=True
    ):
        close(y, nesterov, 1e-5)


def test_the_lean_form_is_the_full_one():
    for options in (
        {},
        {"beta": 0.5},
        {"beta": linear(0.6, 0.95, 30), "warmup_steps": 10, "r": 0.75, "weight_decay": 0.1},
    ):
        full, lean = (replay(schedule_free_sgd(0.05, lean=form, **options)) for form in (False, True))
        for a, b in zip(full, lean, strict=True):
            close(a, b, 1e-6)
    assert schedule_free_sgd(0.05, lean=True).init(jnp.ones(3)).x is None


@pytest.mark.parametrize("beta", [0.9, 1.0, linear(0.6, 0.95, 8_000)], ids=str)
def test_the_lean_form_is_as_exact_as_the_full_one_for_ten_thousand_updates(beta):
    grads = jnp.asarray(np.random.default_rng(0).normal(size=(10_000, 50)), jnp.float32)

    def x(lean):
        optimizer = schedule_free_sgd(1e-3, beta, lean=lean)
        params = jnp.ones(50)

        def step(carry, g):
            params, state = carry
            updates, state = optimizer.update(g + params, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.jit(lambda c: jax.lax.scan(step, c, grads))((params, optimizer.init(params)))
        return eval_params(state, params)

    np.testing.assert_allclose(x(True), x(False), rtol=0, atol=2e-6)


def test_the_lean_form_copies_nothing():
    for optimizer in (schedule_free_sgd(0.1, lean=True), schedule_free_adamw(lean=True), gpa(adam(0.1), lean=True)):
        assert not re.search(rf"= f32\[{SIZE}\]\S* copy\(", compiled_step(optimizer).as_text())
    sgd = compiled_step(schedule_free_sgd(0.1, lean=True))
    assert sgd.memory_analysis().temp_size_in_bytes < 4 * SIZE  # no array besides those it is given


def test_a_parameter_that_was_not_finite_is_forgotten_by_an_average_that_begins_later():
    optimizer = average(sgd(1.0), tail(5))
    state = optimizer.init(jnp.zeros(1))
    _, state = optimizer.update(jnp.full(1, jnp.inf), state, jnp.zeros(1))
    _, state = optimizer.update(jnp.ones(1), state, jnp.zeros(1))
    assert eval_params(state, jnp.zeros(1)) == -1


def test_equal_weights_that_add_up_are_polyak_however_many():
    """In float32 a plain sum of 100,000 equal weights is off by a part in a thousand for each new one."""
    weights, n = weighted(0.01), 100_000

    def step(so_far, count):
        c, so_far = weights.update(count, so_far)
        return so_far, c

    _, found = jax.jit(lambda: jax.lax.scan(step, weights.init(), jnp.arange(n)))()
    np.testing.assert_allclose(found, 1 / np.arange(1, n + 1), rtol=1e-6)


def test_schedule_free_survives_beta_of_0_and_1_and_a_rate_of_0():
    for beta in (0.0, 1.0):
        for rate in (0.05, linear(0.0, 0.05, 10), 0.0):
            for y, x in replay(schedule_free(optax.sgd(rate), weighted(rate), beta)):
                assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((y, x)))


def test_a_long_bfloat16_run_averages_as_in_float64_where_optax_stops():
    """Optax keeps the sum of its weights in the dtype of the parameters, where it stops after some 300 updates."""
    size, n = 1e-4, 10_000

    def run(optimizer, evaluate):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jnp.asarray(-size, jnp.bfloat16), state, params)
            return (optax.apply_updates(params, updates), state), None

        params = jnp.zeros((), jnp.bfloat16)
        (params, state), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, length=n)
        return float(evaluate(state, params)), state

    step_size = float(jnp.asarray(size, jnp.bfloat16))
    exact = step_size * (n + 1) / 2
    ours, state = run(schedule_free_sgd(1.0), eval_params)
    np.testing.assert_allclose(state.x, exact, rtol=1e-4)
    assert ours == float(jnp.asarray(exact, jnp.bfloat16))
    theirs, state = run(optax.contrib.schedule_free_sgd(1.0), optax.contrib.schedule_free_eval_params)
    assert float(state.weight_sum) <= 512
    assert abs(theirs / exact - 1) > 0.1


# Several, and the latest ones -----------------------------------------------------------------------------


def test_several_averages_of_one_run_are_chosen_by_name():
    optimizer = average(adam(0.05), {"short": ema(0.5), "long": polyak()})
    params, state = trained(optimizer, updates=9)
    for name, coefficient in (("short", ema(0.5)), ("long", polyak())):
        alone, alone_state = trained(average(adam(0.05), coefficient), updates=9)
        close(eval_params(state, params, name), eval_params(alone_state, alone), 1e-6)
    for name in (None, "medium"):
        with pytest.raises(ValueError, match=f"^eval_params: `name` must be one of 'long', 'short', got {name!r}$"):
            eval_params(state, params, name)
    params, state = trained(average(adam(0.05), polyak()), updates=1)
    with pytest.raises(ValueError, match="^eval_params: `name` must be None, since no average has a name"):
        eval_params(state, params, "short")


@pytest.mark.parametrize("settings", [{"every": 1}, {"every": 3}, {"every": 10, "start": 30}])
def test_lawa_goes_on_with_other_settings_from_what_it_has_kept(settings):
    """What was never kept is in no average."""
    before, after = lawa(sgd(0.1), 5, every=10), lawa(sgd(0.1), 5, **settings)
    params, zero = jnp.ones(()), jnp.zeros(())
    state = before.init(params)
    update_before, update_after = jax.jit(before.update), jax.jit(after.update)
    for i in range(60):
        _, state = (update_before if i < 25 else update_after)(zero, state, params)
        assert eval_params(state, params) == 1.0, i
    assert hyperparameters(state)["averaged"] == 5


@pytest.mark.parametrize("make", [ema, ema_half_life, ema_warmed])
def test_averages_are_swept_over(make):
    numbers = np.array([0.5, 0.75, 0.875], np.float32)
    found = jax.vmap(lambda n: make(n)(7))(numbers)
    np.testing.assert_allclose(found, [make(float(n))(7) for n in numbers], rtol=1e-6)


def test_a_length_of_0_that_is_an_array_is_that_of_the_number():
    def beta(steps):
        return schedule_free_plus(beta_steps=steps).init(jnp.ones(2)).used["beta"]

    np.testing.assert_allclose([beta(0), beta(jnp.int32(0))], 0.9, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(beta)(jnp.array([0, 10])), 0.9, rtol=1e-6)
    injected = optax.inject_hyperparams(schedule_free_plus)(learning_rate=1.0)
    np.testing.assert_allclose(hyperparameters(injected.init(jnp.ones(2)))["beta"], 0.9, rtol=1e-6)


def test_lawa_is_the_mean_of_the_latest():
    points = held()
    found = [x["w"] for _, x in replay(lawa(adam(0.05), last=4, every=3, start=5))]
    for k in range(60):
        kept = list(range(5, k + 1, 3))[-4:] or [k]
        np.testing.assert_allclose(found[k], points[kept].mean(axis=0), rtol=0, atol=1e-6 * np.abs(points).max())


def test_post_hoc_averages_are_what_the_run_would_have_given():
    rng = np.random.default_rng(0)
    points = np.cumsum(rng.normal(size=(2000, 3)), axis=0)  # as smooth as a run, and no smoother

    def profile(exponent, n):
        x = np.zeros(3)
        for t in range(n):
            x += float(-np.expm1((exponent + 1) * np.log1p(-1 / (t + 1)))) * (points[t] - x) if t else points[0] - x
        return x

    snapshots = [
        Snapshot(n, exponent, {"w": profile(exponent, n).astype(np.float32)})
        for n in range(100, 2001, 100)
        for exponent in (16.97, 6.94)
    ]
    scale = np.abs(points).max()
    for exponent, n in [(10.0, 2000), (20.0, 2000), (7.5, 1500)]:
        found = post_hoc_ema(snapshots, exponent, n)["w"]
        np.testing.assert_allclose(found, profile(exponent, n), rtol=0, atol=0.01 * scale)
    # One that is a snapshot comes back as it is.
    np.testing.assert_allclose(post_hoc_ema(snapshots, 6.94)["w"], snapshots[-1].params["w"], rtol=1e-4)
    assert coefficients([(100, 5.0), (200, 5.0)], (200, 5.0)).sum() == pytest.approx(1.0)


# Reading --------------------------------------------------------------------------------------------------


def test_hyperparameters_are_those_of_the_last_update():
    optimizer = optax.chain(optax.clip(1.0), average(adam(linear(0.1, 0.0, 10), b1=linear(0.9, 0.8, 10)), polyak()))
    params = as_jax(PARAMS)
    state = optimizer.init(params)
    np.testing.assert_allclose(hyperparameters(state)["learning_rate"], 0.1)
    for k in range(4):
        _, state = optimizer.update(as_jax(GRADS[k]), state, params)
        expected = {"learning_rate": 0.1 - 0.01 * k, "b1": 0.9 - 0.01 * k, "b2": 0.999, "eps": 1e-8, "weight_decay": 0}
        expected |= {"coefficient": 1 / (k + 1), "beta": 0}
        found = hyperparameters(state)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_hyperparameters_are_read_through_wrappers_and_count_updates():
    inner = sgd(linear(0.1, 0.0, 10), 0.9)
    for wrapped, updates in [
        (optax.MultiSteps(inner, 3).gradient_transformation(), 7),
        (optax.apply_if_finite(inner, 3), 3),
        (optax.masked(inner, {"w": True, "b": False}), 3),
    ]:
        _, state = trained(wrapped, updates)
        found = hyperparameters(state)
        np.testing.assert_allclose(
            found["learning_rate"], 0.1 - 0.01 * (updates // 3 if updates == 7 else updates) + 0.01, rtol=1e-5
        )
    groups = optax.partition({"a": sgd(0.1), "b": sgd(0.2)}, {"w": "a", "b": "b"})
    rates = {name: float(v) for name, v in hyperparameters(trained(groups, 1)[1]).items() if "learning_rate" in name}
    assert sorted(rates.values()) == pytest.approx([0.1, 0.2])


def test_training_parameters_are_not_saved_by_mistake():
    params, state = trained(schedule_free(adam(0.05, b1=0.0)), updates=3)
    best = eval_params(state, params)
    assert require_eval_params(state, best) is best
    with pytest.raises(ValueError, match=r"^require_eval_params: `params` must be the averaged parameters, "):
        require_eval_params(state, params)
    params, state = trained(adam(0.05), updates=3)
    assert require_eval_params(state, params) is params
    params, state = trained(schedule_free_sgd(0.05, lean=True), updates=3)
    with pytest.raises(ValueError, match="must store its average, got one in the lean form$"):
        require_eval_params(state, params)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: average(adam(0.1), {}), "average: `coefficient` must be a schedule or a dict of one or more, got an empty dict"),
        (lambda: average(adam(0.1), {"a": polyak()}, beta=0.9), "average: `coefficient` must be one schedule if beta is not 0, got {'a': polyak()}"),
        (lambda: average(adam(0.1), polyak(), decay_at="x"), "average: `decay_at` must be one of 'y', 'z', got 'x'"),
        (lambda: average(adam(0.1), polyak(), beta=0.9, lean=1), "average: `lean` must be one of False, True, got 1"),
        (lambda: schedule_free_sgd(lean="yes"), "schedule_free_sgd: `lean` must be one of False, True, got 'yes'"),
        (lambda: schedule_free_radam(silent=None), "schedule_free_radam: `silent` must be one of False, True, got None"),
        (lambda: sgd(0.1, 0.9, nesterov=1), "sgd: `nesterov` must be one of False, True, got 1"),
        (lambda: adam(0.1, mu_dtype=int), "adam: `mu_dtype` must be a real floating-point dtype or None, got <class 'int'>"),
        (lambda: adamw(0.1, mu_dtype="no"), "adamw: `mu_dtype` must be a real floating-point dtype or None, got 'no'"),
        (lambda: radam(0.1, mu_dtype=jnp.complex64), f"radam: `mu_dtype` must be a real floating-point dtype or None, got {jnp.complex64!r}"),
        (lambda: average(adam(0.1), polyak(), beta=0.4, lean=True), "average: `beta` must be at least 0.5 in the lean form, got 0.4"),
        (lambda: average(adam(0.1), polyak(), lean=True), "average: `beta` must be at least 0.5 in the lean form, got 0.0"),
        (lambda: gpa(adam(0.1), 1.0), "gpa: `mu_x` must be a number from 0 to below 1 or a schedule, got 1.0"),
        (lambda: average(adam(0.1), polyak(), beta=1.5), "average: `beta` must be a number from 0 to 1 or a schedule, got 1.5"),
        (lambda: average(adam(0.1), 0.999), "average: `coefficient` must be a schedule such as polyak(), ema(0.999) or constant(c), got 0.999"),
        (lambda: average(adam(0.1), ema), f"average: `coefficient` must be a schedule such as polyak(), ema(0.999) or constant(c), got {ema!r}"),
        (lambda: average(adam(0.1), {"a": ema_half_life}), f"average: `coefficient` must be a schedule such as polyak(), ema(0.999) or constant(c), got {ema_half_life!r}"),
        (lambda: average(adam(0.1), weighted), f"average: `coefficient` must be a schedule such as polyak(), ema(0.999) or constant(c), got {weighted!r}"),
        (lambda: average(adam(0.1), polyak), "average: `coefficient` must be a schedule such as polyak(), ema(0.999) or constant(c), got polyak"),
        (lambda: weighted(None), "weighted: `learning_rate` must be a number that is not negative or a schedule, got None"),
        (lambda: average(adam(0.1), {"a": 0.999}), "average: `coefficient` must be a schedule such as polyak(), ema(0.999) or constant(c), got 0.999"),
        (lambda: average(adam(0.1), {0.9: ema(0.9)}), f"average: `coefficient` must have strings as keys, got 0.9: {ema(0.9)!r}"),
        (lambda: average(ema(0.9), adam(0.1)), f"average: `base` must be an optax transformation, got {ema(0.9)!r}"),
        (lambda: lawa(0.1, 3), "lawa: `base` must be an optax transformation, got 0.1"),
        (lambda: weighted(0.1, r=8.0), "weighted: `r` must be a number from 0 to 4, got 8.0"),
        (lambda: schedule_free_sgd(0.1, linear(0.0, 0.9, 9), lean=True).init(jnp.ones(2)), "average: `beta` must be at least 0.5 in the lean form, got 0.0 at step 0"),
        (lambda: post_hoc_ema([Snapshot(5, -0.5, 0.0)], 7.0), "post_hoc_ema: `snapshots[0].exponent` must be a positive number, got -0.5"),
        (lambda: post_hoc_ema([Snapshot(5, 7.0, 0.0), Snapshot(0, 7.0, 0.0)], 7.0), "post_hoc_ema: `snapshots[1].updates` must be a whole number from 1 to 2147483647, got 0"),
        (lambda: post_hoc_ema("abc", 7.0), "post_hoc_ema: `snapshots` must be a list of one or more Snapshots, got 'abc'"),
        (lambda: post_hoc_ema([(5, 7.0, 0.0)], 7.0), "post_hoc_ema: `snapshots` must be a list of one or more Snapshots, got [(5, 7.0, 0.0)]"),
        (lambda: post_hoc_ema([Snapshot(5, 7.0, 0.0)], 7.0, "5"), "post_hoc_ema: `updates` must be a whole number from 1 to 2147483647, got '5'"),
        (lambda: schedule_free_plus().update(jnp.ones(2), schedule_free_plus().init(jnp.ones(2)), jnp.ones(2), value=jnp.ones(2)), "schedule_free_plus: `value` must be one number, got an array of shape (2,)"),
        (lambda: schedule_free_plus().update(jnp.ones(2), schedule_free_plus().init(jnp.ones(2)), jnp.ones(2)), "schedule_free_plus: `value` must be the loss, update(grads, state, params, value=loss), got None"),
        (lambda: lawa(adam(0.1), 0), "lawa: `last` must be a whole number from 1 to 2147483647, got 0"),
        (lambda: lawa(adam(0.1), 2, every=1.5), "lawa: `every` must be a whole number from 1 to 2147483647, got 1.5"),
        (lambda: lawa(adam(0.1), 2, start=-1), "lawa: `start` must be a whole number from 0 to 2147483647, got -1"),
        (lambda: ema_half_life(0), "ema_half_life: `updates` must be a positive number, got 0"),
        (lambda: ema_warmed(1), "ema_warmed: `decay` must be a number from 0 to below 1, got 1"),
        (lambda: exponent_of_width(0.3), "exponent_of_width: `width` must be a number above 0 and below 0.288675, got 0.3"),
        (lambda: post_hoc_ema([], 7.0), "post_hoc_ema: `snapshots` must be a list of one or more Snapshots, got []"),
        (lambda: post_hoc_ema([Snapshot(5, 7.0, 0.0), Snapshot(9, 7.0, 0.0)], 7.0, 10), "post_hoc_ema: `updates` must be 9, as in the latest snapshot, or less, got 10"),
        (lambda: post_hoc_ema([Snapshot(5, 7.0, 0.0)], 7.0, 4), "post_hoc_ema: `snapshots` must hold one after 4 updates or fewer, got those after [5]"),
        (lambda: post_hoc_ema([Snapshot(5, 7.0, 0.0)], 0.0), "post_hoc_ema: `exponent` must be a positive number, got 0.0"),
        (lambda: average(adam(0.1), polyak()).init({"w": jnp.ones(2, complex)}), "average: `params` must be real floating-point arrays, got complex64 at ['w']; wrap the optimizer in optax.contrib.split_real_and_imaginary"),
        (lambda: schedule_free_adamw(b2=1.0), "schedule_free_adamw: `b2` must be a number from 0 to below 1 or a schedule, got 1.0"),
        (lambda: schedule_free_adamw(inner_momentum=1.0), "schedule_free_adamw: `inner_momentum` must be a number from 0 to below 1 or a schedule, got 1.0"),
        (lambda: schedule_free_radam(eps=-1.0), "schedule_free_radam: `eps` must be a number that is not negative or a schedule, got -1.0"),
        (lambda: adam(0.1).init(jnp.arange(3)), "adam: `params` must be real floating-point arrays, got int32; leave out what is not trained, and convert the rest to floating point"),
        (lambda: sgd(0.1, momentum=np.float32(1.0)), "sgd: `momentum` must be a number from 0 to below 1 or a schedule, got np.float32(1.0)"),
    ],
)  # fmt: skip
def test_a_bad_argument_is_one_clear_sentence(mistake, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, compared whole below
        mistake()
    assert str(caught.value) == message


# Of one's own -------------------------------------------------------------------------------------------


class MedianState(NamedTuple):
    """An average that this library does not know: the median of the latest three."""

    count: jax.Array
    last: Any

    def averages(self):
        return {"median": Average(self.last, lambda three, newest: jnp.median(three, axis=0), axes=1)}


def median_of_three():
    def init(params):
        return MedianState(jnp.int32(0), jax.tree.map(lambda p: jnp.stack([p] * 3), params))

    def update(updates, state, params):
        last = jax.tree.map(lambda three, p, u: jnp.stack([*three[1:], p + u]), state.last, params, updates)
        return updates, MedianState(state.count + 1, last)

    return optax.GradientTransformation(init, update)


@pytest.mark.parametrize(
    "wrap",
    [lambda o: o, lambda o: optax.chain(optax.identity(), o), lambda o: optax.masked(o, {"w": True, "b": False})],
)
def test_an_average_of_ones_own_is_found(wrap):
    optimizer = wrap(optax.chain(sgd(1.0), median_of_three()))
    params = {"w": jnp.zeros(2), "b": jnp.zeros(())}
    state = optimizer.init(params)
    for step in (1.0, 5.0, -2.0):
        updates, state = optimizer.update({"w": jnp.full(2, -step), "b": jnp.zeros(())}, state, params)
        params = optax.apply_updates(params, updates)
    found = eval_params(state, params, "median")
    np.testing.assert_array_equal(found["w"], 4.0)  # of 1, 6 and 4
    np.testing.assert_array_equal(found["b"], 0.0)
    assert require_eval_params(state, found, "median") is found
    with pytest.raises(ValueError, match="^eval_params: `name` must be one of 'median', got None$"):
        eval_params(state, params)
    with pytest.raises(ValueError, match="got training parameters at"):
        require_eval_params(state, jax.tree.map(lambda p: p + 1, params), "median")


class EveryOther(NamedTuple):
    """A coefficient that remembers: the mean of the parameters after every other update."""

    first: Any

    def init(self):
        return jnp.zeros((), jnp.int32)

    def update(self, count, memory):
        taken = (count - self.first) % 2 == 0
        memory = memory + taken
        return jnp.where(taken, 1 / jnp.maximum(memory, 1), 0.0), memory


def test_a_coefficient_of_ones_own_may_remember():
    optimizer = average(sgd(1.0), {"own": EveryOther(1), "uniform": polyak(), "by rate": weighted(0.1)})
    params, points = jnp.zeros(()), []
    state = optimizer.init(params)
    for step in range(7):
        updates, state = jax.jit(optimizer.update)(jnp.float32(step - 3), state, params)
        params = optax.apply_updates(params, updates)
        points.append(float(params))
    for name, expected in (("own", points[1::2]), ("uniform", points), ("by rate", points)):
        np.testing.assert_allclose(eval_params(state, params, name), np.mean(expected), rtol=1e-6)
    assert {"coefficient[own]", "coefficient[by rate]", "beta"} <= hyperparameters(state).keys()
    alone = average(sgd(1.0), EveryOther(0), beta=0.9)
    with pytest.raises(
        ValueError, match="^average: `state` must be the state that its own init makes, got one with another `memory`$"
    ):
        alone.update(params, average(sgd(1.0), polyak(), beta=0.9).init(params), params)
