"""`python -m schedules EXPR --steps N`: what a schedule does, in words, as warnings and as a picture.

`python -m schedules list` names them all, and `python -m schedules advise` says which one a run may want.
"""

import argparse
import inspect
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from schedules import check, describe, parse, plot
from schedules.formula import FORMULAS
from schedules.terminal import answered, exit_status


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    words = sys.argv[1:] if arguments is None else [*arguments]
    if words[:1] == ["advise"]:
        from theory.command import main as advise  # which needs more than schedules do

        return advise(words[1:])
    options = _parser().parse_args(words)
    if options.expression == ["list"]:
        print(vocabulary())
        return 0
    return answered("python -m schedules", lambda: tell(options))


def tell(options: argparse.Namespace) -> None:
    """Describes, checks and draws schedules."""
    if options.steps is None:
        raise ValueError("--steps must say how many updates the run has")
    schedules = {text: parse(text) for text in options.expression}
    for schedule in schedules.values():
        print(describe(schedule, options.steps))
        print("".join(f"! {remark}\n" for remark in check(schedule, options.steps)))
    if options.plot:
        figure = plot(schedules, options.steps).get_figure(root=True)
        assert figure is not None
        file = options.plot if Path(options.plot).suffix else f"{options.plot}.png"
        figure.savefig(file, dpi=150)
        print(f"Plotted in {file}")


def vocabulary() -> str:
    """Every schedule there is, file by file, with the first line of its documentation."""
    lines: list[str] = []
    for room, members in itertools.groupby(FORMULAS.values(), key=lambda formula: formula.__module__):
        lines += ["", room.rpartition(".")[-1]]
        for formula in members:
            summary = (inspect.getdoc(formula) or "").split("\n")[0]
            lines += [f"  {formula.usage}", f"      {summary}"]
    return "\n".join(lines[1:])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m schedules",
        description="Describes learning-rate schedules: phases, values, a sketch, and what is odd about them.",
        epilog='Example: python -m schedules "warmup(cosine(3e-4, 0, 9000), 1000)" --steps 10000 --plot lr.png',
    )
    parser.add_argument(
        "expression",
        nargs="+",
        help='one schedule or more, of names, numbers, lists, keywords, + and *; or "list" for the names; or "advise", '
        "a command of its own",
    )
    parser.add_argument("--steps", type=int, help="how many updates the run has")
    parser.add_argument("--plot", metavar="FILE", help="also draw them, in one picture (png, svg, pdf)")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main))
