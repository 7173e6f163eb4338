"""What activations in bfloat16 cost in loss: the published comparison on digits, twice, with the same seeds."""

from collections.abc import Mapping
from typing import Any

from experiments.engine.machine import machine
from experiments.engine.plan import Plan, Precision
from experiments.engine.train import results_of
from experiments.reports.claims import judged, verdicts
from experiments.reports.question import Answer, Question
from experiments.reports.results import Results
from experiments.reports.text import counted, markdown, spread, standard_error
from experiments.studies.published import PUBLISHED
from experiments.tasks.digits import DIGITS

SEEDS = 10
FULL: Precision = "float32"
HALF: Precision = "bfloat16"


def trained(precision: Precision) -> Results:
    plan = Plan(
        title=precision,
        model=DIGITS.model,
        data=DIGITS.load(None),
        seeds=(*range(SEEDS),),
        batch_size=DIGITS.batch_size,
        study=PUBLISHED.name,
        arms=PUBLISHED.arms(DIGITS.learning_rate, DIGITS.steps),
        steps=DIGITS.steps,
        precision=precision,
    )
    return results_of(plan)


def measure() -> Answer:
    full, half = trained(FULL), trained(HALF)
    found = numbers(full, half)
    return Answer(report(found, full, half), {**found, **machine()})


def numbers(full: Results, half: Results) -> dict[str, Any]:
    """Final training losses, and how much higher each is with bfloat16, paired by seed."""
    above = {arm: half.train_loss(arm) - full.train_loss(arm) for arm in full.arms}
    return {
        "seeds": SEEDS,
        "steps": full.steps,
        "arms": {
            arm: {
                FULL: float(full.train_loss(arm).mean()),
                HALF: float(half.train_loss(arm).mean()),
                "above": float(each.mean()),
                "error": float(standard_error(each)),
            }
            for arm, each in above.items()
        },
        "verdicts": {
            of_full.name: {FULL: of_full.verdict, HALF: of_half.verdict}
            for of_full, of_half in zip(*(judged(PUBLISHED.claims, each) for each in (full, half)), strict=True)
        },
    }


def report(numbers: Mapping[str, Any], full: Results, half: Results) -> str:
    told = numbers["arms"]
    largest = max(told, key=lambda arm: abs(told[arm]["above"]))
    rows = [["arm", FULL, HALF, "difference"]]
    for arm in full.arms:
        of_full, of_half = full.train_loss(arm), half.train_loss(arm)
        rows.append([arm, spread(of_full, 3), spread(of_half, 3), spread(of_half - of_full, 4, sign="+")])
    return f"""\
All arms were trained on 8x8 digits twice, with {counted(SEEDS, "seed")} and {full.steps:,} updates: in {FULL}, and with
activations in {HALF}. Batches and dropout masks are the same. Losses are final training losses, ± standard error over
seeds; differences are paired by seed.

The largest difference is {told[largest]["above"]:+.4f} ± {told[largest]["error"]:.4f}, of {largest}.

{markdown(rows)}

## What is concluded

{verdicts(PUBLISHED.claims, full, half)}

Student's t at the 5 % level decides. {PUBLISHED.claims.footnote}"""


PRECISION = Question("precision", "Does bfloat16 change what the comparison finds?", measure)
