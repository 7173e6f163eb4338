"""What the comparison of precisions says, against losses made for it, and what the page says of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.bench.precision import FULL, HALF, numbers, report
from experiments.reports.results import Results

ROOT = Path(__file__).parent.parent
PUBLISHED_NUMBERS = json.loads((ROOT / "experiments/results/bench/precision/numbers.json").read_text())


def test_differences_are_paired_by_seed():
    full = Results.load(ROOT / "experiments/results/digits/history.npz")
    losses = full.history.train_loss.copy()
    losses[full.row("cosine")] += np.arange(10.0)[:, None]
    losses[full.row("step-75")] = 1.0
    half = replace(full, history=full.history._replace(train_loss=losses))
    told = numbers(full, half)
    above = {name: (each["above"], each["error"]) for name, each in told["arms"].items()}
    assert above["cosine"] == pytest.approx((4.5, np.arange(10.0).std(ddof=1) / 10**0.5), rel=1e-5)
    assert above["constant"] == (0, 0)
    text = report(told, full, half)
    assert "The largest difference is +4.5000 ± 0.9574, of cosine." in text
    assert "| +0.0000 ± 0.0000 |" in text
    assert told["verdicts"]["C3"] == {FULL: "holds", HALF: "fails"}
    assert told["verdicts"]["C5"] == {FULL: "fails", HALF: "fails"}


def test_the_page_says_what_bfloat16_changed():
    verdicts, arms = PUBLISHED_NUMBERS["verdicts"], PUBLISHED_NUMBERS["arms"]
    assert len(verdicts) == 7
    assert all(each[FULL] == each[HALF] for each in verdicts.values())
    largest = max(abs(each["above"]) for each in arms.values())
    page = " ".join((ROOT / "docs/accelerator.md").read_text().split())
    assert (
        f"the verdicts on the seven conclusions were the same as in float32, over {PUBLISHED_NUMBERS['seeds']}" in page
    )
    assert f"no mean final training loss changed by more than {np.ceil(1000 * largest) / 1000:.3f}" in page
