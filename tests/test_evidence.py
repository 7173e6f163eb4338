"""The command that compares theory with runs, and that what it published is what the pages say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.__main__ import main
from experiments.evidence import every_evidence
from experiments.evidence.evidence import Answer, Evidence
from experiments.reports.results import Results
from experiments.reports.text import spread

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
TINY = Evidence("tiny", "Is it so?", lambda: Answer("Yes.", {"n": 1}, {"figure.png": Figure()}))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr("experiments.commands.evidence.every_evidence", lambda: {"tiny": TINY})


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


def test_a_folder_of_something_else_is_left_alone(tiny, tmp_path, capsys):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/thesis.tex").touch()
    assert main(["evidence", "--out", str(tmp_path)]) == 2
    assert "with numbers.json" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", every_evidence())
def test_every_question_has_a_published_answer(name):
    report = (RESULTS / "evidence" / name / "report.md").read_text()
    assert report.startswith(f"# {every_evidence()[name].question}\n")
    assert json.loads((RESULTS / "evidence" / name / "numbers.json").read_text())
    assert (RESULTS / "evidence" / name / "figure.png").exists()


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


def test_the_readme_says_what_its_three_questions_come_to(capsys):
    readme = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(from optim import merge\n.*?)```", readme, re.DOTALL)
    found = {}
    exec(example, found)
    above = {row.name: 100 * (row.ratio - 1) for row in found["found"].rows}
    assert f"20 % is {above['wsd']:.0f} % above linear decay in the bound, cosine {above['cosine']:.0f} %." in example
    assert f"# {found['found'].peaks('cosine', 3e-4)['wsd']:.2g}: the peak" in example
    longer = found["longer"]
    assert f"by {longer.factor:.2f} from step {longer.start:,} on" in example
    assert f"to {longer.cooldown_steps:,}.\n" in example
    merged, real, none = (MERGING.train_loss(arm).mean() for arm in ("merged-wsd", "wsd", "constant"))
    assert f"on digits to {merged:.3f}; a real cooldown to {real:.3f}, none {none:.3f}.\n" in example
    assert found["merged"] == {"w": np.float64(1.0)}


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
