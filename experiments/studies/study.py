"""Declares what a study is: arms to train, questions about them, and the report with the answers."""

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optax
from matplotlib import style
from matplotlib.figure import Figure

from experiments.errors import UserError, reason_in
from experiments.files import write_text
from experiments.reports.claims import NO_CLAIMS, Claims, as_json, conclusions, judged, parts
from experiments.reports.figure import LOOKS, Look, Panel, plot
from experiments.reports.output import save_figure
from experiments.reports.results import Field, Results
from experiments.reports.tables import changes, courses, diverged, heading, numbers, table
from schedules import as_schedule, tabulate

Optimizer = Callable[..., optax.GradientTransformationExtraArgs]
Section = Callable[[Results], str]

# By optimizer: its counterpart with SGD as the base optimizer, as arguments of `Quadratic.expected_loss`.
_WITH_SGD: dict[Optimizer, Callable[..., Mapping[str, Any]]] = {}


def with_sgd(counterpart: Callable[..., Mapping[str, Any]]) -> Callable[[Optimizer], Optimizer]:
    """Declares the counterpart of an optimizer with SGD as the base, for tasks on which losses are computed exactly.

    **Arguments:** `counterpart`: a function from the hyperparameters of the optimizer, with the same names, to
    arguments of `Quadratic.expected_loss`.
    """

    def declare(optimizer: Optimizer) -> Optimizer:
        _WITH_SGD[optimizer] = counterpart
        return optimizer

    return declare


@dataclass(frozen=True)
class Arm:
    """One way to train: `optimizer(**hyperparameters)`, evaluated at its average if it keeps one.

    Arms with the same optimizer (a module-level function) and the same names of hyperparameters share their compiled
    code, and differ only in numbers. Losses count up to `horizon` updates, where the schedule ends. `look`: how to draw
    it, or None for any line; `fields`: what else to record about it, see `Trained`.
    """

    name: str
    optimizer: Optimizer
    hyperparameters: Mapping[str, Any]  # schedules; numbers become constant schedules
    horizon: int
    look: Look | None = None
    fields: Mapping[str, Field] = field(default_factory=dict)

    def __post_init__(self) -> None:
        schedules = {name: as_schedule(given) for name, given in self.hyperparameters.items()}
        object.__setattr__(self, "hyperparameters", schedules)

    @property
    def peak_rate(self) -> float:
        """The highest learning rate of its updates."""
        return float(np.max(tabulate(self.hyperparameters["learning_rate"], self.horizon)))

    @property
    def with_sgd(self) -> Mapping[str, Any] | None:
        """Arguments of `Quadratic.expected_loss`; None if its optimizer has no counterpart with SGD."""
        counterpart = _WITH_SGD.get(self.optimizer)
        return counterpart(**self.hyperparameters) if counterpart else None

    def record(self) -> dict[str, Any]:
        """What was trained, as JSON."""
        numbers = {name: repr(schedule) for name, schedule in self.hyperparameters.items()}
        fields = {"fields": dict(self.fields)} if self.fields else {}
        return {"optimizer": self.optimizer.__name__, **numbers, "horizon": self.horizon, **fields}


Arms = Callable[[float, int], Sequence[Arm]]


def no_arms(rate: float, steps: int) -> Sequence[Arm]:
    return ()


def curves(study: "Study", results: Results) -> dict[str, Figure]:
    """A figure of the panels and of where the arms end, for each kind of loss."""
    looks, files = study.looks(results.arms), {"training": "figure.png", "validation": "validation.png"}
    return {files[of]: plot(results, study.panels, looks, of) for of in results.losses}


@dataclass(frozen=True)
class Study:
    """Everything about a comparison, in one place.

    `about`: its description in --help; `arms`: a function from the peak rate and the number of updates to the
    arms, none if the study reports on arms of others; `factors`: multiples of the rate to sweep, so that each arm is
    trained at its best (without them, all arms use the same rate); `panels`: the curves in its figures; `figures`:
    draws the figures, by the names of their files; `sections` and `details`: of the report, before and after the
    claims.
    """

    name: str
    about: str = ""
    arms: Arms = no_arms
    factors: tuple[float, ...] = ()
    panels: tuple[Panel, ...] = ()
    claims: Claims = NO_CLAIMS
    sections: tuple[Section, ...] = (table, changes, diverged)
    details: tuple[Section, ...] = (courses,)
    figures: Callable[["Study", Results], Mapping[str, Figure]] = curves

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The names of its arms, which are the same for every rate and length."""
        return tuple(arm.name for arm in self.arms(1.0, 100))

    def looks(self, names: Iterable[str]) -> dict[str, Look]:
        """How to draw arms: by their own look, or by the next one of `LOOKS`."""
        declared, others = {arm.name: arm.look for arm in self.arms(1.0, 100)}, itertools.cycle(LOOKS)
        return {name: declared.get(name) or next(others) for name in names}

    def save(self, results: Results, folder: Path) -> str:
        """Writes report.md, results.json and the figures, and returns the text to print at the end of a run.

        **Raises:** `UserError` if they cannot be written.
        """
        try:
            # The spread of infinite losses is NaN; and a user's Matplotlib settings must not change the figures.
            with np.errstate(invalid="ignore"), style.context("default"):
                return self._save(results, folder)
        except OSError as error:
            why = reason_in(folder, error)
            raise UserError(
                f"{folder} can no longer be written ({why}): when it can, the same command writes the report"
            ) from None

    def _save(self, results: Results, folder: Path) -> str:
        of_claims = functools.partial(conclusions, self.claims), functools.partial(parts, self.claims)
        text = _paragraphs(results, heading, *self.sections, of_claims[0])
        details = _paragraphs(results, *self.details, of_claims[1])
        write_text(folder / "report.md", "\n".join(filter(None, (f"# {text}", details))))
        claims = [as_json(finding) for finding in judged(self.claims, results)]
        told = {"claims": claims} if self.claims.claims else {}
        record = {"study": results.study, **told, "arms": numbers(results)}
        write_text(folder / "results.json", json.dumps(record, indent=1) + "\n")
        for name, figure in self.figures(self, results).items():
            save_figure(figure, folder / name)
        return text


def _paragraphs(results: Results, *sections: Section) -> str:
    said = [paragraph for section in sections if (paragraph := section(results))]
    return "\n\n".join(said) + "\n" if said else ""
