"""`python -m schedules advise`: recommends a schedule for a run, in a paragraph."""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from schedules import parse
from schedules.terminal import answered
from theory.advice import advise
from theory.loss_fit import Curve

COLUMNS = ("step", "lr", "loss")
LONGEST = 100_000_000  # updates of a run: the rate of each is kept in memory


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    return answered("python -m schedules", lambda: tell(options), done="read")


def tell(options: argparse.Namespace) -> None:
    after = None if options.after is None else parse(options.after)
    curves = [read_curve(file) for file in options.curve]
    print(advise(options.steps, after=after, at=options.at, curves=curves or None))


def read_curve(file: Path) -> Curve:
    """Reads the curve of a run from a CSV file with the columns step, lr and loss, in ascending order of the steps.

    `loss` is the loss after `step` updates, or empty if it was not measured; `lr` is the rate at that step. Rates
    between two rows are interpolated linearly.

    **Raises:** `ValueError` if the file is not such a table, or does not begin at step 0 or 1.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = [[row[column] for column in COLUMNS] for row in csv.DictReader(lines, skipinitialspace=True)]
        steps = np.array([int(step) for step, _, _ in rows], np.int64)
        rates = np.array([float(rate) for _, rate, _ in rows])
        losses = np.array([float(loss) if loss.strip() else np.nan for *_, loss in rows])
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read as a table with the columns {', '.join(COLUMNS)} ({error})") from None
    if not len(rows) or steps[0] not in (0, 1) or np.any(np.diff(steps) <= 0):
        raise ValueError(
            f"{file} must begin at step 0 or 1 and have ascending steps, since a law needs the rate from the start; "
            "leave the loss empty where you know only the rate"
        )
    measured = ~np.isnan(losses) & (steps > 0)
    if not measured.any() or steps[-1] > LONGEST or not np.isfinite(rates).all():
        raise ValueError(
            f"{file} must hold one loss or more after the first step, finite rates, and steps up to {LONGEST}"
        )
    every = np.interp(np.arange(steps[-1]), steps, rates)
    return Curve(jnp.asarray(every, float), steps[measured], losses[measured])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m schedules advise",
        description="Recommend a schedule for a run, with the reasons and how far to trust them. "
        "Without --steps: for a run of unknown length.",
        epilog='Example: python -m schedules advise --steps 20000 --from "wsd(3e-4, 500, 7500, 2000)" --at 8000',
    )
    parser.add_argument("--steps", type=int, help="the number of updates of the run; when you extend a run, in total")
    parser.add_argument("--from", dest="after", metavar="EXPR", help="the schedule of the run that you want to extend")
    parser.add_argument("--at", type=int, default=0, metavar="STEP", help="the number of updates that run has made")
    parser.add_argument(
        "--curve",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a CSV file with the columns step, lr and loss of a past run; repeat it for several runs",
    )
    return parser
