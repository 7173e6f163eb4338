"""Decay and averaging: each identity in float64, and on the parameters of real optimizer runs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optim import (
    adam,
    average,
    average_like,
    average_of,
    decay_of,
    effective_window,
    ema,
    ema_half_life,
    ema_relative,
    ema_warmed,
    eval_params,
    exponential_average,
    half_life,
    polyak,
    polynomial_average,
    power_ema,
    sampled,
    sgd,
    swa,
    tail,
    weighted,
    weights_of,
)
from schedules import (
    constant,
    cosine,
    exponential_decay,
    join,
    linear,
    multistep,
    one_minus_sqrt,
    restarts,
    table,
    tabulate,
    triangular,
    warmup,
    wsd,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")
K = 120
T = np.arange(K)
AVERAGES = {
    "polyak": polyak(),
    "tail": tail(70),
    "swa": swa(30, 7),
    "sampled": sampled(exponential_average(5.0), 3),
    "ema": ema(0.9),
    "ema-half-life": ema_half_life(7.0),
    "ema-warmed": ema_warmed(0.95),
    "ema-relative": ema_relative(0.2),
    "polynomial": polynomial_average(2.0),
    "power": power_ema(6.94),
    "raw-ema": constant(0.1),
    "weighted": weighted(warmup(constant(0.1), 20), r=1.0),
    "weighted-later": weighted(0.1, start=30),
    "callable": lambda t: 1 / (t + 1.0) ** 0.7,
    "mixed": join([polyak(), 0.05], [40]),
    "like": average_like(cosine(0.3, 0.0, K), K, of=0.3),
    "like-of-checkpoints": average_like(wsd(0.3, 10, 60, 50), K, of=0.3, every=7),
}
each_average = pytest.mark.parametrize("coefficient", AVERAGES.values(), ids=AVERAGES)


def close(found, expected, tolerance=1e-12):
    assert np.asarray(found).dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


# Identities -------------------------------------------------------------------------------------------


def of(schedule, steps=K):
    with jax.enable_x64(True):
        return np.asarray(tabulate(schedule, steps))


def gamma_ratio(r):
    """1 - the share of what was before t in a polynomial average."""
    logs = [math.lgamma(K) - math.lgamma(t) + math.lgamma(t + 1 + r) - math.lgamma(K + 1 + r) for t in T[1:]]
    return np.append(1.0, -np.expm1(logs))


PAIRS = {
    "uniform and linear": (polyak(), linear(1.0, 0.0, K)),
    "tail and WSD": (tail(80), wsd(1.0, 0, 80, K - 80)),
    "power and polynomial decay": (power_ema(2.0), 1.0 - (linear(0.0, 1.0, K) ** 3.0)),
    "power of any exponent": (power_ema(6.94), 1.0 - (linear(0.0, 1.0, K) ** 7.94)),
}


@pytest.mark.parametrize(("coefficient", "decay"), PAIRS.values(), ids=PAIRS)
def test_an_average_and_its_decay(coefficient, decay):
    close(decay_of(coefficient, K), of(decay))
    close(average_of(decay, K, of=1.0), weights_of(coefficient, K))


@pytest.mark.parametrize("b", [0.5, 0.9, 0.999])
def test_an_ema_and_its_exponential_cooldown(b):
    cooldown = 1 - b ** (K - T)
    close(decay_of(constant(1 - b), K), cooldown)  # begun at the initial parameters
    close(decay_of(ema(b), K), cooldown / (1 - b**K))  # bias-corrected


@pytest.mark.parametrize("r", [1, 2, 3])
def test_the_polynomial_average_has_factorial_powers(r):
    factors = [(T + i) / (K + i) for i in range(r + 1)]
    close(decay_of(polynomial_average(r), K), 1 - np.prod(factors, axis=0))
    close(decay_of(polynomial_average(r + 0.3), K), gamma_ratio(r + 0.3))
    close(decay_of(polynomial_average(r), K), 1 - (T / K) ** (r + 1), r * (r + 1) / K)  # near the power, no more


def test_two_points_are_a_rate_halved_between_them():
    weights = np.zeros(K + 1)
    weights[[K - 30, K]] = 0.5
    close(average_of(multistep(0.2, [K - 30], 0.5), K), weights)


def test_the_densities_of_cosine_and_of_one_minus_sqrt():
    j = np.arange(1, K + 1)
    halves = np.sin(np.pi * (j - 0.5) / K) * np.sin(np.pi / (2 * K))
    close(average_of(cosine(0.3, 0.0, K), K), np.append(0.0, halves))
    close(average_of(one_minus_sqrt(0.3, 0.0, K), K), np.append(0.0, np.sqrt(j / K) - np.sqrt((j - 1) / K)))


def test_decay_to_a_floor_leaves_the_rest_to_the_newest():
    weights = np.full(K + 1, 0.9 / K)
    weights[0], weights[-1] = 0.0, 0.1 + 0.9 / K
    close(average_of(linear(1.0, 0.1, K), K), weights)


# There and back ---------------------------------------------------------------------------------------


@each_average
def test_weights_to_decay_and_back(coefficient):
    weights, decay = weights_of(coefficient, K), decay_of(coefficient, K)
    close(weights.sum(), 1.0)
    close(decay, weights.sum() - np.cumsum(weights)[:-1])
    with jax.enable_x64(True):
        close(average_of(table(jnp.asarray(decay)), K, of=1.0), weights)
        close(weights_of(average_like(table(jnp.asarray(decay)), K, of=1.0), K), weights)


RATES = {
    "linear": (linear(0.3, 0.0, K), 0.3),
    "both warmed up from 0": (warmup(cosine(0.3, 0.0, K - 20), 20), warmup(constant(0.3), 20)),
    "to a floor": (cosine(0.3, 0.03, K), 0.3),
    "lower throughout": (linear(0.1, 0.0, K), 0.3),
    "rising in between": (triangular(0.05, 0.25, 10, 10), 0.3),
    "of a decay": (linear(0.3, 0.0, K), linear(0.3, 0.1, K)),
    "both at 0 now and then": (wsd(0.3, 0, 60, 60) * join([1.0, 0.0, 1.0], [70, 75]), join([0.3, 0.0, 0.3], [70, 75])),
    "both at 0 at the end": (linear(0.3, 0.0, 90), join([0.3, 0.0], [90])),
    "both at 0 again and again": (restarts(cosine(0.3, 0.0, 9), 10) * linear(1.0, 0.0, K), restarts(cosine(0.3, 0.0, 9), 10)),
}  # fmt: skip


@pytest.mark.parametrize(("schedule", "own"), RATES.values(), ids=RATES)
def test_a_schedule_comes_back_as_the_decay_of_its_average(schedule, own):
    wanted = of(schedule)
    weights = average_of(schedule, K, own)
    close(weights.sum(), 1.0)
    rates = of(own) if not isinstance(own, float) else np.full(K, own)
    close((1 - np.cumsum(weights)[:-1]) * rates, wanted)
    close(decay_of(average_like(schedule, K, own), K) * rates, wanted)


def test_where_both_rates_are_zero_no_weight_is_needed():
    schedule, own = RATES["both warmed up from 0"]
    weights = average_of(schedule, K, own)
    assert (weights >= 0).all()
    assert weights[:21].max() < 1e-12
    assert average_of(*(RATES["both at 0 at the end"][0], K, RATES["both at 0 at the end"][1])).min() >= 0


@pytest.mark.parametrize("every", [1, 7, 30, 200])
def test_an_average_of_every_nth_multiplies_what_lies_between_by_one_number(every):
    schedule, own = wsd(0.3, 10, 60, 50), warmup(constant(0.3), 10)
    decay = decay_of(average_like(schedule, K, own, every), K)
    for start in range(0, K, every):
        block = slice(start, start + every)
        close(decay[block] * of(own)[block].sum(), of(schedule)[block].sum())
        close(np.ptp(decay[block]), 0.0)


def test_it_is_as_right_in_float32_and_long_runs():
    n = 100_000
    c = np.asarray(tabulate(average_like(cosine(0.3, 0.0, n), n, of=0.3), n), np.float64)
    close(decay_of(table(c), n), of(cosine(1.0, 0.0, n), n), 2e-7)


def test_after_its_end_the_average_stays():
    assert tabulate(average_like(linear(0.1, 0.0, 10), 10, of=0.1), 20)[10:].max() == 0


def test_a_higher_rate_can_be_imitated_by_weights_but_not_by_a_running_average():
    schedule = exponential_decay(0.6, 0.01, K)
    weights = average_of(schedule, K, of=0.3)
    assert weights[0] == -1
    close((1 - np.cumsum(weights)[:-1]) * 0.3, of(schedule))
    newest = of(schedule) >= 0.3
    np.testing.assert_array_equal(of(average_like(schedule, K, of=0.3))[:-1][newest[1:]], 1)


# Lengths ----------------------------------------------------------------------------------------------


def test_how_many_parameters_an_average_is_worth_and_how_old_they_are():
    expected = {
        "polyak": (polyak(), 1000, 500),
        "tail": (tail(600), 400, 200),
        "ema": (ema(0.95), 1.95 / 0.05, 13 + (0.95**13 - 0.5) / (0.95**13 - 0.95**14)),
        "half-life": (ema_half_life(20), (1 + 0.5 ** (1 / 20)) / (1 - 0.5 ** (1 / 20)), 20),
        "the newest": (constant(1.0), 1, 0.5),
    }
    for name, (coefficient, window, age) in expected.items():
        np.testing.assert_allclose(effective_window(coefficient, 1000), window, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(half_life(coefficient, 1000), age, rtol=1e-12, err_msg=name)
    assert type(effective_window(polyak(), 9)) is type(half_life(polyak(), 9)) is float


@each_average
def test_every_average_has_them(coefficient):
    weights = weights_of(coefficient, K)
    np.testing.assert_allclose(effective_window(coefficient, K), 1 / np.dot(weights, weights), rtol=1e-12)
    n = half_life(coefficient, K)
    assert weights[::-1][: math.ceil(n)].sum() >= 0.5 - 1e-12
    assert weights[::-1][: math.ceil(n) - 1].sum() < 0.5 + 1e-12


# On a run ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run():
    """The parameters before and after each update of Adam on a noisy quadratic, in float64."""
    with jax.enable_x64(True):
        optimizer, noise = adam(0.05), jnp.asarray(np.random.default_rng(0).normal(size=(K, 3)))

        def step(carry, noise):
            params, state = carry
            updates, state = optimizer.update(params + noise, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        start = jnp.array([1.0, -2.0, 3.0])
        _, points = jax.jit(lambda: jax.lax.scan(step, (start, optimizer.init(start)), noise))()
        return np.concatenate([start[None], points])


@each_average
def test_the_average_is_where_the_multiplied_updates_lead(coefficient, run):
    def follow(params):
        replayed = average(optax.identity(), coefficient)

        def step(carry, update):
            params, state = carry
            _, state = replayed.update(update, state, params)
            return (params + update, state), None

        (params, state), _ = jax.lax.scan(step, (params, replayed.init(params)), jnp.diff(jnp.asarray(run), axis=0))
        return eval_params(state, params)

    with jax.enable_x64(True):
        found = np.asarray(jax.jit(follow)(jnp.asarray(run[0])))
    close(found, run[0] + decay_of(coefficient, K) @ np.diff(run, axis=0))
    close(found, weights_of(coefficient, K) @ run)


@pytest.mark.parametrize("decay", [linear(0.1, 0.0, K), wsd(0.1, 0, 90, 30), cosine(0.1, 0.0, K)])
def test_on_a_linear_loss_the_average_is_the_run_that_decayed(decay, x64):
    def end(optimizer):
        params = jnp.array([1.0, 2.0])
        state = optimizer.init(params)
        gradients = jnp.asarray(np.random.default_rng(1).normal(size=(K, 2)))  # whatever the parameters

        def step(carry, gradient):
            params, state = carry
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, state), gradients)
        return eval_params(state, params)

    close(np.asarray(end(average(sgd(0.1), average_like(decay, K, of=0.1)))), end(sgd(decay)))


# As a value, and mistakes -----------------------------------------------------------------------------


def test_the_coefficient_is_a_schedule_whose_numbers_can_be_swept():
    one = average_like(linear(0.3, 0.0, K), K, of=0.3)
    assert repr(one) == (
        "average_like(linear(start=0.3, end=0.0, steps=120), steps=120, of=constant(value=0.3), every=1)"
    )
    swept = jax.vmap(lambda end: tabulate(average_like(linear(0.3, end, K), K, of=0.3), K))(jnp.array([0.0, 0.1]))
    np.testing.assert_allclose(swept[0], tabulate(polyak(), K), rtol=2e-5)
    slope = jax.grad(lambda end: average_like(linear(0.3, end, K), K, of=0.3)(K - 1))(0.0)
    np.testing.assert_allclose(slope, (1 - 1 / K) / 0.3, rtol=1e-5)


MISTAKES = {
    "no average": (lambda: decay_of(0.999, 10), "decay_of: `average` must be a schedule such as polyak(), ema(0.999) or constant(c), got 0.999"),
    "not called": (lambda: weights_of(polyak, 10), "weights_of: `average` must be a schedule such as polyak(), ema(0.999) or constant(c), got polyak"),
    "no updates": (lambda: effective_window(polyak(), 0), "effective_window: `steps` must be a whole number from 1 to 2147483647, got 0"),
    "half a step": (lambda: half_life(polyak(), 1.5), "half_life: `steps` must be a whole number from 1 to 2147483647, got 1.5"),
    "no schedule": (lambda: average_of("cosine", 10), "average_of: `schedule` must be a schedule, a number or a function of the step, got 'cosine'"),
    "of no schedule": (lambda: average_of(0.1, 10, of="0.1"), "average_of: `of` must be a schedule, a number or a function of the step, got '0.1'"),
    "infinite": (lambda: average_of(lambda t: 1 / t, 10), "average_of: `schedule` must be finite over the 10 updates of the run, got inf at step 0"),
    "nowhere above 0": (lambda: average_of(0.0, 10), "average_of: `schedule` must be above 0 at one or more of the 10 updates, got at most 0"),
    "a run that stands": (lambda: average_of(0.1, 10, of=0.0), "average_of: `of` must be above 0 at one or more of the 10 updates, got at most 0"),
    "no update to take": (lambda: average_of(0.1, 10, of=linear(0.0, 1.0, 9)), "average_of: `of` must be positive, or 0 where `schedule` is 0, got 0 at step 0, where `schedule` is 0.1"),
    "a rate below 0": (lambda: average_of(0.1, 10, of=linear(1.0, -1.0, 4)), "average_of: `of` must be positive, or 0 where `schedule` is 0, got 0 at step 2, where `schedule` is 0.1"),
    "every none": (lambda: average_like(0.1, 10, 0.1, every=0), "average_like: `every` must be a whole number from 1 to 2147483647, got 0"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(call, sentence):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        call()
    assert str(raised.value) == sentence
