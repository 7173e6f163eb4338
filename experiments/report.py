"""What a run leaves behind, made from its history alone: tables, the claims and figures."""

import io
import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from experiments.claims import CLAIMS, FOOTNOTE, QUARTERS, Finding, as_json, judge, standard_error
from experiments.errors import UserError, reason, reason_in
from experiments.figure import plot, plot_grid
from experiments.files import require_writable, write_bytes, write_text
from experiments.results import CYCLE, STEPPED, Loss, Results, decimals

Measure = Callable[[str, int], np.ndarray]


def save(results: Results, folder: Path) -> str:
    """Writes report.md, results.json and the figures, and returns the text that ends a run.

    **Raises:** `UserError` if they cannot be written.
    """
    try:
        # Of infinite losses, the spread is no number; and figures are drawn alike whatever a person's settings are.
        with np.errstate(invalid="ignore"), style.context("default"):
            return _save_grid(results, folder) if results.grid() else _save(results, folder)
    except OSError as error:
        why = reason_in(folder, error)
        raise UserError(
            f"{folder} can no longer be written ({why}): when it can, the same command writes the report"
        ) from None


def _save(results: Results, folder: Path) -> str:
    findings = judged(results)
    parts = [
        heading(results),
        table(results),
        *results.changes,
        *diverged(results),
        *super_convergence(results),
        claims(results, findings),
    ]
    text = "\n\n".join(parts) + "\n"
    details = "\n\n".join([courses(results), *margins(findings)]) + "\n"
    write_text(folder / "report.md", f"# {text}\n{details}")
    record = {"claims": [as_json(finding) for finding in findings], "arms": numbers(results)}
    write_text(folder / "results.json", json.dumps(record, indent=1) + "\n")
    save_figure(plot(results), folder / "figure.png")
    save_figure(plot(results, of="validation"), folder / "validation.png")
    return text


def _save_grid(results: Results, folder: Path) -> str:
    """The same for a sweep of rates, which has many arms and a question of its own."""
    text = "\n\n".join([heading(results), grid(results), *results.changes]) + "\n"
    write_text(folder / "report.md", f"# {text}")
    write_text(folder / "results.json", json.dumps({"arms": numbers(results)}, indent=1) + "\n")
    save_figure(plot_grid(results), folder / "figure.png")
    return text


def new_report(folder: Path, numbers: str) -> None:
    """Makes a folder for a report that is not a run's own, or takes one that has `numbers`, the file of another of its
    kind, which is replaced.

    **Raises:** `UserError` if it cannot be written, or holds anything else.
    """
    try:
        require_writable(folder)
    except OSError as error:
        raise UserError(f"--out must be a folder that can be written, got {folder} ({reason(error)})") from None
    held = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if "config.json" in held:
        raise UserError(f"--out must be a folder that holds no run, got {folder}")
    if held and numbers not in held:
        raise UserError(f"--out must be a new or empty folder, or one with {numbers}, got {folder} with {min(held)}")


def save_figure(figure: Figure, path: Path) -> None:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box takes the place of an emoji
        figure.savefig(file, format="png", dpi=160)
    write_bytes(path, file.getvalue())


def one_rate(results: Results) -> bool:
    """Whether all arms have the same peak rate, as those that the claims compare."""
    return len(set(results.rates.values())) == 1


def heading(results: Results) -> str:
    done = f"{results.done:,} of " if results.done < results.steps else ""
    return heading_of(results.title, f"{done}{results.steps:,} updates", len(results.seeds))


def heading_of(title: str, length: str, seeds: int) -> str:
    return f"{title}: {length}, {_count(seeds, 'seed')}"


def measures(results: Results) -> dict[str, Measure]:
    """What is measured of an arm at a percentage of the run, one number a seed."""
    return {
        "training loss": results.train_loss,
        "validation loss": results.valid_loss,
        "validation accuracy": lambda arm, percent: 100 * results.valid_accuracy(arm, percent),
    }


def table(results: Results) -> str:
    """A Markdown table: where the arms end, with mean and standard error over the seeds."""
    rates = not one_rate(results)
    rows: list[Sequence[str]] = [("arm", *["peak rate"] * rates, "updates", *measures(results))]
    for arm in results.horizons:
        cells = [_cell(name, measure(arm, 100)) for name, measure in measures(results).items()]
        rows.append((arm, *[f"{results.rates[arm]:.3g}"] * rates, f"{results.end(arm):,}", *cells))
    window = results.window * results.every
    note = (
        f"Training losses are means of the last {window:,} updates, at most a fifth of an arm's, each read before its "
        "update; ± standard error."
    )
    return f"{markdown(rows)}\n\n{note}"


def grid(results: Results) -> str:
    """Markdown tables: policies against rates, with the losses at the end, the lowest of each policy in bold."""
    parts = []
    for of in reversed(get_args(Loss)):
        rows = _grid(results, of)
        parts += [f"{of.capitalize()} loss at the end, by rate in multiples of the policy's own.", markdown(rows)]
        parts += ["* the lowest or the highest tried"] * any(row[-1].endswith("*") for row in rows)
    return "\n\n".join(parts)


def _grid(results: Results, of: Loss) -> list[Sequence[str]]:
    factors = sorted({float(arm.split("@")[1]) for arm in results.horizons})
    rows: list[Sequence[str]] = [("policy", *(f"x {factor:g}" for factor in factors), "best rate")]
    for policy, arms in results.grid().items():
        shown = {arm: _shown(results, arm, of) for arm in arms}
        best = results.best(arms, of)
        if best:
            shown[best] = f"**{shown[best]}**"
        edge = "*" if best in (arms[0], arms[-1]) else ""
        cells = [shown.get(f"{policy}@{factor:g}", "-") for factor in factors]
        rows.append((policy, *cells, f"{results.rates[best]:.3g}{edge}" if best else "-"))
    return rows


def _shown(results: Results, arm: str, of: Loss) -> str:
    loss = float(results.loss(arm, of).mean())
    return decimals(loss, 3) if math.isfinite(loss) else "diverged" if results.diverged(arm) else "-"


def courses(results: Results) -> str:
    """A table of each measure at the quarters of the run, of the arms that were trained so far."""
    return "\n\n".join(f"## {name.capitalize()}\n\n{_course(results, name)}" for name in measures(results))


def _course(results: Results, name: str) -> str:
    measure = measures(results)[name]
    rows: list[Sequence[str]] = [("arm", *(f"at {quarter} %" for quarter in QUARTERS))]
    for arm in results.horizons:
        reached = [quarter for quarter in QUARTERS if results.reaches(arm, quarter)]
        cells = [_cell(name, measure(arm, quarter)) for quarter in reached]
        rows.append((arm, *cells, *["-"] * (len(QUARTERS) - len(reached))))
    return markdown(rows)


def numbers(results: Results) -> dict[str, dict[str, list[list[float | None]]]]:
    """All that the tables are made of: by arm and measure, the seeds' numbers at each quarter that was reached."""
    return {
        arm: {
            name: [[_finite(v) for v in measure(arm, q)] for q in QUARTERS if results.reaches(arm, q)]
            for name, measure in measures(results).items()
        }
        for arm in results.horizons
    }


def diverged(results: Results) -> list[str]:
    """A sentence about the runs whose loss became infinite or no number, if there are any."""
    lost = {arm: count for arm in results.horizons if (count := results.diverged(arm))}
    seeds = len(results.seeds)
    said = ", ".join(f"{arm} ({count} of {_count(seeds, 'seed')})" for arm, count in lost.items())
    return [f"DIVERGED: {said}. Nothing is concluded from their numbers."] if lost else []


def super_convergence(results: Results) -> list[str]:
    """How many times fewer updates one-cycle takes to the accuracy of SGD with step decay, if both were trained."""
    cycles = sorted((arm for arm in results.horizons if arm.startswith(CYCLE)), key=results.horizons.__getitem__)
    if STEPPED not in results.horizons or not cycles or results.done < results.steps:
        return []
    goal, steps = 100 * results.valid_accuracy(STEPPED), results.end(STEPPED)
    ahead = {arm: 100 * results.valid_accuracy(arm) - goal for arm in cycles}
    listed = ", ".join(f"{_difference(ahead[arm])} after {results.end(arm):,}" for arm in cycles)
    told = f"SGD with step decay ends at {_cell('accuracy', goal)} after {steps:,} updates; one-cycle {listed}."
    enough = [results.end(arm) for arm in cycles if ahead[arm].mean() >= 0]
    times = f" As much or more in {steps / enough[0]:.3g} times fewer." if enough and enough[0] < steps else ""
    return [told + times]


def _difference(values: np.ndarray) -> str:
    """Of percentages, paired over seeds."""
    error = f" ± {standard_error(values):.1f}" if len(values) > 1 else ""
    return f"{values.mean():+.1f}{error} %"


def claims(results: Results, findings: Sequence[Finding]) -> str:
    if results.done < results.steps:
        return "The run was stopped early, so the claims are not judged."
    if not findings:
        return "No claim compares the chosen arms alone, at one peak rate."
    lines = [f"- {f.name} {f.verdict.upper():9}  {f.statement} ({_margin(f)})" for f in findings]
    judged = (
        f"Margins are differences of training loss over {_count(len(results.seeds), 'paired seed')}, the least sure of "
        f"each claim, Student's t at the 5 % level; {FOOTNOTE}."
    )
    return "\n".join([*lines, "", judged])


def margins(findings: Sequence[Finding]) -> list[str]:
    """Every comparison that the claims are made of, as a table."""
    if not findings:
        return []
    rows: list[Sequence[str]] = [("claim", "compared", "difference", "standard error", "z", "verdict")]
    for finding in findings:
        for i, margin in enumerate(finding.margins):
            error = "-" if margin.error is None else decimals(margin.error, 4)
            measured = [_signed(margin.mean, 4), error, _signed(margin.z, 1)]
            rows.append((finding.name, margin.compared, *measured, "" if i else finding.verdict))
    return ["## Claims, in parts\n\n" + markdown(rows, left=2)]


def verdicts(*several: Results) -> str:
    """A Markdown table: what each run says of each claim, with the margin that decides."""
    heads = [f"{results.title}, {_count(len(results.seeds), 'seed')}" for results in several]
    found = [{finding.name: finding for finding in judged(results)} for results in several]
    rows: list[Sequence[str]] = [("", "published conclusion", *heads)]
    for claim in CLAIMS:
        told = [f"{f.verdict} ({_decides(f)})" if (f := each.get(claim.name)) else "-" for each in found]
        rows.append((claim.name, claim.statement, *told))
    return markdown(rows, left=2 + len(several))


def judged(results: Results) -> list[Finding]:
    """The claims, where the run has ended and all arms have one peak rate."""
    return judge(results.train_loss) if results.done == results.steps and one_rate(results) else []


def _margin(finding: Finding) -> str:
    return f"margin {_decides(finding)}"


def _decides(finding: Finding) -> str:
    weakest = finding.weakest
    error = "" if weakest.error is None else f" ± {decimals(weakest.error, 3)}"
    return f"{_signed(weakest.mean, 3)}{error}"


def _signed(number: float | None, digits: int) -> str:
    return "-" if number is None else decimals(number, digits, "+")


def markdown(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table, the first columns to the left and the others to the right, readable as plain text too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [
        [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [aligned[0], rule, *aligned[1:]])


def _cell(measure: str, values: np.ndarray) -> str:
    if np.isnan(values).all():
        return "-"
    percent = measure.endswith("accuracy")
    digits = 1 if percent else 3
    error = f" ± {decimals(float(standard_error(values)), digits)}" if len(values) > 1 else ""
    return f"{decimals(float(values.mean()), digits)}{error}{' %' if percent else ''}"


def _finite(value: float) -> float | None:
    return float(f"{value:.7g}") if np.isfinite(value) else None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
