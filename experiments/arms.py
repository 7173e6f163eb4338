"""The arms of the comparison: each an optimizer, and a schedule for every number that it takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optax

from optim import Coefficient, adam, average, exponential_average, polyak, schedule_free
from schedules import Schedule, ScheduleLike, as_schedule, constant, cosine, linear, multistep, tabulate

Optimizer = Callable[..., optax.GradientTransformationExtraArgs]


@dataclass(frozen=True)
class Arm:
    """One way to train: `optimizer(**hyperparameters)`, evaluated at its average where it keeps one.

    Arms with the same optimizer and the same names of hyperparameters share their code, and differ in numbers.
    Losses count up to `horizon` updates, where the schedule ends.
    """

    name: str
    optimizer: Optimizer
    hyperparameters: Mapping[str, Schedule]
    horizon: int

    @property
    def peak_rate(self) -> float:
        """The highest learning rate of its updates."""
        return float(np.max(tabulate(self.hyperparameters["learning_rate"], self.horizon)))

    def record(self) -> dict[str, Any]:
        """What was trained, in words and numbers, for a file."""
        numbers = {name: repr(schedule) for name, schedule in self.hyperparameters.items()}
        return {"optimizer": self.optimizer.__name__, **numbers, "horizon": self.horizon}


def arm(name: str, horizon: int, optimizer: Optimizer, **hyperparameters: ScheduleLike) -> Arm:
    return Arm(name, optimizer, {k: as_schedule(v) for k, v in hyperparameters.items()}, horizon)


# Optimizers: functions of module level, by which arms are told apart ---------------------------------

EPS = 1e-6  # of the published comparison


def decayed_adam(learning_rate: ScheduleLike, b1: ScheduleLike) -> optax.GradientTransformationExtraArgs:
    return adam(learning_rate, b1=b1, eps=EPS)


def averaged_adam(learning_rate: ScheduleLike, coefficient: Coefficient) -> optax.GradientTransformationExtraArgs:
    return average(adam(learning_rate, eps=EPS), coefficient)


def schedule_free_adam(learning_rate: ScheduleLike, coefficient: Coefficient) -> optax.GradientTransformationExtraArgs:
    return schedule_free(adam(learning_rate, b1=0.0, eps=EPS), coefficient)


# The published comparison ----------------------------------------------------------------------------


def published(rate: float, steps: int) -> dict[str, Arm]:
    """The 13 published arms for a run of `steps` updates with peak `rate`, by name.

    Averaging windows scale with the run: the published decays 0.9999 and 0.999 over 100,000 steps are
    windows of a tenth and of a hundredth of it.
    """
    still = constant(rate)
    quarters = {percent: steps * percent // 100 for percent in (100, 75, 50, 25)}
    long, short = exponential_average(max(steps / 10, 1.0)), exponential_average(max(steps / 100, 1.0))
    arms = [
        arm("constant", steps, decayed_adam, learning_rate=still, b1=0.9),
        *(
            arm(f"linear-{percent}", end, decayed_adam, learning_rate=linear(rate, 0.0, end), b1=0.9)
            for percent, end in quarters.items()
        ),
        arm("cosine", steps, decayed_adam, learning_rate=cosine(rate, 0.0, steps), b1=0.9),
        *(
            arm(f"step-{p}", steps, decayed_adam, learning_rate=multistep(rate, [quarters[p]], 0.1), b1=0.9)
            for p in (25, 75)
        ),
        arm("polyak", steps, averaged_adam, learning_rate=still, coefficient=polyak()),
        arm("ema-long", steps, averaged_adam, learning_rate=still, coefficient=long),
        arm("ema-short", steps, averaged_adam, learning_rate=still, coefficient=short),
        arm("sf-polyak", steps, schedule_free_adam, learning_rate=still, coefficient=polyak()),
        arm("sf-ema", steps, schedule_free_adam, learning_rate=still, coefficient=long),
    ]
    return {each.name: each for each in arms}


ARMS = (*published(1.0, 100),)
