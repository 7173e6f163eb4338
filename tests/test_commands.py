"""The command line, as a user meets it: what it prints, what it leaves, what it refuses."""

import dataclasses
import functools
import importlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import engine
import jax
import numpy as np
import pytest
import test_experiments

from experiments.__main__ import COMMANDS, main
from experiments.bench import schedules
from experiments.bench.measurement import compared, in_turn, table
from experiments.commands import compare
from experiments.engine.program import LAST_SEED, Program
from experiments.reports.results import Results
from experiments.studies.policies import POLICIES, policies
from experiments.studies.published import PUBLISHED
from experiments.tasks import every_task
from experiments.tasks.cifar10 import FOLDER
from experiments.tasks.cifar10 import PUBLISHED as CIFAR10
from experiments.tasks.vision_transformer import TinyViT
from optim import RangeTest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]

ARMS = PUBLISHED.names
HUGE = "100000000000000000000"
SMALL = ["--steps", "20", "--seeds", "1", "--batch-size", "4"]


def make_tiny(monkeypatch):
    monkeypatch.setattr("experiments.tasks.digits.DIGITS", engine.SMALL)
    on_one = functools.partial(Program, devices=jax.devices()[:1])
    monkeypatch.setattr("experiments.engine.run.Program", on_one)


@pytest.fixture
def tiny(monkeypatch):
    """On one device, and digits with a small model: what is compiled takes half as long."""
    make_tiny(monkeypatch)


NAMES = ("constant", "step-25", "step-75")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with runs: three arms with each of two seeds, and another arm with the first of these.

    One was trained, the last seed there is; the others are it under other names.
    """
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        make_tiny(patch)
        patch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
        command = [*SMALL, "--first-seed", str(LAST_SEED), "--arms", *NAMES, "--out", str(folder / "5")]
        assert main(command) == 0
    shutil.copytree(folder / "5", folder / "0")
    config = json.loads((folder / "0" / "config.json").read_text())
    config["plan"]["seeds"] = [0]
    (folder / "0" / "config.json").write_text(json.dumps(config))
    run = dataclasses.replace(Results.load(folder / "5" / "history.npz"), seeds=(0,))
    run.save(folder / "0" / "history.npz")
    rows = {name: array[:1] for name, array in run.history.recorded().items() if name != "valid_steps"}
    arms = {"cosine": run.arms["constant"]}
    shutil.copytree(folder / "0", folder / "cosine")
    dataclasses.replace(run, arms=arms, history=run.history._replace(**rows)).save(folder / "cosine" / "history.npz")
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of these."""
    return shutil.copytree(trained, tmp_path / "runs")


def test_the_command_leaves_a_table_figures_and_the_numbers(tmp_path, capsys, tiny, request):
    out = tmp_path / "run"
    command = [*SMALL, "--seeds", "2", "--out", str(out)]
    assert main(command) == 0
    left = {"config.json", "metrics.jsonl", "history.npz", "results.json", "report.md", "figure.png", "validation.png"}
    assert {p.name for p in out.iterdir()} == {*left, "checkpoints", ".lock"}
    printed, progress = capsys.readouterr()
    assert "13 arms x 2 seeds: 100%" in progress
    assert " loss " in progress
    report = (out / "report.md").read_text()
    assert printed.strip().startswith(report.removeprefix("# ").split("\n## ")[0].strip())
    assert all(f"| {name} " in report for name in ARMS)
    assert len([line for line in report.splitlines() if line.startswith("- C")]) == 7
    config = json.loads((out / "config.json").read_text())
    assert config["plan"]["settings"]["cosine"]["learning_rate"] == "cosine(start=0.014, end=0.0, steps=20)"
    assert config["plan"]["steps"] == 20
    assert config["versions"]["jax"] == jax.__version__
    results = Results.load(out / "history.npz")
    assert results.history.train_loss.shape == (13, 2, 20)
    assert np.isfinite(results.history.train_loss).all()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 20
    assert set(lines[-1]["valid_accuracy"]) == set(ARMS)
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in ("figure.png", "validation.png"))
    # The same command again has nothing left to do, and remakes the report.
    request.getfixturevalue("unrendered")
    (out / "report.md").unlink()
    assert main(command) == 0
    assert (out / "report.md").read_text() == report
    # Another one must not overwrite it.
    assert main([*SMALL, "--seeds", "3", "--out", str(out)]) == 2
    assert f"{out} holds a run with seeds [0, 1], not [0, 1, 2]: choose another folder" in capsys.readouterr().err
    assert Results.load(out / "history.npz").seeds == (0, 1)


@pytest.mark.usefixtures("unrendered")
def test_reports_are_remade_and_merged_without_training(runs, capsys, monkeypatch):
    report = (runs / "0" / "report.md").read_bytes()
    (runs / "0" / "report.md").unlink()
    monkeypatch.setattr(compare, "run", None)  # nothing is trained from here on
    assert main(["report", str(runs / "0")]) == 0
    assert (runs / "0" / "report.md").read_bytes() == report
    assert main(["report", str(runs / "0"), str(runs / "5"), "--out", str(runs / "both")]) == 0
    both = Results.load(runs / "both" / "history.npz")
    assert both.seeds == (0, LAST_SEED)
    assert "2 seeds" in capsys.readouterr().out
    assert [run["plan"]["seeds"] for run in json.loads((runs / "both" / "runs.json").read_text())] == [
        [0],
        [LAST_SEED],
    ]
    assert main(["report", str(runs / "0"), str(runs / "cosine" / "history.npz"), "--out", str(runs / "c")]) == 0
    assert list(Results.load(runs / "c" / "history.npz").arms) == [*NAMES, "cosine"]
    capsys.readouterr()
    for refused in (["5", "cosine", "--out", "d"], ["nowhere"], ["0", "5", "--out", "cosine"]):
        assert main(["report", *(word if word.startswith("--") else str(runs / word) for word in refused)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    (runs / "5" / "config.json").write_text("[" * 100_000)
    assert main(["report", str(runs / "0"), str(runs / "5"), "--out", str(runs / "d")]) == 2
    said = f"{runs}/5/config.json cannot be read as the configuration of a run (nested too deeply)"
    assert capsys.readouterr().err == f"python -m experiments: {said}\n"
    assert main(["range-test", "--out", str(runs / "0")]) == 2
    assert f"--out must be a folder that holds no run, got {runs / '0'}" in capsys.readouterr().err


def test_policies_are_trained_at_their_best_rate_of_a_sweep(tmp_path, capsys, tiny, monkeypatch):
    few = ("plateau", "sgd-step", "sgd-one-cycle-50")
    some = lambda rate, steps: [arm for arm in policies(rate, steps) if arm.name in few]  # noqa: E731
    study = dataclasses.replace(POLICIES, arms=some, factors=(0.1, 1.0))
    monkeypatch.setattr("experiments.studies.policies.POLICIES", study)
    out = tmp_path / "run"
    assert main([*SMALL, "--seeds", "2", "--arms", "policies", "--out", str(out)]) == 0
    swept, best = (Results.load(out / name / "history.npz") for name in ("sweep", "best"))
    assert set(swept.seeds).isdisjoint(best.seeds)
    assert list(best.arms) == [*few]
    for name in few:
        arms = {n: np.mean(swept.valid_loss(n)) for n in swept.grid()[name]}
        lowest = min(arms, key=lambda n: np.nan_to_num(arms[n], nan=np.inf))
        assert best.arms[name].rate == swept.arms[lowest].rate
    assert "one-cycle" in capsys.readouterr().out
    assert main(["report", str(out)]) == 2
    said = f"{out} holds no run itself, but others in it do: name {out}/best or {out}/sweep"
    assert capsys.readouterr().err == f"python -m experiments: {said}\n"


STUDY = (
    (Path(__file__).parent.parent / "docs/experiments.md").read_text().partition("```python\n")[2].partition("```")[0]
)


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Adds a file to a folder of the experiments, for the length of a test."""

    def add(package, name, content):
        folder = tmp_path / package
        folder.mkdir()
        (folder / f"{name}.py").write_text(content)
        found = importlib.import_module(package)
        monkeypatch.setattr(found, "__path__", [*found.__path__, str(folder)])
        monkeypatch.delitem(sys.modules, f"{package}.{name}", raising=False)

    return add


TASK = """
from engine import SMALL
from dataclasses import replace

TOY = replace(SMALL, name="toy", about="is for tests", title=lambda data: "toys", batch_size=4, seeds=1, steps=24)
"""


@pytest.mark.usefixtures("unrendered")
def test_a_study_is_a_file_and_so_is_a_task(tmp_path, capsys, tiny, add):
    """The study of the documentation, and a task, which nothing else knows."""
    add("experiments.studies", "shapes", STUDY)
    add("experiments.tasks", "toy", TASK)
    out = tmp_path / "run"
    assert main(["--task", "toy", "--arms", "shapes", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "toys: 24 updates, 1 seed" in printed
    assert "Linear decay ends below cosine decay (margin " in printed
    assert {"figure.png", "validation.png"} <= {path.name for path in out.iterdir()}
    record = json.loads((out / "results.json").read_text())
    assert (record["study"], [*record["arms"]]) == ("shapes", ["linear", "cosine"])
    assert [claim["name"] for claim in record["claims"]] == ["L"]
    report = (out / "report.md").read_bytes()
    assert main(["report", str(out)]) == 0
    assert (out / "report.md").read_bytes() == report
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "or `shapes`, linear against" in text
    assert "toy is for tests" in text
    assert "[toy 4, digits 24, cifar10-small 64, cifar10 128]" in text


@pytest.mark.usefixtures("unrendered")
def test_a_sweep_is_a_grid_in_one_program(tmp_path, capsys, tiny):
    out = tmp_path / "run"
    command = ["sweep", *SMALL, "--schedules", "schedule-free", "gpa", "--factors", "0.1", "1", "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "| policy " in printed
    results = Results.load(out / "history.npz")
    assert results.grid() == {
        "schedule-free": ["schedule-free@0.1", "schedule-free@1"],
        "gpa": ["gpa@0.1", "gpa@1"],
    }
    np.testing.assert_allclose([arm.rate for arm in results.arms.values()], [0.0035, 0.035, 0.0014, 0.014], rtol=1e-5)


def test_a_range_test_suggests_rates_over_seeds(tmp_path, capsys, tiny, trained):
    out = tmp_path / "run"
    seeds = ["--first-seed", str(LAST_SEED - 1), "--seeds", "2", "--batch-size", "4"]
    assert main(["range-test", "--steps", "60", *seeds, "--start", "1e-5", "--out", str(out)]) == 0
    assert {p.name for p in out.iterdir()} == {"report.md", "figure.png", "range-test.json"}
    printed = capsys.readouterr().out
    assert "8x8 digits: range test of adam, 2 seeds" in printed
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == ["valley", "steep", "minimum", "slide"]
    median, lowest, highest = map(float, rows[2][1:])
    assert 1e-5 < lowest <= median <= highest < 10
    record = json.loads((out / "range-test.json").read_text())
    assert np.shape(record["losses"]) == (2, 60)
    # The first loss is that of the comparison: the same initialization, batch and dropout.
    assert record["seeds"] == [LAST_SEED - 1, LAST_SEED]
    first = Results.load(trained / "5" / "history.npz").history.train_loss[0, 0, 0]
    assert record["losses"][1][0] == pytest.approx(first, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "-5"], "--steps must be from 20 to 15,384,615, got -5"),
        (["--steps", "2000000000"], "--steps must be from 20 to 15,384,615, got 2000000000"),
        (["--arms", "cosine", "--steps", HUGE], f"--steps must be from 20 to 200,000,000, got {HUGE}"),
        (["--arms", "policies", "--steps", "1000000"], "--steps must be from 20 to 952,380, got 1000000"),
        (["sweep", "--steps", HUGE], f"--steps must be from 20 to 4,761,904, got {HUGE}"),
        (["range-test", "--seeds", "2", "--steps", HUGE], f"--steps must be from 7 to 5,000,000, got {HUGE}"),
        (["--seeds", "0"], "--seeds must be from 1 to 10,000, got 0"),
        (["--seeds", HUGE], f"--seeds must be from 1 to 10,000, got {HUGE}"),
        (["--first-seed", "-1"], "--first-seed must be from 0 to 4,294,967,293, got -1"),
        (["--first-seed", "4294967294"], "--first-seed must be from 0 to 4,294,967,293, got 4294967294"),
        (["range-test", "--seeds", "1", "--first-seed", HUGE], f"--first-seed must be from 0 to 4,294,967,295, got {HUGE}"),
        (["--batch-size", "0"], "--batch-size must be 1 or more, got 0"),
        (["--batch-size", HUGE], f"--batch-size must be from 1 to 1,438, got {HUGE}"),
        (["sweep", "--factors"], "--factors must be numbers from 1e-6 to 1e+6, no two equal to six digits, got none"),
        (["--title", "two\nlines"], r"--title must be printable and of at most 200 characters, got 'two\nlines'"),
        (["--title", "\udcff"], r"--title must be printable and of at most 200 characters, got '\udcff'"),
        (["--title", "a" * 9_999], f"--title must be printable and of at most 200 characters, got '{'a' * 196}...\n"),
        (["--out", "\udcff"], r"--out must be printable and of at most 1,000 characters, got '\udcff'"),
        (["--out", "a" * 9_999], "--out must be printable and of at most 1,000 characters, got 'aaa"),
        (["report", "a", "--out", "\udcff"], r"--out must be printable and of at most 1,000 characters, got '\udcff'"),
        (["report", "a" * 9_999], "a...\n"),
        (["--early-stopping", "0"], "--early-stopping must be 1 or more, got 0"),
        (["--checkpoint-seconds", "-1"], "--checkpoint-seconds must be 0 or more, got -1.0"),
        (["--learning-rate", "nan"], "--learning-rate must be from 1e-30 to 1e+30, got nan"),
        (["--learning-rate", "1e300"], "--learning-rate must be from 1e-30 to 1e+30, got 1e+300"),
        (["--learning-rate", "1e-300"], "--learning-rate must be from 1e-30 to 1e+30, got 1e-300"),
        (["--arms", "cosine", "cosine"], "--arms must name one or more arms, each once, got cosine cosine"),
        (["--arms", "cosine", "--arms", "constant"], "--arms must be given once, with all its values, got it 2 times"),
        (["sweep", "--factors", "1", "--factors=2"], "--factors must be given once, with all its values, got it 2 times"),
        (["--arms", "cosin"], f"--arms must be merging, policies, published or of {', '.join(ARMS)}, got cosin"),
        (["--arms", "policies", "cosine"], "--arms must be names of arms, or policies alone, got policies cosine"),
        (["report"], "report needs the folder of one run or more"),
        (["report", "a", "b"], "--out must be a folder for the report of several runs, got none"),
        (["bench", "theory", "--out", "/proc/nowhere"], "--out must be a folder that can be written, got /proc/nowhere/theory (No such file or directory)"),
        (["sweep", "--factors", "1", "inf"], "--factors must be numbers from 1e-6 to 1e+6, no two equal to six digits, got 1.0 inf"),
        (["--data", "/nowhere"], "--data is for the task cifar10: digits come with scikit-learn, got /nowhere"),
        (["--out", "/proc/nowhere"], "/proc/nowhere must be a folder that can be written (No such file or directory)"),
        (["--task", "cifar10", "--data", "/nowhere"], "/nowhere/data_batch_1.bin cannot be read (No such file or directory): --data must be"),
        (["sweep", "--schedules", "cosin"], f"--schedules must be some of {', '.join(POLICIES.names)}, each once, got cosin"),
        (["range-test", "--steps", "3"], "--steps must be from 7 to 3,333,333, got 3"),
        (["range-test", "--start", "0"], "--start must be from 1e-30 to 1e+30, got 0.0"),
        (["range-test", "--end", "1e300"], "--end must be from 1e-30 to 1e+30, got 1e+300"),
        (["range-test", "--start", "1", "--end", "1.00000001"], "--start must be below --end, got 1.0 and 1.00000001"),
        (["range-test", "--start", "11"], "--start must be below --end, got 11.0 and 10.0"),
        (["range-test", "--out", "/proc/nowhere"], "--out must be a folder that can be written, got /proc/nowhere (No such file or directory)"),
        (["sweep", "--factors", "1", "1.0000001"], "--factors must be numbers from 1e-6 to 1e+6, no two equal to six digits, got 1.0 1.0000001"),
        (["sweep", "--factors", "0", "1"], "--factors must be numbers from 1e-6 to 1e+6, no two equal to six digits, got 0.0 1.0"),
    ],
)  # fmt: skip
def test_a_bad_value_is_one_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("python -m experiments: ")
    assert error.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("words", [[], ["sweep"], ["range-test"], ["bench"]])
def test_a_cache_of_compiled_programs_that_cannot_be_written_is_one_sentence(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for cache, reason in {"/proc/nowhere": "No such file or directory", __file__: "File exists"}.items():
        jax.config.update("jax_compilation_cache_dir", cache)
        try:
            assert main(words) == 2
        finally:
            jax.config.update("jax_compilation_cache_dir", None)
        said = f"JAX_COMPILATION_CACHE_DIR must be a folder that can be written, got {cache} ({reason})"
        assert capsys.readouterr().err == f"python -m experiments: {said}\n"
    assert [*tmp_path.iterdir()] == []


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("words", [["report", "cosine", "--out", "out"], ["range-test", "--out", "out"]])
def test_a_report_takes_the_place_of_a_report_only(words, capsys, runs, monkeypatch):
    monkeypatch.chdir(runs)
    curve = np.geomspace(1e-3, 1.0, 20, dtype=np.float32)[None]  # in place of training
    monkeypatch.setattr("experiments.commands.range_test.tested", lambda *_: RangeTest(curve, curve, curve))
    words = words if words[0] == "report" else [*words, *SMALL]
    numbers = "history.npz" if words[0] == "report" else "range-test.json"
    out = runs / "out"
    out.mkdir()
    for name, mine in {"report.md": "mine", "thesis.tex": "mine", "results.json": '{"mine": 1}'}.items():
        (out / name).write_text(mine)
        assert main(words) == 2
        said = f"--out must be a new or empty folder, or one with {numbers}, got out with {name}"
        assert capsys.readouterr().err == f"python -m experiments: {said}\n"
        assert (out / name).read_text() == mine
        (out / name).unlink()
    assert main(words) == 0
    (out / "report.md").unlink()
    (out / "notes.md").write_text("mine")
    assert main(words) == 0
    assert (out / "report.md").exists()
    assert (out / "notes.md").read_text() == "mine"


@pytest.mark.usefixtures("unrendered")
def test_a_report_of_a_report_knows_all_runs_and_takes_the_place_of_none(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    assert main(["report", "0", "5", "--out", "two"]) == 0
    shutil.copytree("5", "6")
    with np.load("6/history.npz") as file:
        np.savez("6/history.npz", **{**file, "seeds": [6]})
    assert main(["report", "two", "6", "--out", "three"]) == 0
    configs = json.loads((runs / "three" / "runs.json").read_text())
    assert [config["plan"]["seeds"] for config in configs] == [[0], [LAST_SEED], [LAST_SEED]]
    assert Results.load(runs / "three" / "history.npz").seeds == (0, LAST_SEED, 6)
    history = (runs / "two" / "history.npz").read_bytes()
    (runs / "two" / "mine.npz").write_bytes(history)
    capsys.readouterr()
    for words, message in [
        (["two", "6", "--out", "two"], "--out must be another folder than those that are read, got two"),
        (["two/mine.npz"], "--out must be a folder for the report of a file that is not history.npz, got none"),
    ]:
        assert main(["report", *words]) == 2
        assert capsys.readouterr().err == f"python -m experiments: {message}\n"
    assert (runs / "two" / "history.npz").read_bytes() == history


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_default_prng_impl", "rbg"),
        ("jax_threefry_partitionable", False),
        ("jax_debug_nans", True),
        ("jax_disable_jit", True),
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_numpy_dtype_promotion", "strict"),
    ],
)
def test_settings_under_which_results_would_be_others_are_refused(setting, value, capsys, tmp_path):
    before = getattr(jax.config, setting)
    jax.config.update(setting, value)
    try:
        assert main([*SMALL, "--out", str(tmp_path / "run")]) == 2
    finally:
        jax.config.update(setting, before)
    said = f"{setting.upper()} must be {before}, as for all results, got {value}"
    assert capsys.readouterr().err == f"python -m experiments: {said}\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_PLATFORMS", "none"),
        ("JAX_ENABLE_X64", "perhaps"),
        ("MPLBACKEND", "none"),
    ],
)
def test_an_environment_in_which_jax_cannot_run_is_one_sentence(name, value, tmp_path):
    command = [sys.executable, "-m", "experiments", "--out", str(tmp_path / "run")]
    ended = subprocess.run(command, env={**os.environ, name: value}, capture_output=True, text=True, timeout=120)
    assert ended.returncode in (1, 2)
    (said,) = ended.stderr.splitlines()
    assert said.startswith(("python -m experiments: JAX finds no", "python -m experiments: an environment variable "))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["schedules", "list"], ["experiments", "--help"]])
def test_a_full_disk_behind_the_output_is_one_sentence(words):
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-m", *words], stdout=full, stderr=subprocess.PIPE, timeout=60)
    said = b"standard output cannot be written (No space left on device)\n"
    assert (ended.returncode, ended.stderr) == (1, said)


@pytest.mark.parametrize("words", [["schedules", "0.1", "--steps", "9"], ["experiments", "--help"]])
def test_a_reader_that_has_gone_ends_a_command_without_a_word(words):
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run([sys.executable, "-m", *words], stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    monkeypatch.delitem(sys.modules, "experiments.__main__")
    with pytest.raises(SystemExit, match=r"^python -m experiments: tyro is needed and not installed: pip install '"):
        runpy.run_module("experiments")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_names_the_defaults_of_each_task(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "(default: None)" not in text
    assert "(default: )" not in text
    if not command:
        for name, task in every_task().items():
            own = {"steps", "seeds", "batch_size", "learning_rate"} & vars(task).keys()
            assert all(f"{name} {getattr(task, option)}" in text for option in own)
        assert all(name in text for name in COMMANDS)


@pytest.mark.usefixtures("unrendered")
def test_an_arm_learns_from_files_in_the_binary_layout(tmp_path, capsys, tiny, monkeypatch):
    small = dataclasses.replace(CIFAR10, model=TinyViT(patch_size=8, features=8, layers=1, heads=2, dropout=0.0))
    monkeypatch.setattr("experiments.tasks.cifar10.PUBLISHED", small)
    test_experiments.write_cifar(tmp_path / "data" / FOLDER)
    arguments = ["--task", "cifar10", "--data", str(tmp_path / "data"), "--arms", "sf-ema"]
    arguments += ["--steps", "100", "--batch-size", "16", "--learning-rate", "0.01", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert "CIFAR-10: 100 updates, 1 seed" in capsys.readouterr().out
    losses = Results.load(tmp_path / "run" / "history.npz").history.train_loss
    assert (losses[..., -10:].mean(axis=-1) < 0.8 * losses[..., :10].mean(axis=-1)).all()


def test_no_pickle_is_ever_loaded():
    source = "".join(p.read_text() for p in Path(main.__code__.co_filename).parent.rglob("*.py"))
    assert "np.load(" not in source
    assert source.count("read_array(") - source.count("_read_array(") == source.count("allow_pickle=False") == 1
    assert "pickle" not in source.replace("without ever loading a pickle", "").replace("allow_pickle=False", "")


# The bench ----------------------------------------------------------------------------------------------


def test_a_bench_is_a_table_of_ratios_with_their_spread():
    two = compared("one", np.array([1.0, 1.0, 2.0]), "other", np.array([4.0, 2.0, 2.0]), "µs", "at most 1/2")
    answer = table([two, schedules.traces()])
    assert [row["ratio"] for row in answer.numbers["rows"]] == [0.5, 0.1]
    assert "| one | 1 µs | other | 2 µs | 0.500 (0.375 to 0.750) | at most 1/2 |" in answer.text


def test_times_are_taken_in_turn():
    calls = []
    seconds = in_turn(lambda: calls.append("a"), lambda: calls.append("b"), rounds=3, calls=2)
    assert "".join(calls) == "ab" + "aabb" * 3
    assert seconds.shape == (2, 3)
    assert seconds.min() > 0
