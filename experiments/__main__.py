"""`python -m experiments`: the comparison; `sweep`, `range-test`, `report` and `bench` are its other commands."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

try:
    import tyro

    from experiments.bench import Bench, bench
    from experiments.compare import Compare, compare
    from experiments.devices import use_all_cores
    from experiments.errors import UsageError, UserError
    from experiments.files import write_text
    from experiments.range_test import Range, find_range
    from experiments.report import new_report, save
    from experiments.results import Results, merged
    from experiments.sweep import Sweep, sweep
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] in ("", "experiments", "optim", "schedules"):
        raise
    told = f"{error.name} is needed and not installed: pip install 'pure-schedules[experiments]'"
    sys.exit(f"python -m experiments: {told}")


@dataclass(frozen=True)
class Report:
    """Remake the tables, figures and claims of a run from its saved history, without training.

    Several runs are merged, of other seeds or of other arms, and their report goes to --out, with runs.json: the
    config.json of each.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """The folders of the runs, or their history.npz."""
    out: Path | None = None
    """The folder for the report, not a run's. [that of the run, if it is one]"""


def report(options: Report) -> int:
    from experiments.folder import CONFIG, HISTORY

    if not options.folders:
        raise UsageError("report needs the folder of one run or more")
    if len(options.folders) > 1 and not options.out:
        raise UsageError("--out must be a folder for the report of several runs, got none")
    files = [path / HISTORY if path.is_dir() else path for path in options.folders]
    results = merged([Results.load(file) for file in files])
    out = options.out or files[0].parent
    if options.out:
        new_report(out)
        results.save(out / HISTORY)
        configs = [json.loads(c.read_text()) for file in files if (c := file.with_name(CONFIG)).exists()]
        write_text(out / "runs.json", json.dumps(configs, indent=1) + "\n")
    print(save(results, out))
    return 0


# By the first word of the command line; without one of these it is the comparison.
COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "sweep": (Sweep, sweep),
    "range-test": (Range, find_range),
    "report": (Report, report),
    "bench": (Bench, bench),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words.pop(0) if words[:1] and words[0] in COMMANDS else ""
    options, command = COMMANDS.get(name, (Compare, compare))
    try:
        prog = f"python -m experiments {name}".strip()
        return command(tyro.cli(options, prog=prog, args=words, config=(tyro.conf.DisallowNone,)))
    except UserError as error:
        print(f"python -m experiments: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # outside training, which stops in order
        return 130


if __name__ == "__main__":
    use_all_cores()
    sys.exit(main())
