"""What a run's numbers depend on, all of it: from here to the report, settings travel as one value."""

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
EVALUATIONS = 20  # of the validation set, evenly over the run: among them its quarters and its tenths


@dataclass(frozen=True)
class Plan:
    """Arms of a study, the data and the model that they are trained on, and for how long.

    `precision`: of matrix products, as "float32", "tf32" (on devices that have it) or "bfloat16" with sums in float32;
    `patience`: validations without progress of any arm, after which the run ends; `gradient_norms`: which are recorded.
    """

    title: str
    model: nn.Module
    data: Dataset
    seeds: tuple[int, ...]
    batch_size: int
    # Of what only draws batches, the rest is empty.
    study: str = ""  # by its name, which says what is reported
    arms: Sequence[Arm] = ()
    steps: int = 0
    precision: Precision = "float32"
    patience: int | None = None
    gradient_norms: Norm | None = None

    @property
    def evaluations(self) -> int:
        """Fewer for a short run, which is not to be spent on validation."""
        return EVALUATIONS if self.steps >= 25 * EVALUATIONS else 4

    @property
    def validated_after(self) -> np.ndarray:
        """After how many updates it is validated: evenly, and where a schedule ends."""
        return validated_after(self.steps, self.evaluations, [arm.horizon for arm in self.arms])

    @functools.cached_property
    def common(self) -> dict[str, Any]:
        """What all arms and seeds have in common, as JSON."""
        images = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in self.data))
        plain = ("title", "steps", "batch_size", "evaluations", "precision", "patience", "gradient_norms")
        return {
            **{name: getattr(self, name) for name in plain},
            "model": repr(self.model),
            "data": images.hexdigest()[:16],
        }

    def record(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "study": self.study,
            **self.common,
            "seeds": list(self.seeds),
            "arms": [arm.name for arm in self.arms],  # rows of the history, in this order
            "settings": {arm.name: arm.record() for arm in self.arms},
        }

    def ended(self, step: int, history: History) -> bool:
        """Whether there is nothing left to train after so many updates."""
        return step == self.steps or stalled(history, step, self.patience)

    def results(self, step: int, history: History, changes: Sequence[str] = ()) -> Results:
        """What has been measured after so many updates."""
        return Results(
            self.study, self.title, self.common, self._trained, self.seeds, self.steps, step, history, (*changes,)
        )

    @functools.cached_property
    def _trained(self) -> dict[str, Trained]:
        return trained(self.arms)


def trained(arms: Sequence[Arm]) -> dict[str, Trained]:
    """What results say of arms, by name."""
    return {arm.name: Trained(arm.horizon, arm.peak_rate, arm.fields) for arm in arms}


def validated_after(steps: int, evaluations: int, horizons: Sequence[int]) -> np.ndarray:
    """After how many updates to validate: evenly over the run and where a schedule ends, after whole records."""
    every = record_length(steps)
    ends = [-(-steps * (i + 1) // evaluations) for i in range(evaluations)]
    return np.unique(np.minimum([-(-end // every) * every for end in [*ends, *horizons]], steps))


def stalled(history: History, step: int, patience: int | None) -> bool:
    """Whether no run's validation loss was lower in the last `patience` validations than in those before."""
    done = int(np.sum(history.valid_steps <= step))
    if patience is None or done <= patience:
        return False
    losses = np.where(np.isfinite(history.valid_loss), history.valid_loss, np.inf)
    before, since = losses[..., : done - patience], losses[..., done - patience : done]
    return not (since.min(axis=-1) < before.min(axis=-1)).any()
