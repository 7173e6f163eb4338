"""The commands that answer questions by measuring: `evidence` and `bench`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from matplotlib import style

from experiments.declared import declared
from experiments.engine.devices import require_cache, require_devices
from experiments.engine.machine import installed
from experiments.errors import UsageError
from experiments.files import write_text
from experiments.reports.output import new_report, save_figure
from experiments.reports.question import Question

NUMBERS = "numbers.json"


@dataclass(frozen=True)
class Evidence:
    """Compare what theory says of schedules with runs that were trained, here and elsewhere.

    Writes a report, its figures and its numbers to a folder for each question.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Questions by name; a wrong name lists them. [all of them]"""
    out: Path = Path("runs/evidence")
    """The folder for the results."""


@dataclass(frozen=True)
class Bench:
    """Measure what schedules, optimizers and training cost, as ratios within one run.

    Writes a report and its numbers to a folder for each question. Use a machine that does nothing else: a minute or two
    for each question, ten for `engine`, and twenty for `growth`.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Questions by name; a wrong name lists them. [all of them]"""
    out: Path = Path("runs/bench")
    """The folder for the results."""


def evidence(options: Evidence) -> int:
    """The command; returns its exit status."""
    return answer("evidence", options.names, options.out)


def bench(options: Bench) -> int:
    """The command; returns its exit status."""
    require_devices()
    require_cache()
    return answer("bench", options.names, options.out)


def answer(package: str, names: Sequence[str], out: Path) -> int:
    """Answers the questions that the files of a package declare: those with `names`, or all of them that can be
    answered with what is installed."""
    every = declared(f"experiments.{package}", Question)
    if unknown := [name for name in names if name not in every]:
        raise UsageError(f"{package} must be of {', '.join(every)}, got {unknown[0]}")
    lacking = {name: found.needs for name, found in every.items() if found.needs and not installed(found.needs)}
    for name in names or every:
        if name in lacking:
            install = f"{name} needs a package that is not installed: pip install {lacking[name]}"
            if names:
                raise UsageError(install)
            print(f"Skipped: {install}")
            continue
        folder = out / name
        new_report(folder, NUMBERS)
        with style.context("default"):
            found = every[name].measure()
            text = f"# {every[name].asks}\n\n{found.text.rstrip()}\n"
            write_text(folder / NUMBERS, json.dumps(found.numbers, indent=1) + "\n")
            write_text(folder / "report.md", text)
            for file, figure in found.figures.items():
                save_figure(figure, folder / file)
        print(f"{text}\nIn {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}\n")
    return 0
