"""Can you choose the decay after the run? Averages of one run at a constant rate, beside the decays that they imitate.

Batches and dropout masks depend only on seed and step, and all arms share their code. So all averages are of the same
run, and a cooldown branches off from that run, as from a checkpoint of it.
"""

from collections.abc import Callable

import numpy as np

from experiments.reports.claims import At, Claim, Claims, below
from experiments.reports.figure import DASHES, DOTS, Look, Panel
from experiments.studies.published import BLUE, GREEN, GREY, VERMILION, alike, averaged_adam, look
from experiments.studies.study import Arm, Study
from optim import Coefficient, average_like
from schedules import Schedule, ScheduleLike, constant, cosine, exponential, linear, one_minus_sqrt, wsd

# Decays -----------------------------------------------------------------------------------------------

COOLDOWN, WINDOW, CHECKPOINTS = 0.2, 0.1, 10  # shares of the run; checkpoints in a cooldown


def decays(rate: float, steps: int) -> dict[str, Schedule]:
    """Two decays over the whole run, and three that branch off from the constant rate."""
    down = max(round(COOLDOWN * steps), 1)
    left = (1 - min(1 / (WINDOW * steps), 0.5)) ** steps  # the weight of an EMA that is left on the start
    return {
        "linear": linear(rate, 0.0, steps),
        "cosine": cosine(rate, 0.0, steps),
        # The cooldown that an EMA over a tenth of the run imitates.
        "exponential": rate / (1 - left) * (1.0 - exponential(left, 1.0, steps)),
        "wsd": wsd(rate, 0, steps - down, down),
        "wsd-sqrt": wsd(rate, 0, steps - down, down, shape=one_minus_sqrt),
    }


LABELS = {
    "linear": "linear",
    "cosine": "cosine",
    "exponential": "exponential",
    "wsd": "linear cooldown",
    "wsd-sqrt": "1-sqrt cooldown",
}
FEW = f"merged-wsd-{CHECKPOINTS}"


# Arms -------------------------------------------------------------------------------------------------

NEWEST = constant(1.0)  # no average: the parameters themselves


def merging(rate: float, steps: int) -> list[Arm]:
    """The constant rate, each decay, and the average of the constant-rate run that imitates it."""
    of = decays(rate, steps)

    def arm(name: str, lr: ScheduleLike, coefficient: Coefficient, look: Look) -> Arm:
        return Arm(name, averaged_adam, {"learning_rate": lr, "coefficient": coefficient}, steps, look)

    def merged(name: str, decay: Schedule, look: Look, every: int = 1) -> Arm:
        return arm(name, constant(rate), average_like(decay, steps, of=rate, every=every), look)

    sparse = look(f"average of {CHECKPOINTS} checkpoints", GREEN, DOTS)
    return [
        arm("constant", constant(rate), NEWEST, look("constant rate", GREY)),
        *(arm(name, lr, NEWEST, look(LABELS[name], BLUE)) for name, lr in of.items()),
        *(
            merged(f"merged-{name}", lr, look(f"average like {LABELS[name]}", VERMILION, DASHES))
            for name, lr in of.items()
        ),
        merged(FEW, of["wsd"], sparse, every=max(round(COOLDOWN * steps / CHECKPOINTS), 1)),
    ]


# Questions and claims ---------------------------------------------------------------------------------

PANELS = (
    Panel("Imitate a decay from the start?", ("constant", "linear", "merged-linear"), baseline="constant"),
    Panel("Imitate a cooldown at the end?", ("constant", "wsd", "merged-wsd", FEW), baseline="constant"),
)


def imitated(name: str) -> Callable[[At], dict[str, np.ndarray]]:
    return lambda at: alike(at, name, f"merged-{name}")


def each_below(at: At, lower: str, upper: str) -> dict[str, np.ndarray]:
    """The margins for each decay, whose name replaces {}."""
    return {k: v for name in LABELS for k, v in below(at, lower.format(name), upper.format(name)).items()}


CLAIMS = Claims(
    (
        Claim("M1", "The average that imitates linear decay ends at about the same loss*", imitated("linear")),
        Claim("M2", "The average that imitates cosine decay ends at about the same loss*", imitated("cosine")),
        Claim(
            "M3",
            "The EMA ends at about the same loss* as the exponential cooldown that it imitates",
            imitated("exponential"),
        ),
        Claim("M4", "The average that imitates the linear cooldown ends at about the same loss*", imitated("wsd")),
        Claim(
            "M5", "The average that imitates the 1 - sqrt cooldown ends at about the same loss*", imitated("wsd-sqrt")
        ),
        Claim("M6", "Each average ends below the constant rate", lambda at: each_below(at, "merged-{}", "constant")),
        Claim("M7", "Each decay ends below the average that imitates it", lambda at: each_below(at, "{}", "merged-{}")),
        Claim(
            "M8",
            f"An average of {CHECKPOINTS} checkpoints ends at about the same loss* as that of all updates",
            lambda at: alike(at, "merged-wsd", FEW),
        ),
    ),
    "* Within a quarter of the gap between the constant rate and cosine.",
)

MERGING = Study(
    "merging",
    "averages of one run that imitate five decays, and these decays",
    merging,
    panels=PANELS,
    claims=CLAIMS,
)
