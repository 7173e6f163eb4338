"""The plan of a run: one value with all settings that its numbers depend on."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from flax import linen as nn

from experiments.reports.results import History, Results, Trained, record_length
from experiments.studies.study import Arm
from experiments.tasks.task import Dataset

Precision = Literal["float32", "tf32", "bfloat16"]
Norm = Literal["l1", "l2"]
EVALUATIONS = 20  # validations, evenly over the run, which include its quarters and its tenths


@dataclass(frozen=True)
class Plan:
    """The arms of a study, their data and model, and the length of the run.

    `precision`: "float32"; "tf32", which rounds the factors of matrix products on devices that have it; or "bfloat16",
    in which all activations are computed. Weights and sums of products are float32;
    `patience`: the number of validations without progress of any arm after which the run ends; `gradient_norms`: which
    norms to record.
    """

    title: str
    model: nn.Module
    data: Dataset
    seeds: tuple[int, ...]
    batch_size: int
    # A plan that only draws batches leaves the rest empty.
    study: str = ""  # the name of the study that makes the report
    arms: Sequence[Arm] = ()
    steps: int = 0
    precision: Precision = "float32"
    patience: int | None = None
    gradient_norms: Norm | None = None

    @property
    def evaluations(self) -> int:
        """The number of validations; fewer for a short run, to save time."""
        return EVALUATIONS if self.steps >= 25 * EVALUATIONS else 4

    @property
    def validated_after(self) -> np.ndarray:
        """The numbers of updates after which to validate: evenly, and where a schedule ends."""
        return validated_after(self.steps, self.evaluations, [arm.horizon for arm in self.arms])

    @functools.cached_property
    def common(self) -> dict[str, Any]:
        """The settings that all arms and seeds share, as JSON."""
        images = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in self.data))
        plain = ("title", "steps", "batch_size", "evaluations", "precision", "patience", "gradient_norms")
        return {
            **{name: getattr(self, name) for name in plain},
            "model": repr(self.model),
            "data": images.hexdigest()[:16],
        }

    def record(self) -> dict[str, Any]:
        """The whole plan as JSON."""
        return {
            "study": self.study,
            **self.common,
            "seeds": list(self.seeds),
            "arms": [arm.name for arm in self.arms],  # rows of the history, in this order
            "settings": {arm.name: arm.record() for arm in self.arms},
        }

    def ended(self, step: int, history: History) -> bool:
        """Whether there is nothing left to train after `step` updates."""
        return step == self.steps or stalled(history, step, self.patience)

    def results(self, step: int, history: History, changes: Sequence[str] = ()) -> Results:
        """The results after `step` updates."""
        return Results(
            self.study, self.title, self.common, self._trained, self.seeds, self.steps, step, history, (*changes,)
        )

    @functools.cached_property
    def _trained(self) -> dict[str, Trained]:
        return trained(self.arms)


def trained(arms: Sequence[Arm]) -> dict[str, Trained]:
    """The facts about arms that results record, by name."""
    return {arm.name: Trained(arm.horizon, arm.peak_rate, arm.fields) for arm in arms}


def validated_after(steps: int, evaluations: int, horizons: Sequence[int]) -> np.ndarray:
    """The numbers of updates after which to validate: evenly and where a schedule ends, after whole records."""
    every = record_length(steps)
    ends = [-(-steps * (i + 1) // evaluations) for i in range(evaluations)]
    return np.unique(np.minimum([-(-end // every) * every for end in [*ends, *horizons]], steps))


def stalled(history: History, step: int, patience: int | None) -> bool:
    """Whether no run had its lowest validation loss in the last `patience` validations."""
    done = int(np.sum(history.valid_steps <= step))
    if patience is None or done <= patience:
        return False
    losses = np.where(np.isfinite(history.valid_loss), history.valid_loss, np.inf)
    before, since = losses[..., : done - patience], losses[..., done - patience : done]
    return not (since.min(axis=-1) < before.min(axis=-1)).any()
