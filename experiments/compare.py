"""The comparison: from options to a folder with its tables, claims and figures."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from experiments.arms import ARMS, Arm, published
from experiments.data import Dataset, is_jpeg_copy
from experiments.devices import is_first, start_processes
from experiments.errors import UsageError
from experiments.program import Precision
from experiments.report import save
from experiments.results import Results
from experiments.run import Plan, run, stop_signals
from experiments.tasks import TASKS, Task, evaluations

POLICIES = "policies"


@dataclass(frozen=True)
class Running:
    """Options of every command that trains."""

    task: Literal["digits", "cifar10"] = "digits"
    """What to train on. cifar10 is the published experiment and wants an accelerator."""
    steps: int | None = None
    """Updates of every run; schedules and averaging windows scale with it. [digits 2400, cifar10 100000]"""
    seeds: int | None = None
    """Runs of every arm, each from another initialization and with other batches. [digits 3, cifar10 1]"""
    first_seed: int = 0
    """The first of the seeds; runs with others can be merged by `report`."""
    batch_size: int | None = None
    """Images in a batch. [digits 24, cifar10 128]"""
    learning_rate: float | None = None
    """The peak rate. [digits 0.014, cifar10 0.001]"""
    data: Path | None = None
    """The folder that holds cifar-10-batches-bin, or a packed JPEG copy (.npz). [downloaded once, with a check]"""
    title: str | None = None
    """What the data is called in the results, where it is not the task's own."""
    out: Path | None = None
    """The folder for the results: new, or of this very run, which then goes on. [runs/<task>, or as said there]"""
    precision: Precision = "float32"
    """Of matrix products. tf32 where a device has it; bfloat16 with sums in float32; weights are always float32."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints; there is one at the end in any case."""
    early_stopping: int | None = None
    """End the run when no arm's validation loss has fallen in as many validations (20 in a run)."""
    tensorboard: bool = False
    """Write for TensorBoard as well, into the folder."""
    distributed: bool = False
    """Be one process of several, as started by SLURM, Kubernetes, Open MPI or on a TPU pod."""


@dataclass(frozen=True)
class Compare(Running):
    """Train the 13 arms of the comparison in one program: decay, averaging and schedule-free.

    Without options: on 8x8 digits that come with scikit-learn, in little more than a minute on two CPU
    cores. Ends with tables, the published claims with their verdicts, and figures. Ctrl-C stops in order; whatever
    stops it, the same command goes on from where it was. Other commands: `sweep`, `range-test`, `report`, `bench`;
    `python -m experiments sweep --help` describes the first.
    """

    arms: tuple[str, ...] = ("published",)
    """Arms by name; or `published`, all 13; or `policies`, every schedule in use at its best rate."""


@dataclass(frozen=True)
class Settings:
    """`Running` with everything decided."""

    task: Task
    steps: int
    seeds: tuple[int, ...]
    batch_size: int
    learning_rate: float
    out: Path
    data: Dataset
    title: str
    options: Running

    def plan(self, arms: Mapping[str, Arm], seeds: Sequence[int] | None = None) -> Plan:
        return Plan(
            self.title,
            self.task.model,
            self.data,
            [*arms.values()],
            tuple(self.seeds if seeds is None else seeds),
            self.steps,
            self.batch_size,
            evaluations(self.steps),
            self.options.precision,
            self.options.early_stopping,
        )

    def run(self, plan: Plan, out: Path) -> Results:
        """Trains, until the end or a signal."""
        with stop_signals() as stopped:
            return run(plan, out, self.options.checkpoint_seconds, self.options.tensorboard, stopped)


def compare(options: Compare) -> int:
    """The command; returns its exit status."""
    if options.arms == (POLICIES,):
        from experiments.policies import compare_policies

        return compare_policies(settle(options, POLICIES))
    names = ARMS if options.arms == ("published",) else options.arms
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--arms must name one or more arms, each once, got {' '.join(names) or 'none'}")
    if unknown := [name for name in names if name not in ARMS]:
        raise UsageError(f"--arms must be published, policies or of {', '.join(ARMS)}, got {unknown[0]}")
    settings = settle(options)
    arms = published(settings.learning_rate, settings.steps)
    return finish(settings.run(settings.plan({name: arms[name] for name in names}), settings.out), settings.out)


def finish(results: Results, out: Path) -> int:
    """The report of a run that ended, however; returns the exit status."""
    if not is_first():
        return 0
    if results.done == 0:
        print("Stopped before anything was measured.", file=sys.stderr)
        return 130
    print(f"\n{save(results, out)}\nIn {out}: report.md, figure.png and more.")
    if results.done < results.steps:
        print(
            "Stopped early: what has been measured is kept, and the same command goes on from there.", file=sys.stderr
        )
        return 130
    return 0


def settle(options: Running, name: str = "") -> Settings:
    """`options` with the defaults of the task in place of None. A run of some `name` has a folder of its own.

    **Raises:** `UserError` for what cannot be trained with.
    """
    task = TASKS[options.task]
    given = {key: value for key, value in asdict(options).items() if value is not None}
    steps, batch_size, rate = (given.get(key, getattr(task, key)) for key in ("steps", "batch_size", "learning_rate"))
    seeds = given.get("seeds", task.seeds)
    least = {"steps": (steps, 20), "seeds": (seeds, 1), "first-seed": (options.first_seed, 0)}
    least |= {"batch-size": (batch_size, 1), "early-stopping": (given.get("early_stopping", 1), 1)}
    for key, (value, smallest) in least.items():
        if value < smallest:
            raise UsageError(f"--{key} must be {smallest} or more, got {value}")
    if not 0 < rate < math.inf:
        raise UsageError(f"--learning-rate must be a positive number, got {rate}")
    if not options.checkpoint_seconds >= 0:
        raise UsageError(f"--checkpoint-seconds must be 0 or more, got {options.checkpoint_seconds}")
    if options.distributed:
        join()
    out = options.out or Path("runs") / "-".join(filter(None, (options.task, name)))
    every = tuple(range(options.first_seed, options.first_seed + seeds))
    title = options.title or task.title + " (JPEG copy)" * is_jpeg_copy(options.data)
    return Settings(task, steps, every, batch_size, rate, out, task.load(options.data), title, options)


def join() -> None:
    try:
        start_processes()
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--distributed needs what SLURM, Kubernetes, Open MPI or a TPU pod says ({reason})") from None
