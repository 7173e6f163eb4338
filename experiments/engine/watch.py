"""Shows and logs the progress of a run: a progress bar, a line of JSON after each piece, and optionally TensorBoard."""

import contextlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from tqdm import tqdm

from experiments.engine.train import Progress
from experiments.errors import UserError, reason
from experiments.files import parsed_json, read_bytes, write_bytes
from experiments.reports.results import record_length
from experiments.reports.text import decimals
from schedules.numerics import MAX_STEPS

MOST_BYTES = 2**30  # of a log: far more than that of any run


class Pace(NamedTuple):
    """The speed of a run: median updates per second of its pieces, and seconds in all, including compilation."""

    updates_per_second: float
    seconds: float


def pace(log: Path) -> Pace | None:
    """The pace from the log of a run; None if the log is empty."""
    found = [*_logged(log).values()]
    if not found:
        return None
    rates = np.array([each["updates_per_second"] for each in found])
    updates = np.diff([each["step"] for each in found], prepend=0)
    return Pace(float(np.median(rates)), float(np.sum(updates / rates)))


class Watch:
    """Shows and logs the losses of a run so far: means over the seeds, by arm.

    The clock of the progress bar starts after the first piece, so that it does not count compilation.

    **Arguments:** `log`: a file of JSON lines; lines after `step`, and lines that no run wrote, are removed from it;
    `tensorboard`: a folder.

    **Raises:** `UserError` if `tensorboard` is given and tensorboardX is not installed.
    """

    def __init__(self, title: str, arms: Sequence[str], steps: int, step: int, log: Path, tensorboard: Path | None):
        self.arms, self.every, self.log = arms, record_length(steps), log
        self.board = board(tensorboard, step) if tensorboard else None
        self.title, self.compiling = title, True
        self.bar = tqdm(total=steps, initial=step, unit="update", desc=f"{title}, compiling", smoothing=0.1)
        self.step, self.at = step, time.monotonic()
        if log.exists():
            write_bytes(log, b"".join(line + b"\n" for line, held in _logged(log).items() if held["step"] <= step))

    def show(self, progress: Progress) -> None:
        step, now = progress.step, time.monotonic()
        last = progress.history.train_loss[..., self.step // self.every : -(-step // self.every)].mean(axis=(1, 2))
        measured: dict[str, Any] = {"train_loss": self._by_arm(last)}
        if (at := np.flatnonzero(progress.history.valid_steps == step)).size:
            for name in ("valid_loss", "valid_accuracy"):
                measured[name] = self._by_arm(getattr(progress.history, name)[..., at[0]].mean(axis=1))
        rate = (step - self.step) / max(now - self.at, 1e-9)
        logged = {"step": step, "updates_per_second": float(f"{rate:.6g}"), **measured}
        with self.log.open("a") as file:
            file.write(json.dumps(logged) + "\n")
        if self.board:
            for tag, by_arm in measured.items():
                for arm, value in by_arm.items():
                    self.board.add_scalar(f"{tag}/{arm}", math.nan if value is None else value, step)
        self.bar.set_postfix_str(_range(measured["train_loss"]), refresh=False)
        if self.compiling:
            self._start_clock(step)
        else:
            self.bar.update(step - self.step)
        self.step, self.at, self.compiling = step, now, False

    def _start_clock(self, step: int) -> None:
        self.bar.n = self.bar.initial = self.bar.last_print_n = step
        self.bar.unpause()
        self.bar.set_description(self.title)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.board:
            self.board.close()

    def _by_arm(self, values: np.ndarray) -> dict[str, float | None]:
        # JSON has no NaN, but Python would write one.
        finite = [float(f"{v:.6g}") if np.isfinite(v) else None for v in values]
        return dict(zip(self.arms, finite, strict=True))


class Unwatched(contextlib.nullcontext["Unwatched"]):
    """The watch of a process that is not the first of its run: it shows and logs nothing."""

    def __init__(self) -> None:
        super().__init__(self)

    def show(self, progress: Progress) -> None:
        pass


def board(folder: Path, step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs the package tensorboardX: pip install tensorboardX") from None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _logged(log: Path) -> dict[bytes, dict[str, Any]]:
    """The records of a log, by line, without invalid lines, such as a line that was cut off by a kill."""
    try:
        lines = read_bytes(log, MOST_BYTES).splitlines() if log.exists() else []
    except OSError as error:
        raise UserError(f"{log} cannot be read as the log of a run ({reason(error)})") from None
    return {line: held for line in lines if (held := _record(line))}


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        held = parsed_json(line)
        counted = isinstance(held["step"], int) and 0 <= held["step"] <= MAX_STEPS
        return held if counted and 0 < held["updates_per_second"] < math.inf else None
    except (ValueError, TypeError, KeyError):
        return None


def _range(losses: dict[str, float | None]) -> str:
    """The lowest and the highest training loss, with the names of their arms."""
    finite = {arm: loss for arm, loss in losses.items() if loss is not None}
    if not finite:
        return "all arms have diverged"
    best, worst = min(finite, key=finite.__getitem__), max(finite, key=finite.__getitem__)
    lost = len(losses) - len(finite)
    lowest, highest = (decimals(finite[arm], 3) for arm in (best, worst))
    return f"loss {lowest} {best} to {highest} {worst}" + (f", {lost} diverged" if lost else "")
