"""Tables, figures and claims again, from saved histories."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from experiments.engine.folder import CONFIG, HISTORY
from experiments.errors import UsageError, UserError, reason, require_printable
from experiments.files import read_json, write_text
from experiments.reports.output import new_report
from experiments.reports.results import Results, merged
from experiments.studies import save

RUNS = "runs.json"


@dataclass(frozen=True)
class Report:
    """Rebuild the tables, figures and claims of a run from its saved history, without training.

    Several runs, with different seeds or different arms, are merged into one report in --out. Their config.json files
    are collected there in runs.json.
    """

    folders: tyro.conf.Positional[tuple[Path, ...]] = ()
    """The folders of the runs, or their history.npz."""
    out: Path | None = None
    """The folder for the report. [the folder of the run, if there is one run]"""


def report(options: Report) -> int:
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
    runs = sorted(str(file.parent) for file in folder.glob(f"*/{HISTORY}"))
    if runs and not (folder / HISTORY).exists():
        raise UserError(f"{folder} holds no run itself, but others in it do: name {' or '.join(runs)}")
    return folder / HISTORY


def _configs_beside(history: Path) -> list[Any]:
    """That of the run, or of those that were merged."""
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
