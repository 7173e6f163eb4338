"""Sections of a report: functions from results to a table or a sentence, or to an empty text."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.reports.results import Results, one_rate
from experiments.reports.text import counted, markdown, spread

QUARTERS = (25, 50, 75, 100)
Measure = Callable[[str, int], np.ndarray]


def heading(results: Results) -> str:
    done = f"{results.done:,} of " if results.done < results.steps else ""
    return heading_of(results.title, f"{done}{results.steps:,} updates", results.sample)


def heading_of(title: str, length: str, sample: str) -> str:
    return f"{title}: {length}, {sample}"


def measures(results: Results) -> dict[str, Measure]:
    """The measures by name: functions of an arm and a percentage of the run, with one number for each seed."""
    if results.exact:
        return {results.named("training"): results.train_loss}
    return {
        "training loss": results.train_loss,
        "validation loss": results.valid_loss,
        "validation accuracy": lambda arm, percent: 100 * results.valid_accuracy(arm, percent),
    }


def table(results: Results) -> str:
    """A Markdown table of the losses at the end of each arm, with mean and standard error over the seeds."""
    rates = not one_rate(results)
    rows: list[Sequence[str]] = [("arm", *["peak rate"] * rates, "updates", *measures(results))]
    for arm in results.arms:
        cells = [cell(name, measure(arm, 100)) for name, measure in measures(results).items()]
        rows.append((arm, *[f"{results.arms[arm].rate:.3g}"] * rates, f"{results.end(arm):,}", *cells))
    return f"{markdown(rows)}\n\n{_read(results)}"


def _read(results: Results) -> str:
    """A sentence on how the losses of the table are measured."""
    window = results.window * results.every
    if results.exact:
        return f"Expected losses before the last {counted(window, 'update')}, computed exactly, without sampling."
    return (
        f"A training loss is the mean over the last {window:,} updates of an arm, or over its last fifth if that is "
        "shorter, measured before each update. ± is the standard error over seeds."
    )


def courses(results: Results) -> str:
    """A table of each measure at the quarters of the run, for the arms that were trained that far."""
    return "\n\n".join(f"## {name.capitalize()}\n\n{_course(results, name)}" for name in measures(results))


def _course(results: Results, name: str) -> str:
    measure = measures(results)[name]
    rows: list[Sequence[str]] = [("arm", *(f"at {quarter} %" for quarter in QUARTERS))]
    for arm in results.arms:
        reached = [quarter for quarter in QUARTERS if results.reaches(arm, quarter)]
        cells = [cell(name, measure(arm, quarter)) for quarter in reached]
        rows.append((arm, *cells, *["-"] * (len(QUARTERS) - len(reached))))
    return markdown(rows)


def numbers(results: Results) -> dict[str, dict[str, Any]]:
    """The numbers behind the tables, by arm and measure: of all seeds, at each quarter that the arm reached. With the
    fields of the arm, if it has any."""
    return {
        arm: {
            **({"fields": dict(trained.fields)} if trained.fields else {}),
            **{
                name: [[_finite(v) for v in measure(arm, q)] for q in QUARTERS if results.reaches(arm, q)]
                for name, measure in measures(results).items()
            },
        }
        for arm, trained in results.arms.items()
    }


def diverged(results: Results) -> str:
    """A sentence about the runs whose loss became infinite or NaN, if there are any."""
    lost = {arm: count for arm in results.arms if (count := results.diverged(arm))}
    seeds = len(results.seeds)
    said = ", ".join(f"{arm} ({count} of {counted(seeds, 'seed')})" for arm, count in lost.items())
    return f"DIVERGED: {said}. Draw no conclusions from their numbers." if lost else ""


def changes(results: Results) -> str:
    """A sentence for each time the run was resumed on another machine or with other versions."""
    return "\n\n".join(results.changes)


def cell(measure: str, values: np.ndarray) -> str:
    if np.isnan(values).all():
        return "-"
    return spread(values, 1, " %") if measure.endswith("accuracy") else spread(values, 3)


def _finite(value: float) -> float | None:
    return float(f"{value:.7g}") if np.isfinite(value) else None
