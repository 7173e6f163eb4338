"""`python -m experiments`: trains the arms of the comparison and leaves a table, the claims and a figure.

`python -m experiments bench` measures the schedules instead.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

from experiments.arms import ARMS, ArmName, published
from experiments.bench import Bench, bench
from experiments.data import DataError
from experiments.report import save
from experiments.results import Results
from experiments.tasks import TASKS
from experiments.train import Program, train


class UsageError(Exception):
    """A value on the command line that cannot be used; the message says why."""


@dataclass(frozen=True)
class Options:
    """Train the 13 arms of the comparison in one program: decay, averaging and schedule-free.

    Without options: on 8x8 digits that come with scikit-learn, in little more than a minute on two CPU
    cores. Ends with a table, the published claims with their verdicts and a figure. Ctrl-C stops early and
    keeps what has been measured. `python -m experiments bench` measures how fast schedules are instead.
    """

    task: Literal["digits", "cifar10"] = "digits"
    """What to train on. cifar10 is the published experiment and wants an accelerator."""
    steps: int | None = None
    """Updates of every run; schedules and averaging windows scale with it. [digits 2400, cifar10 100000]"""
    seeds: int | None = None
    """Runs of every arm, each from another initialization and with other batches. [digits 3, cifar10 1]"""
    arms: tuple[ArmName, ...] = ARMS
    """The arms to train, by name."""
    batch_size: int | None = None
    """Images in a batch. [digits 24, cifar10 128]"""
    learning_rate: float | None = None
    """The peak rate. [digits 0.014, cifar10 0.001]"""
    data: Path | None = None
    """The folder that holds cifar-10-batches-bin. [downloaded once, with a check]"""
    out: Path | None = None
    """The folder for the results; it must be new or empty. [runs/<task>-<time>]"""


@dataclass(frozen=True)
class Settings:
    """`Options` with everything decided."""

    task: str
    steps: int
    seeds: int
    arms: tuple[ArmName, ...]
    batch_size: int
    learning_rate: float
    data: Path | None
    out: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["bench"]:
            options = tyro.cli(Bench, prog="python -m experiments bench", args=words[1:])
            bench(make_folder(options.out or new_folder("bench")))
            return 0
        return run(tyro.cli(Options, prog="python -m experiments", args=words))
    except (UsageError, DataError) as error:
        print(f"python -m experiments: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while loading or reporting; `run` handles one while training
        return 130


def run(options: Options) -> int:
    settings = settle(options)
    task = TASKS[settings.task]
    data = task.load(settings.data)
    arms = published(settings.learning_rate, settings.steps)
    arms = {name: arms[name] for name in settings.arms}
    folder = make_folder(settings.out)
    program = Program(task.model, data, [*arms.values()], settings.seeds, settings.steps, settings.batch_size)
    evaluations = min(task.evaluations, max(settings.steps // 25, 1))  # a short run is not spent on validation
    done, history = 0, None
    with tqdm(total=settings.steps, unit="update", desc=f"{len(arms)} arms x {settings.seeds} seeds") as bar:
        try:
            for done, history in train(program, settings.steps, evaluations):  # noqa: B007, kept if interrupted
                bar.update(done - bar.n)
        except KeyboardInterrupt:
            bar.write("Interrupted: keeping what has been measured.", file=sys.stderr)
    if history is None:
        folder.rmdir()
        print("Stopped before anything was measured.", file=sys.stderr)
        return 130
    results = Results(task.title, arms, history, settings.steps, done)
    print(f"\n{save(results, folder, asdict(settings))}\nIn {folder}: report.md, figure.png, history.npz, config.json")
    return 0 if done == settings.steps else 130


def settle(options: Options) -> Settings:
    """`options` with the defaults of the task in place of None.

    **Raises:** `UsageError` for a value that cannot be trained with.
    """
    task = TASKS[options.task]
    given = {name: value for name, value in asdict(options).items() if value is not None}
    defaults = {
        "steps": task.steps,
        "seeds": task.seeds,
        "batch_size": task.batch_size,
        "learning_rate": task.learning_rate,
        "data": None,
        "out": new_folder(options.task),
    }
    settings = Settings(**{**defaults, **given})
    for name, least in (("steps", 20), ("seeds", 1), ("batch_size", 1)):
        if getattr(settings, name) < least:
            raise UsageError(f"--{name.replace('_', '-')} must be {least} or more, got {getattr(settings, name)}")
    if not 0 < settings.learning_rate < math.inf:
        raise UsageError(f"--learning-rate must be a positive number, got {settings.learning_rate}")
    if not settings.arms or len(set(settings.arms)) < len(settings.arms):
        raise UsageError(f"--arms must name one or more arms, each once, got {' '.join(settings.arms) or 'none'}")
    return settings


def new_folder(name: str) -> Path:
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise UsageError(f"--out must be a folder that can be written, got {folder} ({error.strerror})") from None
    if occupied:
        raise UsageError(f"--out must be a new or empty folder, got {folder}, which holds files")
    return folder


if __name__ == "__main__":
    sys.exit(main())
