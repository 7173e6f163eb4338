"""The published conclusions as tests over paired seeds.

A claim is true where all of its margins are positive. A margin is one number a seed; since arms share
their batches and dropout masks, margins of differences are paired. With n seeds a margin is taken for
positive at the 5 % level of Student's t with n - 1 degrees of freedom, and some margin of a claim of k for
negative at that level divided by k (Bonferroni).
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

from experiments.results import decimals

# The training loss of each seed of an arm, around a percentage of the run.
At = Callable[[str, int], np.ndarray]
Verdict = Literal["holds", "fails", "undecided"]

QUARTERS = (25, 50, 75, 100)


@dataclass(frozen=True)
class Claim:
    name: str
    statement: str
    margins: Callable[[At], Mapping[str, np.ndarray]]  # by what is compared


@dataclass(frozen=True)
class Margin:
    """Mean, standard error and their ratio over the seeds; the last two are None for one seed or where one diverged."""

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


def tolerance(at: At) -> np.ndarray:
    """A quarter of the gap that decay closes, from the constant rate to cosine; NaN, which decides nothing, if none.

    Of each seed, so that what is not known of it is part of the error of the margins.
    """
    quarter = (at("constant", 100) - at("cosine", 100)) / 4
    return quarter if quarter.mean() > 0 else np.full_like(quarter, np.nan)


def alike(at: At, *arms: str) -> dict[str, np.ndarray]:
    """Each two of `arms` end within the tolerance.

    Two margins a pair, one for each direction: the absolute difference of a seed is never zero, and noise
    alone would make it large.
    """
    pairs = itertools.permutations(arms, 2)
    return {k: v for a, b in pairs for k, v in below(at, a, b, by=tolerance(at)).items()}


def at_each_quarter(margin: Callable[[int], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {k: v for quarter in QUARTERS for k, v in margin(quarter).items()}


CLAIMS = (
    Claim(
        "C1",
        "Linear decay to each quarter of the run ends below the constant rate there",
        lambda at: at_each_quarter(lambda q: below(at, f"linear-{q}", "constant", q)),
    ),
    Claim(
        "C2",
        "Linear decay, cosine decay and a step at 75 % end alike*",
        lambda at: alike(at, "linear-100", "cosine", "step-75"),
    ),
    Claim("C3", "A step at 75 % ends below a step at 25 %", lambda at: below(at, "step-75", "step-25")),
    Claim("C4", "The long EMA of a constant rate ends like* cosine", lambda at: alike(at, "ema-long", "cosine")),
    Claim("C5", "Polyak averaging ends above the constant rate", lambda at: below(at, "constant", "polyak")),
    Claim("C6", "Schedule-free with Polyak averaging ends like* cosine", lambda at: alike(at, "sf-polyak", "cosine")),
    Claim(
        "C7",
        "Schedule-free with the long EMA is at* or below every linear decay at that decay's end",
        lambda at: at_each_quarter(lambda q: below(at, "sf-ema", f"linear-{q}", q, by=tolerance(at))),
    ),
)
FOOTNOTE = "* within a quarter of the gap between the constant rate and cosine"


def judge(at: At) -> list[Finding]:
    """The claims whose arms were all trained (`at` raises KeyError for others)."""
    findings = []
    for claim in CLAIMS:
        try:
            margins = claim.margins(at)
        except KeyError:
            continue
        findings.append(_finding(claim, margins))
    return findings


def standard_error(values: np.ndarray) -> np.ndarray:
    """Of the mean over seeds, the last axis; there are two or more."""
    return np.asarray(values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1]))


def _finding(claim: Claim, margins: Mapping[str, np.ndarray]) -> Finding:
    rows = [_margin(compared, values) for compared, values in margins.items()]
    weakest = min(rows, key=_sureness)
    seeds = len(next(iter(margins.values())))
    verdict: Verdict = "undecided"
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
