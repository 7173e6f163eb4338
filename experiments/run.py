"""One run in its folder: begun, or gone on with, and measured to its end or until it is told to stop."""

import contextlib
import functools
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.arms import Arm
from experiments.data import Dataset
from experiments.devices import agreed, by_first
from experiments.folder import HISTORY, METRICS, Folder
from experiments.metrics import Watch
from experiments.model import TinyViT
from experiments.program import Precision, Program
from experiments.results import History, Results, ResultsError
from experiments.train import Progress, beginning, stalled, train, unmeasured

NOT_PLAIN = ("model", "data", "arms", "seeds")


@dataclass(frozen=True)
class Plan:
    """What a run's numbers depend on."""

    title: str
    model: TinyViT
    data: Dataset
    arms: Sequence[Arm]
    seeds: tuple[int, ...]
    steps: int
    batch_size: int
    evaluations: int
    precision: Precision = "float32"
    patience: int | None = None  # validations without progress of any arm, after which the run ends

    @functools.cached_property
    def common(self) -> dict[str, Any]:
        """What all arms and seeds have in common, as JSON."""
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in NOT_PLAIN}
        images = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in self.data))
        return {**plain, "model": repr(self.model), "data": images.hexdigest()[:16]}

    def record(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            **self.common,
            "seeds": list(self.seeds),
            "arms": [arm.name for arm in self.arms],  # rows of the history, in this order
            "settings": {arm.name: arm.record() for arm in self.arms},
        }

    def program(self, devices: Sequence[jax.Device] | None = None) -> Program:
        return Program(
            self.model, self.data, self.arms, self.seeds, self.steps, self.batch_size, self.precision, devices
        )

    def ends(self, step: int, history: History) -> bool:
        """Whether there is nothing left to train after so many updates."""
        return step == self.steps or stalled(history, step, self.patience)

    def results(self, progress: Progress, changes: Sequence[str] = ()) -> Results:
        horizons = {arm.name: arm.horizon for arm in self.arms}
        steps, done, history = self.steps, progress.step, progress.history
        return Results(self.title, self.common, horizons, self.rates, self.seeds, steps, done, history, (*changes,))

    @functools.cached_property
    def rates(self) -> dict[str, float]:
        return {arm.name: arm.peak_rate for arm in self.arms}


def run(
    plan: Plan,
    path: Path,
    checkpoint_seconds: float = 60.0,
    tensorboard: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    program: Program | None = None,
) -> Results:
    """Trains as planned and keeps everything in the folder `path`, from where the same call goes on if it is killed.

    Stops early, with what has been measured, if `stopped` says so. `program`: that of the plan on all devices, unless
    given.

    **Raises:** `FolderError`.
    """
    folder = by_first(lambda: Folder(path, plan.record()))
    with folder or contextlib.nullcontext():
        program = program or plan.program()
        found = _where_it_was(plan, folder, program)
        saved = found.step if found else 0
        goes_on = not (found and plan.ends(found.step, found.history))
        changes = by_first(lambda: _changes(folder, saved, goes_on)) or []
        watch = by_first(lambda: _watch(plan, path, saved, tensorboard))
        try:
            progress = found or beginning(program, plan.evaluations)
            for _ in train(program, progress, plan.patience, stopped):
                by_first(lambda: watch.show(progress) if watch else None)
                if agreed(np.asarray(folder is not None and folder.due(checkpoint_seconds))):
                    _checkpoint(plan, folder, program, progress, changes)
                    saved = progress.step
        finally:
            if watch:
                watch.close()
        if progress.step > saved:
            _checkpoint(plan, folder, program, progress, changes)
        by_first(lambda: _leave(plan, folder, progress, changes))
    return plan.results(progress, changes)


def _where_it_was(plan: Plan, folder: Folder | None, program: Program) -> Progress | None:
    """What the last checkpoint holds, in every process."""
    like = {"runs": program.saved_shapes(), "history": unmeasured(program, plan.evaluations)}
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    found = by_first(lambda: (folder.restore(zeros, plan.steps) or _finished(plan, folder, zeros)) if folder else None)
    step = int(agreed(np.asarray(found[0] if found else 0)))
    if step == 0:
        return None
    saved = jax.tree.map(np.array, agreed(found[1] if found else zeros))
    return Progress(step, program.load(saved["runs"]), saved["history"])


def _finished(plan: Plan, folder: Folder, zeros: Any) -> tuple[int, Any] | None:
    """A history that is complete, in a folder whose checkpoints were deleted; nothing is trained after it."""
    try:
        held = Results.load(folder.path / HISTORY)
    except ResultsError:
        return None
    whole = plan.ends(held.done, held.history) and jax.tree.map(np.shape, held.history) == jax.tree.map(
        np.shape, zeros["history"]
    )
    return (held.done, {**zeros, "history": held.history}) if whole else None


def _changes(folder: Folder | None, step: int, goes_on: bool) -> list[str]:
    """Sentences about what has changed since the run began; the one about this very moment is said at once."""
    changes = folder.changes(step, goes_on) if folder else []
    for change in changes:
        if change.after == step:
            print(change.sentence, file=sys.stderr)
    return [change.sentence for change in changes]


def _checkpoint(
    plan: Plan, folder: Folder | None, program: Program, progress: Progress, changes: Sequence[str]
) -> None:
    runs = program.save(progress.runs)  # a collection from all processes

    def save() -> None:
        if folder:
            history = jax.tree.map(np.copy, progress.history)  # which goes on changing while it is being written
            folder.checkpoint(progress.step, {"runs": runs, "history": history})
            plan.results(progress, changes).save(folder.path / HISTORY)

    by_first(save)


def _leave(plan: Plan, folder: Folder | None, progress: Progress, changes: Sequence[str]) -> None:
    if folder:
        folder.wait()
        # Again, as a kill may have come between the checkpoint and its history.
        plan.results(progress, changes).save(folder.path / HISTORY)


def _watch(plan: Plan, path: Path, step: int, tensorboard: bool) -> Watch:
    names = [arm.name for arm in plan.arms]
    title = f"{len(names)} arms x {len(plan.seeds)} seeds"
    return Watch(title, names, plan.steps, step, path / METRICS, path / "tensorboard" if tensorboard else None)
