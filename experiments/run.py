"""One run in its folder: begun, or gone on with, and measured to its end or until it is told to stop."""

import contextlib
import functools
import hashlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
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
from experiments.results import Results
from experiments.train import Progress, beginning, train

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

    def results(self, progress: Progress) -> Results:
        horizons = {arm.name: arm.horizon for arm in self.arms}
        steps, done, history = self.steps, progress.step, progress.history
        return Results(self.title, self.common, horizons, self.rates, self.seeds, steps, done, history)

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
        progress = _where_it_was(folder, program, beginning(program, plan.evaluations))
        watch = by_first(lambda: _watch(plan, path, progress.step, tensorboard))
        saved = progress.step
        try:
            for _ in train(program, progress, plan.patience, stopped):
                by_first(lambda: watch.show(progress) if watch else None)
                if agreed(np.asarray(folder is not None and folder.due(checkpoint_seconds))):
                    _checkpoint(plan, folder, program, progress)
                    saved = progress.step
        finally:
            if watch:
                watch.close()
        if progress.step > saved:
            _checkpoint(plan, folder, program, progress)
        by_first(lambda: _leave(plan, folder, progress))
    return plan.results(progress)


def _where_it_was(folder: Folder | None, program: Program, fresh: Progress) -> Progress:
    """`fresh`, or what the last checkpoint holds, in every process."""
    like = {"runs": program.saved_shapes(), "history": fresh.history}
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    found = by_first(lambda: folder.restore(zeros) if folder else None)
    step = int(agreed(np.asarray(found[0] if found else 0)))
    if step == 0:
        return fresh
    saved = jax.tree.map(np.array, agreed(found[1] if found else zeros))
    return Progress(step, program.load(saved["runs"]), saved["history"])


def _checkpoint(plan: Plan, folder: Folder | None, program: Program, progress: Progress) -> None:
    runs = program.save(progress.runs)  # a collection from all processes

    def save() -> None:
        if folder:
            history = jax.tree.map(np.copy, progress.history)  # which goes on changing while it is being written
            folder.checkpoint(progress.step, {"runs": runs, "history": history})
            plan.results(progress).save(folder.path / HISTORY)

    by_first(save)


def _leave(plan: Plan, folder: Folder | None, progress: Progress) -> None:
    if folder:
        folder.wait()
        # Again, as a kill may have come between the checkpoint and its history.
        plan.results(progress).save(folder.path / HISTORY)


def _watch(plan: Plan, path: Path, step: int, tensorboard: bool) -> Watch:
    names = [arm.name for arm in plan.arms]
    title = f"{len(names)} arms x {len(plan.seeds)} seeds"
    return Watch(title, names, plan.steps, step, path / METRICS, path / "tensorboard" if tensorboard else None)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM has come: the first asks for an orderly stop, a second Ctrl-C ends at once."""
    came: list[int] = []

    def note(number: int, _: object) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def until(deadline: float) -> Callable[[], bool]:
    """Whether `time.monotonic()` has come to `deadline`."""
    return lambda: time.monotonic() >= deadline
