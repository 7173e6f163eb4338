"""The options that commands share, and the plan that they make of options and a task."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import jax

from experiments.engine.devices import require_cache, require_devices
from experiments.engine.exact import ExactPlan
from experiments.engine.plan import Norm, Plan, Precision
from experiments.engine.processes import start_processes
from experiments.engine.program import LAST_SEED
from experiments.errors import UsageError, require_printable
from experiments.studies.study import Arms, Study
from experiments.tasks import every_task, sampled_tasks
from experiments.tasks.task import Exact, Sampled, Task

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


def of_task(told: str) -> Any:
    """An option without which the task's own value is taken, which the help adds to what is `told`."""
    return field(default=None, metadata={"about": lambda name: f"{told} [{of_each_task(name)}]"})


def of_each_task(name: str) -> str:
    """What a setting is in each task that has it, for a help text."""
    tasks = [task for task in every_task().values() if hasattr(task, name)]
    return ", ".join(f"{task.name} {getattr(task, name)}" for task in tasks)


def of_tasks(tasks: Callable[[], Mapping[str, Task]]) -> Any:
    """The option that chooses one of `tasks`."""

    def about(_: str) -> str:
        return f"What to train on. {'; '.join(f'{task.name} {task.about}' for task in tasks().values())}."

    return field(default="digits", metadata={"about": about, "choices": lambda: [*tasks()]})


@dataclass(frozen=True)
class Sampling:
    """Options of every command that draws batches."""

    task: str = of_tasks(sampled_tasks)
    seeds: int | None = of_task(
        "Number of seeds. Each gives every arm a different initialization and different batches."
    )
    first_seed: int = 0
    """The first seed. `report` merges runs with different seeds."""
    batch_size: int | None = of_task("Batch size, in images.")
    data: Path | None = None
    """The folder that contains cifar-10-batches-bin, or a packed JPEG copy (.npz). [downloaded once and checked]"""
    title: str | None = None
    """The name of the data in the results. [the name of the task]"""
    out: Path | None = None
    """The folder for the results. [runs/<task>, runs/<task>-policies, runs/<task>-<command>]"""


@dataclass(frozen=True)
class Running(Sampling):
    """Options of every command that trains. Its folder is new, or of this very run, which then goes on."""

    task: str = of_tasks(every_task)
    steps: int | None = of_task("Number of updates. Schedules and averaging windows scale with it.")
    learning_rate: float | None = of_task("The peak rate.")
    precision: Precision = "float32"
    """Of matrix products (tf32, on devices that have it) or of all activations (bfloat16). Weights are float32."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints. One more is written at the end."""
    early_stopping: int | None = None
    """Stop when no arm's validation loss has improved in this many validations (a run has 20; a short one, 4)."""
    gradient_norms: Norm | None = None
    """Record the L1 or L2 norm of the gradients at every update, in history.npz."""
    tensorboard: bool = False
    """Also write TensorBoard logs, into the same folder."""
    distributed: bool = False
    """Run as one of several processes, started by SLURM, Kubernetes, Open MPI or on a TPU pod."""


SHARED = ("task", "title", "out", "steps", "learning_rate")  # with commands that compute
OF_SAMPLES = tuple(option for option in fields(Running) if option.name not in SHARED)


def planned(options: Running, study: Study, arms: Arms, count: int) -> Plan | ExactPlan:
    """The plan to train arms, or to compute them where the task is exact.

    **Raises:** `UserError` for what cannot be done.
    """
    task = every_task()[options.task]
    if not isinstance(task, Exact):
        return to_train(options, study, arms, count)
    for option in OF_SAMPLES:
        if (got := getattr(options, option.name)) != option.default:
            name = option.name.replace("_", "-")
            raise UsageError(
                f"--{name} must not be given with --task {task.name}, which is computed exactly, got {got}"
            )
    steps, rate = _length_and_rate(options, task, count)
    require_machine()
    every = arms(rate, steps)
    if unknown := [arm for arm in every if arm.with_sgd is None]:
        got = f"{unknown[0].name} by {unknown[0].optimizer.__name__}"
        raise UsageError(f"--task {task.name} must have arms that have a counterpart with SGD, got {got}")
    return ExactPlan(_title(options, task.title), task.problem(), study.name, every, steps)


def _length_and_rate(options: Running, task: Task, count: int) -> tuple[int, float]:
    """Of every run. There are `count` arms."""
    steps = task.steps if options.steps is None else options.steps
    rate = task.learning_rate if options.learning_rate is None else options.learning_rate
    require(20, MOST_UPDATES // count, steps=steps)
    require(*RATES, learning_rate=rate)
    return steps, rate


def to_train(options: Running, study: Study, arms: Arms, count: int) -> Plan:
    """The plan to train arms, `count` of them, of which the study is to report.

    **Raises:** `UserError` for what cannot be trained with.
    """
    steps, rate = _length_and_rate(options, _sampled(options.task), count)
    require(1, early_stopping=options.early_stopping)
    require(0, checkpoint_seconds=options.checkpoint_seconds)
    if options.distributed:
        join()
    return replace(
        to_draw(options),
        study=study.name,
        arms=arms(rate, steps),
        steps=steps,
        precision=options.precision,
        patience=options.early_stopping,
        gradient_norms=options.gradient_norms,
    )


def to_draw(options: Sampling) -> Plan:
    """The plan of a command that draws batches, and trains no arms.

    **Raises:** `UserError` if there is nothing to draw batches from.
    """
    task = _sampled(options.task)
    seeds = task.seeds if options.seeds is None else options.seeds
    batch_size = task.batch_size if options.batch_size is None else options.batch_size
    require(1, MOST_SEEDS, seeds=seeds)
    require(0, LAST_SEED + 1 - seeds, first_seed=options.first_seed)
    require(1, batch_size=batch_size)
    require_machine()
    title = _title(options, task.title(options.data))
    data = task.load(options.data)
    require(1, len(data.train_labels), batch_size=batch_size)
    every = tuple(range(options.first_seed, options.first_seed + seeds))
    return Plan(title, task.model, data, every, batch_size)


def _sampled(name: str) -> Sampled:
    """**Raises:** `UsageError` for a task that is not trained."""
    if name not in sampled_tasks():
        raise UsageError(f"--task must be one that is trained, of {', '.join(sampled_tasks())}, got {name}")
    return sampled_tasks()[name]


def require_machine() -> None:
    """**Raises:** `UserError` unless JAX can compute here as for all results."""
    require_devices()
    require_cache()
    for setting, expected in JAX_SETTINGS.items():
        if (got := getattr(jax.config, setting)) != expected:
            raise UsageError(f"{setting.upper()} must be {expected}, as for all results, got {got}")


def _title(options: Sampling, own: str) -> str:
    """What results are called. What is said of --out as well must be printable."""
    title = options.title or own
    require_printable("title", title, 200)
    require_printable("out", str(options.out or ""), 1000)
    return title


def folder_of(options: Sampling, name: str = "") -> Path:
    """For the results. A run of some `name` has one of its own."""
    return options.out or Path("runs") / "-".join(filter(None, (options.task, name)))


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
