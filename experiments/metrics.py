"""Watching a run: a progress bar, a line of JSON after each piece, and TensorBoard where it is asked for."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from experiments.errors import UserError
from experiments.files import write_text
from experiments.results import record_length
from experiments.train import Progress


class Pace(NamedTuple):
    """How fast a run went: updates a second, in the median of its pieces; and seconds in all, compilation included."""

    updates_per_second: float
    seconds: float


def pace(log: Path) -> Pace | None:
    """From the lines that a run has logged; None if there are none."""
    lines = (
        [json.loads(line) for line in log.read_text().splitlines() if _step_of(line) < math.inf] if log.exists() else []
    )
    if not lines:
        return None
    rates = np.array([line["updates_per_second"] for line in lines])
    updates = np.diff([line["step"] for line in lines], prepend=0)
    return Pace(float(np.median(rates)), float(np.sum(updates / rates)))


class Watch:
    """Shows and logs where a run stands: means over the seeds, by arm.

    **Arguments:** `log`: the file of JSON lines, of which those after `step` are dropped; `tensorboard`: a folder.

    **Raises:** `UserError` for TensorBoard without the package tensorboardX.
    """

    def __init__(self, title: str, arms: Sequence[str], steps: int, step: int, log: Path, tensorboard: Path | None):
        self.arms, self.every, self.log = arms, record_length(steps), log
        self.board = board(tensorboard, step) if tensorboard else None
        self.bar = tqdm(total=steps, initial=step, unit="update", desc=title, smoothing=0.1)
        self.step, self.at = step, time.monotonic()
        if log.exists():
            lines = [line for line in log.read_text().splitlines() if _step_of(line) <= step]
            write_text(log, "".join(f"{line}\n" for line in lines))

    def show(self, progress: Progress) -> None:
        step, now = progress.step, time.monotonic()
        last = progress.history.train_loss[..., self.step // self.every : -(-step // self.every)].mean(axis=(1, 2))
        measured: dict[str, Any] = {"train_loss": self._by_arm(last)}
        if (at := np.flatnonzero(progress.history.valid_steps == step)).size:
            for name in ("valid_loss", "valid_accuracy"):
                measured[name] = self._by_arm(getattr(progress.history, name)[..., at[0]].mean(axis=1))
        rate = (step - self.step) / max(now - self.at, 1e-9)
        with self.log.open("a") as file:
            file.write(json.dumps({"step": step, "updates_per_second": round(rate, 3), **measured}) + "\n")
        if self.board:
            for tag, by_arm in measured.items():
                for arm, value in by_arm.items():
                    self.board.add_scalar(f"{tag}/{arm}", math.nan if value is None else value, step)
        self.bar.set_postfix_str(_range(measured["train_loss"]), refresh=False)
        self.bar.update(step - self.step)
        self.step, self.at = step, now

    def close(self) -> None:
        self.bar.close()
        if self.board:
            self.board.close()

    def _by_arm(self, values: np.ndarray) -> dict[str, float | None]:
        # JSON has no NaN; Python would write one all the same.
        finite = [float(f"{v:.6g}") if np.isfinite(v) else None for v in values]
        return dict(zip(self.arms, finite, strict=True))


def board(folder: Path, step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs the package tensorboardX: pip install tensorboardX") from None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # cut off when the process was killed
        return math.inf


def _range(losses: dict[str, float | None]) -> str:
    """The lowest and the highest training loss, and whose they are."""
    finite = {arm: loss for arm, loss in losses.items() if loss is not None}
    if not finite:
        return "no loss is a number any more"
    best, worst = min(finite, key=finite.__getitem__), max(finite, key=finite.__getitem__)
    lost = len(losses) - len(finite)
    return f"loss {finite[best]:.3f} {best} to {finite[worst]:.3f} {worst}" + (f", {lost} diverged" if lost else "")
