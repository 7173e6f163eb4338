"""The training loop around the compiled program: pieces of updates, validation between them, and when to stop."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from experiments.engine.plan import Plan
from experiments.engine.processes import agreed
from experiments.engine.program import Program, Run
from experiments.reports.results import History, Results, record_length

# Training proceeds in pieces, each one call of a compiled loop that takes about this many seconds: long enough that an
# accelerator does not wait for the host, short enough that the progress bar moves and Ctrl-C works. The compiled loop
# helps on the CPU too: one call per update took 1.4 to 1.6 times as long there (published model, two cores).
SECONDS_A_PIECE = 1.0


@dataclass
class Progress:
    """The state of all runs of a program after `step` updates, and their history."""

    step: int
    runs: list[Run]
    history: History


def beginning(program: Program) -> Progress:
    """The progress before the first update."""
    return Progress(0, program.start(), unmeasured(program.plan))


def unmeasured(plan: Plan) -> History:
    """The history of a run before its first update."""
    runs, stops = (len(plan.arms), len(plan.seeds)), plan.validated_after

    def nothing(count: int) -> np.ndarray:
        return np.full((*runs, count), np.nan, np.float32)

    records = -(-plan.steps // record_length(plan.steps))
    norms = nothing(records) if plan.gradient_norms else None
    return History(nothing(records), stops, nothing(len(stops)), nothing(len(stops)), norms)


def train(program: Program, progress: Progress, stopped: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
    """Trains from `progress` to the end. Yields `progress` after each piece (the same object, updated in place).

    **Arguments:** `stopped`: called after each piece; training ends when it returns True.
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


def results_of(plan: Plan) -> Results:
    """Trains a plan from the beginning to the end, and keeps nothing in a folder."""
    program = Program(plan)
    *_, progress = train(program, beginning(program))
    return plan.results(progress.step, progress.history)


def _advance(program: Program, progress: Progress, count: int) -> None:
    """Makes `count` updates, in whole records, so that records do not depend on the pieces."""
    every, history = record_length(program.plan.steps), progress.history
    progress.runs, measured = program.advance(progress.runs, progress.step, count)
    first = progress.step // every
    for i in range(-(-count // every)):
        part = slice(i * every, (i + 1) * every)
        history.train_loss[..., first + i] = measured.loss[..., part].mean(axis=-1, dtype=np.float64)
        if history.gradient_norm is not None:
            history.gradient_norm[..., first + i] = measured.norm[..., part].mean(axis=-1, dtype=np.float64)
    progress.step += count
