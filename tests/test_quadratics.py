"""The exact model against the optimizers themselves, a dense recursion, closed forms and samples."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optim import average, ema, eval_params, exponential_average, polyak, schedule_free, sgd, tail, weighted
from schedules import constant, cosine, linear, one_cycle, one_cycle_momentum, table, tabulate, warmup
from theory import quadratic

H = np.array([1.5, 0.4, 0.03])
PROBLEM = quadratic(H, noise=[0.5, 0.2, 0.1], start=[1.0, -2.0, 3.0])
STEPS = 300

# As `average` takes them, base first; and as `expected_loss` does.
UP = warmup(0.4, 50)
RUNS = {
    "sgd": (sgd(linear(0.4, 0.0, STEPS)), {"lr": linear(0.4, 0.0, STEPS)}),
    "momentum": (sgd(cosine(0.1, 0.0, STEPS), 0.9), {"lr": cosine(0.1, 0.0, STEPS), "momentum": 0.9}),
    "one-cycle": (
        sgd(one_cycle(0.1, 90, 210), one_cycle_momentum(90, 210)),
        {"lr": one_cycle(0.1, 90, 210), "momentum": one_cycle_momentum(90, 210)},
    ),
    "tail": (
        average(sgd(0.2, 0.5), tail(200)),
        {"lr": constant(0.2), "momentum": 0.5, "coefficient": tail(200)},
    ),
    "schedule-free": (
        schedule_free(sgd(0.5), ema(0.98)),
        {"lr": constant(0.5), "coefficient": ema(0.98), "beta": 0.9},
    ),
    "weighted": (
        schedule_free(sgd(UP), weighted(UP), linear(0.5, 1.0, STEPS)),
        {"lr": UP, "coefficient": weighted(UP), "beta": linear(0.5, 1.0, STEPS)},
    ),
}


def trained(optimizer, noise, params):
    """The parameters that are evaluated after each update, from gradients of the quadratic with `noise` (steps, ...)."""

    def update(carry, noise):
        params, state = carry
        updates, state = optimizer.update(H * params + noise, state, params)
        params = params + updates
        evaluated = eval_params(state, params) if hasattr(state, "averages") else params
        return (params, state), evaluated

    return jax.jit(lambda: jax.lax.scan(update, (params, optimizer.init(params)), noise)[1])()


@pytest.mark.parametrize("name", RUNS)
def test_without_noise_it_is_the_run_of_the_optimizer(name):
    optimizer, settings = RUNS[name]
    x = np.asarray(trained(optimizer, jnp.zeros((STEPS, 3)), PROBLEM.start), float)
    losses = PROBLEM._replace(noise=jnp.zeros(3)).expected_loss(steps=STEPS, **settings)
    assert losses.shape == (STEPS + 1,)
    np.testing.assert_allclose(losses[0], H @ np.square(PROBLEM.start) / 2, rtol=1e-6)
    # Where an oscillation passes through zero, so do all digits of x.
    np.testing.assert_allclose(losses[1:], np.square(x) @ H / 2, rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize("name", RUNS)
def test_it_is_the_mean_of_sampled_runs(name):
    optimizer, settings = RUNS[name]
    samples = 2_000
    # Of another distribution than the normal one, since only its variance counts.
    signs = jax.random.rademacher(jax.random.key(0), (STEPS, samples, 3)).astype(float)
    params = jnp.broadcast_to(PROBLEM.start, (samples, 3))
    losses = np.square(np.asarray(trained(optimizer, signs * PROBLEM.noise, params), float)) @ H / 2
    expected = np.asarray(PROBLEM.expected_loss(steps=STEPS, **settings)[1:])
    at = np.array([0, 9, 49, 149, 249, STEPS - 1])
    errors = losses.std(axis=1, ddof=1) / np.sqrt(samples)
    off = np.abs(losses.mean(axis=1) - expected)[at]
    assert (off <= 4 * errors[at] + 1e-6 * expected[at]).all(), off / errors[at]


def dense(h, noise, start, lr, momentum, c, beta):
    """The second moments of (z, u, x) by products of matrices in float64: losses at x, y and z."""
    losses = {"x": [], "y": [], "z": []}
    moments = [s**2 * np.outer([1, 0, 1], [1, 0, 1]) for s in start]
    for t in range(len(lr)):
        for i in range(len(h)):
            b = beta[max(t - 1, 0)]
            of_u = np.array([h[i] * (1 - b), momentum[t], h[i] * b])
            of_z = np.array([1, 0, 0]) - lr[t] * of_u
            of_x = np.array([0, 0, 1 - c[t]]) + c[t] * of_z
            a, gain = np.stack([of_z, of_u, of_x]), np.array([-lr[t], 1, -c[t] * lr[t]])
            moments[i] = a @ moments[i] @ a.T + noise[i] ** 2 * np.outer(gain, gain)
        for name, v in (("x", [0, 0, 1]), ("y", [1 - beta[t], 0, beta[t]]), ("z", [1, 0, 0])):
            losses[name].append(sum(h[i] / 2 * np.dot(v, moments[i] @ v) for i in range(len(h))))
    return losses


@pytest.fixture(scope="module")
def random_case():
    random = np.random.default_rng(0)
    numbers = {"lr": random.uniform(0, 0.6, 60), "momentum": random.uniform(0, 0.95, 60)}
    numbers |= {"coefficient": random.uniform(0, 1, 60), "beta": random.uniform(0, 1, 60)}
    problem = {"curvatures": random.uniform(0.01, 1.5, 4), "noise": random.uniform(0, 1, 4)}
    problem["start"] = random.normal(size=4)
    return problem, numbers


@pytest.mark.parametrize("at", ["x", "y", "z"])
def test_it_is_the_dense_recursion(random_case, at, x64):
    problem, numbers = random_case
    expected = dense(*problem.values(), *numbers.values())[at]
    schedules = {name: table(values) for name, values in numbers.items()}
    losses = quadratic(**problem).expected_loss(steps=60, at=at, **schedules)
    np.testing.assert_allclose(losses[1:], expected, rtol=1e-10)


def test_float32_keeps_its_digits_over_long_runs():
    steps, problem = 20_000, quadratic(1 / np.arange(1, 31), noise=np.arange(1, 31) ** -0.5)
    for lr, settings in [
        (constant(1e-3), {"coefficient": polyak()}),
        (linear(1e-3, 0.0, steps), {"momentum": 0.99}),
        (constant(0.1), {"coefficient": exponential_average(2_000), "beta": 0.9}),
    ]:
        ours = problem.expected_loss(lr, steps, **settings)
        # The same numbers, where float64 schedules would differ from those of float32.
        rates, c = (np.asarray(tabulate(each, steps)) for each in (lr, settings.get("coefficient", constant(1.0))))
        with jax.enable_x64(True):
            theirs = problem.expected_loss(rates.astype(float), steps, **{**settings, "coefficient": table(c)})
        np.testing.assert_allclose(ours, theirs, rtol=3e-6)


# Closed forms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lr", "momentum"), [(0.1, 0.0), (1.2, 0.0), (0.05, 0.9)])
def test_at_a_constant_rate_it_settles_where_noise_and_curvature_balance(lr, momentum):
    variances = lr * PROBLEM.noise**2 * (1 + momentum) / (H * (1 - momentum) * (2 * (1 + momentum) - lr * H))
    losses = PROBLEM.expected_loss(constant(lr), 8_000, momentum)
    np.testing.assert_allclose(losses[-1], H @ variances / 2, rtol=1e-5)


def test_the_uniform_average_of_a_constant_rate():
    lr, steps, h, noise, start = 0.3, 500, 0.7, 0.4, 5.0
    stay = 1 - lr * h
    # What noise k updates ago has moved the sum of all z by; and the start.
    moved = (1 - stay ** np.arange(1, steps + 1)) / h
    mean = start * stay * (1 - stay**steps) / (lr * h)
    expected = h / 2 * (mean**2 + noise**2 * np.sum(moved**2)) / steps**2
    problem = quadratic([h], noise, start)
    np.testing.assert_allclose(
        problem.expected_loss(constant(lr), steps, coefficient=polyak())[-1], expected, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("coefficient", "decay"),
    [
        (polyak(), 1 - np.arange(400) / 400),
        (tail(300), np.minimum(1, (400 - np.arange(400)) / 100)),
        (exponential_average(50), (1 - 0.98 ** np.arange(400, 0, -1)) / (1 - 0.98**400)),
    ],
)
def test_on_a_linear_loss_an_average_is_a_decay(coefficient, decay):
    """Without curvature gradients are the same wherever they are taken, so the identity of both is exact."""
    flat = quadratic([1e-12], noise=1.0, start=2.0)
    averaged = flat.expected_loss(constant(0.3), 400, coefficient=coefficient)[-1]
    decayed = flat.expected_loss(jnp.asarray(0.3 * decay), 400)[-1]
    np.testing.assert_allclose(averaged, decayed, rtol=2e-6)
    np.testing.assert_allclose(averaged, 0.5e-12 * (4 + 0.09 * np.sum(decay**2)), rtol=2e-6)


# As a function of its numbers -----------------------------------------------------------------------------


def end(peak, window, steps=100):
    settings = {"momentum": 0.5, "coefficient": exponential_average(window), "beta": 0.3}
    return PROBLEM.expected_loss(cosine(peak, 0.01, steps), steps, **settings)[-1]


def test_it_is_differentiable(x64):
    for i, at in enumerate([(0.1, 20.0), (0.4, 5.0)]):
        gradient = jax.grad(end, (0, 1))(*at)
        for j in range(2):
            step = 1e-5 * np.eye(2)[j]
            slope = (end(*(at + step)) - end(*(at - step))) / 2e-5
            np.testing.assert_allclose(gradient[j], slope, rtol=1e-6, err_msg=f"{i}, {j}")
    rates = jnp.linspace(0.3, 0.1, 50)
    last = jax.jit(lambda rates: PROBLEM.expected_loss(rates, 50)[-1])
    direction = jnp.cos(jnp.arange(50.0))
    slope = (last(rates + 1e-5 * direction) - last(rates - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose(jax.grad(last)(rates) @ direction, slope, rtol=1e-6)


def test_it_maps_over_numbers_of_schedules_and_of_the_problem():
    peaks, windows = jnp.array([0.1, 0.2, 0.3]), jnp.array([5.0, 20.0, 80.0])
    alone = [float(end(*pair)) for pair in zip(peaks, windows, strict=True)]
    np.testing.assert_allclose(jax.jit(jax.vmap(end))(peaks, windows), alone, rtol=1e-6)
    noises = jnp.array([0.0, 0.5, 2.0])
    losses = jax.vmap(lambda noise: quadratic(H, noise).expected_loss(constant(0.1), 50))(noises)
    np.testing.assert_allclose(losses[1], quadratic(H, 0.5).expected_loss(constant(0.1), 50), rtol=1e-6)


def test_other_numbers_compile_nothing(compiled):
    end(0.1, 20.0)
    compiled()
    end(0.2, 30.0)
    quadratic(2 * H, noise=np.ones(3)).expected_loss(cosine(0.2, 0.0, 100), 100, 0.1, exponential_average(9), 0.2)
    assert compiled() == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            partial(quadratic, [1.0, 0.0]),
            "quadratic: `curvatures` must be a list of positive numbers, got [1.0, 0.0]",
        ),
        (partial(quadratic, 1.0), "quadratic: `curvatures` must be a list of positive numbers, got 1.0"),
        (partial(quadratic, []), "quadratic: `curvatures` must be one number or more, got none"),
        (
            partial(quadratic, H, -1.0),
            "quadratic: `noise` must be a number that is not negative, or a list of such numbers, got -1.0",
        ),
        (
            partial(quadratic, H, 1.0, "far"),
            "quadratic: `start` must be a finite number, or a list of such numbers, got 'far'",
        ),
        (partial(quadratic, H, [1.0, 2.0]), "quadratic: `noise` must be one number or 3 of them, got 2"),
        (
            partial(PROBLEM.expected_loss, 0.1, 0),
            "expected_loss: `steps` must be a whole number from 1 to 2147483647, got 0",
        ),
        (
            partial(PROBLEM.expected_loss, np.ones(3), 4),
            "expected_loss: `lr` must hold one rate for each of 4 updates, got 3",
        ),
        (
            partial(PROBLEM.expected_loss, 0.1, 9, 1.0),
            "expected_loss: `momentum` must be a number from 0 to below 1 or a schedule, got 1.0",
        ),
        (
            partial(PROBLEM.expected_loss, 0.1, 9, coefficient=0.99),
            "expected_loss: `coefficient` must be None, a schedule such as polyak() or ema(0.999), or a stateful "
            "coefficient, got 0.99",
        ),
        (
            partial(PROBLEM.expected_loss, 0.1, 9, at="w"),
            "expected_loss: `at` must be one of 'x', 'y', 'z', got 'w'",
        ),
    ],
)
def test_what_is_no_argument_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
