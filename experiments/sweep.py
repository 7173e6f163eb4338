"""A grid of schedules and rates in one program: how the end of training depends on the peak rate."""

from dataclasses import dataclass

from experiments.compare import Running, settle
from experiments.errors import UsageError
from experiments.policies import FACTORS, POLICIES, grid
from experiments.signals import stop_signals


@dataclass(frozen=True)
class Sweep(Running):
    """Train schedules at several peak rates each, all in one program, and draw loss against rate.

    Every policy has a scale of its own (that of SGD is 10 times Adam's), which --learning-rate and --factors multiply.
    """

    schedules: tuple[str, ...] = ("constant", "step", "linear", "cosine", "wsd-linear", "schedule-free-ema")
    """Policies by name; a wrong name lists them all."""
    factors: tuple[float, ...] = FACTORS
    """The rates, as multiples of the peak rate."""


def sweep(options: Sweep) -> int:
    """The command; returns its exit status."""
    names = options.schedules
    if not names or len(set(names)) < len(names) or not set(names) <= POLICIES.keys():
        raise UsageError(
            f"--schedules must be some of {', '.join(POLICIES)}, each once, got {' '.join(names) or 'none'}"
        )
    factors = options.factors
    if not factors or not all(1e-6 <= f <= 1e6 for f in factors) or len({f"{f:g}" for f in factors}) < len(factors):
        got = " ".join(map(str, factors)) or "none"
        raise UsageError(f"--factors must be numbers from 1e-6 to 1e+6, no two equal to six digits, got {got}")
    settings = settle(options, "sweep", arms=len(names) * len(factors))
    arms = grid(names, settings.learning_rate, settings.steps, options.factors)
    with stop_signals() as stopped:
        return settings.train(settings.plan(arms), settings.sample.out, stopped)[1]
