"""The published conclusions as tests over paired seeds.

A claim is true where all of its margins are positive. A margin is one number a seed; since arms share
their batches and dropout masks, margins of differences are paired. With n seeds a margin is taken for
positive, or for negative, at the 5 % level of Student's t with n - 1 degrees of freedom.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

# The training loss of each seed of an arm, around a percentage of the run.
At = Callable[[str, int], np.ndarray]

QUARTERS = (25, 50, 75, 100)


@dataclass(frozen=True)
class Claim:
    statement: str
    margins: Callable[[At], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Finding:
    """A claim after the measurement: mean and standard error, over the seeds, of its least sure margin."""

    statement: str
    verdict: str  # holds, fails or undecided
    margin: float
    error: float  # NaN for a single seed


def within_tolerance(at: At, *arms: str) -> list[np.ndarray]:
    """Each two of `arms` end within a quarter of the gap that decay closes, constant to cosine.

    Two margins a pair, one for each direction: the absolute difference of a seed is never zero, and noise
    alone would make it large.
    """
    tolerance = np.mean(at("constant", 100) - at("cosine", 100)) / 4
    return [tolerance - (at(a, 100) - at(b, 100)) for a, b in itertools.permutations(arms, 2)]


CLAIMS = (
    Claim(
        "Linear decay to each quarter of the run ends below the constant rate there",
        lambda at: [at("constant", q) - at(f"linear-{q}", q) for q in QUARTERS],
    ),
    Claim(
        "Linear decay, cosine decay and a step at 75 % end alike*",
        lambda at: within_tolerance(at, "linear-100", "cosine", "step-75"),
    ),
    Claim("A step at 75 % ends below a step at 25 %", lambda at: [at("step-25", 100) - at("step-75", 100)]),
    Claim("The long EMA of a constant rate ends like* cosine", lambda at: within_tolerance(at, "ema-long", "cosine")),
    Claim("Polyak averaging ends above the constant rate", lambda at: [at("polyak", 100) - at("constant", 100)]),
    Claim(
        "Schedule-free with Polyak averaging ends like* cosine", lambda at: within_tolerance(at, "sf-polyak", "cosine")
    ),
    Claim(
        "Schedule-free with the long EMA is below every linear decay at that decay's end",
        lambda at: [at(f"linear-{q}", q) - at("sf-ema", q) for q in QUARTERS],
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
        findings.append(_finding(claim.statement, np.stack(margins)))
    return findings


def standard_error(values: np.ndarray) -> np.ndarray:
    """Of the mean over seeds, the last axis; there are two or more."""
    return np.asarray(values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1]))


def _finding(statement: str, margins: np.ndarray) -> Finding:
    """The verdict of the part, of margins (parts, seeds), that is the least sure to be positive."""
    means, seeds = margins.mean(axis=1), margins.shape[1]
    if seeds == 1:  # one seed tells nothing about the error, so it decides nothing
        return Finding(statement, "undecided", float(means.min()), math.nan)
    errors = standard_error(margins)
    t = means / np.maximum(errors, np.finfo(float).tiny)
    weakest = np.argmin(t)
    needed = stdtrit(seeds - 1, 0.95)
    verdict = "holds" if t[weakest] > needed else "fails" if t[weakest] < -needed else "undecided"
    return Finding(statement, verdict, float(means[weakest]), float(errors[weakest]))
