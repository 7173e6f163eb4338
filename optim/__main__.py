"""`python -m optim merge FOLDER --like EXPR`: average checkpoints, to choose the decay of a run after the run."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from optim.merging import merged, reader, weights_of_each, write
from schedules import parse
from schedules.terminal import answered, exit_status


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    return answered("python -m optim", lambda: merge(options))


def merge(options: argparse.Namespace) -> None:
    if options.out and options.out.exists():
        raise ValueError(f"--out must be a new folder, got {options.out}, which exists")
    weights = weights_of_each(
        options.folder,
        like=None if options.like is None else parse(options.like),
        weights=options.weights,
        of=None if options.of is None else parse(options.of),
        updates=options.updates,
    )
    print(told(weights))
    if options.out:
        write(merged(reader(options.folder, options.subtree), weights), options.out)
        print(f"Merged in {options.out}")


def told(weights: Mapping[int, float]) -> str:
    """A table of the weight of each checkpoint, and the effective number of checkpoints averaged."""
    rows = [f"{'updates':>11}  {'weight':>9}", *(f"{at:>11,}  {w:>9.6f}" for at, w in weights.items() if w)]
    used, effective = len(rows) - 1, 1 / np.sum(np.square([*weights.values()]))
    rows.append(f"checkpoints with a weight: {used} of {len(weights)}; effective number averaged: {effective:.1f}")
    return "\n".join(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m optim")
    commands = parser.add_subparsers(required=True, metavar="merge")
    merging = commands.add_parser(
        "merge",
        help="average the checkpoints of a run so that it imitates a decay",
        description="Average the checkpoints of a run so that the result imitates a decay of its learning rate.",
        epilog='Example: python -m optim merge run/checkpoints --like "wsd(3e-4, 0, 8000, 2000)" --out merged',
    )
    merging.add_argument("folder", type=Path, help="Orbax checkpoints, in folders named by their step")
    merging.add_argument("--like", metavar="EXPR", help='the schedule to imitate, such as "wsd(3e-4, 0, 8000, 2000)"')
    merging.add_argument("--of", metavar="EXPR", help="the schedule that the run used [--like without its decay]")
    merging.add_argument("--weights", type=float, nargs="+", help="one weight per checkpoint, instead of --like")
    merging.add_argument("--updates", type=int, help="the step of the last checkpoint to use [the latest]")
    merging.add_argument(
        "--subtree", default="", metavar="PATH", help="where the parameters are in a checkpoint, such as state/params"
    )
    merging.add_argument(
        "--out", type=Path, help="a new folder for the average; without it, only the weights are printed"
    )
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main))
