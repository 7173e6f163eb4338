"""What is advised follows from the bound, the transfer and the laws, computed here anew, and from published evidence."""

import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from optim import weights_of
from schedules import (
    constant,
    cooldown,
    cosine,
    linear,
    one_minus_sqrt,
    parse,
    piecewise_constant,
    step_decay,
    tabulate,
    warmup,
    wsd,
)
from schedules.__main__ import main
from theory import Curve, MultiPower, advise, best_peak, bound, transfer
from theory.advice import HALF_LIFE, TRUST, TRUST_IN_LAWS, TRUST_IN_LENGTH

RESULTS = Path(__file__).parent.parent / "experiments" / "results"


def numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)]


def least(rates) -> float:
    """The bound at the best peak by its double sum, in float64."""
    rates = np.asarray(rates, float)
    left, noise = np.cumsum(rates[::-1])[::-1], np.cumsum(rates[::-1] ** 2)[::-1]
    a = 1 / (2 * left[0])
    b = noise[0] / (2 * left[0]) + np.sum(rates[:-1] * noise[:-1] / (left[1:] * left[:-1])) / 2
    return 2 * np.sqrt(a * b)


# A run of known length -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [100, 1_000, 30_000])
def test_the_cooldown_is_the_shortest_that_is_within_a_percent_of_linear_decay(steps):
    lr = advise(steps).lr
    enough = 1.01 * least(tabulate(linear(1.0, 0.0, steps), steps))
    length = lr.steps
    assert lr == cooldown(1.0, steps - length, length)
    assert least(tabulate(lr, steps)) <= enough * (1 + 1e-5)
    assert least(tabulate(cooldown(1.0, steps - length + 2, length - 2), steps)) > enough * (1 - 1e-5)


def test_the_numbers_for_a_horizon_are_those_of_the_bound():
    steps = 2_000
    advice = advise(steps)
    what, by, peaks, _ = advice.sentences
    reference = least(tabulate(linear(1.0, 0.0, steps), steps))
    shapes = {
        "this": advice.lr,
        "cosine": cosine(1.0, 0.0, steps),
        "short": cooldown(1.0, 1_600, 400),
        "sqrt": cooldown(1.0, 1_600, 400, shape=one_minus_sqrt),
        "constant": constant(1.0),
    }
    above = [100 * (least(tabulate(lr, steps)) / reference - 1) for lr in shapes.values()]
    found = numbers(by)
    np.testing.assert_allclose([*found[:3], *found[4:]], above, atol=0.051, rtol=0.01)  # but for the 1 of "1 - sqrt"
    assert numbers(what)[:4] == [steps, 0, advice.lr.steps, round(100 * advice.lr.steps / steps)]
    peak = {
        name: float(best_peak(lr, steps).peak) for name, lr in {**shapes, "linear": linear(1.0, 0.0, steps)}.items()
    }
    np.testing.assert_allclose(
        numbers(peaks), [peak["this"] / peak[name] for name in ("cosine", "linear", "constant")], atol=0.0051
    )


def test_it_prints_as_a_paragraph_and_an_expression():
    advice = advise(500)
    text, lr = str(advice).split("\n\n")
    assert text.replace("\n", " ") == " ".join(advice.sentences)
    assert max(map(len, text.splitlines())) <= 100
    assert not re.search(r"^ ?%", text, re.MULTILINE)
    assert parse(lr.removeprefix("lr = ")) == advice.lr


# A run of unknown length ---------------------------------------------------------------------------------


def test_without_a_horizon_the_numbers_are_those_of_the_bound_and_of_the_average():
    advice = advise()
    assert advice.lr == constant(1.0)
    what, by, longer, *_ = advice.sentences
    newest = round(0.1 * 10_000)
    assert np.sum(weights_of(parse_average(what), 10_000)[-newest:]) == pytest.approx(0.5, abs=0.02)
    found = numbers(by)
    assert found[:3] == [1_000, 10_000, 100_000]
    for at, steps in enumerate(found[:2]):
        harmonic = np.sum(1 / np.arange(1, steps))
        reference = least(tabulate(linear(1.0, 0.0, int(steps)), int(steps)))
        assert found[3 + at] == pytest.approx(100 * (np.sqrt((1 + harmonic) / steps) / reference - 1), rel=0.02)
        cooled = least(tabulate(cooldown(1.0, int(steps * 0.8), int(steps * 0.2)), int(steps)))
        assert found[-3 + at] == pytest.approx(100 * (cooled / reference - 1), abs=0.051)
    harmonic = [np.sum(1 / np.arange(1, steps)) for steps in (1_000, 10_000)]
    assert numbers(longer) == [round(np.sqrt((1 + harmonic[0]) / (1 + harmonic[1]) / 10), 2)]


def parse_average(sentence: str):
    from optim import ema_relative

    assert f"ema_relative({HALF_LIFE})" in sentence
    return ema_relative(HALF_LIFE)


# A run that is extended ------------------------------------------------------------------------------------

OLD = wsd(3e-4, 50, 750, 200)


@pytest.mark.parametrize(("steps", "ways"), [(1_100, 2), (2_000, 1)])
def test_before_the_cooldown_it_says_what_transfer_finds(steps, ways):
    advice, moved = advise(steps, after=OLD, at=700), transfer(OLD, 1_000, steps)
    found = numbers(advice.sentences[0])
    assert found[:4] == [1_000, steps, round(moved.factor, 2), 800]
    assert (moved.longer is not None) == (ways == 2) == (moved.cooldown_steps in found)
    distance = 1 / best_peak(OLD, 1_000).factor
    bounds = {way: float(bound(way, steps, distance=distance)) for way in (moved.lower, moved.longer) if way}
    assert advice.lr == min(bounds, key=bounds.get)
    assert (np.asarray(tabulate(advice.lr, 800)) == np.asarray(tabulate(OLD, 800))).all()


def test_after_the_cooldown_has_begun_the_rate_is_that_with_the_least_bound():
    steps, at = 2_000, 900
    advice = advise(steps, after=OLD, at=at)
    distance = 1 / best_peak(OLD, 1_000).factor
    before = tabulate(OLD, at)

    def on_from(rate):
        return float(
            bound(jnp.append(before, tabulate(linear(rate, 0.0, steps - at), steps - at)), steps, distance=distance)
        )

    chosen = float(advice.lr(at))
    assert on_from(chosen) < min(on_from(0.9 * chosen), on_from(1.1 * chosen))
    percent, now = numbers(advice.sentences[0])[2:4]
    assert (percent, now) == (round(100 * chosen / 3e-4), 50)
    assert numbers(advice.sentences[1]) == [
        pytest.approx(100 * (on_from(float(OLD(at))) / on_from(chosen) - 1), abs=0.06)
    ]


def test_a_decay_over_the_whole_run_is_best_gone_back_before():
    back = advise(2_000, after=warmup(cosine(0.1, 0.0, 900), 100), at=1_000).sentences[1]
    assert back.startswith("If there is a checkpoint from step 100, where the cooldown began, go on from there instead")


def test_a_constant_rate_is_let_fall():
    advice = advise(2_000, after=0.1, at=1_000)
    assert float(advice.lr(1_500)) == pytest.approx(0.5 * float(advice.lr(1_000)))


def test_a_schedule_that_never_ends_has_lasted_as_long_as_the_run():
    sentence = advise(20_000, after=step_decay(1e-3, 3_000, 0.5), at=8_000).sentences[0]
    assert numbers(sentence)[:2] == [8_000, 20_000]


# Runs that were made -----------------------------------------------------------------------------------------

LAW = MultiPower(3.0, 0.5, 0.5, 400.0, 2.0, 0.5, 0.6)
RUNS = {
    "cosine": warmup(cosine(3e-4, 3e-5, 3_800), 200),
    "drop": warmup(piecewise_constant([3e-4, 9e-5], [1_800]), 200),
    "constant": warmup(constant(3e-4), 200),
}


@pytest.fixture(scope="module")
def curves():
    steps = np.arange(240, 4_001, 40)
    return {name: Curve(lr, steps, np.asarray(LAW.predict(lr, steps))) for name, lr in RUNS.items()}


def test_of_curves_by_a_law_it_advises_what_ends_lowest_by_that_law(curves):
    advice = advise(6_000, curves=[*curves.values()])
    assert float(advice.lr(200)) == pytest.approx(3e-4)
    assert float(advice.lr(6_000)) == pytest.approx(3e-5, rel=1e-3)
    end = float(LAW.predict(advice.lr, 6_000))
    found = numbers(advice.sentences[1])
    others = [linear(3e-4, 3e-5, 5_800), cosine(3e-4, 3e-5, 5_800), constant(3e-4)]
    expected = [float(LAW.predict(warmup(lr, 200), 6_000)) for lr in others]
    np.testing.assert_allclose([found[0], *found[2:]], [end, *expected], atol=2e-3)
    assert end < min(expected)


def test_a_curve_is_read_from_a_table(curves, tmp_path, capsys):
    files = []
    for name, curve in curves.items():
        rows = [f"{t},{float(curve.lr(t))}," for t in (0, 200)]
        rows += [f"{t},{float(curve.lr(int(t)))},{loss}" for t, loss in zip(curve.steps, curve.losses, strict=True)]
        files.append(tmp_path / f"{name}.csv")
        files[-1].write_text("\n".join(["step,lr,loss", *rows]))
    words = [word for file in files for word in ("--curve", str(file))]
    assert main(["advise", *words]) == 0
    told = capsys.readouterr().out
    assert told.startswith("For 4,000 updates at the peak of your runs, 0.0003 after a warm-up of 200 updates: use ")


# What it rests on, and what it refuses --------------------------------------------------------------------


def test_what_is_said_of_trust_is_what_was_published():
    found = json.loads((RESULTS / "evidence/last-iterate/numbers.json").read_text())
    ranks = [found["agreement"][f"Llama, {steps} updates"]["spearman"] for steps in ("15,000", "25,000", "50,000")]
    assert numbers(TRUST) == [124, *(round(rank, 2) for rank in ranks), 15_000, 25_000, 50_000, 60]
    assert {choice["runs"] for choice in found["choice"].values()} == {60}
    powers = found["powers"]
    assert numbers(TRUST_IN_LENGTH)[:2] == [round(powers["bound"], 2), round(powers["runs"], 2)]
    laws = json.loads((RESULTS / "evidence/loss-laws/numbers.json").read_text())
    sizes = {size: laws["published curves"][f"{size}m"]["errors"]["multi-power"]["MAE"] for size in (25, 100, 400)}
    assert numbers(TRUST_IN_LAWS) == [*(round(error, 4) for error in sizes.values()), *sizes]
    own = [curves["mean error"] for curves in laws["own curves"].values()]
    assert all(errors["multi-power"] > errors["guess"] for errors in own)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"steps": 99}, "advise: `steps` must be a whole number from 100 to 2147483647, got 99"),
        ({"steps": 1e3 + 0.5}, "advise: `steps` must be a whole number from 100 to 2147483647, got 1000.5"),
        ({"steps": 200, "at": 100}, "advise: `at` must be given if and only if `after` is, got 100"),
        ({"steps": 200, "after": OLD}, "advise: `at` must be given if and only if `after` is, got 0"),
        ({"after": OLD, "at": 100}, "advise: `steps` must be above the 100 updates that have been made, got None"),
        (
            {"steps": 2_000, "after": OLD, "at": 9, "curves": []},
            "advise: `curves` must not be given together with `after`",
        ),
        ({"curves": []}, "advise: `curves` must be a list of one Curve or more, got []"),
        ({"curves": 3}, "advise: `curves` must be a list of one Curve or more, got 3"),
        (
            {"curves": [Curve(0.1, [1], [-1.0])]},
            "advise: `curves[0].losses` must be an array of positive, finite numbers, got -1.0",
        ),
        (
            {"steps": 900, "after": OLD, "at": 100},
            "advise: `steps` must be above the 1000 updates of `after`, got 900",
        ),
        (
            {"curves": [Curve(0.1, np.arange(1, 9), np.ones(8))]},
            "advise: `curves` must include a run whose rate decays, got none",
        ),
        (
            {"curves": [Curve(linear(lr, 0.0, 9), np.arange(1, 9), np.ones(8)) for lr in (0.1, 0.2)]},
            "advise: `curves` must have the same peak, got 0.1 and 0.2",
        ),
    ],
)
def test_what_does_not_fit_is_said(arguments, expected):
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        advise(**arguments)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\n1,2\n", "cannot be read as a table with the columns step, lr, loss"),
        ("step,lr,loss\n5,0.1,1\n", "must begin at step 0 or 1 and have ascending steps"),
        ("step,lr,loss\n0,0.1,\n0,0.1,1\n", "must begin at step 0 or 1 and have ascending steps"),
        ("step,lr,loss\n", "must begin at step 0 or 1 and have ascending steps"),
        ("step,lr,loss\n0,0.1,1\n", "must hold one loss or more after the first step"),
        ("step,lr,loss\n0,0.1,\n1000000000000,0.1,1\n", "must hold one loss or more after the first step"),
        ("step,lr,loss\n0,nan,\n9,0.1,1\n", "must hold one loss or more after the first step, finite rates"),
        ("step,lr,loss\n0,0.1\n", "cannot be read as a table with the columns step, lr, loss"),
        ("step,lr,loss\n0,x,1\n", "cannot be read as a table with the columns step, lr, loss"),
    ],
)
def test_a_table_that_is_none_is_refused(content, expected, tmp_path, capsys):
    file = tmp_path / "curve.csv"
    file.write_text(content)
    assert main(["advise", "--curve", str(file)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"python -m schedules: {file} {expected}")
    assert len(told.splitlines()) == 1


def test_the_command_says_what_the_function_says(capsys):
    assert main(["advise", "--steps", "1100", "--from", repr(OLD), "--at", "700"]) == 0
    assert capsys.readouterr().out == f"{advise(1_100, after=OLD, at=700)}\n"
    assert main(["advise", "--steps", "7"]) == 2
    assert capsys.readouterr().err.startswith("python -m schedules: advise: `steps` must be")
