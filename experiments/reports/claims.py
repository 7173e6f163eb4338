"""The conclusions of a study as statistical tests over paired seeds, and the verdicts in words.

A claim is true if all of its margins are positive. A margin is a difference of losses, one number for each seed. It is
paired by seed, since arms share their batches and dropout masks. A claim holds if each of its margins is positive at
the 5 % level of Student's t with n - 1 degrees of freedom, for n seeds. A claim with k margins fails if one of them is
negative at that level divided by k (Bonferroni). Exact losses have no error: the signs of their margins decide.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

from experiments.reports.results import Results, one_rate
from experiments.reports.text import counted, decimals, markdown, signed, standard_error

# The training losses of an arm, one for each seed, at a percentage of the run.
At = Callable[[str, int], np.ndarray]
Verdict = Literal["holds", "fails", "undecided"]


@dataclass(frozen=True)
class Claim:
    name: str
    statement: str
    margins: Callable[[At], Mapping[str, np.ndarray]]  # one for each comparison, by its description


@dataclass(frozen=True)
class Claims:
    """The claims of a study; `footnote` explains the * in their statements, if there is one."""

    claims: tuple[Claim, ...] = ()
    footnote: str = ""


NO_CLAIMS = Claims()


@dataclass(frozen=True)
class Margin:
    """The mean over the seeds, its standard error, and their ratio.

    The last two are None for one seed and for exact losses. All three are None if a seed diverged.
    """

    compared: str
    mean: float | None
    error: float | None
    z: float | None


@dataclass(frozen=True)
class Finding:
    """A claim with its verdict; `weakest` is the least certain margin, which decides it."""

    name: str
    statement: str
    verdict: Verdict
    weakest: Margin
    margins: tuple[Margin, ...]


def below(at: At, lower: str, upper: str, percent: int = 100, by: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The margin by which the loss of `lower` is below that of `upper`, plus `by`, which has one number for a seed."""
    margin = at(upper, percent) - at(lower, percent)
    if by is None:
        return {f"{lower} below {upper} at {percent} %": margin}
    return {f"{lower} below {upper} + {decimals(float(by.mean()), 3)} at {percent} %": margin + by}


def judged(claims: Claims, results: Results) -> list[Finding]:
    """The verdicts on claims whose arms were all trained; none if the run was stopped or arms differ in peak rate."""
    if results.done < results.steps or not one_rate(results):
        return []
    return judge(claims, results.train_loss, results.exact)


def judge(claims: Claims, at: At, exact: bool = False) -> list[Finding]:
    """The verdicts on claims whose arms were all trained (`at` raises KeyError for other arms).

    `exact`: whether losses are exact, without sampling error.
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
        # To hold, all margins must be positive. To fail, any negative margin is enough: hence the correction.
        positive, negative = stdtrit(seeds - 1, 0.95), stdtrit(seeds - 1, 1 - 0.05 / len(rows))
        verdict = "holds" if weakest.z > positive else "fails" if weakest.z < -negative else "undecided"
    return Finding(claim.name, claim.statement, verdict, weakest, tuple(rows))


def _margin(compared: str, values: np.ndarray) -> Margin:
    if not np.isfinite(values).all():  # a run diverged
        return Margin(compared, None, None, None)
    mean = float(values.mean())
    if len(values) == 1:  # no standard error from one seed, and so no verdict
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
    """A line for each claim, and how they are decided; empty for a study without claims."""
    if not claims.claims:
        return ""
    if results.done < results.steps:
        return "The run was stopped early, so there is no verdict on the claims."
    findings = judged(claims, results)
    if not findings:
        return "There is no verdict: no claim is about these arms only, or their peak rates differ."
    lines = [f"- {f.name} {f.verdict.upper():9}  {f.statement} (margin {_decides(f)})" for f in findings]
    return "\n".join([*lines, "", " ".join(filter(None, (_decided_by(results), claims.footnote)))])


def _decided_by(results: Results) -> str:
    if results.exact:
        return "The margin is the smallest difference of expected losses behind each claim; its sign decides."
    seeds = counted(len(results.seeds), "paired seed")
    return (
        f"The margin is the least certain difference of training losses behind each claim, over {seeds} (mean ± "
        "standard error); Student's t at the 5 % level decides."
    )


def parts(claims: Claims, results: Results) -> str:
    """A table of all comparisons behind the claims."""
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
    return "## All comparisons behind the claims\n\n" + markdown(rows, left=2)


def verdicts(claims: Claims, *several: Results) -> str:
    """A Markdown table of the verdicts of each run on each claim, with the margins that decide."""
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
