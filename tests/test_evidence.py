"""The command that compares theory with runs, and that what it published is what the pages say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.__main__ import main
from experiments.declared import declared
from experiments.reports.question import Answer, Question
from experiments.reports.results import Results
from experiments.reports.text import spread
from schedules import cosine, linear, wsd
from theory import compare, transfer

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
TINY = Question("tiny", "Is it so?", lambda: Answer("Yes.", {"n": 1}, {"figure.png": Figure()}))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr("experiments.commands.answer.declared", lambda package, kind: {"tiny": TINY})


def test_a_question_gets_a_folder_with_its_answer(tiny, tmp_path, capsys):
    for names in (["tiny"], []):  # without a name all of them; what is there is replaced
        assert main(["evidence", *names, "--out", str(tmp_path)]) == 0
        assert (tmp_path / "tiny/report.md").read_text() == "# Is it so?\n\nYes.\n"
        assert json.loads((tmp_path / "tiny/numbers.json").read_text()) == {"n": 1}
        assert (tmp_path / "tiny/figure.png").stat().st_size > 0
    assert "# Is it so?\n\nYes.\n" in capsys.readouterr().out


def test_a_wrong_name_lists_the_right_ones(tiny, tmp_path, capsys):
    assert main(["evidence", "tinny", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "python -m experiments: evidence must be of tiny, got tinny\n"
    assert not [*tmp_path.iterdir()]


def test_a_question_without_its_package_is_skipped_unless_it_is_named(tmp_path, monkeypatch, capsys):
    larger = Question("larger", "Does it work?", TINY.measure, needs="no-such-package")
    monkeypatch.setattr("experiments.commands.answer.declared", lambda *_: {"larger": larger, "tiny": TINY})
    lacks = "larger needs a package that is not installed: pip install no-such-package\n"
    assert main(["evidence", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"Skipped: {lacks}# Is it so?\n")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert main(["evidence", "tiny", "larger", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"python -m experiments: {lacks}"


def test_a_folder_of_something_else_is_left_alone(tiny, tmp_path, capsys):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/thesis.tex").touch()
    assert main(["evidence", "--out", str(tmp_path)]) == 2
    assert "with numbers.json" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["thesis.tex"]


QUESTIONS = [
    (package, name, question)
    for package in ("evidence", "bench")
    for name, question in declared(f"experiments.{package}", Question).items()
]


@pytest.mark.parametrize(("package", "name", "question"), QUESTIONS, ids=[name for _, name, _ in QUESTIONS])
def test_every_question_has_a_published_answer(package, name, question):
    folder = RESULTS / package / name
    report = (folder / "report.md").read_text()
    assert report.startswith(f"# {question.asks}\n")
    assert json.loads((folder / "numbers.json").read_text())
    assert all((folder / figure).exists() for figure in re.findall(r"!\[[^]]*\]\(([^)]+)\)", report))


# What pages say ------------------------------------------------------------------------------------------

MERGING = Results.load(RESULTS / "digits-merging/history.npz")
ROWS = {
    "linear cooldown of the last fifth": "wsd",
    "the same along 1 - sqrt": "wsd-sqrt",
    "exponential, over about a tenth": "exponential",
    "cosine, from the start": "cosine",
    "linear, from the start": "linear",
}


def test_the_table_of_decays_and_averages_is_what_was_measured():
    page = (ROOT / "docs/averaging-is-decay.md").read_text()
    for row, arm in ROWS.items():
        of = [MERGING.train_loss, MERGING.valid_loss]
        cells = [spread(each(name), 3) for each in of for name in (arm, f"merged-{arm}")]
        assert f"| {row} | {' | '.join(cells)} |" in page


def test_the_answers_of_the_readme_are_those_of_the_library():
    readme = " ".join((ROOT / "README.md").read_text().split())
    shapes = {"linear": linear(1, 0, 9000), "cosine": cosine(1, 0, 9000), "wsd": wsd(1, 0, 7200, 1800)}
    above = {row.name: 100 * (row.ratio - 1) for row in compare(shapes, steps=9000).rows}
    assert (
        f"is {above['wsd']:.0f} % higher than with linear decay, with cosine decay {above['cosine']:.0f} %." in readme
    )
    longer = transfer(wsd(3e-4, 500, 7_500, 2_000), from_steps=10_000, to_steps=12_500)
    assert f"by {longer.factor:.2f} from step {longer.start:,} on" in readme
    assert f"cooldown to {longer.cooldown_steps:,} steps." in readme
    merged, real, none = (MERGING.train_loss(arm).mean() for arm in ("merged-wsd", "wsd", "constant"))
    said = f"a training loss of {merged:.3f}, a real cooldown at {real:.3f}, and the constant rate at {none:.3f}."
    assert said in readme


def test_the_page_on_cooldowns_says_what_was_measured():
    page = " ".join((ROOT / "docs/cooldown.md").read_text().split())
    laws = json.loads((RESULTS / "evidence/loss-laws/numbers.json").read_text())["published curves"]
    for law, told in (("multi-power", "of {} at 25 million parameters, {} at 100 million and {} at 400 million"),
                      ("as published", "comes to {}, {} and {}.")):  # fmt: skip
        means = [f"{laws[size]['errors'][law]['MAE']:.4f}" for size in ("25m", "100m", "400m")]
        assert told.format(*means) in page
    ends = [end for size in laws.values() for end in size["ends"].values()]
    off = np.array([abs(end["error"]) for end in ends])
    assert np.mean(off > [2 * end["standard error"] for end in ends]) == pytest.approx(2 / 3)
    assert f"(the median error is {np.median(off):.3f})" in page
    bound = json.loads((RESULTS / "evidence/last-iterate/numbers.json").read_text())
    costs = [choice["cost"] for choice in bound["choice"].values()]
    assert f"costs {min(costs):.3f} to {max(costs):.3f} of the loss" in page
