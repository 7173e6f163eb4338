"""Two things timed in turn in one run, and their ratio: single times depend on the machine."""

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.engine.machine import machine
from experiments.reports.question import Answer


@dataclass(frozen=True)
class Measurement:
    """One thing measured against another, in the same unit and in the same run."""

    what: str
    ours: float
    against: str
    theirs: float
    unit: str
    goal: str = ""
    quartiles: tuple[float, float, float] | None = None  # of the ratio over the rounds of the run

    @property
    def ratio(self) -> float:
        return self.quartiles[1] if self.quartiles else self.ours / self.theirs

    def row(self) -> str:
        ours, theirs = (f"{short(number)} {self.unit}".strip() for number in (self.ours, self.theirs))
        spread = f" ({self.quartiles[0]:.3f} to {self.quartiles[2]:.3f})" if self.quartiles else ""
        return f"| {self.what} | {ours} | {self.against} | {theirs} | {self.ratio:.3f}{spread} | {self.goal} |"


HEAD = "| what | | against | | ratio | goal |\n|---|---|---|---|---|---|"


def short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1_000 else f"{number:.4g}"


def compared(what: str, ours: np.ndarray, against: str, theirs: np.ndarray, unit: str, goal: str = "") -> Measurement:
    """The medians of what was measured in each round, and the quartiles of their ratio."""
    low, middle, high = np.quantile(ours / theirs, [0.25, 0.5, 0.75]).tolist()
    return Measurement(what, float(np.median(ours)), against, float(np.median(theirs)), unit, goal, (low, middle, high))


def in_turn(*functions: Callable[[], Any], rounds: int, calls: int = 1) -> np.ndarray:
    """Seconds of a call of each function in each round, (functions, rounds), timed in turn: what slows the machine down
    slows all."""
    for function in functions:
        function()  # compiles
    gc.disable()  # as timeit does: it would strike one of them at random
    try:
        return np.array([[_seconds(function, calls) for function in functions] for _ in range(rounds)]).T
    finally:
        gc.enable()


def _seconds(function: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        result = function()
    if isinstance(result, jax.Array):
        result.block_until_ready()
    return (time.perf_counter() - start) / calls


def table(rows: Iterable[Measurement]) -> Answer:
    """An answer that is a table of ratios."""
    measured = [*tqdm(rows, unit=" rows", leave=False, disable=None)]
    numbers = {**machine(), "rows": [{**asdict(row), "ratio": row.ratio} for row in measured]}
    told = "Medians over the rounds of one run; in brackets, the quartiles of the ratio."
    return Answer("\n".join([told, "", HEAD, *(row.row() for row in measured)]), numbers)
