"""`python -m optim merge FOLDER --like EXPR`: the decay of a run chosen after it, from its checkpoints."""

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
        description="Averages the checkpoints of a run so that it imitates a decay of its rate: without another run.",
        epilog='Example: python -m optim merge run/checkpoints --like "wsd(3e-4, 0, 8000, 2000)" --out merged',
    )
    merging.add_argument("folder", type=Path, help="Orbax checkpoints named by their updates, as CheckpointManager's")
    merging.add_argument("--like", metavar="EXPR", help="the schedule to imitate")
    merging.add_argument("--of", metavar="EXPR", help="that of the run, by default --like without its decay")
    merging.add_argument("--weights", type=float, nargs="+", help="of each checkpoint, in the place of --like")
    merging.add_argument("--updates", type=int, help="of the checkpoint to end with, by default the last")
    merging.add_argument(
        "--subtree", default="", metavar="PATH", help="of the parameters in a checkpoint: state/params"
    )
    merging.add_argument("--out", type=Path, help="a new folder for the merged parameters; without it, see the weights")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main))
