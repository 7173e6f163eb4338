"""A run that is computed instead of trained: the expected losses of arms on a quadratic, in the folder of a run."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.engine.folder import Folder
from experiments.engine.plan import EVALUATIONS, trained, validated_after
from experiments.reports.results import History, Results, record_length
from experiments.studies.study import Arm
from theory import Quadratic


@dataclass(frozen=True)
class ExactPlan:
    """All settings that the numbers of an exact run depend on. Every arm must have a counterpart with SGD."""

    title: str
    problem: Quadratic
    study: str  # the name of the study that makes the report
    arms: Sequence[Arm]
    steps: int

    @functools.cached_property
    def settings(self) -> dict[str, Mapping[str, Any]]:
        """Arguments of `Quadratic.expected_loss`, by arm."""
        return {arm.name: arm.with_sgd or {} for arm in self.arms}

    @functools.cached_property
    def common(self) -> dict[str, Any]:
        """The settings that all arms share, as JSON."""
        numbers = hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in self.problem))
        return {"title": self.title, "steps": self.steps, "exact": True, "problem": numbers.hexdigest()[:16]}

    def record(self) -> dict[str, Any]:
        """The whole plan as JSON."""
        told = {
            name: {argument: repr(given) for argument, given in settings.items()}
            for name, settings in self.settings.items()
        }
        horizons = {arm.name: arm.horizon for arm in self.arms}
        return {
            "study": self.study,
            **self.common,
            "arms": [*told],  # rows of the history, in this order
            "settings": {name: {**told[name], "horizon": horizons[name]} for name in told},
        }

    def ended(self, step: int, history: History) -> bool:
        """Always True, since an exact run is computed completely or not at all."""
        return True


def compute(plan: ExactPlan, path: Path, stopped: Callable[[], bool] = lambda: False) -> Results:
    """Computes the losses of a plan, and saves them in the folder `path`.

    **Raises:** `FolderError`; `KeyboardInterrupt` if `stopped` returns True after an arm.
    """
    with Folder(path, plan.record()) as folder:
        folder.changes(0, goes_on=True)  # it starts again, on this machine
        losses = []
        for settings in plan.settings.values():
            losses.append(np.asarray(plan.problem.expected_loss(steps=plan.steps, **settings)))
            if stopped():
                raise KeyboardInterrupt
        results = _measured(plan, np.stack(losses)[:, None])
        folder.leave(results)
    return results


def _measured(plan: ExactPlan, losses: np.ndarray) -> Results:
    """The results of a run with one seed, from losses (arms, 1, updates + 1)."""
    steps = plan.steps
    begin = np.arange(0, steps, record_length(steps))
    with np.errstate(over="ignore", invalid="ignore"):  # where a run diverges
        records = np.add.reduceat(losses[..., :-1], begin, axis=-1, dtype=np.float64) / np.diff(begin, append=steps)
        records = records.astype(np.float32)
    validated = validated_after(steps, EVALUATIONS, [arm.horizon for arm in plan.arms])
    at = losses[..., validated]
    history = History(records, validated, at, np.full_like(at, np.nan))
    return Results(plan.study, plan.title, plan.common, trained(plan.arms), (0,), steps, steps, history)
