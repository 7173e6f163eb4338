"""Laws of loss curves against sums written out, published numbers and curves, and curves made by a known law."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.evidence.loss_laws import PUBLISHED, ROOT, errors, published_curves
from schedules import constant, cosine, inverse_sqrt, join, linear, multistep, restarts, tabulate, warmup, wsd
from theory import Annealing, Curve, Fit, LossLaw, MultiPower, fit

POWER = MultiPower(2.65, 0.6, 0.45, 438.0, 2.13, 0.6, 0.65)
LAWS = [POWER, Annealing(2.7, 0.55, 0.5, 0.6, 300.0)]
STEPS = 3_000
# With a rate of 0 at their last update, and from then on; with rises; with steps; irregular.
SCHEDULES = {
    "constant": constant(3e-4),
    "cosine": warmup(cosine(3e-4, 3e-5, 2_700), 300),
    "linear": linear(3e-4, 0.0, STEPS),
    "wsd": wsd(3e-4, 200, 2_000, 500),
    "drop": warmup(multistep(3e-4, [1_000, 1_001], 0.1), 100),
    "restarts": restarts(cosine(3e-4, 1e-5, 500), 500),
    "inverse_sqrt": inverse_sqrt(3e-4, 100),
    "noisy": jnp.asarray(3e-4 * np.random.default_rng(0).uniform(0.8, 1.0, STEPS)),
}
POINTS = np.array([1, 2, 3, 10, 100, 999, 1_001, 2_345, STEPS])


def rates(lr, steps=STEPS):
    return np.asarray(lr if isinstance(lr, jax.Array) else tabulate(lr, steps), np.float64)


def summed(law, lr, t):
    """The formula of the docstring, one term after another."""
    loss = law.L0 + law.A * np.sum(lr[:t]) ** -law.alpha
    drops = [(k, lr[k - 1] - lr[k]) for k in range(1, t) if lr[k - 1] != lr[k]]
    if isinstance(law, MultiPower):
        for k, drop in drops:
            since = np.sum(lr[k:t])
            loss -= law.B * drop * (1 - (1 + law.C * max(lr[k], 1e-30) ** -law.gamma * since) ** -law.beta)
        return loss
    return loss - law.C * sum(drop * sum(np.exp(-(i - k) / law.window) for i in range(k, t)) for k, drop in drops)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_law_predicts_what_its_formula_says(law, name, x64):
    lr = SCHEDULES[name]
    points = POINTS[POINTS > 1] if name in ("cosine", "wsd", "drop") else POINTS  # the sum of the rates is above 0
    if isinstance(law, Annealing):
        points = points[points < 1_000]  # the double sum takes long
    expected = [summed(law, rates(lr), t) for t in points]
    np.testing.assert_allclose(law.predict(lr, points), expected, rtol=0, atol=1e-6)
    traced = jax.jit(law.predict, static_argnums=1)(jnp.asarray(rates(lr)), int(points[-1]))
    np.testing.assert_allclose(traced, expected[-1], rtol=1e-12)


def test_numbers_of_updates_are_one_or_many():
    lr = SCHEDULES["cosine"]
    many = POWER.predict(lr, [100, STEPS])
    assert many.shape == (2,)
    assert POWER.predict(lr, STEPS).shape == ()
    np.testing.assert_allclose(POWER.predict(jnp.asarray(rates(lr)), STEPS), many[1], rtol=1e-6)
    np.testing.assert_allclose(POWER.predict(jnp.asarray(rates(lr, 5_000)), STEPS), many[1], rtol=1e-6)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_a_law_is_differentiable(law, x64):
    lr = jnp.asarray(rates(cosine(3e-4, 3e-5, 100), 100))
    loss = jax.jit(lambda lr: law.predict(lr, 100))
    gradient = jax.grad(loss)(lr)
    for k in (0, 1, 50, 99):
        nudge = jnp.zeros(100).at[k].set(1e-9)
        slope = (loss(lr + nudge) - loss(lr - nudge)) / 2e-9
        np.testing.assert_allclose(gradient[k], slope, rtol=1e-5)
    ends = jax.vmap(lambda peak: law.predict(cosine(peak, 0.0, 100), 100))(jnp.array([1e-4, 3e-4]))
    alone = [law.predict(cosine(peak, 0.0, 100), 100) for peak in (1e-4, 3e-4)]
    np.testing.assert_allclose(ends, alone, rtol=1e-6)
    by_parameter = jax.grad(lambda law: law.predict(constant(3e-4), 100))(law)
    np.testing.assert_allclose(by_parameter.L0, 1.0, rtol=1e-12)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_a_drop_of_the_rate_lowers_the_loss_and_a_rise_does_not(law):
    law = dataclasses.replace(law, A=1e-9)  # so that nothing else changes the loss
    loss = {factor: law.predict(multistep(3e-4, [1_000], factor), [1_000, 1_200]) for factor in (0.3, 0.6, 1.0, 2.0)}
    before, after = zip(*loss.values(), strict=True)
    np.testing.assert_allclose(before, law.L0, rtol=1e-6)
    assert np.all(np.diff(after) > 1e-3)


# As published by the authors: R2, then mean, root mean square, mean relative and worst relative errors.
TABLE = {
    "25m": (0.9988, 0.00376, 0.00465, 0.00110, 0.00409),
    "100m": (0.9983, 0.00435, 0.00592, 0.00142, 0.00583),
    "400m": (0.9978, 0.00484, 0.00730, 0.00168, 0.00995),
}


@pytest.mark.parametrize("size", TABLE)
def test_published_parameters_have_the_published_errors(size):
    found = errors(PUBLISHED[size], published_curves(size)[1])
    rounded = [round(number, digits) for number, digits in zip(found.values(), (4, 5, 5, 5, 5), strict=True)]
    assert rounded == [*TABLE[size]]


@pytest.mark.parametrize("size", ["25m", "100m", "400m"])
def test_published_schedules_have_the_recorded_rates(size):
    recorded = json.loads((ROOT / "tests" / "curves" / f"mpl_{size}.json").read_text())["curves"]
    curves = {name: curve for part in published_curves(size) for name, curve in part.items()}
    assert curves.keys() == recorded.keys()
    for name, curve in curves.items():
        np.testing.assert_allclose(curve.lr(curve.steps - 1), recorded[name]["lr"], rtol=3e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["25m", "100m"])
def test_a_fit_predicts_at_least_as_well_as_the_published_one(size):
    fitted, unseen = published_curves(size)
    found = errors(fit(list(fitted.values()), resamples=2), unseen)
    _, mean, _, _, worst = TABLE[size]
    assert found["MAE"] <= mean
    assert found["worst relative"] <= worst


# Curves of a known law: three to fit to, and one to predict.
T = 600
TAUGHT = [
    warmup(constant(3e-3), 30),
    warmup(cosine(3e-3, 3e-4, T - 30), 30),
    warmup(multistep(3e-3, [170], 0.3), 30),
]
ASKED = join([warmup(constant(3e-3), 30), linear(3e-3, 0.0, 300)], [900])
RECORDED = np.arange(40, T + 1, 8)
TRUE = {
    MultiPower: MultiPower(2.0, 0.8, 0.4, 60.0, 3.0, 0.6, 0.4),
    Annealing: Annealing(2.0, 0.8, 0.4, 0.9, 60.0),
}


def made_by(law: LossLaw, noise: float = 0.0, scale: float = 1.0) -> list[Curve]:
    random = np.random.default_rng(1)
    return [
        Curve(
            jnp.asarray(scale * rates(lr, T)),
            RECORDED,
            np.asarray(law.predict(lr, RECORDED)) * np.exp(noise * random.normal(size=len(RECORDED))),
        )
        for lr in TAUGHT
    ]


@pytest.fixture(scope="module")
def known() -> Fit:
    return fit(made_by(TRUE[MultiPower]), shrinkage=0.0, resamples=4)


def test_a_known_law_is_found_again(known):
    np.testing.assert_allclose(dataclasses.astuple(known.law), dataclasses.astuple(TRUE[MultiPower]), rtol=0.02)
    found = fit(made_by(TRUE[Annealing]), Annealing, resamples=2)
    np.testing.assert_allclose(dataclasses.astuple(found.law), dataclasses.astuple(TRUE[Annealing]), rtol=0.01)


def test_it_predicts_another_schedule_and_a_longer_run(known):
    np.testing.assert_allclose(known.predict(ASKED, [1_200]), TRUE[MultiPower].predict(ASKED, [1_200]), atol=1e-4)
    assert known.misfit < 1e-5


def test_noise_makes_it_less_certain(known):
    noisy = fit(made_by(TRUE[MultiPower], noise=0.003), resamples=8)
    assert known.standard_error(ASKED, 1_200) < 1e-4 < noisy.standard_error(ASKED, 1_200) < 0.1
    assert 0.002 < noisy.misfit < 0.004
    assert abs(noisy.predict(ASKED, 1_200) - TRUE[MultiPower].predict(ASKED, 1_200)) < 0.02


def test_shrinkage_holds_the_exponents_to_a_half():
    curves = made_by(TRUE[MultiPower])
    held, free = (fit(curves, shrinkage=by, resamples=2).law for by in (1e4, 1.0))
    np.testing.assert_allclose([held.beta, held.gamma], 0.5, rtol=1e-2)
    assert abs(np.log(2 * held.beta)) < abs(np.log(2 * free.beta))


def test_the_order_of_curves_and_the_unit_of_the_rate_do_not_matter(known):
    curves = made_by(TRUE[MultiPower])
    other = fit(curves[::-1], shrinkage=0.0, resamples=2)
    np.testing.assert_allclose(other.predict(ASKED, 1_200), known.predict(ASKED, 1_200), atol=1e-4)
    s = 16.0
    scaled = fit(made_by(TRUE[MultiPower], scale=s), shrinkage=0.0, resamples=2)
    np.testing.assert_allclose(scaled.predict(s * ASKED, 1_200), known.predict(ASKED, 1_200), atol=1e-4)
    law = known.law
    expected = (law.L0, law.A * s**law.alpha, law.alpha, law.B / s, law.C * s ** (law.gamma - 1), law.beta, law.gamma)
    np.testing.assert_allclose(dataclasses.astuple(scaled.law), expected, rtol=0.03)


def test_the_same_seed_gives_the_same_fit(known):
    again = fit(made_by(TRUE[MultiPower]), shrinkage=0.0, resamples=4)
    assert again.law == known.law
    np.testing.assert_array_equal(again.resampled.B, known.resampled.B)


GOOD = Curve(constant(0.1), np.arange(1, 10), np.ones(9))
MANY = "a number of updates from 1 to 2147483647, or an array of them"
MISTAKES = [
    (lambda: POWER.predict(constant(1.0), 0), f"predict: `steps` must be {MANY}, got 0"),
    (lambda: POWER.predict(constant(1.0), [1.5]), f"predict: `steps` must be {MANY}, got [1.5]"),
    (
        lambda: POWER.predict(jnp.ones(5), [3, 7]),
        "predict: `steps` must be at most 5, the number of rates in `lr`, got 7",
    ),
    (
        lambda: POWER.predict(jnp.ones((1, 2)), 2),
        "predict: `lr` must be a schedule, or an array of rates with one for each update, got Array([[1., 1.]], dtype=float32)",
    ),
    (lambda: fit([]), "fit: `curves` must be a list of one Curve or more, got []"),
    (lambda: fit([(1, 2, 3)]), "fit: `curves` must be a list of one Curve or more, got [(1, 2, 3)]"),
    (lambda: fit([GOOD], dict), "fit: `law` must be a law of loss curves, such as MultiPower, got <class 'dict'>"),
    (
        lambda: fit([GOOD._replace(losses=[1.0, -2.0, 3.0])]),
        "fit: `curves[0].losses` must be an array of positive, finite numbers, got -2.0",
    ),
    (
        lambda: fit([GOOD, GOOD._replace(losses=np.full(9, np.nan))]),
        "fit: `curves[1].losses` must be an array of positive, finite numbers, got nan",
    ),
    (
        lambda: fit([GOOD._replace(losses=np.ones((3, 3)))]),
        "fit: `curves[0].losses` must be an array of positive, finite numbers, got an array of shape (3, 3)",
    ),
    (
        lambda: fit([GOOD._replace(losses=np.ones(8))]),
        "fit: `curves[0].losses` must have one loss for each of 9 steps, got 8",
    ),
    (
        lambda: fit([GOOD._replace(steps=[3, 2, 1])]),
        "fit: `curves[0].steps` must be an array of ascending numbers of updates from 1 to 2147483647, got [3, 2, 1]",
    ),
    (
        lambda: fit([GOOD._replace(lr=jnp.ones(5))]),
        "fit: `steps` must be at most 5, the number of rates in `lr`, got 9",
    ),
    (
        lambda: fit([Curve(constant(0.1), [1, 2, 3], np.ones(3))]),
        "fit: `curves` must have 7 losses, one for each parameter, got 3",
    ),
    (
        lambda: fit([GOOD._replace(lr=linear(0.0, 0.1, 5))]),
        "fit: `curves` must have no losses before the first update with a rate above 0",
    ),
    (lambda: fit([GOOD]), "fit: `curves` must include a run whose rate changes, got constant rates only"),
    (lambda: fit([GOOD], resamples=1), "fit: `resamples` must be a whole number from 2 to 2147483647, got 1"),
    (lambda: fit([GOOD], shrinkage=-1), "fit: `shrinkage` must be a number that is not negative, got -1"),
]


@pytest.mark.parametrize(("call", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistakes_are_told_in_one_sentence(call, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call()
    assert str(error.value) == message


@pytest.mark.parametrize(("rate", "got"), [(-1e-4, "-0.0001 at step 0"), (np.full(9, -0.5), "-0.5 at step 0")])
def test_rates_are_not_negative(rate, got):
    told = f"`lr` must be finite and not negative at every update, got {got}$"
    with pytest.raises(ValueError, match=f"^predict: {told}"):
        POWER.predict(rate, 9)
    with pytest.raises(ValueError, match=f"^fit: {told}"):
        fit([Curve(rate, np.arange(1, 10), np.ones(9))])
