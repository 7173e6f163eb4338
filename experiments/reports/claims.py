"""The conclusions of a study as tests over paired seeds, and how they came out, in words.

A claim is true where all of its margins are positive. A margin is one number a seed; since arms share
their batches and dropout masks, margins of differences are paired. With n seeds a margin is taken for
positive at the 5 % level of Student's t with n - 1 degrees of freedom, and some margin of a claim of k for
negative at that level divided by k (Bonferroni). Margins of exact losses are known: their signs decide.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

from experiments.reports.results import Results, one_rate
from experiments.reports.text import counted, decimals, markdown, signed, standard_error

# The training loss of each seed of an arm, around a percentage of the run.
At = Callable[[str, int], np.ndarray]
Verdict = Literal["holds", "fails", "undecided"]


@dataclass(frozen=True)
class Claim:
    name: str
    statement: str
    margins: Callable[[At], Mapping[str, np.ndarray]]  # by what is compared


@dataclass(frozen=True)
class Claims:
    """Those of a study; `footnote` explains what their statements mark with a *, if anything."""

    claims: tuple[Claim, ...] = ()
    footnote: str = ""


NO_CLAIMS = Claims()


@dataclass(frozen=True)
class Margin:
    """Mean, standard error and their ratio over the seeds.

    The last two are None for one seed, for exact losses, or where a seed diverged; then the mean is None as well.
    """

    compared: str
    mean: float | None
    error: float | None
    z: float | None


@dataclass(frozen=True)
class Finding:
    """A claim after the measurement: its verdict is that of the margin that is the least sure to be positive."""

    name: str
    statement: str
    verdict: Verdict
    weakest: Margin
    margins: tuple[Margin, ...]


def below(at: At, lower: str, upper: str, percent: int = 100, by: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """That `lower` has a smaller loss than `upper`, or one larger by less than `by`, which is one number a seed."""
    margin = at(upper, percent) - at(lower, percent)
    if by is None:
        return {f"{lower} below {upper} at {percent} %": margin}
    return {f"{lower} below {upper} + {decimals(float(by.mean()), 3)} at {percent} %": margin + by}


def judged(claims: Claims, results: Results) -> list[Finding]:
    """The claims whose arms were all trained, where the run has ended and all arms have one peak rate."""
    if results.done < results.steps or not one_rate(results):
        return []
    return judge(claims, results.train_loss, results.exact)


def judge(claims: Claims, at: At, exact: bool = False) -> list[Finding]:
    """The claims whose arms were all trained (`at` raises KeyError for others).

    `exact`: whether losses have no error.
    """
    findings = []
    for claim in claims.claims:
        try:
            margins = claim.margins(at)
        except KeyError:
            continue
        findings.append(_finding(claim, margins, exact))
    return findings


def _finding(claim: Claim, margins: Mapping[str, np.ndarray], exact: bool) -> Finding:
    rows = [_margin(compared, values) for compared, values in margins.items()]
    weakest = min(rows, key=_sureness)
    seeds = len(next(iter(margins.values())))
    verdict: Verdict = "undecided"
    if exact and weakest.mean:
        verdict = "holds" if weakest.mean > 0 else "fails"
    if weakest.z is not None:
        # All margins must be positive for the one, and any may be negative for the other, which is corrected for.
        positive, negative = stdtrit(seeds - 1, 0.95), stdtrit(seeds - 1, 1 - 0.05 / len(rows))
        verdict = "holds" if weakest.z > positive else "fails" if weakest.z < -negative else "undecided"
    return Finding(claim.name, claim.statement, verdict, weakest, tuple(rows))


def _margin(compared: str, values: np.ndarray) -> Margin:
    if not np.isfinite(values).all():  # a run diverged
        return Margin(compared, None, None, None)
    mean = float(values.mean())
    if len(values) == 1:  # one seed tells nothing about the error, so it decides nothing
        return Margin(compared, mean, None, None)
    error = float(standard_error(values))
    return Margin(compared, mean, error, mean / max(error, np.finfo(float).tiny))


def _sureness(margin: Margin) -> float:
    if margin.z is not None:
        return margin.z
    return -math.inf if margin.mean is None else margin.mean


def as_json(finding: Finding) -> dict[str, Any]:
    margins: Sequence[Any] = [vars(margin) for margin in finding.margins]
    return {"name": finding.name, "statement": finding.statement, "verdict": finding.verdict, "margins": margins}


# In words ---------------------------------------------------------------------------------------------


def conclusions(claims: Claims, results: Results) -> str:
    """A line for each claim, and what decides them; nothing of a study without claims."""
    if not claims.claims:
        return ""
    if results.done < results.steps:
        return "The run was stopped early, so the claims are not judged."
    findings = judged(claims, results)
    if not findings:
        return "No claim compares the chosen arms alone, at one peak rate."
    lines = [f"- {f.name} {f.verdict.upper():9}  {f.statement} (margin {_decides(f)})" for f in findings]
    decided = _decided_by(results)
    return "\n".join([*lines, "", "; ".join(filter(None, (decided, claims.footnote))) + "."])


def _decided_by(results: Results) -> str:
    if results.exact:
        return "Margins are differences of expected loss, the lowest of each claim, whose signs decide"
    seeds = counted(len(results.seeds), "paired seed")
    return (
        f"Margins are differences of training loss over {seeds}, the least sure of each claim, Student's t at the 5 % "
        "level"
    )


def parts(claims: Claims, results: Results) -> str:
    """Every comparison that the claims are made of, as a table."""
    findings = judged(claims, results)
    if not findings:
        return ""
    uncertain = () if results.exact else ("standard error", "z")
    rows: list[Sequence[str]] = [("claim", "compared", "difference", *uncertain, "verdict")]
    for finding in findings:
        for i, margin in enumerate(finding.margins):
            error = "-" if margin.error is None else decimals(margin.error, 4)
            certainty = [error, signed(margin.z, 1)][: len(uncertain)]
            measured = [signed(margin.mean, 4), *certainty]
            rows.append((finding.name, margin.compared, *measured, "" if i else finding.verdict))
    return "## Claims, in parts\n\n" + markdown(rows, left=2)


def verdicts(claims: Claims, *several: Results) -> str:
    """A Markdown table: what each run says of each claim, with the margin that decides."""
    heads = [f"{results.title}, {results.sample}" for results in several]
    found = [{finding.name: finding for finding in judged(claims, results)} for results in several]
    rows: list[Sequence[str]] = [("", "published conclusion", *heads)]
    for claim in claims.claims:
        told = [f"{f.verdict} ({_decides(f)})" if (f := each.get(claim.name)) else "-" for each in found]
        rows.append((claim.name, claim.statement, *told))
    return markdown(rows, left=2 + len(several))


def _decides(finding: Finding) -> str:
    weakest = finding.weakest
    error = "" if weakest.error is None else f" ± {decimals(weakest.error, 3)}"
    return f"{signed(weakest.mean, 3)}{error}"
