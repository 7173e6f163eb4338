"""How the cost of training grows with arms, seeds, width and batch, and what is added to the updates."""

import functools
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from experiments.bench.elsewhere import alone
from experiments.bench.measurement import in_turn, short
from experiments.bench.plans import little
from experiments.bench.throughput import Trainee, one_program, took
from experiments.engine.folder import Folder
from experiments.engine.machine import machine
from experiments.engine.program import Program
from experiments.engine.train import unmeasured
from experiments.reports.figure import titled
from experiments.reports.question import Answer, Question
from experiments.reports.text import markdown
from experiments.studies import save
from experiments.studies.published import BLUE, PUBLISHED, decayed_adam
from experiments.studies.study import Arm
from experiments.tasks.cifar10 import SMALL
from experiments.tasks.vision_transformer import TinyViT
from schedules import constant

BASE: Mapping[str, int] = {"arms": 13, "seeds": 1, "width": 64, "batch": 64}  # the settings of `cifar10-small`
AXES: Mapping[str, Sequence[int]] = {
    "arms": (1, 4, 13, 26, 52),
    "seeds": (1, 2, 4),
    "width": (16, 32, 64, 128, 256),
    "batch": (16, 32, 64, 128, 256),
}
STEPS, EVERY = 20_000, 60.0  # updates of a run of `cifar10-small`, and seconds between two checkpoints
SECONDS, ROUNDS = 1.0, 7


def measured(arms: int, seeds: int, width: int, batch: int) -> dict[str, float]:
    """The cost of arms that differ in their constant rate. To be called in a process of its own, for its memory."""
    rates = {f"{i}": constant(1e-3 * (1 + i / arms)) for i in range(arms)}
    same = [Arm(name, decayed_adam, {"learning_rate": lr, "b1": 0.9}, STEPS) for name, lr in rates.items()]
    assert isinstance(SMALL.model, TinyViT)
    model = replace(SMALL.model, features=width)
    before = time.perf_counter()
    trainee = one_program(little(model, batch, STEPS, same), [*rates], seeds, "float32")
    took(trainee.advance, 1)
    compiling = time.perf_counter() - before
    return {"rate": median_rate(trainee), "compile": compiling - took(trainee.advance, 1), "memory": peak_memory()}


def median_rate(trainee: Trainee) -> float:
    """Arm-updates per second."""
    rounds = max(1, round(SECONDS / took(trainee.advance, 1)))
    return float(np.median([trainee.work * rounds / took(trainee.advance, rounds) for _ in range(ROUNDS)]))


def peak_memory() -> float:
    """Megabytes that this process has had at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def additions() -> dict[str, float]:
    """Seconds of what happens between the updates of the 13 published arms, and of 100 updates."""
    plan = replace(little(SMALL.model, SMALL.batch_size, STEPS), study=PUBLISHED.name, title="zeros")
    images, labels = np.zeros((10_000, 32, 32, 3), np.uint8), np.zeros(10_000, np.int32)
    program = Program(replace(plan, data=plan.data._replace(valid_images=images, valid_labels=labels)))
    runs, rng = program.start(), np.random.default_rng(0)
    history = jax.tree.map(lambda a: a if a.ndim == 1 else rng.random(a.shape, np.float32), unmeasured(plan))
    results = plan.results(STEPS, history)

    def updates() -> None:
        nonlocal runs
        runs, _ = program.advance(runs, 0, 100)

    def validation() -> None:
        nonlocal runs
        runs, *_ = program.validate(runs)

    with tempfile.TemporaryDirectory() as path, Folder(Path(path), plan.record()) as folder:
        saved = iter(range(1, ROUNDS + 2))

        def checkpoint() -> None:
            folder.checkpoint(next(saved), {"runs": program.save(runs), "history": history}, results)

        return {
            "updates": seconds(updates),
            "validation": seconds(validation),
            "checkpoint": seconds(checkpoint),
            "report": seconds(lambda: save(results, Path(path))),
        }


def seconds(function: Callable[[], object]) -> float:
    """The median, after a call that compiles."""
    return float(np.median(in_turn(function, rounds=ROUNDS)))


def measurements() -> dict[str, Any]:
    """All of them, each in a process of its own."""
    found: dict[tuple[int, ...], dict[str, float]] = {}
    grown: dict[str, dict[str, dict[str, float]]] = {axis: {} for axis in AXES}
    for axis, values in AXES.items():
        for value in values:
            settings = {**BASE, axis: value}
            key = tuple(settings.values())
            found[key] = found.get(key) or alone(functools.partial(measured, **settings))
            grown[axis][str(value)] = found[key]
    return {"base": dict(BASE), "grown": grown, "added": alone(additions), "memory of the machine": machine_memory()}


def machine_memory() -> float:
    """Megabytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6


def drawn(grown: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    figure = titled("Arm-updates per second on the cores of this machine")
    figure.set_size_inches(9, 2.8)
    for ax, (axis, measured) in zip(figure.subplots(1, len(grown), sharey=True), grown.items(), strict=True):
        values, rates = [*map(int, measured)], [each["rate"] for each in measured.values()]
        ax.plot(values, rates, "o-", color=BLUE)
        ax.plot(BASE[axis], measured[str(BASE[axis])]["rate"], "o", color=BLUE, markersize=11, fillstyle="none")
        ax.set(xscale="log", yscale="log", xlabel=axis)
        ax.set_xticks(values, [*measured])
        ax.set_xticks([], minor=True)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:,.0f}")
        ax.yaxis.set_minor_locator(NullLocator())
        ax.grid(axis="y", color="#e5e5e5")
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def report(numbers: Mapping[str, Any]) -> str:
    grown, added = numbers["grown"], numbers["added"]
    rows = [["", "", "arm-updates/s", "updates/s of all", "compile, s", "peak memory, MB"]]
    for axis, of_values in grown.items():
        for value, each in of_values.items():
            settings = {**numbers["base"], axis: int(value)}
            together = each["rate"] / settings["arms"] / settings["seeds"]
            cells = (short(each["rate"]), short(together), f"{each['compile']:.0f}", f"{each['memory']:,.0f}")
            rows.append([axis, value, *cells])
    update = added["updates"] / 100
    times = {
        "20 validations on 10,000 images": 20 * added["validation"],
        "a checkpoint every minute": added["checkpoint"] * STEPS * update / EVERY,
        "the report": added["report"],
    }
    extra = [["", "seconds", "of the updates"], [f"{STEPS:,} updates of 13 arms", f"{STEPS * update:,.0f}", ""]]
    extra += [[name, f"{each:,.1f}", f"{each / (STEPS * update):.2%}"] for name, each in times.items()]
    few, many = grown["arms"]["13"], grown["arms"]["52"]
    per_arm = (many["memory"] - few["memory"]) / (52 - 13)
    left = (numbers["memory of the machine"] - many["memory"]) / per_arm
    return f"""\
Arms with Adam, which differ in their rates, on a vision transformer like that of `cifar10-small`: 13 arms, one seed,
width 64 and batches of 64 images, except for what a row says. Each row was measured in a process of its own. A run
compiles once, and not again if JAX keeps compiled programs (`JAX_COMPILATION_CACHE_DIR`).

![Arm-updates per second over arms, seeds, width and batch; a ring marks the settings of the other panels](growth.png)

{markdown(rows)}

**Where it ends:** time is the limit on this machine, and not memory. With 52 arms, {STEPS:,} updates take
{STEPS * 52 / many["rate"] / 3600:.1f} hours. Each further arm takes {per_arm:.1f} MB, so about {left + 52:,.0f} arms
would fill the {numbers["memory of the machine"] / 1e3:.0f} GB of memory.

## What is added to the updates

{markdown(extra)}"""


def measure() -> Answer:
    numbers = measurements()
    return Answer(report(numbers), {**numbers, **machine()}, {"growth.png": drawn(numbers["grown"])})


GROWTH = Question("growth", "How does the cost of training grow?", measure)
