"""Trains a run in its folder, from the start or its last checkpoint, until its end or until it is told to stop."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.engine.folder import METRICS, Folder, Nowhere
from experiments.engine.plan import Plan
from experiments.engine.processes import agreed, is_first, together
from experiments.engine.program import Program
from experiments.engine.train import Progress, beginning, train, unmeasured
from experiments.engine.watch import Unwatched, Watch
from experiments.reports.results import Results


def run(
    plan: Plan,
    path: Path,
    checkpoint_seconds: float = 60.0,
    tensorboard: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    program: Program | None = None,
) -> Results:
    """Trains a plan and keeps everything in the folder `path`. After a kill, the same call resumes from there.

    It stops early, with the results so far, when `stopped` returns True. `program`: the compiled plan; by default, it
    is compiled for all devices.

    **Raises:** `FolderError`.
    """
    with together(lambda: Folder(path, plan.record()) if is_first() else Nowhere()) as folder:
        program = program or Program(plan)
        found = _where_it_was(folder, program)
        saved = found.step if found else 0
        goes_on = not (found and plan.ended(found.step, found.history))
        changes = together(lambda: _changes(folder, saved, goes_on))

        def results() -> Results:
            return plan.results(progress.step, progress.history, changes)

        def checkpoint() -> None:
            runs = program.save(progress.runs)  # a collection from all processes
            history = jax.tree.map(np.copy, progress.history)  # training changes the original while the copy is written
            held = {"runs": runs, "history": history}
            together(lambda: folder.checkpoint(progress.step, held, results()))

        with together(lambda: _watch(plan, path, saved, tensorboard) if is_first() else Unwatched()) as watch:
            progress = found or beginning(program)
            for _ in train(program, progress, stopped):
                together(lambda: watch.show(progress))
                if agreed(np.asarray(folder.due(checkpoint_seconds))):
                    checkpoint()
                    saved = progress.step
        if progress.step > saved:
            checkpoint()
        together(lambda: folder.leave(results()))
    return results()


def _where_it_was(folder: Folder | Nowhere, program: Program) -> Progress | None:
    """The progress at the last checkpoint, in every process."""
    plan = program.plan
    like = {"runs": program.saved_shapes(), "history": unmeasured(plan)}
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    found = together(lambda: folder.restore(zeros, plan.steps) or _finished(plan, folder, zeros))
    step, held = found or (0, zeros)
    if (step := int(agreed(np.asarray(step)))) == 0:
        return None
    saved = jax.tree.map(np.array, agreed(held))
    return Progress(step, program.load(saved["runs"]), saved["history"])


def _finished(plan: Plan, folder: Folder | Nowhere, zeros: Any) -> tuple[int, Any] | None:
    """The complete history of a finished run whose checkpoints were deleted; there is nothing left to train."""
    held = folder.measured()
    if not held or not plan.ended(held.done, held.history):
        return None
    same = jax.tree.map(np.shape, held.history) == jax.tree.map(np.shape, zeros["history"])
    return (held.done, {**zeros, "history": held.history}) if same else None


def _changes(folder: Folder | Nowhere, step: int, goes_on: bool) -> list[str]:
    """Sentences about what has changed since the run began; prints the one about this start."""
    changes = folder.changes(step, goes_on)
    for change in changes:
        if change.after == step:
            print(change.sentence, file=sys.stderr)
    return [change.sentence for change in changes]


def _watch(plan: Plan, path: Path, step: int, tensorboard: bool) -> Watch:
    names = [arm.name for arm in plan.arms]
    title = f"{len(names)} arms x {len(plan.seeds)} seeds"
    return Watch(title, names, plan.steps, step, path / METRICS, path / "tensorboard" if tensorboard else None)
