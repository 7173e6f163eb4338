"""The suite for an accelerator, `python -m experiments.accelerator`: what a minute on one is worth most, first.

Are its numbers right; how does the published comparison end there; how fast is it. What is done is kept in one folder
and written at once to another. A call that is stopped, at whatever moment, loses at most the part under way, and the
next one goes on from there.
"""

import argparse
import functools
import gc
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import numpy as np

from experiments.bench.measurement import HEAD, Measurement, in_turn
from experiments.bench.optimizers import large_updates
from experiments.bench.profiler import Kernels, profiled
from experiments.bench.throughput import one_program, published_style, race, row_name, sustained
from experiments.commands.answering import answered
from experiments.commands.options import Running, of_each_task, require, to_train
from experiments.engine.devices import require_cache, require_devices, use_all_cores
from experiments.engine.folder import CONFIG, HISTORY, METRICS, Folder
from experiments.engine.machine import machine
from experiments.engine.plan import Plan, Precision
from experiments.engine.program import Program
from experiments.engine.run import run
from experiments.engine.signals import stop_signals, until
from experiments.engine.watch import Pace, pace
from experiments.errors import UsageError, UserError, reason
from experiments.files import read_json, write_text
from experiments.reports.results import Results, merged
from experiments.studies import save
from experiments.studies.published import PUBLISHED
from experiments.tasks import sampled_tasks
from schedules.terminal import exit_status

ARMS = PUBLISHED.names
PLAIN = ("constant", "linear-100", "cosine", "step-75", "step-25")
AVERAGED = ("polyak", "ema-long", "ema-short", "sf-polyak", "sf-ema")
MEASURED = "measured.json"
Part = Callable[[], Iterable[Measurement]]
Measured = dict[str, list[Measurement] | str]  # by the name of the part: its rows, or why there are none
CORRECTNESS, IN_FLOAT32, KERNELS = "correctness", "correctness, float32", "kernels"
UPDATES = 20
# Of training losses, before the first update and over all. Sums in another order differ by 1e-6, and Adam divides by
# what may be small: in 20 updates float32 comes to about 1e-5. On a CPU, factors rounded as in tf32 came to 2.3e-3, and
# activations in bfloat16 to 1.5e-3 before the first update and 2.4e-2 over all.
TOLERANCES: dict[Precision, tuple[float, float]] = {
    "float32": (1e-3, 1e-3),
    "tf32": (1e-3, 5e-3),
    "bfloat16": (1e-2, 5e-2),
}
STYLE_SECONDS = 60.0
LONGEST, MOST_LETTERS = 20, 80  # how many kernels are listed, and how much of a name
MOST_PARAMETERS = 10_000_000_000
SLACK = 1.1  # for validation and checkpoints


# Seeds in blocks -------------------------------------------------------------------------------------


class Block(NamedTuple):
    """Seeds that are trained in one run, in a folder of their own."""

    first: int
    size: int

    @property
    def name(self) -> str:
        return f"seeds-{self.first}-{self.size}"


def blocks_in(work: Path) -> dict[Block, Results | None]:
    """What each has measured; None before its first checkpoint."""
    named = [(re.fullmatch(r"seeds-(\d+)-(\d+)", path.name), path) for path in work.glob("seeds-*")]
    folders = {Block(int(found[1]), int(found[2])): path / HISTORY for found, path in named if found}
    return {block: Results.load(file) if file.exists() else None for block, file in sorted(folders.items())}


def report(blocks: Mapping[Block, Results | None], out: Path) -> None:
    """Of all finished blocks as one run; before there is any, of the one that was begun."""
    begun = [results for results in blocks.values() if results and results.done]
    if begun:
        results = merged([each for each in begun if each.done == each.steps] or begun)
        results.save(out / HISTORY)
        print(f"\n{save(results, out)}", flush=True)


# What was measured, in files --------------------------------------------------------------------------


def measured_in(folder: Path) -> Measured:
    if not (file := folder / MEASURED).exists():
        return {}
    try:
        held = read_json(file)["parts"]
        return {
            name: rows if isinstance(rows, str) else [Measurement(**row) for row in rows] for name, rows in held.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file} cannot be read ({reason(error)}): delete it to measure again") from None


def write_measured(measured: Measured, folder: Path) -> None:
    held = {name: rows if isinstance(rows, str) else [asdict(row) for row in rows] for name, rows in measured.items()}
    record = {"passed": passed(measured), **machine(), "parts": held}
    write_text(folder / MEASURED, json.dumps(record, indent=1) + "\n")
    verdict = "passed" if passed(measured) else "FAILED"
    table = "\n".join([HEAD, *(line for name, rows in measured.items() for line in lines(name, rows))])
    about = f"{record['devices']} x {record['device']}. Correctness: {verdict}."
    write_text(folder / "measured.md", f"# Measured\n\n{about}\n\n{table}\n")


def lines(name: str, rows: list[Measurement] | str) -> list[str]:
    """Of a table with `HEAD`."""
    return [f"| {name} | failed | {rows} | | | |"] if isinstance(rows, str) else [row.row() for row in rows]


def rows_of(name: str, measured: Measured) -> list[Measurement]:
    """None where it was not, or could not be, measured."""
    rows = measured.get(name, [])
    return [] if isinstance(rows, str) else rows


def passed(measured: Measured) -> bool:
    checks = [rows_of(name, measured) for name in (CORRECTNESS, IN_FLOAT32) if name in measured]
    return bool(checks) and all(rows and all(row.ratio <= 1 for row in rows) for rows in checks)


# Everything, part by part -----------------------------------------------------------------------------


class Suite:
    """Everything that is asked of the devices, in the order of what a minute of each is worth.

    **Arguments:** `work`, `out`: folders for what is needed to go on and for the results; `deadline`: of
    `time.monotonic()`, up to which something is begun; `parameters`: how many the optimizers update.
    """

    def __init__(
        self,
        plan: Plan,
        work: Path,
        out: Path,
        parameters: int,
        deadline: float = math.inf,
        stopped: Callable[[], bool] = lambda: False,
    ):
        self.plan, self.work, self.out, self.parameters = plan, work, out, parameters
        self.deadline, self.stopped = deadline, stopped
        self.precision = plan.precision
        self.wanted = len(plan.seeds)
        self.first = next(iter(blocks_in(work)), Block(0, self.block_size(0)))
        self.comparison = row_name(len(ARMS) * self.first.size, self.precision)
        self.program = functools.cache(self._program)
        self.baseline = functools.cache(lambda: published_style(plan, self.precision))

    def __iter__(self) -> Iterator[None]:
        """Goes on from what `work` holds, and yields after each part."""
        report(blocks_in(self.work), self.out)
        yield from self.measure({CORRECTNESS: functools.partial(self.correctness, self.precision)})
        yield from self.train(lambda block: block.first == 0)
        yield from self.measure({self.comparison: self.compared, KERNELS: self.kernels})
        yield from self.train(lambda block: self.seconds() <= self.left())
        yield from self.measure(self.parts())
        yield from self.train(lambda block: True)

    def unfinished(self) -> bool:
        wanted = {CORRECTNESS, self.comparison, KERNELS, *self.parts()}
        return self.following() is not None or not wanted <= measured_in(self.work).keys()

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def of(self, block: Block) -> Plan:
        return replace(self.plan, seeds=tuple(range(block.first, block.first + block.size)))

    def _program(self, size: int) -> Program:
        return Program(self.of(Block(0, size)))

    # Parts that are measured

    def measure(self, parts: Mapping[str, Part]) -> Iterator[None]:
        """Those that `work` does not hold, one after the other."""
        measured = measured_in(self.work)
        write_measured(measured, self.out)
        for name in [name for name in parts if name not in measured]:
            try:
                measured[name] = [*parts[name]()]
            except RuntimeError as error:  # JAX's too: too little memory, say. What needs less goes on
                measured[name] = str(error).splitlines()[0]
            print("\n".join(lines(name, measured[name])), flush=True)
            for folder in (self.work, self.out):
                write_measured(measured, folder)
            gc.collect()  # a program is a cycle, which would keep its data on the devices
            yield

    def correctness(self, precision: Precision) -> list[Measurement]:
        """How far the first training losses of the comparison are from those on the CPU, computed at the same time.

        The program is that of the comparison, so that what it compiles is used again. Devices of the CPU are compared
        with one of them.
        """
        plan = replace(self.of(self.first), precision=precision)
        program = self.program(self.first.size) if precision == self.precision else Program(plan)
        cpu = jax.devices("cpu")[: 1 if jax.default_backend() == "cpu" else None]
        reference = Program(replace(plan, precision="float32"), cpu)

        def losses(program: Program) -> np.ndarray:
            return program.advance(program.start(), 0, UPDATES)[1].loss

        with ThreadPoolExecutor() as both:
            ours, theirs = both.map(losses, (program, reference))
        apart = np.abs(ours - theirs) / np.abs(theirs)
        apart = np.where(np.isfinite(apart), apart, 1.0)  # what is no number agrees with nothing
        what = f"{row_name(len(ARMS) * self.first.size, precision)}, training loss, largest difference from the CPU's"
        first, over_all = TOLERANCES[precision]
        return [
            Measurement(f"{what}, {when}", float(largest), "tolerance", tolerance, "", "at most 1")
            for when, largest, tolerance in (
                ("before the first update", apart[..., 0].max(), first),
                (f"over {UPDATES} updates", apart.max(), over_all),
            )
        ]

    def compared(self) -> list[Measurement]:
        """How fast the comparison has been, against one arm as it was published."""
        ran, steps = self.pace(), self.plan.steps
        assert ran  # the first block has ended, or this part would not have come
        style = sustained(self.baseline(), min(STYLE_SECONDS, max(self.left(), 0.0)))
        rate = len(ARMS) * self.first.size * ran.updates_per_second
        whole = f"{self.comparison}, {steps:,} updates with validation and checkpoints"
        return [
            Measurement(self.comparison, rate, self.baseline().name, style, "arm-updates/s", "at least 8"),
            Measurement(whole, ran.seconds, "the updates alone", steps / ran.updates_per_second, "s"),
        ]

    def kernels(self) -> list[Measurement]:
        """Which kernels an update of the comparison spends its time in, by a profile that stays in `work`."""
        program = self.program(self.first.size)
        runs = program.start()

        def advance() -> None:
            nonlocal runs
            runs, _ = program.advance(runs, 0, UPDATES)

        update = float(np.median(in_turn(advance, rounds=3))) / UPDATES
        found = profiled(advance, self.work / "profile")
        together = Kernels("all kernels", sum(each.times for each in found), sum(each.seconds for each in found))
        updates = UPDATES * jax.device_count()  # an update on two devices counts twice

        def row(kernels: Kernels) -> Measurement:
            what = f"{self.comparison}, in an update: {kernels.times / updates:.4g} x {kernels.name[:MOST_LETTERS]}"
            return Measurement(what, 1e3 * kernels.seconds / updates, "the update", 1e3 * update, "ms")

        return [row(kernels) for kernels in (together, *found[:LONGEST])]

    def parts(self) -> dict[str, Part]:
        """What may be measured when the comparison is there, by name, in their order."""
        rows: list[tuple[Sequence[str], int, Precision]] = [
            *((ARMS, 1, precision) for precision in reversed(get_args(Precision)) if precision != self.precision),
            *((PLAIN[:count], 1, self.precision) for count in (1, 4)),
            *((ARMS, seeds, self.precision) for seeds in (1, 2, 4)),
        ]

        def throughput(names: Sequence[str], seeds: int, precision: Precision) -> list[Measurement]:
            return [race(one_program(self.plan, names, seeds, precision), self.baseline())]

        def averages() -> list[Measurement]:
            averaged = one_program(self.plan, AVERAGED, 1, self.precision, "averaged arm")
            return [race(averaged, one_program(self.plan, PLAIN, 1, self.precision, "plain arm"))]

        exactly = {} if self.precision == "float32" else {IN_FLOAT32: lambda: self.correctness("float32")}
        # Where an update of large arrays takes a millisecond, the time of a call would count.
        calls = 1 if jax.default_backend() == "cpu" else 10
        return {
            **{row_name(len(a) * s, p): functools.partial(throughput, a, s, p) for a, s, p in rows},
            **exactly,
            "averages": averages,
            "optimizers": lambda: large_updates(self.parameters, calls),
        }

    # The comparison

    def block_size(self, first: int) -> int:
        """A seed for each device: more would not be faster, and all blocks are one program."""
        return min(jax.device_count(), self.wanted - first)

    def train(self, begins: Callable[[Block], bool]) -> Iterator[None]:
        """The block that was not finished, and then those that `begins` says, one after the other."""
        while block := self.following():
            if block not in blocks_in(self.work) and not begins(block):
                return
            plan = self.of(block)
            program = self.program(block.size).with_seeds(plan.seeds)
            run(plan, self.work / block.name, stopped=self.stopped, program=program)
            report(blocks_in(self.work), self.out)
            yield

    def following(self) -> Block | None:
        """The block that is unfinished; else the next of the seeds that are wanted; None if there are none."""
        blocks = blocks_in(self.work)
        for block, results in blocks.items():
            if results is None or results.done < results.steps:
                return block
        first = sum(block.size for block in blocks)
        return Block(first, self.block_size(first)) if first < self.wanted else None

    def seconds(self) -> float:
        """How long a block takes, if it goes as fast as the first."""
        ran = self.pace()
        return SLACK * self.plan.steps / ran.updates_per_second if ran else math.inf

    def pace(self) -> Pace | None:
        return pace(self.work / self.first.name / METRICS)


# The command ------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    begun = time.monotonic()
    options = parser().parse_args(arguments)
    deadline = begun + 60 * options.minutes

    def run_suite() -> int:
        with stop_signals() as signalled:
            return suite(options, deadline, lambda: signalled() or until(deadline)())

    return answered("python -m experiments.accelerator", run_suite)


def parser() -> argparse.ArgumentParser:
    # Not tyro, as elsewhere: a machine with an accelerator often has JAX and what goes with it, and no network.
    made = argparse.ArgumentParser(
        prog="python -m experiments.accelerator",
        description="Check the devices against one CPU, train the 13 arms, measure the published style, train more "
        "seeds while there is time, and measure other numbers of arms, other precisions and the optimizers. The same "
        "command goes on from where it was stopped.",
    )
    made.add_argument("--work", type=Path, required=True, help="folder for what is needed to go on")
    made.add_argument("--out", type=Path, required=True, help="folder for the results: at most 8 files")
    made.add_argument("--data", type=Path, help="folder that holds cifar-10-batches-bin, or a packed JPEG copy (.npz)")
    made.add_argument(
        "--minutes",
        type=float,
        default=math.inf,
        help="in which this call begins something; what is under way then is kept [no limit]",
    )
    made.add_argument("--seeds", type=int, default=5, help="of every arm, at most [5]")
    made.add_argument("--steps", type=int, help=f"updates of every run [{of_each_task('steps')}]")
    made.add_argument("--batch-size", type=int, help=f"images in a batch [{of_each_task('batch_size')}]")
    made.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="tf32",
        help="float32: everything has 24 bits; tf32: factors of matrix products are rounded to 11 bits on devices that "
        "have it, as is usual there; bfloat16: activations have 8 bits; weights, optimizers and averages are float32 "
        "always [tf32]",
    )
    made.add_argument("--parameters", type=int, default=100_000_000, help="that the optimizers update [100000000]")
    made.add_argument("--task", choices=[*sampled_tasks()], default="cifar10", help="what to train on [cifar10]")
    made.add_argument("--title", help="what the data is called in the results")
    return made


def suite(options: argparse.Namespace, deadline: float, stopped: Callable[[], bool]) -> int:
    """Everything, until `stopped` says so after some part; returns the exit status."""
    require(1, MOST_PARAMETERS, parameters=options.parameters)
    require(0, minutes=options.minutes)
    require_cpu()
    chosen = {name: getattr(options, name) for name in CHOSEN}
    plan, work, out = to_train(Running(**chosen), PUBLISHED, PUBLISHED.arms, len(ARMS)), options.work, options.out
    with Folder(work, described(plan, options.parameters)):
        prepare(work, out)
        print(HEAD)
        parts = Suite(plan, work, out, options.parameters, deadline, stopped)
        for _ in parts:
            if stopped():
                break
        unfinished = parts.unfinished()
    print(f"In {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    if unfinished:
        print("Stopped early: the same command goes on from there.", file=sys.stderr)
        return 130
    return 0 if passed(measured_in(work)) else 1


CHOSEN = ("task", "steps", "seeds", "batch_size", "data", "title", "precision")


def described(plan: Plan, parameters: int) -> dict[str, Any]:
    """What all measurements depend on; the seeds may become more."""
    recorded = plan.record()
    del recorded["seeds"]
    return {**recorded, "parameters": parameters, "device": jax.devices()[0].device_kind, "devices": jax.device_count()}


def require_cpu() -> None:
    """**Raises:** `UsageError` where JAX has no devices, or none to compare them with."""
    require_devices()
    try:
        jax.devices("cpu")
    except RuntimeError:
        raise UsageError("JAX_PLATFORMS must include cpu, which the other devices are compared with") from None


def prepare(work: Path, out: Path) -> None:
    """**Raises:** `UsageError` where results cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / CONFIG, (work / CONFIG).read_text())
    except OSError as error:
        raise UsageError(f"--out must be a folder that can be written, got {out} ({reason(error)})") from None
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        # The next call compiles the same.
        jax.config.update("jax_compilation_cache_dir", str(work / "compiled"))
        require_cache()


if __name__ == "__main__":
    use_all_cores()
    sys.exit(exit_status(main))
