"""The comparison: a study from options to a folder with its tables, claims and figures."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from experiments.commands.options import Running, folder_of, planned, to_train
from experiments.engine.exact import ExactPlan, compute
from experiments.engine.plan import Plan
from experiments.engine.processes import agreed, by_first
from experiments.engine.run import run
from experiments.engine.signals import stop_signals
from experiments.errors import UsageError, UserError
from experiments.reports.results import Results
from experiments.studies import every_study, save
from experiments.studies.published import PUBLISHED
from experiments.studies.study import Arm, Arms, Study
from experiments.studies.sweep import SWEEP, best, grid

# Far from any that are reported, on which the best rate would be best by luck as well.
SWEEP_SEEDS = (1_000_000_000, 1_000_000_001)


def studies() -> dict[str, Study]:
    """Those that have arms to train, by name."""
    return {name: study for name, study in every_study().items() if study.names}


def about_arms(_: str) -> str:
    return "; ".join(["Arms by name", *(f"or `{name}`, {study.about}" for name, study in studies().items())]) + "."


@dataclass(frozen=True)
class Compare(Running):
    """Train the 13 arms of the comparison in one program: decay, averaging and schedule-free.

    By default it trains on the 8x8 digits that come with scikit-learn, which takes a little more than a minute on two
    CPU cores. It writes tables, figures and a verdict on each published claim. Press Ctrl-C to stop; run the same
    command again to resume.

    Other commands: sweep, range-test, report, evidence and bench. Each has its own --help.
    """

    arms: tuple[str, ...] = field(default=(PUBLISHED.name,), metadata={"about": about_arms})


def compare(options: Compare) -> int:
    """The command; returns its exit status."""
    every = studies()
    study = next((every[name] for name in options.arms if name in every), PUBLISHED)
    names = study.names if options.arms == (study.name,) else options.arms
    if alone := every.keys() & {*names} - {*study.names}:
        raise UsageError(f"--arms must be names of arms, or {min(alone)} alone, got {' '.join(names)}")
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--arms must name one or more arms, each once, got {' '.join(names) or 'none'}")
    if unknown := [name for name in names if name not in study.names]:
        raise UsageError(f"--arms must be {', '.join(every)} or of {', '.join(study.names)}, got {unknown[0]}")
    if study.factors:
        return each_at_its_best(options, study)
    plan = planned(options, study, chosen(study.arms, names), len(names))
    with stop_signals() as stopped:
        return train(plan, folder_of(options, "" if study is PUBLISHED else study.name), options, stopped)[1]


def chosen(arms: Arms, names: Sequence[str]) -> Arms:
    """Those of the names, in their order."""

    def some(rate: float, steps: int) -> list[Arm]:
        by_name = {arm.name: arm for arm in arms(rate, steps)}
        return [by_name[name] for name in names]

    return some


def each_at_its_best(options: Running, study: Study) -> int:
    """Sweeps the rate of every arm in one program, and then trains each at its best, with other seeds."""
    folder, count = folder_of(options, study.name), len(study.names) * len(study.factors)
    plan = to_train(options, study, grid(study.arms, study.names, study.factors), count)
    sweep = replace(plan, study=SWEEP.name, seeds=SWEEP_SEEDS)
    # One watch over both runs, so that a signal at the end of the first is not lost.
    with stop_signals() as stopped:
        swept, status = train(sweep, folder / "sweep", options, stopped)
        if status or agreed(np.asarray(stopped())):
            return 130
        arms = best(sweep.arms, swept)
        if not arms:
            where = folder / "sweep"
            raise UserError(f"every arm has diverged at every rate, see {where}: choose another --learning-rate")
        return train(replace(plan, arms=arms), folder / "best", options, stopped)[1]


def train(plan: Plan | ExactPlan, folder: Path, options: Running, stopped: Callable[[], bool]) -> tuple[Results, int]:
    """Trains, or computes, until the end or a signal, and reports. Returns what was measured, and the exit status."""
    if isinstance(plan, ExactPlan):
        results = compute(plan, folder, stopped)
    else:
        results = run(plan, folder, options.checkpoint_seconds, options.tensorboard, stopped)
    by_first(lambda: print(f"\n{save(results, folder)}\nIn {folder}: report.md, figure.png and more."))
    if plan.ended(results.done, results.history):
        return results, 0
    goes_on = "Stopped: what has been measured is kept, and the same command goes on from there."
    by_first(lambda: print(goes_on, file=sys.stderr))
    return results, 130
