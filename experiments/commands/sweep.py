"""Loss against peak rate: policies at several rates each, all in one program."""

from dataclasses import dataclass

from experiments.commands.compare import train
from experiments.commands.options import Running, folder_of, planned
from experiments.engine.signals import stop_signals
from experiments.errors import UsageError
from experiments.studies.policies import POLICIES
from experiments.studies.sweep import FACTORS, SWEEP, grid


@dataclass(frozen=True)
class Sweep(Running):
    """Train each schedule at several peak rates, all in one program, and plot loss against peak rate.

    A policy is a schedule or an average, with its optimizer. Its rate is --learning-rate times a factor times the scale
    of the policy (10 for SGD, 1 for Adam).
    """

    schedules: tuple[str, ...] = ("constant", "step", "linear", "cosine", "wsd-linear", "schedule-free-ema")
    """Policies by name. An unknown name lists them all."""
    factors: tuple[float, ...] = FACTORS
    """The rates, as multiples of the peak rate."""


def sweep(options: Sweep) -> int:
    """The command; returns its exit status."""
    names, factors = options.schedules, options.factors
    if not names or len(set(names)) < len(names) or not set(names) <= {*POLICIES.names}:
        raise UsageError(
            f"--schedules must be some of {', '.join(POLICIES.names)}, each once, got {' '.join(names) or 'none'}"
        )
    if not factors or not all(1e-6 <= f <= 1e6 for f in factors) or len({f"{f:g}" for f in factors}) < len(factors):
        got = " ".join(map(str, factors)) or "none"
        raise UsageError(f"--factors must be numbers from 1e-6 to 1e+6, no two equal to six digits, got {got}")
    plan = planned(options, SWEEP, grid(POLICIES.arms, names, factors), len(names) * len(factors))
    with stop_signals() as stopped:
        return train(plan, folder_of(options, SWEEP.name), options, stopped)[1]
