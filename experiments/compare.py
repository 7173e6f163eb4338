"""The comparison: from options to a folder with its tables, claims and figures."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax

from experiments.arms import ARMS, Arm, published
from experiments.data import Dataset, is_jpeg_copy
from experiments.devices import by_first, require_cache, require_devices, start_processes
from experiments.errors import UsageError, require_printable
from experiments.program import LAST_SEED, Precision
from experiments.report import save
from experiments.results import Results
from experiments.run import Plan, run
from experiments.signals import stop_signals
from experiments.tasks import TASKS, Task, evaluations

POLICIES = "policies"
# Under others, the same seeds would draw other batches, or nothing could be trained.
JAX_SETTINGS = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_disable_jit": False,
    "jax_numpy_rank_promotion": "allow",
    "jax_numpy_dtype_promotion": "standard",
}
MOST_SEEDS = 10_000  # in one run; `report` merges more
MOST_UPDATES = 200_000_000  # of all arms together: schedules are tabulated, which takes a few bytes for each
RATES = 1e-30, 1e30  # which float32 holds, also ten times or a tenth of them


@dataclass(frozen=True)
class Sampling:
    """Options of every command that draws batches."""

    task: Literal["digits", "cifar10-small", "cifar10"] = "digits"
    """What to train on. cifar10 is the published experiment and wants an accelerator; cifar10-small takes two CPU cores
    half an hour a seed."""
    seeds: int | None = None
    """Runs of every arm, each from another initialization and with other batches. [digits 3, cifar10-small 5,
    cifar10 1]"""
    first_seed: int = 0
    """The first of the seeds; runs with others can be merged by `report`."""
    batch_size: int | None = None
    """Images in a batch. [digits 24, cifar10-small 64, cifar10 128]"""
    data: Path | None = None
    """The folder that holds cifar-10-batches-bin, or a packed JPEG copy (.npz). [downloaded once, with a check]"""
    title: str | None = None
    """What the data is called in the results, where it is not the task's own."""
    out: Path | None = None
    """The folder for the results. [runs/<task>, runs/<task>-policies, runs/<task>-<command>]"""


@dataclass(frozen=True)
class Running(Sampling):
    """Options of every command that trains. Its folder is new, or of this very run, which then goes on."""

    steps: int | None = None
    """Updates of every run; schedules and averaging windows scale with it. [digits 2400, cifar10-small 20000,
    cifar10 100000]"""
    learning_rate: float | None = None
    """The peak rate. [digits 0.014, cifar10-small 0.001, cifar10 0.001]"""
    precision: Precision = "float32"
    """Of matrix products. tf32 where a device has it; bfloat16 with sums in float32; weights are always float32."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints; there is one at the end in any case."""
    early_stopping: int | None = None
    """End the run when no arm's validation loss has fallen in as many validations: 20 in a run, 4 in a short one."""
    tensorboard: bool = False
    """Write for TensorBoard as well, into the folder."""
    distributed: bool = False
    """Be one process of several, as started by SLURM, Kubernetes, Open MPI or on a TPU pod."""


@dataclass(frozen=True)
class Compare(Running):
    """Train the 13 arms of the comparison in one program: decay, averaging and schedule-free.

    Without options: on 8x8 digits that come with scikit-learn, in little more than a minute on two CPU
    cores. Ends with tables, the published claims with their verdicts, and figures. Ctrl-C stops in order; whatever
    stops it, the same command goes on from where it was.

    Other commands: sweep, range-test, report and bench; "python -m experiments sweep --help" describes the first.
    """

    arms: tuple[str, ...] = ("published",)
    """Arms by name; or `published`, all 13; or `policies`, every schedule in use at its best rate."""


@dataclass(frozen=True)
class Sample:
    """`Sampling` with everything decided."""

    task: Task
    seeds: tuple[int, ...]
    batch_size: int
    data: Dataset
    title: str
    out: Path


@dataclass(frozen=True)
class Settings:
    """`Running` with everything decided."""

    sample: Sample
    steps: int
    learning_rate: float
    options: Running

    def plan(self, arms: Mapping[str, Arm], seeds: Sequence[int] | None = None) -> Plan:
        sample, options = self.sample, self.options
        return Plan(
            sample.title,
            sample.task.model,
            sample.data,
            [*arms.values()],
            tuple(sample.seeds if seeds is None else seeds),
            self.steps,
            sample.batch_size,
            evaluations(self.steps),
            options.precision,
            options.early_stopping,
        )

    def train(self, plan: Plan, out: Path, stopped: Callable[[], bool]) -> tuple[Results, int]:
        """Trains until the end or a signal, and reports. Returns what was measured, and the exit status."""
        results = run(plan, out, self.options.checkpoint_seconds, self.options.tensorboard, stopped)
        by_first(lambda: print(f"\n{save(results, out)}\nIn {out}: report.md, figure.png and more."))
        if plan.ends(results.done, results.history):
            return results, 0
        goes_on = "Stopped: what has been measured is kept, and the same command goes on from there."
        by_first(lambda: print(goes_on, file=sys.stderr))
        return results, 130


def compare(options: Compare) -> int:
    """The command; returns its exit status."""
    if options.arms == (POLICIES,):
        from experiments.policies import compare_policies

        return compare_policies(options)
    names = ARMS if options.arms == ("published",) else options.arms
    if alone := {"published", POLICIES} & {*names}:
        raise UsageError(f"--arms must be names of arms, or {min(alone)} alone, got {' '.join(names)}")
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--arms must name one or more arms, each once, got {' '.join(names) or 'none'}")
    if unknown := [name for name in names if name not in ARMS]:
        raise UsageError(f"--arms must be published, policies or of {', '.join(ARMS)}, got {unknown[0]}")
    settings = settle(options, arms=len(names))
    arms = published(settings.learning_rate, settings.steps)
    with stop_signals() as stopped:
        return settings.train(settings.plan({name: arms[name] for name in names}), settings.sample.out, stopped)[1]


def settle(options: Running, name: str = "", arms: int = len(ARMS)) -> Settings:
    """`options` with the defaults of the task in place of None. A run of some `name` has a folder of its own.

    **Raises:** `UserError` for what cannot be trained with.
    """
    task = TASKS[options.task]
    steps = task.steps if options.steps is None else options.steps
    rate = task.learning_rate if options.learning_rate is None else options.learning_rate
    require(20, MOST_UPDATES // arms, steps=steps)
    require(1, early_stopping=options.early_stopping)
    require(0, checkpoint_seconds=options.checkpoint_seconds)
    require(*RATES, learning_rate=rate)
    if options.distributed:
        join()
    return Settings(sampled(options, name), steps, rate, options)


def sampled(options: Sampling, name: str = "") -> Sample:
    """**Raises:** `UserError` if there is nothing to draw batches from."""
    task = TASKS[options.task]
    seeds = task.seeds if options.seeds is None else options.seeds
    batch_size = task.batch_size if options.batch_size is None else options.batch_size
    require(1, MOST_SEEDS, seeds=seeds)
    require(0, LAST_SEED + 1 - seeds, first_seed=options.first_seed)
    require(1, batch_size=batch_size)
    require_devices()
    require_cache()
    for setting, expected in JAX_SETTINGS.items():
        if (got := getattr(jax.config, setting)) != expected:
            raise UsageError(f"{setting.upper()} must be {expected}, as for all results, got {got}")
    every = tuple(range(options.first_seed, options.first_seed + seeds))
    out = options.out or Path("runs") / "-".join(filter(None, (options.task, name)))
    title = options.title or task.title.format(copy=" (JPEG copy)" if is_jpeg_copy(options.data) else "")
    require_printable("title", title, 200)
    require_printable("out", str(out), 1000)
    data = task.load(options.data)
    require(1, len(data.train_labels), batch_size=batch_size)
    return Sample(task, every, batch_size, data, title, out)


def require(least: float, most: float = math.inf, **options: float | None) -> None:
    """**Raises:** `UsageError` if an option is given and not in between."""
    expected = f"from {least:,} to {most:,}" if most < math.inf else f"{least:,} or more"
    for name, value in options.items():
        if value is not None and not least <= value <= most:
            raise UsageError(f"--{name.replace('_', '-')} must be {expected}, got {value}")


def join() -> None:
    try:
        start_processes()
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--distributed needs what SLURM, Kubernetes, Open MPI or a TPU pod says ({reason})") from None
