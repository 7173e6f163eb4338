"""The suite for an accelerator, `python -m experiments.accelerator`: is it right, how fast is it, what does it find.

What is done is kept in one folder and written at once to another. A call that is stopped, at whatever moment, loses
at most the part under way, and the next one goes on from there.
"""

import argparse
import functools
import gc
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import numpy as np

from experiments.arms import ARMS, published
from experiments.bench import HEAD, Measurement, large_updates
from experiments.compare import Running, Settings, settle
from experiments.devices import use_all_cores
from experiments.errors import UsageError, UserError
from experiments.files import write_text
from experiments.folder import CONFIG, HISTORY, Folder
from experiments.machine import machine
from experiments.program import Precision
from experiments.report import save
from experiments.results import Results, merged
from experiments.run import run, stop_signals, until
from experiments.tasks import TASKS
from experiments.throughput import one_program, published_style, race, row_name

# Correctness ------------------------------------------------------------------------------------------

CORRECTNESS = "correctness"
UPDATES = 20
TOLERANCE = 1e-3  # sums in another order differ by 1e-6, and Adam divides by the root of what may be small


def correctness(settings: Settings) -> Measurement:
    """How far the published arms' training losses on all devices are from those on one device of the CPU."""
    arms = published(settings.learning_rate, UPDATES)
    plan = replace(settings.plan(arms, (0,)), steps=UPDATES, precision="float32")

    def losses(devices: Sequence[jax.Device]) -> np.ndarray:
        program = plan.program(devices)
        return program.advance(program.start(), 0, UPDATES)[1]

    ours, reference = losses(jax.devices()), losses(jax.devices("cpu")[:1])
    apart = np.abs(ours - reference) / np.abs(reference)
    largest = np.where(np.isfinite(apart), apart, 1.0).max()  # what is no number agrees with nothing
    what = f"training losses of {len(arms)} arms over {UPDATES} updates, largest relative difference from one CPU"
    return Measurement(what, float(largest), "tolerance", TOLERANCE, "", "at most 1")


# All that is measured ---------------------------------------------------------------------------------

PLAIN = ("constant", "linear-100", "cosine", "step-75", "step-25")
AVERAGED = ("polyak", "ema-long", "ema-short", "sf-polyak", "sf-ema")
MEASURED = "measured.json"
Part = Callable[[], Iterable[Measurement]]
Measured = dict[str, list[Measurement] | str]  # by the name of the part: its rows, or why there are none


def parts(settings: Settings, parameters: int) -> dict[str, Part]:
    """By name, in their order."""
    chosen = settings.options.precision
    baseline = functools.cache(lambda: published_style(settings, chosen))

    def throughput(names: Sequence[str], seeds: int, precision: Precision) -> list[Measurement]:
        return [race(one_program(settings, names, seeds, precision), baseline())]

    def averages() -> list[Measurement]:
        averaged = one_program(settings, AVERAGED, 1, chosen, "averaged arm")
        return [race(averaged, one_program(settings, PLAIN, 1, chosen, "plain arm"))]

    rows: list[tuple[Sequence[str], int, Precision]] = [
        *((PLAIN[:count], 1, chosen) for count in (1, 4)),
        *((ARMS, seeds, chosen) for seeds in BLOCKS),
        *((ARMS, 1, precision) for precision in get_args(Precision)),
    ]
    # Where an update of large arrays takes a millisecond, the time of a call would count.
    calls = 1 if jax.default_backend() == "cpu" else 10
    return {
        CORRECTNESS: lambda: [correctness(settings)],
        **{row_name(len(names) * seeds, p): functools.partial(throughput, names, seeds, p) for names, seeds, p in rows},
        "averages": averages,
        "optimizers": lambda: large_updates(parameters, calls),
    }


def measure(parts: Mapping[str, Part], work: Path, out: Path) -> Iterator[None]:
    """Measures, one after the other, the parts that `work` does not hold; yields after each."""
    measured = measured_in(work)
    write_measured(measured, out)
    for name in [name for name in parts if name not in measured]:
        try:
            measured[name] = [*parts[name]()]
        except jax.errors.JaxRuntimeError as error:  # too little memory, say: what needs less goes on
            measured[name] = str(error).splitlines()[0]
        print("\n".join(lines(name, measured[name])), flush=True)
        for folder in (work, out):
            write_measured(measured, folder)
        gc.collect()  # a program is a cycle, which would keep its data on the devices
        yield


def measured_in(folder: Path) -> Measured:
    if not (file := folder / MEASURED).exists():
        return {}
    held = json.loads(file.read_text())["parts"]
    return {
        name: rows if isinstance(rows, str) else [Measurement(**row) for row in rows] for name, rows in held.items()
    }


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
    return any(row.ratio <= 1 for row in rows_of(CORRECTNESS, measured))


# The comparison ---------------------------------------------------------------------------------------

BLOCKS = (1, 2, 4)  # seeds in one run
SLACK = 1.1  # for compilation, validation and checkpoints


class Block(NamedTuple):
    """Seeds that are trained in one run, in a folder of their own."""

    first: int
    size: int

    @property
    def name(self) -> str:
        return f"seeds-{self.first}-{self.size}"


def train(settings: Settings, work: Path, out: Path, deadline: float, stopped: Callable[[], bool]) -> Iterator[None]:
    """All arms with all seeds, block after block; yields after each, and after one that is stopped."""

    def fits(seeds: int) -> bool:
        return seconds(seeds, settings, measured_in(work)) < deadline - time.monotonic()

    report(blocks_in(work), out)
    arms = published(settings.learning_rate, settings.steps)
    wanted = len(settings.plan(arms).seeds)
    while block := following(blocks_in(work), wanted, fits):
        plan = settings.plan(arms, range(block.first, block.first + block.size))
        run(plan, work / block.name, stopped=stopped)
        report(blocks_in(work), out)
        yield


def seconds(seeds: int, settings: Settings, measured: Measured) -> float:
    """How long a block takes, by the throughput; infinite where that is not known, as where memory did not suffice."""
    arms = len(ARMS) * seeds
    rows = rows_of(row_name(arms, settings.options.precision), measured)
    return SLACK * arms * settings.steps / rows[0].ours if rows else math.inf


def blocks_in(work: Path) -> dict[Block, Results | None]:
    """What each has measured; None before its first checkpoint."""
    folders = {Block(*map(int, path.name.split("-")[1:])): path / HISTORY for path in work.glob("seeds-*-*")}
    return {block: Results.load(file) if file.exists() else None for block, file in sorted(folders.items())}


def following(
    blocks: Mapping[Block, Results | None], wanted: int, fits: Callable[[int], bool] = lambda seeds: True
) -> Block | None:
    """The block that is unfinished; else the largest that fits, of the seeds still wanted; None if there are none."""
    for block, results in blocks.items():
        if results is None or results.done < results.steps:
            return block
    first = sum(block.size for block in blocks)
    sizes = [size for size in BLOCKS if size <= wanted - first and fits(size)]
    return Block(first, max(sizes, default=1)) if first < wanted else None


def report(blocks: Mapping[Block, Results | None], out: Path) -> None:
    """Of all finished blocks as one run; before there is any, of the one that was begun."""
    begun = [results for results in blocks.values() if results and results.done]
    if begun:
        results = merged([each for each in begun if each.done == each.steps] or begun)
        results.save(out / HISTORY)
        print(f"\n{save(results, out)}", flush=True)


# The command ------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    begun = time.monotonic()
    options = parser().parse_args(arguments)
    deadline = begun + 60 * options.minutes
    try:
        with stop_signals() as signalled:
            return suite(options, deadline, lambda: signalled() or until(deadline)())
    except UserError as error:
        print(f"python -m experiments.accelerator: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the second, which does not wait for the part under way
        return 130


def parser() -> argparse.ArgumentParser:
    # Not tyro, as elsewhere: a machine with an accelerator often has JAX and what goes with it, and no network.
    made = argparse.ArgumentParser(
        prog="python -m experiments.accelerator",
        description="Check the devices against one CPU, measure throughput and optimizers, then train the 13 arms with "
        "as many seeds as there is time for. The same command goes on from where it was stopped.",
    )
    made.add_argument("--work", type=Path, required=True, help="folder for what is needed to go on")
    made.add_argument("--out", type=Path, required=True, help="folder for the results: at most 8 files")
    made.add_argument("--data", type=Path, help="folder that holds cifar-10-batches-bin, or a packed JPEG copy (.npz)")
    made.add_argument("--minutes", type=float, default=math.inf, help="time for this call [no limit]")
    made.add_argument("--seeds", type=int, default=5, help="of every arm, at most [5]")
    made.add_argument("--steps", type=int, help="updates of every run [cifar10 100000, digits 2400]")
    made.add_argument("--batch-size", type=int, help="images in a batch [cifar10 128, digits 24]")
    made.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="tf32",
        help="of matrix products: float32, factors of 24 bits; tf32, rounded to 11 bits on devices that have it, as is "
        "usual there; bfloat16, rounded to 8 bits; sums and weights are float32 always [tf32]",
    )
    made.add_argument("--parameters", type=int, default=100_000_000, help="that the optimizers update [100000000]")
    made.add_argument("--task", choices=[*TASKS], default="cifar10", help="what to train on [cifar10]")
    made.add_argument("--title", help="what the data is called in the results")
    return made


def suite(options: argparse.Namespace, deadline: float, stopped: Callable[[], bool]) -> int:
    """Everything, until `stopped` says so after some part; returns the exit status."""
    if options.parameters < 1:
        raise UsageError(f"--parameters must be 1 or more, got {options.parameters}")
    chosen = {name: getattr(options, name) for name in CHOSEN}
    settings, work, out = settle(Running(**chosen)), options.work, options.out
    with Folder(work, described(settings, options.parameters)):
        prepare(work, out)
        print(HEAD)
        measuring = measure(parts(settings, options.parameters), work, out)
        for _ in itertools.chain(measuring, train(settings, work, out, deadline, stopped)):
            if stopped():
                break
        unfinished = following(blocks_in(work), options.seeds)
    print(f"In {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    if unfinished:
        print("Stopped early: the same command goes on from there.", file=sys.stderr)
        return 130
    return 0 if passed(measured_in(work)) else 1


CHOSEN = ("task", "steps", "seeds", "batch_size", "data", "title", "precision")


def described(settings: Settings, parameters: int) -> dict[str, Any]:
    """What all measurements depend on; the seeds may become more."""
    plan = settings.plan(published(settings.learning_rate, settings.steps)).record()
    del plan["seeds"]
    return {**plan, "parameters": parameters, "device": jax.devices()[0].device_kind, "devices": jax.device_count()}


def prepare(work: Path, out: Path) -> None:
    """**Raises:** `UsageError` where results cannot be written or compared."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / CONFIG, (work / CONFIG).read_text())
    except OSError as error:
        raise UsageError(f"--out must be a folder that can be written, got {out} ({error.strerror})") from None
    try:
        jax.devices("cpu")
    except RuntimeError:
        raise UsageError("JAX_PLATFORMS must include cpu, which the other devices are compared with") from None
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        # The next call compiles the same.
        jax.config.update("jax_compilation_cache_dir", str(work / "compiled"))


if __name__ == "__main__":
    use_all_cores()
    sys.exit(main())
