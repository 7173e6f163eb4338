"""`python -m experiments`: the comparison; `sweep`, `range-test`, `report` and `bench` are its other commands."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

try:
    import tyro

    from experiments.bench import Bench, bench
    from experiments.compare import Compare, compare
    from experiments.devices import use_all_cores
    from experiments.errors import UsageError, UserError, answered, reason, require_printable
    from experiments.files import read_json, write_text
    from experiments.range_test import Range, find_range
    from experiments.report import new_report, save
    from experiments.results import Results, merged
    from experiments.sweep import Sweep, sweep
    from schedules.terminal import exit_status
except ModuleNotFoundError as error:
    if error.name == "experiments":  # as for `python experiments`
        sys.exit("python -m experiments: run it so, in the folder of the repository")
    if (error.name or "").partition(".")[0] in ("", "experiments", "optim", "schedules"):
        raise
    told = f"{error.name} is needed and not installed: pip install 'pure-schedules[experiments]'"
    sys.exit(f"python -m experiments: {told}")
except ValueError as error:  # of a variable that a library reads when it is imported
    sys.exit(f"python -m experiments: an environment variable cannot be used ({str(error).partition('; ')[0]})")
except KeyboardInterrupt:
    sys.exit(130)


RUNS = "runs.json"


@dataclass(frozen=True)
class Report:
    """Remake the tables, figures and claims of a run from its saved history, without training.

    Several runs are merged, of other seeds or of other arms, and their report goes to --out, with runs.json: the
    config.json of each.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """The folders of the runs, or their history.npz."""
    out: Path | None = None
    """The folder for the report, not a run's. [that of the run, if it is one]"""


def report(options: Report) -> int:
    from experiments.folder import HISTORY

    if not options.folders:
        raise UsageError("report needs the folder of one run or more")
    if len(options.folders) > 1 and not options.out:
        raise UsageError("--out must be a folder for the report of several runs, got none")
    require_printable("out", str(options.out or ""), 1000)
    files = [_history_of(path) if path.is_dir() else path for path in options.folders]
    results = merged([Results.load(file) for file in files])
    out = options.out or files[0].parent
    if options.out:
        if out.resolve() in [file.parent.resolve() for file in files]:
            raise UsageError(f"--out must be another folder than those that are read, got {out}")
        new_report(out, HISTORY)
        results.save(out / HISTORY)
        configs = [config for file in files for config in _configs_beside(file)]
        write_text(out / RUNS, json.dumps(configs, indent=1) + "\n")
    elif files[0].name != HISTORY:
        raise UsageError(f"--out must be a folder for the report of a file that is not {HISTORY}, got none")
    print(save(results, out))
    return 0


def _history_of(folder: Path) -> Path:
    from experiments.folder import HISTORY

    runs = sorted(str(file.parent) for file in folder.glob(f"*/{HISTORY}"))
    if runs and not (folder / HISTORY).exists():
        raise UserError(f"{folder} holds no run itself, but others in it do: name {' or '.join(runs)}")
    return folder / HISTORY


def _configs_beside(history: Path) -> list[Any]:
    """That of the run, or of those that were merged."""
    from experiments.folder import CONFIG

    several, one = history.with_name(RUNS), history.with_name(CONFIG)
    return _config_in(several, list) if several.exists() else [_config_in(one, dict)] if one.exists() else []


def _config_in(path: Path, kind: type) -> Any:
    try:
        read = read_json(path)
        if not isinstance(read, kind):
            raise ValueError("not what a run wrote")
        return read
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as the configuration of a run ({reason(error)})") from None


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
    prog = f"python -m experiments {name}".strip()
    config = (tyro.conf.DisallowNone,)

    def run() -> int:
        _require_once(options, words)
        return command(tyro.cli(without_none(options), prog=prog, args=words, config=config))

    return answered("python -m experiments", run)


def _require_once(options: type, words: Sequence[str]) -> None:
    """**Raises:** `UsageError` for a list that is given twice, of which only the last would count."""
    given = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    lists = [f"--{field.name.replace('_', '-')}" for field in fields(options) if isinstance(field.default, tuple)]
    if twice := [option for option in lists if given.count(option) > 1]:
        raise UsageError(f"{twice[0]} must be given once, with all its values, got it {given.count(twice[0])} times")


def without_none(options: type) -> type:
    """`options` whose help calls no None a default: what is done without an option is told in [brackets]."""
    untold = tyro.conf.arg(help_behavior_hint="")
    absent = [
        (field.name, Annotated[field.type, untold], field.default)
        for field in fields(options)
        if field.default in (None, ())
    ]
    return make_dataclass(
        options.__name__, absent, bases=(options,), namespace={"__doc__": options.__doc__}, frozen=True
    )


if __name__ == "__main__":
    use_all_cores()
    sys.exit(exit_status(main))
