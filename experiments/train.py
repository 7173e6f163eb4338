"""The loop around the compiled program: updates in pieces, validation between them, and when to end."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.devices import agreed
from experiments.program import Program, Run
from experiments.results import History, record_length

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


def beginning(program: Program, evaluations: int) -> Progress:
    """Before the first update."""
    return Progress(0, program.start(), unmeasured(program, evaluations))


def unmeasured(program: Program, evaluations: int) -> History:
    """That of a run before its first update."""
    arms, seeds, every = len(program.arms), len(program.logical_seeds), record_length(program.steps)
    stops = validated_after(program.steps, evaluations, [arm.horizon for arm in program.arms])

    def nothing(count: int) -> np.ndarray:
        return np.full((arms, seeds, count), np.nan, np.float32)

    return History(nothing(-(-program.steps // every)), stops, nothing(len(stops)), nothing(len(stops)))


def validated_after(steps: int, evaluations: int, horizons: Sequence[int]) -> np.ndarray:
    """After how many updates to validate: evenly over the run and where a schedule ends, after whole records."""
    every = record_length(steps)
    ends = [-(-steps * (i + 1) // evaluations) for i in range(evaluations)]
    return np.unique(np.minimum([-(-end // every) * every for end in [*ends, *horizons]], steps))


def train(
    program: Program, progress: Progress, patience: int | None = None, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Progress]:
    """Goes on from `progress` to the end, and yields it after each piece (one object, changed as it goes).

    **Arguments:** `patience`: ends the run as `stalled` says; `stopped`: asked after each piece, ends it too.
    """
    history, every, length = progress.history, record_length(program.steps), 1
    for i, stop in enumerate(history.valid_steps.tolist()):
        while progress.step < stop and not stalled(history, progress.step, patience):
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
    """`count` updates: whole records of the training loss, so that these do not depend on the pieces."""
    every = record_length(program.steps)
    progress.runs, losses = program.advance(progress.runs, progress.step, count)
    first = progress.step // every
    for i in range(-(-count // every)):
        record = losses[..., i * every : (i + 1) * every]
        progress.history.train_loss[..., first + i] = record.mean(axis=-1, dtype=np.float64)
    progress.step += count


def stalled(history: History, step: int, patience: int | None) -> bool:
    """Whether no run's validation loss was lower in the last `patience` validations than in those before."""
    done = int(np.sum(history.valid_steps <= step))
    if patience is None or done <= patience:
        return False
    losses = np.where(np.isfinite(history.valid_loss), history.valid_loss, np.inf)
    before, since = losses[..., : done - patience], losses[..., done - patience : done]
    return not (since.min(axis=-1) < before.min(axis=-1)).any()
