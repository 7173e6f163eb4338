"""The published comparison of learning-rate decay, averaging and schedule-free: 13 arms, five figures, seven claims."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optax

from experiments.reports.claims import At, Claim, Claims, below
from experiments.reports.figure import DASHES, DOTS, LONG_DASHES, Look, Panel
from experiments.reports.tables import QUARTERS
from experiments.studies.study import Arm, Optimizer, Study, with_sgd
from optim import Coefficient, adam, average, exponential_average, polyak, schedule_free
from schedules import Schedule, ScheduleLike, constant, cosine, linear, multistep

# Optimizers -------------------------------------------------------------------------------------------

EPS, BETA = 1e-6, 0.9


def momentum(lr: Schedule, b1: Schedule | float) -> dict[str, Any]:
    """SGD whose update is a mean of gradients, like the numerator of Adam's."""
    return {"lr": lr * (1 - b1), "momentum": b1}


@with_sgd(lambda learning_rate, b1: momentum(learning_rate, b1))
def decayed_adam(learning_rate: ScheduleLike, b1: ScheduleLike) -> optax.GradientTransformationExtraArgs:
    return adam(learning_rate, b1=b1, eps=EPS)


@with_sgd(lambda learning_rate, coefficient: {**momentum(learning_rate, 0.9), "coefficient": coefficient})
def averaged_adam(learning_rate: ScheduleLike, coefficient: Coefficient) -> optax.GradientTransformationExtraArgs:
    return average(adam(learning_rate, eps=EPS), coefficient)


@with_sgd(lambda learning_rate, coefficient: {"lr": learning_rate, "coefficient": coefficient, "beta": BETA})
def schedule_free_adam(learning_rate: ScheduleLike, coefficient: Coefficient) -> optax.GradientTransformationExtraArgs:
    return schedule_free(adam(learning_rate, b1=0.0, eps=EPS), coefficient, BETA)


# Arms -------------------------------------------------------------------------------------------------

# An arm looks the same in every panel. Colours stand for kinds of arms (Okabe and Ito's palette, safe for colour-blind
# readers), and arms of one kind differ in dash.
GREY, BLACK, SKY, BLUE = "#777777", "#000000", "#56B4E9", "#0072B2"
ORANGE, VERMILION, PURPLE, GREEN = "#E69F00", "#D55E00", "#A64D84", "#008060"


def published(rate: float, steps: int) -> list[Arm]:
    """The 13 published arms for a run of `steps` updates with peak `rate`.

    Averaging windows scale with the run: the published decays 0.9999 and 0.999 over 100,000 steps are
    windows of a tenth and of a hundredth of it.
    """
    still = constant(rate)
    after = {percent: steps * percent // 100 for percent in QUARTERS}
    long, short = exponential_average(max(steps / 10, 1.0)), exponential_average(max(steps / 100, 1.0))

    def decayed(name: str, lr: ScheduleLike, look: Look, end: int = steps) -> Arm:
        return Arm(name, decayed_adam, {"learning_rate": lr, "b1": 0.9}, end, look)

    def averaged(by: Optimizer, name: str, coefficient: Coefficient, look: Look) -> Arm:
        return Arm(name, by, {"learning_rate": still, "coefficient": coefficient}, steps, look)

    return [
        decayed("constant", still, look("constant rate", GREY)),
        decayed("linear-100", linear(rate, 0.0, after[100]), look("linear", BLUE), after[100]),
        decayed("linear-75", linear(rate, 0.0, after[75]), look("linear to 75 %", BLUE, DASHES), after[75]),
        decayed("linear-50", linear(rate, 0.0, after[50]), look("linear to 50 %", BLUE, LONG_DASHES), after[50]),
        decayed("linear-25", linear(rate, 0.0, after[25]), look("linear to 25 %", BLUE, DOTS), after[25]),
        decayed("cosine", cosine(rate, 0.0, steps), look("cosine", BLACK)),
        decayed("step-25", multistep(rate, [after[25]], 0.1), look("step at 25 %", PURPLE, DASHES)),
        decayed("step-75", multistep(rate, [after[75]], 0.1), look("step at 75 %", PURPLE)),
        averaged(averaged_adam, "polyak", polyak(), look("Polyak average", GREEN, DOTS)),
        averaged(averaged_adam, "ema-long", long, look("long EMA", GREEN)),
        averaged(averaged_adam, "ema-short", short, look("short EMA", GREEN, DASHES)),
        averaged(schedule_free_adam, "sf-polyak", polyak(), look("schedule-free, Polyak", VERMILION, DASHES)),
        averaged(schedule_free_adam, "sf-ema", long, look("schedule-free, EMA", VERMILION)),
    ]


def look(label: str, color: str, linestyle: object = "-") -> Look:
    return {"label": label, "color": color, "linestyle": linestyle}


# Questions --------------------------------------------------------------------------------------------

LINEAR = tuple(f"linear-{percent}" for percent in QUARTERS)
DECAYS, AVERAGES = (
    ("linear-100", "cosine", "step-25", "step-75"),
    ("polyak", "ema-short", "ema-long", "sf-polyak", "sf-ema"),
)
PANELS = (
    Panel("Decay the learning rate?", ("constant", *DECAYS), baseline="constant"),
    Panel("Average instead, or train schedule-free?", ("constant", "cosine", *AVERAGES), baseline="constant"),
)
# The five published figures. The last one has three panels there.
FIGURES = (
    Panel("How long to decay?", ("constant", *LINEAR)),
    Panel("Does the shape matter?", ("constant", "step-25", "step-75", "linear-100", "cosine")),
    Panel("Average instead?", ("constant", "polyak", "ema-short", "ema-long", "cosine")),
    Panel("Schedule-free?", ("constant", "sf-polyak", "ema-long", "cosine", "sf-ema")),
    Panel("Every horizon?", ("constant", *LINEAR, "sf-polyak", "ema-long", "sf-ema"), baseline="constant"),
)


# Claims -----------------------------------------------------------------------------------------------


def tolerance(at: At) -> np.ndarray:
    """A quarter of the gap between the constant rate and cosine, for each seed; NaN, which decides nothing, if no gap.

    As it varies by seed, its error is part of the error of the margins.
    """
    quarter = (at("constant", 100) - at("cosine", 100)) / 4
    return quarter if quarter.mean() > 0 else np.full_like(quarter, np.nan)


def alike(at: At, *arms: str) -> dict[str, np.ndarray]:
    """The margins for the claim that each two of `arms` end within the tolerance of each other.

    Each pair has two margins, one for each direction. The absolute difference would not do, since noise alone makes it
    large.
    """
    pairs = itertools.permutations(arms, 2)
    return {k: v for a, b in pairs for k, v in below(at, a, b, by=tolerance(at)).items()}


def at_each_quarter(margin: Callable[[int], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {k: v for quarter in QUARTERS for k, v in margin(quarter).items()}


CLAIMS = Claims(
    (
        Claim(
            "C1",
            "At each quarter of the run, the linear decay that ends there is below the constant rate",
            lambda at: at_each_quarter(lambda q: below(at, f"linear-{q}", "constant", q)),
        ),
        Claim(
            "C2",
            "Linear decay, cosine decay and a step at 75 % end at about the same loss*",
            lambda at: alike(at, "linear-100", "cosine", "step-75"),
        ),
        Claim("C3", "A step at 75 % ends below a step at 25 %", lambda at: below(at, "step-75", "step-25")),
        Claim(
            "C4",
            "The long EMA at a constant rate ends at about the same loss* as cosine decay",
            lambda at: alike(at, "ema-long", "cosine"),
        ),
        Claim("C5", "Polyak averaging ends above the constant rate", lambda at: below(at, "constant", "polyak")),
        Claim(
            "C6",
            "Schedule-free with Polyak averaging ends at about the same loss* as cosine decay",
            lambda at: alike(at, "sf-polyak", "cosine"),
        ),
        Claim(
            "C7",
            "Schedule-free with the long EMA ends at about the same loss* as each linear decay, or below it",
            lambda at: at_each_quarter(lambda q: below(at, "sf-ema", f"linear-{q}", q, by=tolerance(at))),
        ),
    ),
    "* Within a quarter of the gap between the constant rate and cosine.",
)

PUBLISHED = Study("published", "all 13", published, panels=PANELS, claims=CLAIMS)
