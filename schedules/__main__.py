"""`python -m schedules EXPR --steps N` describes a schedule in words, warnings and a picture.

Several expressions give one table and one picture. Averages of `optim`, such as `ema(0.99)`, work as well.
`python -m schedules list` names everything; `python -m schedules advise` recommends a schedule for a run.
"""

import argparse
import importlib
import inspect
import re
import string
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from schedules import Schedule, check, describe, parse, plot
from schedules.drawing import told_apart
from schedules.formula import FORMULAS, SHORTHANDS, usage
from schedules.inspection import sketch_together
from schedules.terminal import answered, exit_status


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    words = sys.argv[1:] if arguments is None else [*arguments]
    if words[:1] == ["advise"]:
        from theory.command import main as advise  # which needs more than schedules do

        return advise(words[1:])
    # To argparse, what begins with a dash is an option, but for what has a space in it.
    options = _parser().parse_args([f" {word}" if re.match(r"-[\w.(]+[^\w]", word) else word for word in words])
    importlib.import_module("optim")  # whose averages `parse` then knows
    if options.expression == ["list"]:
        print(vocabulary())
        return 0
    return answered("python -m schedules", lambda: tell(options))


def tell(options: argparse.Namespace) -> None:
    """Describes, checks and draws schedules."""
    if options.steps is None:
        raise ValueError("--steps must be the number of updates of the run, got none")
    schedules = {text: parse(text) for text in map(str.strip, options.expression)}
    (first, *others) = schedules.values()
    print(compared(schedules, options.steps) if others else told(first, options.steps))
    if options.plot:
        figure = plot(schedules, options.steps).get_figure(root=True)
        assert figure is not None
        file = options.plot if Path(options.plot).suffix else f"{options.plot}.png"
        figure.savefig(file, dpi=150)
        print(f"Plotted in {file}")


def told(schedule: Schedule, steps: int) -> str:
    """The description of one schedule, and its warnings."""
    return "\n".join([str(describe(schedule, steps)), *(f"! {remark}" for remark in check(schedule, steps)), ""])


def compared(schedules: Mapping[str, Schedule], steps: int) -> str:
    """Several schedules in one table and one sketch, and the warnings of each."""
    letters = dict(zip(string.ascii_letters, schedules.values(), strict=False))
    if len(letters) < len(schedules):
        raise ValueError(f"at most {len(letters)} schedules can be compared, got {len(schedules)}")
    remarks = {letter: check(schedule, steps) for letter, schedule in letters.items()}
    table = [["", "schedule", "first", "peak", "at step", "last", "area"]]
    for (letter, schedule), text in zip(letters.items(), told_apart([*schedules], 60), strict=True):
        found = describe(schedule, steps)
        numbers = [f"{value:.4g}" for value in (found.first, found.peak, found.last, found.area)]
        numbers.insert(2, f"{found.peak_step:,}")
        table.append([f"{letter} {'!' if remarks[letter] else ' '}", text, *numbers])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    line = "  ".join(f"{{:{'<>'[column > 1]}{width}}}" for column, width in enumerate(widths))
    said = [f"! {letter}: {remark}" for letter, those in remarks.items() for remark in those]
    return "\n".join(
        [*(line.format(*row) for row in table), "", sketch_together(letters, steps), "", *said, *[""] * bool(said)]
    )


def vocabulary() -> str:
    """Every schedule there is, file by file, with the first line of its documentation."""
    rooms: dict[str, list[str]] = defaultdict(list)
    functions: list[Callable[..., Any]] = [*FORMULAS.values(), *SHORTHANDS.values()]
    for function in functions:
        summary = (inspect.getdoc(function) or "").split("\n")[0]
        rooms[function.__module__.removeprefix("schedules.")] += [f"  {usage(function)}", f"      {summary}"]
    return "\n\n".join("\n".join([room, *lines]) for room, lines in rooms.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m schedules",
        description="Describe learning-rate schedules: their phases and values, a sketch, and warnings.",
        epilog='Example: python -m schedules "warmup(cosine(3e-4, 0, 9000), 1000)" --steps 10000 --plot lr.png',
    )
    parser.add_argument(
        "expression",
        nargs="+",
        help='one or more schedules, such as "warmup(cosine(3e-4, 0, 9000), 1000)"; several are compared in one table. '
        '"list" names every schedule; "advise" recommends one (see "advise --help")',
    )
    parser.add_argument("--steps", type=int, help="the number of updates of the run")
    parser.add_argument("--plot", metavar="FILE", help="also draw them in one picture (png, svg or pdf)")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main))
