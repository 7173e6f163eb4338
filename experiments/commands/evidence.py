"""How well theory predicts runs that were trained: reports, figures and numbers."""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from matplotlib import style

from experiments.errors import UsageError
from experiments.evidence import every_evidence
from experiments.files import write_text
from experiments.reports.output import new_report, save_figure

NUMBERS = "numbers.json"


@dataclass(frozen=True)
class Show:
    """Compare what theory says of schedules with runs that were trained, here and elsewhere.

    Writes a report, its figures and its numbers to a folder for each question.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Questions by name; a wrong name lists them. [all of them]"""
    out: Path = Path("runs/evidence")
    """The folder for the results."""


def show(options: Show) -> int:
    """The command; returns its exit status."""
    every = every_evidence()
    if unknown := [name for name in options.names if name not in every]:
        raise UsageError(f"evidence must be of {', '.join(every)}, got {unknown[0]}")
    for name in options.names or every:
        folder = options.out / name
        new_report(folder, NUMBERS)
        with style.context("default"):
            answer = every[name].measure()
            text = f"# {every[name].question}\n\n{answer.text.rstrip()}\n"
            write_text(folder / NUMBERS, json.dumps(answer.numbers, indent=1) + "\n")
            write_text(folder / "report.md", text)
            for file, figure in answer.figures.items():
                save_figure(figure, folder / file)
        print(f"{text}\nIn {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}\n")
    return 0
