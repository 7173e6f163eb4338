"""A history with what is needed to read it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from experiments.arms import Arm
from experiments.train import History


@dataclass(frozen=True)
class Results:
    """What was trained and measured: rows of the history are the arms, in their order."""

    title: str
    arms: Mapping[str, Arm]
    history: History
    steps: int  # the length of the run
    done: int  # updates made, fewer if it was stopped

    @property
    def window(self) -> int:
        """Updates over which a loss is averaged: 5 % of the run."""
        return max(self.steps // 20, 1)

    @property
    def seeds(self) -> int:
        return self.history.train_loss.shape[1]

    def train_loss(self, arm: str, percent: int = 100) -> np.ndarray:
        """Each seed's training loss around the end of the arm, or around a percentage of the run.

        **Raises:** `KeyError` if there is no such arm.
        """
        end = min(self.end(arm), self.steps * percent // 100)
        return self.history.train_loss[self.row(arm), :, max(end - self.window, 0) : end].mean(axis=-1)

    def train_loss_curve(self, arm: str) -> np.ndarray:
        """(seeds, updates) up to the end of the arm."""
        return self.history.train_loss[self.row(arm), :, : self.end(arm)]

    def validation(self, arm: str) -> tuple[np.ndarray, np.ndarray]:
        """Each seed's validation loss and accuracy at the last evaluation up to the end of the arm, NaN before any."""
        ended = self.history.valid_steps <= self.end(arm)
        if not ended.any():
            return (np.full(self.seeds, np.nan),) * 2
        last = np.flatnonzero(ended)[-1]
        return self.history.valid_loss[self.row(arm), :, last], self.history.valid_accuracy[self.row(arm), :, last]

    def end(self, arm: str) -> int:
        """Updates that count for an arm: to the end of its schedule, or to where the run was stopped."""
        return min(self.arms[arm].horizon, self.done)

    def row(self, arm: str) -> int:
        return [*self.arms].index(arm)
