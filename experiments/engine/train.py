"""The loop around the compiled program: updates in pieces, validation between them, and when to end."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from experiments.engine.plan import Plan
from experiments.engine.processes import agreed
from experiments.engine.program import Program, Run
from experiments.reports.results import History, record_length

# Updates are made in pieces, each one call of a compiled loop, of about this many seconds: long enough that an
# accelerator does not wait for the host, short enough that a progress bar moves and Ctrl-C is heard. The loop
# serves the CPU too: a call for every update took 1.4 to 1.6 times as long there (published model, two cores).
SECONDS_A_PIECE = 1.0


@dataclass
class Progress:
    """How far all runs of a program have come, and all that is needed to go on from there."""

    step: int
    runs: list[Run]
    history: History


def beginning(program: Program) -> Progress:
    """Before the first update."""
    return Progress(0, program.start(), unmeasured(program.plan))


def unmeasured(plan: Plan) -> History:
    """That of a run before its first update."""
    runs, stops = (len(plan.arms), len(plan.seeds)), plan.validated_after

    def nothing(count: int) -> np.ndarray:
        return np.full((*runs, count), np.nan, np.float32)

    records = -(-plan.steps // record_length(plan.steps))
    norms = nothing(records) if plan.gradient_norms else None
    return History(nothing(records), stops, nothing(len(stops)), nothing(len(stops)), norms)


def train(program: Program, progress: Progress, stopped: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
    """Goes on from `progress` to the end, and yields it after each piece (one object, changed as it goes).

    **Arguments:** `stopped`: asked after each piece, ends the run too.
    """
    history, every, length = progress.history, record_length(program.plan.steps), 1
    for i, stop in enumerate(history.valid_steps.tolist()):
        while progress.step < stop and not program.plan.ended(progress.step, history):
            count, begun = min(length * every, stop - progress.step), time.monotonic()
            _advance(program, progress, count)
            if progress.step == stop:
                progress.runs, history.valid_loss[..., i], history.valid_accuracy[..., i] = program.validate(
                    progress.runs
                )
            fitting = round(count / every * SECONDS_A_PIECE / (time.monotonic() - begun))
            length = min(max(fitting, 1), 2 * length, program.longest // every)
            length, ends = agreed(np.array([length, stopped()])).tolist()
            yield progress
            if ends:
                return


def _advance(program: Program, progress: Progress, count: int) -> None:
    """`count` updates: whole records, so that these do not depend on the pieces."""
    every, history = record_length(program.plan.steps), progress.history
    progress.runs, measured = program.advance(progress.runs, progress.step, count)
    first = progress.step // every
    for i in range(-(-count // every)):
        part = slice(i * every, (i + 1) * every)
        history.train_loss[..., first + i] = measured.loss[..., part].mean(axis=-1, dtype=np.float64)
        if history.gradient_norm is not None:
            history.gradient_norm[..., first + i] = measured.norm[..., part].mean(axis=-1, dtype=np.float64)
    progress.step += count
