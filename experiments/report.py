"""What a run leaves behind: a table, the claims, a figure and the numbers they were made from."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.claims import FOOTNOTE, Finding, judge, standard_error
from experiments.figure import plot
from experiments.results import Results

PACKAGES = ("pure-schedules", "jax", "jaxlib", "numpy", "optax", "flax")


def save(results: Results, folder: Path, settings: Mapping[str, Any]) -> str:
    """Writes everything into `folder` and returns the text that ends a run."""
    ended = results.done == results.steps
    findings = judge(results.train_loss) if ended else []
    judged = claims(results, findings) if ended else "The run did not end, so the claims are not judged."
    text = f"{heading(results)}\n\n{table(results)}\n\n{judged}\n"
    record = {
        **settings,
        "done": results.done,
        "arms": {name: vars(arm) for name, arm in results.arms.items()},
        **machine(),
        "claims": [asdict(finding) for finding in findings],
    }
    (folder / "config.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
    (folder / "report.md").write_text(f"# {text}")
    np.savez_compressed(folder / "history.npz", **results.history._asdict())
    plot(results).savefig(folder / "figure.png", dpi=160)
    return text


def machine() -> dict[str, Any]:
    """What numbers depend on besides the code."""
    versions = {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}
    return {"device": jax.devices()[0].device_kind, "versions": versions}


def heading(results: Results) -> str:
    stopped = f", stopped after {results.done:,}" if results.done < results.steps else ""
    return f"{results.title}: {results.steps:,} updates{stopped}, {_count(results.seeds, 'seed')}"


def table(results: Results) -> str:
    """A Markdown table: the arms with mean and standard error over the seeds."""
    rows: list[tuple[str, ...]] = [("arm", "updates", "training loss", "validation loss", "validation accuracy")]
    for name in results.arms:
        loss, accuracy = results.validation(name)
        measured = [_mean_and_error(v) for v in (results.train_loss(name), loss)]
        rows.append((name, f"{results.end(name):,}", *measured, _mean_and_error(100 * accuracy, "%")))
    note = f"Losses are means of the last {results.window:,} updates, each read before its update; ± standard error."
    return f"{_markdown(rows)}\n\n{note}"


def claims(results: Results, findings: Sequence[Finding]) -> str:
    if not findings:
        return "No claim compares the chosen arms alone."
    lines = [f"- {f.verdict.upper():9}  {f.statement} ({_margin(f)})" for f in findings]
    judged = f"Margins are over {_count(results.seeds, 'paired seed')}, Student's t at the 5 % level; {FOOTNOTE}."
    return "\n".join([*lines, "", judged])


def _margin(finding: Finding) -> str:
    error = "" if math.isnan(finding.error) else f" ± {finding.error:.3f}"
    return f"margin {finding.margin:+.3f}{error}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, the first column to the left and the others to the right, readable as plain text too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [
        [cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    rule = ["-" * (w - 1) + ":" if i else "-" * w for i, w in enumerate(widths)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [aligned[0], rule, *aligned[1:]])


def _mean_and_error(values: np.ndarray, unit: str = "") -> str:
    if np.isnan(values).all():
        return "-"
    digits = 1 if unit else 3
    error = f" ± {standard_error(values):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{error}{unit and ' ' + unit}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
