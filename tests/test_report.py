"""What is made of a history: claims, tables, figures, and several runs as one."""

import dataclasses
import io
import itertools
import json
import random
import re
import zipfile

import jax
import matplotlib
import numpy as np
import pytest

from experiments.__main__ import main
from experiments.engine.plan import validated_after
from experiments.reports import claims
from experiments.reports.claims import parts, verdicts
from experiments.reports.figure import ENDS, LOOKS, Panel, moving_average, plot, plot_panels
from experiments.reports.results import (
    LAYOUT,
    OPTIONAL,
    History,
    Results,
    ResultsError,
    Trained,
    merged,
    record_length,
)
from experiments.reports.tables import courses, heading, numbers, table
from experiments.reports.text import decimals
from experiments.studies import save
from experiments.studies.policies import POLICIES, super_convergence
from experiments.studies.published import CLAIMS, FIGURES, PANELS, PUBLISHED, published
from experiments.studies.sweep import best, grid, plot_rates

ARMS = PUBLISHED.names
LOOKED = PUBLISHED.looks(ARMS)


def judge(at):
    return claims.judge(CLAIMS, at)


def results(losses, steps=100, done=100, seeds=None):
    """Results in which every arm of `losses` has a constant loss for every seed."""
    arms = {arm.name: Trained(arm.horizon, 1e-2) for arm in published(1e-2, steps) if arm.name in losses}
    rows = [np.array(losses[name], np.float32) for name in arms]
    train_loss = np.stack([np.broadcast_to(row[:, None], (len(row), steps)) for row in rows]).copy()
    train_loss[..., done:] = np.nan
    valid = np.ones((*train_loss.shape[:2], 4), np.float32)
    return Results(
        "published",
        "toy",
        {"title": "toy", "steps": steps, "batch_size": 8},
        arms,
        tuple(seeds or range(len(rows[0]))),
        steps,
        done,
        History(train_loss, np.array([25, 50, 75, 100]), valid, valid / 2),
    )


AS_ONE_SEED = {"cosine": [0.2], "constant": [0.5]}
AS_PUBLISHED = {
    "constant": 0.5, "linear-100": 0.2, "linear-75": 0.25, "linear-50": 0.3, "linear-25": 0.4, "cosine": 0.2,
    "step-25": 0.4, "step-75": 0.2, "polyak": 0.6, "ema-long": 0.2, "ema-short": 0.3, "sf-polyak": 0.2, "sf-ema": 0.1,
}  # fmt: skip


def shaken(losses, seeds=3):
    """Every arm with noise common to its seeds, and a little of its own."""
    noise = np.random.default_rng(0)
    common = noise.normal(scale=0.5, size=seeds)
    return {name: loss + common + noise.normal(scale=1e-3, size=seeds) for name, loss in losses.items()}


# Claims -----------------------------------------------------------------------------------------------------


def test_claims_hold_where_they_hold():
    findings = judge(results(shaken(AS_PUBLISHED)).train_loss)
    assert [f.name for f in findings] == ["C1", "C2", "C3", "C4", "C5", "C6", "C7"]
    assert {f.verdict for f in findings} == {"holds"}


def test_verdicts_of_several_runs_stand_beside_each_other():
    whole = results(shaken(AS_PUBLISHED))
    part = results({"constant": [0.2, 0.2, 0.2], "polyak": [0.1, 0.101, 0.1]}, seeds=(3, 4, 5))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in verdicts(CLAIMS, whole, part).splitlines()]
    assert rows[0] == ["", "published conclusion", "toy, 3 seeds", "toy, 3 seeds"]
    assert [row[0] for row in rows[2:]] == [claim.name for claim in CLAIMS.claims]
    assert all(row[2].startswith("holds (+0.") for row in rows[2:])
    assert [row[3] for row in rows[2:]] == ["-", "-", "-", "-", "fails (-0.100 ± 0.000)", "-", "-"]
    stopped = verdicts(CLAIMS, results(shaken(AS_PUBLISHED), done=90))
    assert "holds" not in stopped


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({"linear-50": 0.7}, 0),
        ({"linear-100": 0.35}, 1),
        ({"step-75": 0.45}, 2),
        ({"ema-long": 0.05}, 3),
        ({"polyak": 0.45}, 4),
        ({"sf-polyak": 0.3}, 5),
        ({"sf-ema": 0.35}, 6),
    ],
)
def test_a_claim_fails_where_it_is_false(change, failing):
    findings = judge(results(shaken({**AS_PUBLISHED, **change})).train_loss)
    assert findings[failing].verdict == "fails"
    assert findings[failing].weakest.mean < 0


def test_at_or_below_is_true_of_equals_and_false_beyond_the_tolerance():
    """The gap from constant to cosine is 0.3, so the tolerance is 0.075 above the linear decay at its 0.2."""
    verdicts = [
        judge(results(shaken({**AS_PUBLISHED, "sf-ema": loss})).train_loss)[6].verdict for loss in (0.2, 0.27, 0.29)
    ]
    assert verdicts == ["holds", "holds", "fails"]


def test_a_margin_is_mean_error_and_their_ratio_of_paired_seeds():
    lower, upper = np.array([0.1, 0.25, 0.3]), np.array([0.2, 0.3, 0.45])
    (finding,) = judge(results({"step-75": lower, "step-25": upper}).train_loss)
    (margin,) = finding.margins
    difference = upper - lower
    assert margin.mean == pytest.approx(difference.mean(), rel=1e-6)
    assert margin.error == pytest.approx(difference.std(ddof=1) / np.sqrt(3), rel=1e-6)
    assert margin.z == pytest.approx(margin.mean / margin.error, rel=1e-9)
    # Student's t with two degrees of freedom is 2.92 at the 5 % level.
    assert margin.z == pytest.approx(3.46, rel=1e-2)
    assert finding.verdict == "holds"
    assert margin.compared == "step-75 below step-25 at 100 %"


def test_noise_single_seeds_and_diverged_runs_decide_nothing():
    noise = np.random.default_rng(0)
    # Mirrored, so that the means stay those of the published claims and only their errors grow.
    half = {name: noise.normal(scale=5.0, size=2) for name in AS_PUBLISHED}
    noisy = {name: loss + np.concatenate([half[name], -half[name]]) for name, loss in AS_PUBLISHED.items()}
    assert {f.verdict for f in judge(results(noisy).train_loss)} == {"undecided"}
    assert {f.verdict for f in judge(results(shaken(AS_PUBLISHED, seeds=1)).train_loss)} == {"undecided"}
    lost = {**shaken(AS_PUBLISHED), "cosine": np.array([0.2, np.nan, 0.2])}
    verdicts = {f.name: f.verdict for f in judge(results(lost).train_loss)}
    # The tolerance is measured with cosine, so whatever needs it is undecided too.
    assert {name for name, verdict in verdicts.items() if verdict == "undecided"} == {"C2", "C4", "C6", "C7"}


def test_a_tolerance_is_each_seeds_own_and_none_where_decay_closes_no_gap():
    constant, cosine, step = np.array([0.5, 0.7, 0.9]), np.array([0.2, 0.3, 0.2]), np.array([0.22, 0.3, 0.2])
    losses = {"constant": constant, "cosine": cosine, "step-75": step, "linear-100": cosine}
    finding = next(f for f in judge(results(losses).train_loss) if f.name == "C2")
    margin = next(m for m in finding.margins if m.compared.startswith("step-75 below cosine + "))
    expected = cosine - step + (constant - cosine) / 4
    assert margin.mean == pytest.approx(expected.mean(), rel=1e-5)
    assert margin.error == pytest.approx(expected.std(ddof=1) / np.sqrt(3), rel=1e-5)
    worse = {**losses, "constant": cosine - 0.1}
    assert next(f for f in judge(results(worse).train_loss) if f.name == "C2").verdict == "undecided"


def test_claims_about_missing_arms_are_not_judged():
    losses = {name: [AS_PUBLISHED[name]] * 2 for name in ("step-25", "step-75")}
    assert [f.statement for f in judge(results(losses).train_loss)] == ["A step at 75 % ends below a step at 25 %"]
    assert len(CLAIMS.claims) == 7


# Results ----------------------------------------------------------------------------------------------------


def test_losses_are_means_of_the_last_twentieth_before_the_end_of_the_arm():
    r = results({"cosine": [0.0, 0.0], "linear-50": [0.0, 0.0]})
    r.history.train_loss[:] = np.arange(100)
    np.testing.assert_allclose(r.train_loss("cosine"), [97, 97])
    np.testing.assert_allclose(r.train_loss("linear-50"), [47, 47])
    np.testing.assert_allclose(r.train_loss("cosine", 25), [22, 22])
    np.testing.assert_allclose(moving_average(np.arange(5.0), 2), [0.5, 1.5, 2.5, 3.5])


def test_of_long_runs_records_are_means_of_many_updates():
    steps = 100_000
    r = dataclasses.replace(results({"cosine": [0.0], "linear-75": [0.0]}, steps=100), steps=steps, done=steps)
    r = dataclasses.replace(r, arms={"cosine": Trained(steps, 1e-2), "linear-75": Trained(75_000, 1e-2)})
    record = np.arange(2_000, dtype=np.float32)  # each of 50 updates
    r = dataclasses.replace(r, history=r.history._replace(train_loss=np.tile(record, (2, 1, 1))))
    assert (r.every, r.window) == (50, 100)
    assert r.train_loss("cosine") == pytest.approx(np.mean(record[1900:]))
    assert r.train_loss("linear-75") == pytest.approx(np.mean(record[1400:1500]))


@pytest.mark.parametrize("steps", [2_001, 4_321, 7_000, 45_000, 99_999])
def test_ends_and_quarters_are_read_where_they_are_whatever_the_length(steps):
    """Each record and each validation is the number of its last update, so a reading says where it is from."""
    arms = {arm.name: Trained(arm.horizon, 1e-2) for arm in published(1e-2, steps)}
    every = record_length(steps)
    ends = np.minimum(np.arange(every, steps + every, every), steps)
    stops = validated_after(steps, 20, [arm.horizon for arm in arms.values()])
    of = lambda at: np.broadcast_to(at, (len(arms), 1, len(at))).astype(np.float64)  # noqa: E731
    history = History(of(ends), stops, of(stops), of(stops))
    r = Results("published", "toy", {}, arms, (0,), steps, steps, history)
    for arm in arms:
        for percent in (25, 50, 75, 100):
            if r.reaches(arm, percent):
                at = min(steps * percent // 100, arms[arm].horizon)
                assert 0 <= r.valid_loss(arm, percent)[0] - at < every
                last = r.train_loss(arm, percent)[0] + (r.window - 1) / 2 * every
                assert abs(last - at) < every
        reached, curve = r.valid_loss_curve(arm)
        assert 0 <= reached[-1] - arms[arm].horizon < every
        assert curve[0, -1] == reached[-1]


def test_short_arms_are_read_over_their_last_fifth():
    r = dataclasses.replace(results({"cosine": [0.0]}), arms={"cosine": Trained(10, 1e-2)})
    r.history.train_loss[:] = np.arange(100)
    assert r.train_loss("cosine") == pytest.approx(8.5)


def test_a_saved_history_is_all_there_is_to_know(tmp_path):
    r = results(shaken(AS_PUBLISHED), done=60, seeds=[4, 5, 9])
    r.save(tmp_path / "history.npz")
    again = Results.load(tmp_path / "history.npz")
    for field in dataclasses.fields(Results):
        if field.name != "history":
            assert getattr(again, field.name) == getattr(r, field.name)
    assert list(again.arms) == list(r.arms)
    jax.tree.map(np.testing.assert_array_equal, again.history, r.history)
    assert jax.tree.map(lambda array: array.dtype, again.history) == jax.tree.map(lambda array: array.dtype, r.history)
    assert [p.name for p in tmp_path.iterdir()] == ["history.npz"]


def with_norms(r):
    """The same with gradient norms, other ones for each arm and seed."""
    norms = 2 * r.history.train_loss + np.arange(len(r.seeds), dtype=np.float32)[:, None]
    return dataclasses.replace(
        r, plan={**r.plan, "gradient_norms": "l1"}, history=r.history._replace(gradient_norm=norms)
    )


def test_gradient_norms_are_kept_where_they_were_recorded(tmp_path):
    r = with_norms(results({"cosine": [0.1, 0.2], "constant": [0.3, 0.5]}))
    r.save(tmp_path / "history.npz")
    again = Results.load(tmp_path / "history.npz").history.gradient_norm
    np.testing.assert_array_equal(again, r.history.gradient_norm)
    assert again.dtype == np.float32
    for array in (again[None], again[:1], again[..., :9], again.astype(bool)):
        np.savez(tmp_path / "odd.npz", **{**arrays_of(tmp_path / "history.npz"), "gradient_norm": array})
        refused(tmp_path / "odd.npz", "its gradient_norm is an array")
    assert_same(merged([of_arms(r, [name]) for name in r.arms]), r)
    without = dataclasses.replace(of_arms(r, ["constant"]), plan={"title": "toy", "steps": 100, "batch_size": 8})
    for several in ([of_arms(r, ["cosine"]), without], [without, of_arms(r, ["cosine"])]):
        with pytest.raises(
            ResultsError, match="^runs to merge must have the same gradient_norms, got (l1 and None|None and l1)$"
        ):
            merged(several)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no history"])
def test_a_history_that_cannot_be_read_is_one_sentence(tmp_path, content, capsys):
    (tmp_path / "history.npz").write_bytes(content)
    with pytest.raises(ResultsError, match=r"history.npz cannot be read as the history of a run"):
        Results.load(tmp_path / "history.npz")
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def arrays_of(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def claims_to_be(dtype, shape):
    """A file in NumPy's format, of a header and nothing else."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def refused(path, reason=""):
    """What is said of a history that cannot be read."""
    with pytest.raises(ResultsError) as caught:
        Results.load(path)
    said = str(caught.value)
    assert said.startswith(f"{path} cannot be read as the history of a run (")
    assert reason in said
    assert "\n" not in said
    assert len(said) < 500
    return True


@pytest.mark.parametrize(
    "claim", [("<f4", (10**13,)), ("<f4", (10**9, 10**9, 10**9)), ("<U0", (10**12,)), ("<f4", (-5,)), ("|O", (3,))]
)
def test_a_history_that_claims_what_it_does_not_hold_is_one_sentence(claim, tmp_path):
    path = tmp_path / "history.npz"
    results(AS_ONE_SEED).save(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("more.npy", claims_to_be(*claim))
    refused(path)
    path.write_bytes(claims_to_be(*claim))  # without the archive around it
    refused(path)


def test_a_history_that_holds_too_much_is_not_read(tmp_path, monkeypatch):
    results(AS_ONE_SEED).save(tmp_path / "history.npz")
    monkeypatch.setattr("experiments.files.MOST_BYTES", 1_000)
    refused(tmp_path / "history.npz", "bytes, more than 1,000")


@pytest.mark.parametrize("name", [name for name in LAYOUT if name not in OPTIONAL])
def test_a_history_of_odd_arrays_is_one_sentence(name, tmp_path):
    path = tmp_path / "history.npz"
    results(AS_ONE_SEED).save(path)
    held = arrays_of(path)
    odd = [None, held[name][None], held[name].astype(bool), held[name].astype(object), np.zeros(0), np.zeros((1,) * 5)]
    for array in odd:
        np.savez(path, **{key: value for key, value in {**held, name: array}.items() if value is not None})
        refused(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"arms": np.array(["cosine", "cosine"])}, "its arms cannot be those of a run"),
        ({"fields": np.array(["{}", "[]"])}, "its fields cannot be those of a run"),
        ({"fields": np.array(["{}", '{"role": ["goal"]}'])}, "its fields cannot be those of a run"),
        ({"fields": np.array(["{}", '{"role": NaN}'])}, "its fields cannot be those of a run"),
        ({"fields": np.array(["{}", '{"size": 1%s}' % ("0" * 400)])}, "its fields cannot be those of a run"),
        ({"fields": np.array(["{}", '{"policy": 3}'])}, "its fields cannot be those of a run"),
        ({"fields": np.array(["{}", '{"factor": "2"}'])}, "its fields cannot be those of a run"),
        ({"fields": np.array(["{}", '{"factor": 0}'])}, "its fields cannot be those of a run"),
        ({"fields": np.array(["{}", '{"policy": "\\ud800"}'])}, "surrogates not allowed"),
        ({"study": np.array("\ud800")}, "surrogates not allowed"),
        ({"arms": np.array(["cosine", "\ud800"])}, "surrogates not allowed"),
        ({"seeds": np.array([4, 4])}, "its seeds cannot be those of a run"),
        ({"plan": np.array("[]")}, "its plan cannot be those of a run"),
        ({"plan": np.array("[" * 100_000)}, "nested too deeply"),
        ({"plan": np.array("{")}, "Expecting property name"),
        ({"steps": np.array(0)}, "its train_loss cannot be those of a run"),
        ({"steps": np.array(10**15)}, "its train_loss cannot be those of a run"),
        ({"done": np.array(101)}, "its done cannot be those of a run"),
        ({"horizons": np.array([100, 0])}, "its horizons cannot be those of a run"),
        ({"rates": np.array([0.1, np.nan])}, "its rates cannot be those of a run"),
    ],
)
def test_a_history_of_odd_content_is_one_sentence(change, reason, tmp_path):
    path = tmp_path / "history.npz"
    results({"cosine": [0.1, 0.2], "polyak": [0.1, 0.2]}).save(path)
    np.savez(path, **{**arrays_of(path), **change})
    refused(path, reason)


def test_a_damaged_history_is_read_or_is_one_sentence(tmp_path):
    path, rng = tmp_path / "history.npz", random.Random(0)
    results({"cosine": [0.1, 0.2], "polyak": [0.1, 0.2]}).save(path)
    whole, said = path.read_bytes(), 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 10))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            Results.load(path)
        except ResultsError as error:
            said += str(error).startswith(f"{path} cannot be read as the history of a run (")
    assert said > 100


def test_a_history_is_never_half_written(tmp_path, monkeypatch):
    r = results({"cosine": [0.2]})
    r.save(tmp_path / "history.npz")
    before = (tmp_path / "history.npz").read_bytes()

    def fail(file, **_):
        file.write(b"half")
        raise OSError("no space")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="no space"):
        r.save(tmp_path / "history.npz")
    assert (tmp_path / "history.npz").read_bytes() == before


def test_runs_of_other_seeds_or_other_arms_are_merged():
    whole = results(shaken(AS_PUBLISHED, seeds=4))
    halves = [dataclasses.replace(whole, seeds=s, history=cut(whole, seeds=s)) for s in ((0, 1), (2, 3))]
    assert_same(merged(halves), whole)
    backwards = of_arms(halves[1], list(whole.arms)[::-1])
    assert_same(merged([halves[0], backwards]), whole)
    names = list(whole.arms)
    by_arm = [of_arms(whole, names[:5]), of_arms(whole, names[5:])]
    assert_same(merged(by_arm), whole)
    assert merged([whole]) is whole


def cut(r, seeds=slice(None), arms=slice(None)):
    seeds, arms = (list(x) if isinstance(x, tuple) else x for x in (seeds, arms))
    measured = {n: array[arms][:, seeds] for n, array in r.history.recorded().items() if n != "valid_steps"}
    return r.history._replace(**measured)


def of_arms(r, names):
    rows = tuple(r.row(name) for name in names)
    pick = lambda d: {name: d[name] for name in names}  # noqa: E731
    return dataclasses.replace(r, arms=pick(r.arms), history=cut(r, arms=rows))


def assert_same(ours, theirs):
    assert (ours.study, ours.arms, ours.seeds) == (theirs.study, theirs.arms, theirs.seeds)
    for a, b in zip(ours.history, theirs.history, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "runs to merge must not share seeds as well, as the same measurement would count twice"),
        ({"plan": {"title": "other"}, "seeds": (2, 3)}, "runs to merge must have the same title, got toy and other"),
        (
            {"plan": {"title": "toy", "steps": 100, "batch_size": 9}, "seeds": (2, 3)},
            "runs to merge must have the same batch_size, got 8 and 9",
        ),
        ({"done": 50, "seeds": (2, 3)}, "runs to merge must have the same done, got 100 and 50"),
        ({"arms": {"cosine": Trained(100, 9.0)}, "seeds": (2, 3)}, "runs to merge must have the same learning rate for cosine, got 0.01 and 9"),
        ({"arms": {"linear": Trained(50, 0.001)}, "seeds": (2, 3)}, "must have the same arms and different seeds, or different arms and the same"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_one_sentence(change, message):
    r = results({"cosine": [0.1, 0.2]})
    with pytest.raises(ResultsError) as caught:
        merged([r, dataclasses.replace(r, **change)])
    assert message in str(caught.value)


def test_sweeps_of_other_learning_rates_are_not_merged():
    """Their columns are factors, of which each would stand for several rates."""
    first = results({"cosine": [0.1]})
    several = [
        dataclasses.replace(
            first,
            arms={f"cosine@{factor}": Trained(100, factor * rate, {"policy": "cosine", "factor": factor})},
        )
        for factor, rate in [(1, 0.01), (4, 0.01), (0.5, 0.04)]
    ]
    assert [*merged(several[:2]).arms] == ["cosine@1", "cosine@4"]
    with pytest.raises(
        ResultsError, match="^runs to merge must have the same learning rate for cosine, got 0.01 and 0.04$"
    ):
        merged(several)


# Tables -----------------------------------------------------------------------------------------------------


def test_the_table_and_the_heading_tell_what_was_measured():
    r = results({"cosine": [0.2, 0.4], "linear-50": [0.5, 0.5]}, done=60)
    assert heading(r) == "toy: 60 of 100 updates, 2 seeds"
    lines = table(r).splitlines()
    assert lines[2] == "| linear-50 |      50 | 0.500 ± 0.000 |   1.000 ± 0.000 |        50.0 ± 0.0 % |"
    assert lines[3] == "| cosine    |      60 | 0.300 ± 0.100 |   1.000 ± 0.000 |        50.0 ± 0.0 % |"


@pytest.mark.usefixtures("unrendered")
def test_rates_are_told_where_they_differ():
    r = results({"cosine": [0.2], "constant": [0.5]})
    assert "peak rate" not in table(r)
    r = dataclasses.replace(r, arms={**r.arms, "cosine": Trained(100, 0.0234567)})
    assert "| cosine   |    0.0235 |" in table(r)
    assert "There is no verdict: no claim" in save_text(r)


def save_text(r):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        return save(r, Path(folder))


def test_courses_end_where_an_arm_ends():
    r = results({"cosine": [0.2, 0.4], "linear-50": [0.5, 0.5]})
    r.history.valid_loss[1] = [[4, 3, 2, 1], [4, 3, 2, 1]]
    lines = [line.split(" | ") for line in courses(r).splitlines() if line.startswith("| ")]
    cells = [[cell.strip(" |") for cell in line] for line in lines]
    assert cells[2] == ["linear-50", "0.500 ± 0.000", "0.500 ± 0.000", "-", "-"]
    valid = cells[cells.index(["cosine", *["0.300 ± 0.100"] * 4]) + 1 :]
    assert ["cosine", "4.000 ± 0.000", "3.000 ± 0.000", "2.000 ± 0.000", "1.000 ± 0.000"] in valid
    assert numbers(r)["linear-50"]["training loss"] == [[0.5, 0.5], [0.5, 0.5]]
    assert numbers(r)["cosine"]["validation accuracy"][0] == [50.0, 50.0]


@pytest.mark.usefixtures("unrendered")
def test_a_stopped_run_is_not_judged_anywhere(tmp_path):
    text = save(results(shaken(AS_PUBLISHED), done=60), tmp_path)
    assert "The run was stopped early, so there is no verdict on the claims." in text
    assert json.loads((tmp_path / "results.json").read_text())["claims"] == []


@pytest.mark.usefixtures("unrendered")
def test_a_report_has_its_parts_in_files(tmp_path):
    r = results(shaken(AS_PUBLISHED))
    text = save(r, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"report.md", "results.json", "figure.png", "validation.png"}
    report = (tmp_path / "report.md").read_text()
    assert report.startswith(f"# {text}")
    compared = parts(CLAIMS, r)
    assert compared in report
    assert compared.count("\n| C1 ") == 4
    assert compared.count("\n| C2 ") == 6
    record = json.loads((tmp_path / "results.json").read_text())
    assert [claim["verdict"] for claim in record["claims"]] == ["holds"] * 7
    assert len(record["claims"][0]["margins"]) == 4
    assert set(record["arms"]) == set(ARMS)


@pytest.mark.usefixtures("unrendered")
def test_a_diverged_run_is_told(tmp_path):
    r = results({"cosine": [0.2, 0.4], "constant": [0.5, 0.5]})
    r.history.train_loss[r.row("cosine"), 1, 70:] = np.nan
    text = save(r, tmp_path)
    assert "DIVERGED: cosine (1 of 2 seeds). Draw no conclusions from their numbers." in text
    assert json.loads((tmp_path / "results.json").read_text())["arms"]["cosine"]["training loss"][3] == [0.2, None]


def test_numbers_of_a_run_that_diverged_have_few_digits(tmp_path):
    assert [decimals(x, 3, "+") for x in (0.5, -1.234e25, np.inf, np.nan)] == ["+0.500", "-1.2e+25", "+inf", "+nan"]
    r = results(shaken(AS_PUBLISHED))
    r.history.train_loss[r.row("cosine")] *= np.float32(1e25)
    r.history.train_loss[r.row("ema-long"), 1, 70:] = np.nan
    r.history.valid_loss[r.row("polyak"), 0] = np.inf
    text = save(r, tmp_path) + (tmp_path / "report.md").read_text()
    assert "e+2" in text
    assert " inf " in text
    assert not re.search(r"\d{9}", text)
    for name in ("figure.png", "validation.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("unrendered")
def test_a_run_resumed_with_something_else_says_so(tmp_path):
    sentences = [f"Resumed after {n} updates with jax 2 (before: 1)." for n in (40, 50)]
    runs = [
        dataclasses.replace(results({"cosine": [0.2]}, seeds=[seed]), changes=tuple(changes))
        for seed, changes in enumerate(([], sentences[:1], sentences))
    ]
    for run in runs:
        text = save(run, tmp_path)
        assert [sentence for sentence in sentences if sentence in text] == [*run.changes]
        run.save(tmp_path / "history.npz")
        assert Results.load(tmp_path / "history.npz").changes == run.changes
    assert merged(runs).changes == (*sentences,)
    sweep = dataclasses.replace(swept(), changes=(*sentences,))
    assert all(sentence in save(sweep, tmp_path) for sentence in sentences)


def test_a_sweep_merged_with_other_arms_is_a_table_of_arms(tmp_path):
    other = dataclasses.replace(results({"constant": [0.5]}), plan={})
    text = save(merged([swept(), other]), tmp_path)
    assert "| linear@0.5 " in text
    assert "| constant " in text


def test_super_convergence_is_how_many_times_fewer_updates():
    r = results({"constant": [0.1, 0.1], "linear-25": [0.1, 0.1], "linear-50": [0.1, 0.1]})
    roles = {arm.name: arm.fields for arm in POLICIES.arms(1.0, 100)}
    names = {"constant": "sgd-step", "linear-25": "sgd-one-cycle-25", "linear-50": "sgd-one-cycle-50"}
    r = dataclasses.replace(r, arms={names[n]: Trained(arm.horizon, 1.0, roles[names[n]]) for n, arm in r.arms.items()})
    accuracy = r.history.valid_accuracy
    accuracy[r.row("sgd-step"), :, -1], accuracy[r.row("sgd-one-cycle-50"), :, 1] = 0.8, 0.81
    accuracy[r.row("sgd-one-cycle-25")] = 0.79
    assert super_convergence(r) == (
        "SGD with step decay ends at an accuracy of 80.0 ± 0.0 % after 100 updates. One-cycle, compared with that: "
        "-1.0 ± 0.0 % after 25, +1.0 ± 0.0 % after 50. One-cycle reaches that accuracy in 2 times fewer updates."
    )
    accuracy[r.row("sgd-one-cycle-50")] = [[0.9] * 4, [0.5] * 4]  # paired with the seeds of the other
    assert "-10.0 ± 20.0 % after 50." in super_convergence(r)
    assert "fewer" not in super_convergence(r)
    assert super_convergence(results({"cosine": [0.1]})) == ""


# Grids of rates -----------------------------------------------------------------------------------------------


GRID = grid(POLICIES.arms, ["linear", "cosine"], (0.5, 1.0, 2.0))(0.1, 100)


def swept():
    """Two policies at three rates; the best are 0.5 and 2, and one run diverged."""
    arms = {arm.name: Trained(arm.horizon, arm.peak_rate, arm.fields) for arm in GRID}
    ends = np.array([0.3, 0.4, np.nan, 0.9, 0.8, 0.7], np.float32)
    valid = np.repeat(ends[:, None, None], 4, axis=2)
    history = History(np.repeat(valid, 25, axis=2), np.array([25, 50, 75, 100]), valid, valid)
    return Results("sweep", "toy", {}, arms, (0,), 100, 100, history)


def best_rates(r):
    return {arm.name: arm.peak_rate for arm in best(GRID, r)}


def test_where_no_rate_is_best_there_is_none(tmp_path):
    """Policies that diverged at every rate, and a sweep that was stopped before it was validated."""
    r = swept()
    r.history.train_loss[3:], r.history.valid_loss[3:] = np.nan, np.nan
    assert best_rates(r) == pytest.approx({"linear": 0.05})
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in save(r, tmp_path).splitlines()]
    assert ["cosine", "diverged", "diverged", "diverged", "-"] in lines
    r = dataclasses.replace(r, done=10, history=r.history._replace(valid_loss=np.full((6, 1, 4), np.nan)))
    r.history.train_loss[:] = 1.0
    assert best_rates(r) == {}
    text = save(r, tmp_path)
    assert "**" not in text.partition("Training loss")[0]
    assert "diverged" not in text


def test_the_best_rate_is_that_of_the_lowest_loss_that_is_a_number():
    assert best_rates(swept()) == pytest.approx({"linear": 0.05, "cosine": 0.2})


def test_the_best_by_training_loss_may_be_another():
    r = swept()
    r.history.train_loss[3:, :, :] = np.array([0.5, 0.4, 0.6], np.float32)[:, None, None]
    assert r.best(r.grid()["cosine"], "training") == "cosine@1"
    assert r.best(r.grid()["cosine"]) == "cosine@2"


def test_a_sweep_is_a_table_of_policies_against_rates(tmp_path):
    text = save(swept(), tmp_path)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == ["policy", "x 0.5", "x 1", "x 2", "best rate"]
    assert lines[2] == ["linear", "**0.300**", "0.400", "diverged", "0.05*"]
    assert lines[3] == ["cosine", "0.900", "0.800", "**0.700**", "0.2*"]
    assert lines[4:] == lines[:4]  # of the training losses, which are the same here
    assert text.count("* the lowest or highest rate tried") == 2
    assert {p.name for p in tmp_path.iterdir()} == {"report.md", "results.json", "figure.png"}


@pytest.mark.usefixtures("quick_compilation")
def test_every_policy_is_an_arm_of_any_length_and_its_rate_scales():
    scales = {"momentum_sgd": 10.0, "reference_schedule_free": 2.5}  # how many times the rate of Adam they want
    for steps in (20, 1_000):
        for one, two in zip(POLICIES.arms(1e-3, steps), POLICIES.arms(2e-3, steps), strict=True):
            assert one.horizon <= steps
            assert two.peak_rate == pytest.approx(2 * one.peak_rate, rel=1e-5), one.name
            assert one.optimizer is two.optimizer  # by which arms share their code
            assert one.hyperparameters.keys() == two.hyperparameters.keys()
            scaled = one.peak_rate / (1e-3 * scales.get(one.optimizer.__name__, 1.0))
            # Of a short run not every peak is at an update; the first triangle comes after a fade.
            assert scaled < 1.02, one.name
            assert steps < 1_000 or scaled > 0.77, one.name


# Figures ------------------------------------------------------------------------------------------------------


def texts(ax):
    """The labels at the ends of lines, by text."""
    return {text.get_text(): text for text in ax.texts}


def label_of(name):
    return LOOKED[name]["label"]


def test_every_arm_is_in_a_figure_and_has_a_look_of_its_own_there():
    assert {name for panel in FIGURES for name in panel.arms} == set(ARMS)
    assert len({label_of(name) for name in ARMS}) == len(ARMS)
    for panel in (*PANELS, *FIGURES):
        looks = [(LOOKED[name]["color"], str(LOOKED[name]["linestyle"])) for name in panel.arms]
        assert len(set(looks)) == len(panel.arms)


@pytest.mark.parametrize("of", ["training", "validation"])
def test_figures_show_each_arm_to_its_end(of):
    figure = plot_panels(results(shaken(AS_PUBLISHED)), FIGURES[:4], LOOKED, of=of)
    panels = {ax.get_title(loc="left"): ax for ax in figure.axes}
    assert set(panels) == {panel.question for panel in FIGURES[:4]}
    for panel in FIGURES[:4]:
        ends = {line.get_label(): line.get_xdata()[-1] for line in panels[panel.question].lines}
        expected = {label_of(n): int(n[7:]) if n.startswith("linear") else 100 for n in panel.arms}
        assert {label: ends[label] for label in expected} == expected
    assert f"{of} loss" in figure.get_suptitle()


def test_curves_against_a_baseline_are_differences_of_paired_seeds():
    r = results(shaken({"constant": 0.5, "linear-100": 0.3, "linear-25": 0.4}))
    panel = Panel("Decay?", ("constant", "linear-100", "linear-25"), baseline="constant")
    lines = {line.get_label(): line for line in plot(r, [panel], LOOKED).axes[0].lines}
    for name, loss in {"constant": 0.0, "linear-100": -0.2, "linear-25": -0.1}.items():
        np.testing.assert_allclose(lines[label_of(name)].get_ydata(), loss, atol=5e-3)  # of seeds 0.5 apart
    assert lines[label_of("linear-25")].get_xdata()[-1] == 25
    without = plot(of_arms(r, ["linear-100"]), [panel], LOOKED).axes[0]
    assert without.get_ylabel() == "training loss"


def test_the_ends_are_in_the_order_of_their_losses_and_those_of_shorter_runs_hollow():
    r = results(shaken({"constant": 0.5, "cosine": 0.3, "linear-25": 0.4}))
    ends = plot(r, PANELS, LOOKED).axes[-1]
    assert ends.get_title(loc="left") == ENDS
    assert [text.get_text() for text in ends.get_yticklabels()] == [*map(label_of, ("cosine", "linear-25", "constant"))]
    dots = [line for line in ends.lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() == "white" for line in dots] == [False, True, False]
    means = [r.train_loss(name).mean() for name in ("cosine", "linear-25", "constant")]
    np.testing.assert_allclose([line.get_xdata()[0] for line in dots], means)


def test_an_arm_without_a_look_is_drawn_like_any_other_and_nothing_else_disappears():
    r = results(shaken({"constant": 0.5, "cosine": 0.3, "polyak": 0.6}))
    r = dataclasses.replace(r, arms={**{k: r.arms[k] for k in ("constant", "cosine")}, "new": Trained(100, 1e-2)})
    panels = [Panel("Is it new?", ("constant", "new")), Panel("And the other?", ("cosine",))]
    study = dataclasses.replace(PUBLISHED, panels=panels)
    looks = study.looks(r.arms)
    assert looks["constant"] == LOOKED["constant"]
    assert looks["new"] == LOOKS[0]
    figure = plot(r, panels, looks)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Is it new?", "And the other?", ENDS]
    assert [*texts(figure.axes[0])] == [label_of("constant"), "new"]


def test_questions_are_drawn_alone_with_the_arms_that_were_trained():
    r = results(shaken({"constant": 0.5, "linear-25": 0.4, "polyak": 0.6}))
    decay, _, average, *_ = FIGURES
    figure = plot_panels(r, [decay, average], LOOKED, of="validation")
    drawn = {ax.get_title(loc="left"): [*texts(ax)] for ax in figure.axes}
    assert drawn == {
        "How long to decay?": [label_of("constant"), label_of("linear-25")],
        "Average instead?": [label_of("constant"), label_of("polyak")],
    }
    assert figure.axes[0].get_ylabel() == "validation loss"
    (ax,) = plot_panels(of_arms(r, ["polyak"]), [decay], LOOKED).axes
    assert not ax.texts


def test_labels_are_in_the_colours_of_their_lines_and_do_not_overlap():
    figure = plot(results(shaken({**AS_PUBLISHED, "cosine": 0.2001})), PANELS, LOOKED)
    figure.draw_without_rendering()
    for ax in figure.axes[:2]:
        colours = {line.get_label(): line.get_color() for line in ax.lines}
        assert len(ax.texts) > 3
        assert all(text.get_color() == colours[label] for label, text in texts(ax).items())
        boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
        assert all(above.y0 >= below.y1 - 0.5 for below, above in itertools.pairwise(boxes))
        assert boxes[-1].x1 <= figure.bbox.width


def test_figures_of_other_arms_and_of_sweeps_have_names_and_marks():
    r = results({"cosine": [0.2], "constant": [0.5]})
    r = dataclasses.replace(r, arms={"a": Trained(100, 1.0), "b": Trained(100, 1.0)})
    (ax,) = plot(r, [], {}).axes
    assert {label.get_text() for label in ax.get_yticklabels()} == {"a", "b"}
    figure = plot_rates(swept())
    assert [*texts(figure.axes[0])] == ["linear", "cosine"]
    best = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    np.testing.assert_allclose(np.ravel(best), [0.05, 0.2], rtol=1e-6)


def test_a_sweep_of_many_policies_is_a_map_with_the_best_of_each_framed():
    names, factors, losses = "abcdefgh", (0.5, 1.0, 2.0), np.full((8, 3), 0.4)
    losses[:, 1] = 0.3 - 0.01 * np.arange(8)
    losses[0, 2], losses[3, 0] = np.inf, np.nan
    arms = {f"{n}@{f:g}": Trained(100, f, {"policy": n, "factor": f}) for n in names for f in factors}
    measured = np.broadcast_to(losses.reshape(-1, 1, 1), (24, 2, 4)).astype(np.float32)
    r = results(shaken({"constant": 0.5}, seeds=2))
    history = History(np.ones((24, 2, 100), np.float32), r.history.valid_steps, measured, measured)
    (ax,) = plot_rates(dataclasses.replace(r, arms=arms, history=history)).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [*"hgfedcba"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x 0.5", "x 1", "x 2"]
    assert sorted(frame.get_center()[1] for frame in ax.patches) == [*range(8)]
    assert {frame.get_center()[0] for frame in ax.patches} == {1}
    assert len(ax.texts) == 22  # without the two that diverged
    lost = history._replace(valid_loss=np.full_like(measured, np.nan))
    assert not plot_rates(dataclasses.replace(r, arms=arms, history=lost)).axes[0].patches


@pytest.mark.parametrize(("shift", "from_zero"), [(0.0, True), (1.0, False)])
def test_an_axis_begins_at_zero_unless_losses_could_not_be_told_apart(shift, from_zero):
    losses = {name: [loss + shift, loss + shift + 0.01] for name, loss in AS_PUBLISHED.items()}
    begins = plot_panels(results(losses), FIGURES[:1], LOOKED).axes[0].get_ylim()[0]
    lowest = min(map(min, losses.values()))
    assert begins == 0 if from_zero else 0.9 * lowest < begins < lowest


@pytest.mark.parametrize(("highest", "scale"), [(0.5, "linear"), (0.7, "log")])
def test_the_axis_of_ends_is_logarithmic_where_they_differ_in_size(highest, scale):
    ends = plot(results({"cosine": [0.2], "constant": [highest]}), PANELS, LOOKED).axes[-1]
    assert ends.get_xscale() == scale


def test_figures_are_alike_whatever_a_persons_settings_are(tmp_path):
    (tmp_path / "settings").write_text("text.usetex: True\naxes.grid: True\n")
    save(swept(), tmp_path)
    figure = (tmp_path / "figure.png").read_bytes()
    assert figure.startswith(b"\x89PNG")
    (tmp_path / "figure.png").unlink()
    with matplotlib.rc_context(fname=tmp_path / "settings"):
        save(swept(), tmp_path)
    assert (tmp_path / "figure.png").read_bytes() == figure


def test_nothing_measured_yet_is_drawn_without_a_warning():
    r = results(shaken(AS_PUBLISHED), done=1)
    plot(r, PANELS, LOOKED)
    unmeasured = r.history._replace(valid_loss=np.full_like(r.history.valid_loss, np.nan))
    plot(dataclasses.replace(r, history=unmeasured), PANELS, LOOKED, "validation")
