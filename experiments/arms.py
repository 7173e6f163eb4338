"""The arms of the comparison: each a name and numbers."""

from dataclasses import dataclass
from typing import Literal, get_args

from optim import exponential_average, polyak
from schedules import Schedule, constant, cosine, linear, multistep

# fmt: off
ArmName = Literal[
    "constant", "linear-100", "linear-75", "linear-50", "linear-25", "cosine", "step-25", "step-75",
    "polyak", "ema-long", "ema-short", "sf-polyak", "sf-ema",
]
# fmt: on
ARMS: tuple[ArmName, ...] = get_args(ArmName)


@dataclass(frozen=True)
class Arm:
    """One way to train: Adam, and what becomes of its learning rate or of its parameters.

    Without a `coefficient` the parameters themselves are evaluated; with one, their average x, and the
    gradient is taken at (1 - beta) z + beta x. Losses count up to `horizon` updates, where the schedule ends.
    """

    name: str
    learning_rate: Schedule
    horizon: int
    coefficient: Schedule | None = None
    beta: float = 0.0
    b1: float = 0.9


def published(rate: float, steps: int) -> dict[str, Arm]:
    """The 13 published arms for a run of `steps` updates with peak `rate`, by name.

    Averaging windows scale with the run: the published decays 0.9999 and 0.999 over 100,000 steps are
    windows of a tenth and of a hundredth of it.
    """
    still = constant(rate)
    long, short = exponential_average(max(steps / 10, 1.0)), exponential_average(max(steps / 100, 1.0))
    arms = [
        Arm("constant", still, steps),
        *(Arm(f"linear-{p}", linear(rate, 0.0, steps * p // 100), steps * p // 100) for p in (100, 75, 50, 25)),
        Arm("cosine", cosine(rate, 0.0, steps), steps),
        *(Arm(f"step-{p}", multistep(rate, [steps * p // 100], 0.1), steps) for p in (25, 75)),
        Arm("polyak", still, steps, polyak()),
        Arm("ema-long", still, steps, long),
        Arm("ema-short", still, steps, short),
        Arm("sf-polyak", still, steps, polyak(), beta=0.9, b1=0.0),
        Arm("sf-ema", still, steps, long, beta=0.9, b1=0.0),
    ]
    return {arm.name: arm for arm in arms}
