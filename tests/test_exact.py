"""The comparison on a task that is computed and not trained."""

import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.__main__ import main
from experiments.reports.claims import judge
from experiments.reports.results import Results
from experiments.studies.published import CLAIMS, PUBLISHED, averaged_adam, decayed_adam, published, schedule_free_adam
from experiments.studies.study import Arm
from experiments.tasks.quadratic import QUADRATIC, problem
from optim import average, ema, eval_params, schedule_free
from schedules import constant, linear
from theory import quadratic

ROOT = Path(__file__).parent.parent
RATE, PROBLEM = QUADRATIC.learning_rate, problem()


def loss_of(arm, problem, steps):
    return np.asarray(problem.expected_loss(steps=steps, **arm.with_sgd), float)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """That of the whole comparison."""
    out = tmp_path_factory.mktemp("exact") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
        assert main(["--task", "quadratic", "--out", str(out)]) == 0
    return out


def test_the_command_leaves_the_report_of_any_run_without_errors_of_the_mean(folder):
    left = {"config.json", "history.npz", "results.json", "report.md", "figure.png"}
    assert {path.name for path in folder.iterdir()} == {*left, "checkpoints", ".lock"}
    report = (folder / "report.md").read_text()
    assert report.startswith(f"# {QUADRATIC.title}: 10,000 updates, exact\n")
    assert all(f"| {name} " in report for name in PUBLISHED.names)
    assert re.findall(r"^- (C\d) (?:HOLDS|FAILS) ", report, re.MULTILINE) == [f"C{i}" for i in range(1, 8)]
    for word in ("±", "seed", "Student", "validation", "training", "accuracy", "| z"):
        assert word not in report
    settings = json.loads((folder / "config.json").read_text())["plan"]["settings"]
    assert settings["sf-ema"] == {
        "lr": "constant(value=0.03125)",
        "coefficient": "exponential_average(window=1000.0)",
        "beta": "0.9",
        "horizon": 10_000,
    }


def test_what_it_leaves_is_the_expected_loss_of_each_arm(folder):
    results, every = Results.load(folder / "history.npz"), {arm.name: arm for arm in published(RATE, 10_000)}
    assert results.exact
    assert [*results.arms] == [*every]
    for name in ("constant", "linear-25", "sf-polyak"):
        expected = loss_of(every[name], PROBLEM, 10_000)
        curve = results.train_loss_curve(name)[0]
        np.testing.assert_allclose(curve[:2], [expected[:5].mean(), expected[5:10].mean()], rtol=1e-6)
        end = every[name].horizon
        np.testing.assert_allclose(results.train_loss(name), expected[end - 5 : end].mean(), rtol=1e-6)
        np.testing.assert_allclose(results.valid_loss(name), expected[end], rtol=1e-6)
    np.testing.assert_allclose(expected[0], 100, rtol=1e-6)


@pytest.mark.usefixtures("unrendered")
def test_the_same_command_says_the_same_and_another_is_refused(folder, tmp_path, capsys):
    history, report = ((folder / name).read_bytes() for name in ("history.npz", "report.md"))
    assert main(["--task", "quadratic", "--out", str(folder)]) == 0
    assert main(["report", str(folder)]) == 0
    assert report == (folder / "report.md").read_bytes()
    np.testing.assert_equal(Results.load(folder / "history.npz").history, read(history, tmp_path).history)
    capsys.readouterr()
    assert main(["--task", "quadratic", "--out", str(folder), "--learning-rate", "0.1"]) == 2
    assert capsys.readouterr().err.startswith(
        f"python -m experiments: {folder} holds a run with settings: constant: lr "
    )


def read(history, folder):
    (folder / "history.npz").write_bytes(history)
    return Results.load(folder / "history.npz")


@pytest.mark.usefixtures("unrendered")
def test_a_sweep_is_exact_too(tmp_path, capsys):
    words = ["--task", "quadratic", "--steps", "200", "--out", str(tmp_path / "run")]
    assert main(["sweep", *words, "--schedules", "linear", "sgd-step", "--factors", "0.5", "1", "100"]) == 0
    report = (tmp_path / "run" / "report.md").read_text()
    assert report.count("| policy") == 1
    assert "Expected loss at the end, by the peak rate" in report
    assert re.search(r"\| linear .*\| sgd-step .*diverged", report, re.DOTALL)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "1"], "--seeds must not be given with --task quadratic, which is computed exactly, got 1"),
        (["--first-seed", "3"], "--first-seed must not be given with --task quadratic, which is computed exactly, got 3"),
        (["--precision", "tf32"], "--precision must not be given with --task quadratic, which is computed exactly, got tf32"),
        (["--tensorboard"], "--tensorboard must not be given with --task quadratic, which is computed exactly, got True"),
        (["--steps", "19"], "--steps must be from 20 to 15,384,615, got 19"),
        (["--learning-rate", "-1"], "--learning-rate must be from 1e-30 to 1e+30, got -1.0"),
        (["--arms", "policies"], "--task must be one that is trained, of digits, cifar10-small, cifar10, got quadratic"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(words, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["--task", "quadratic", "--out", str(out), *words]) == 2
    assert capsys.readouterr().err == f"python -m experiments: {message}\n"
    assert not out.exists()


def test_an_arm_without_a_counterpart_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["sweep", "--task", "quadratic", "--out", str(out), "--schedules", "linear", "plateau"]) == 2
    said = "--task quadratic must have arms that have a counterpart with SGD, got plateau@0.125 by adam_on_plateau"
    assert capsys.readouterr().err == f"python -m experiments: {said}\n"
    assert not out.exists()


# Verdicts without noise -----------------------------------------------------------------------------------

LOSSES = {
    "constant": 0.5, "linear-100": 0.2, "linear-75": 0.25, "linear-50": 0.3, "linear-25": 0.4, "cosine": 0.2,
    "step-25": 0.4, "step-75": 0.2, "polyak": 0.6, "ema-long": 0.2, "ema-short": 0.3, "sf-polyak": 0.2, "sf-ema": 0.1,
}  # fmt: skip


def verdicts(**changes):
    losses = {**LOSSES, **{name.replace("_", "-"): loss for name, loss in changes.items()}}
    findings = judge(CLAIMS, lambda arm, percent: np.array([losses[arm]]), exact=True)
    return "".join(finding.verdict[0] for finding in findings)


def test_the_sign_of_a_margin_decides_where_there_is_no_noise():
    assert verdicts() == "hhhhhhh"
    assert verdicts(polyak=0.499) == "hhhhfhh"
    assert verdicts(polyak=0.501) == "hhhhhhh"
    assert verdicts(step_75=0.2751) == "hfhhhhh"  # the tolerance is 0.075
    assert verdicts(polyak=0.5) == "hhhhuhh"
    assert verdicts(constant=0.1) == "fuhuhuu"  # decay closes no gap, so nothing is alike
    assert verdicts(cosine=np.nan) == "huhuhuu"


# The counterparts of the arms -----------------------------------------------------------------------------


def mean_of_gradients(lr, b1):
    return optax.chain(optax.ema(b1, debias=False), optax.scale_by_learning_rate(lr))


@pytest.mark.parametrize(
    ("adam", "numbers", "optimizer"),
    [
        (decayed_adam, {"b1": 0.8}, lambda lr: mean_of_gradients(lr, 0.8)),
        (averaged_adam, {"coefficient": ema(0.9)}, lambda lr: average(mean_of_gradients(lr, 0.9), ema(0.9))),
        (schedule_free_adam, {"coefficient": ema(0.9)}, lambda lr: schedule_free(optax.sgd(lr), ema(0.9))),
    ],
)
def test_a_counterpart_is_the_arm_without_the_division_of_adam(adam, numbers, optimizer):
    lr, h, z = linear(0.3, 0.1, 60), jnp.array([1.0, 0.2]), jnp.array([1.0, -2.0])
    losses = loss_of(Arm("one", adam, {"learning_rate": lr, **numbers}, 60), quadratic(h, 0.0, z), 60)
    made = optimizer(lr)
    state = made.init(z)
    for t in range(60):
        x = eval_params(state, z) if "coefficient" in numbers else z
        np.testing.assert_allclose(losses[t], np.sum(h * x**2) / 2, rtol=2e-4, err_msg=f"{t}")
        updates, state = made.update(h * z, state, z)
        z = z + updates


# What is said of the task ---------------------------------------------------------------------------------


def ends(arm, problem):
    """By peak rate, in powers of 2, where the arm ends."""
    rates = [2.0**k for k in range(-8, 2)]
    arms = [next(each for each in published(rate, QUADRATIC.steps) if each.name == arm) for rate in rates]
    return {each.peak_rate: loss_of(each, problem, QUADRATIC.steps)[-1] for each in arms}


def test_the_numbers_of_the_page_are_those_of_the_results():
    section = (ROOT / "docs/experiments.md").read_text().partition("## Without noise")[2].partition("\n## ")[0]
    reports = "".join(
        (ROOT / "experiments/results/quadratic" / name).read_text() for name in ("report.md", "sweep/report.md")
    )
    said = re.findall(r"\b\d\.\d{3}\b", section)
    assert len(said) >= 7
    assert all(f" {number} " in reports or f"**{number}**" in reports for number in said)


def test_the_published_results_are_those_of_this_code(folder):
    now, published = (Results.load(path / "history.npz") for path in (folder, ROOT / "experiments/results/quadratic"))
    assert now.plan == published.plan
    np.testing.assert_allclose(now.history.train_loss, published.history.train_loss, rtol=3e-6)


def test_the_peak_rate_is_the_best_constant_rate():
    found = ends("constant", PROBLEM)
    assert min(found, key=found.get) == RATE


def test_without_noise_the_loss_falls_as_the_inverse_root_of_the_sum_of_the_rates():
    calm = PROBLEM._replace(noise=jnp.zeros(100))
    losses = calm.expected_loss(constant(RATE), 10_000)
    for t in (300, 1_000, 2_500):
        assert 0.45 < np.log(losses[t] / losses[4 * t]) / np.log(4) < 0.65


def test_under_a_steeper_law_decay_does_not_help_at_the_best_constant_rate():
    h = 1 / np.arange(1, 1_001)
    problem = quadratic(h, noise=h**0.5)
    constants = ends("constant", problem)
    rate = min(constants, key=constants.get)
    assert ends("linear-100", problem)[rate] > constants[rate]
    assert ends("linear-100", PROBLEM)[RATE] < ends("constant", PROBLEM)[RATE]
