"""The measurements of a run in one file, from which every table and figure can be made again."""

import dataclasses
import functools
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from experiments.errors import UserError, reason
from experiments.files import parsed_json, read_arrays, write_bytes
from experiments.reports.text import counted

RECORDS = 2_000  # training losses to keep of each run: one for each update, or this number to twice this number

Loss = Literal["training", "validation"]


class ResultsError(UserError):
    """A history that cannot be read, or runs that cannot be merged; the message says why."""


class History(NamedTuple):
    """The measurements. They are not finite where a run has not got to yet, and after it has diverged."""

    train_loss: (
        np.ndarray
    )  # (arms, seeds, records): at the evaluated parameters, before each update; means over `every` updates
    valid_steps: np.ndarray  # (evaluations,): the number of updates before each
    valid_loss: np.ndarray  # (arms, seeds, evaluations)
    valid_accuracy: np.ndarray  # (arms, seeds, evaluations)
    gradient_norm: np.ndarray | None = None  # (arms, seeds, records), means over `every` updates; None if not recorded

    def recorded(self) -> dict[str, np.ndarray]:
        """The arrays that were recorded, by name."""
        return {name: array for name, array in self._asdict().items() if array is not None}


Field = str | float


@dataclass(frozen=True)
class Trained:
    """Facts about an arm besides its losses.

    `horizon`: the number of updates until its schedule ends; `rate`: its peak learning rate; `fields`: what its study
    records about it, by name. An arm of a sweep has two fields: `policy`, the name of its policy, and `factor`, the
    multiple of the policy's own rate.
    """

    horizon: int
    rate: float
    fields: Mapping[str, Field] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """What was trained and measured. The rows of the history are the arms, in the order of `arms`."""

    study: str  # its name
    title: str
    plan: Mapping[str, Any]  # settings that all arms and seeds share, as JSON
    arms: Mapping[str, Trained]  # by name
    seeds: tuple[int, ...]
    steps: int  # the length of the run
    done: int  # the number of updates made, fewer than `steps` if the run was stopped
    history: History
    changes: tuple[
        str, ...
    ] = ()  # one sentence each time the run was resumed on another machine or with other versions

    @property
    def exact(self) -> bool:
        """Whether losses are expected losses, computed without noise; training and validation losses are the same."""
        return bool(self.plan.get("exact"))

    @property
    def losses(self) -> tuple[Loss, ...]:
        """The kinds of loss; only the first for exact losses, where they are the same."""
        return get_args(Loss)[:1] if self.exact else get_args(Loss)

    def named(self, of: Loss) -> str:
        return "expected loss" if self.exact else f"{of} loss"

    @property
    def sample(self) -> str:
        """The number of seeds in words, or "exact"."""
        return "exact" if self.exact else counted(len(self.seeds), "seed")

    @property
    def every(self) -> int:
        """The number of updates over which a record of the training loss is a mean."""
        return record_length(self.steps)

    @property
    def window(self) -> int:
        """The number of records over which a noisy loss is averaged: 5 % of the run."""
        return 1 if self.exact else max(self.steps // 20 // self.every, 1)

    def train_loss(self, arm: str, percent: int = 100) -> np.ndarray:
        """The training loss of each seed just before the end of the arm, or before a percentage of the run.

        It is a mean over the window, or over the last fifth of the updates so far if that is shorter.

        **Raises:** `KeyError` if there is no such arm.
        """
        end = self._records(min(self.end(arm), self.steps * percent // 100))
        window = max(min(self.window, end // 5), 1)
        return self.history.train_loss[self.row(arm), :, max(end - window, 0) : end].mean(axis=-1, dtype=np.float64)

    def train_loss_curve(self, arm: str) -> np.ndarray:
        """The training losses up to the end of the arm, shape (seeds, records)."""
        return self.history.train_loss[self.row(arm), :, : self._records(self.end(arm))]

    def valid_loss_curve(self, arm: str) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of updates and the validation losses up to the end of the arm, shape (seeds, evaluations)."""
        reached = self._validated(self.end(arm))
        return self.history.valid_steps[reached], self.history.valid_loss[self.row(arm)][:, reached]

    def valid_loss(self, arm: str, percent: int = 100) -> np.ndarray:
        """The validation loss of each seed at the end of the arm, or at a percentage of the run; NaN if none yet."""
        return self._at(self.history.valid_loss, arm, percent)

    def valid_accuracy(self, arm: str, percent: int = 100) -> np.ndarray:
        """The validation accuracy, from 0 to 1, at the same place as `valid_loss`."""
        return self._at(self.history.valid_accuracy, arm, percent)

    def loss(self, arm: str, of: Loss) -> np.ndarray:
        """The training or validation loss of each seed at the end of the arm."""
        return self.train_loss(arm) if of == "training" else self.valid_loss(arm)

    def diverged(self, arm: str) -> int:
        """The number of seeds with a training loss that is not finite."""
        return int(np.sum(~np.isfinite(self.train_loss_curve(arm)).all(axis=-1)))

    def grid(self) -> dict[str, list[str]]:
        """The arms of each policy by ascending rate. An arm without a policy is a policy of its own."""
        ascending = sorted(self.arms, key=lambda arm: self.arms[arm].rate)
        policies = {arm: str(self.arms[arm].fields.get("policy", arm)) for arm in self.arms}
        return {policy: [arm for arm in ascending if policies[arm] == policy] for policy in policies.values()}

    def factor(self, arm: str) -> float:
        """The factor that multiplies the rate of the policy."""
        return float(self.arms[arm].fields.get("factor", 1.0))

    def best(self, arms: Sequence[str], of: Loss = "validation") -> str | None:
        """The arm with the lowest mean loss over seeds at its end; None if no arm has a finite one."""
        losses = {arm: float(self.loss(arm, of).mean()) for arm in arms}
        finite = [arm for arm in arms if np.isfinite(losses[arm])]
        return min(finite, key=losses.__getitem__, default=None)

    def reaches(self, arm: str, percent: int) -> bool:
        """Whether the arm was trained up to a percentage of the run."""
        return self.end(arm) >= self.steps * percent // 100

    def end(self, arm: str) -> int:
        """The number of updates that count for an arm: until its schedule ends, or the run was stopped."""
        return min(self.arms[arm].horizon, self.done)

    def row(self, arm: str) -> int:
        """**Raises:** `KeyError` if there is no such arm."""
        return self._rows[arm]

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.arms)}

    def _records(self, updates: int) -> int:
        return -(-updates // self.every)

    def _validated(self, updates: int) -> np.ndarray:
        """Whether each validation is within `updates`, rounded up to a whole record, as validations are made there."""
        return np.asarray(self.history.valid_steps <= min(self._records(updates) * self.every, self.steps))

    def _at(self, measured: np.ndarray, arm: str, percent: int) -> np.ndarray:
        reached = self._validated(min(self.end(arm), self.steps * percent // 100))
        if not reached.any():
            return np.full(len(self.seeds), np.nan)
        return measured[self.row(arm), :, np.flatnonzero(reached)[-1]].astype(np.float64)

    def save(self, path: Path) -> None:
        """Saves everything in one compressed file of named arrays, completely or not at all."""
        trained = self.arms.values()
        by_arm = {
            "arms": [*self.arms],
            "horizons": [arm.horizon for arm in trained],
            "rates": [arm.rate for arm in trained],
            "fields": [json.dumps(dict(arm.fields)) for arm in trained],
        }
        about = {
            "study": self.study,
            "title": self.title,
            "plan": json.dumps(dict(self.plan)),
            "steps": self.steps,
            "done": self.done,
            "seeds": self.seeds,
        }
        if self.changes:
            about["changes"] = self.changes
        file = io.BytesIO()
        np.savez_compressed(file, **by_arm, **about, **self.history.recorded())  # type: ignore[arg-type]
        write_bytes(path, file.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Reads a file that `save` wrote.

        **Raises:** `ResultsError` if it cannot be read.
        """
        try:
            return cls(**_fields(read_arrays(path)))
        except (OSError, ValueError) as error:
            raise ResultsError(f"{path} cannot be read as the history of a run ({reason(error)})") from None


# The kinds of dtype and the axes of each array in a file. The first array with an axis determines its length.
LAYOUT = {
    "study": ("U", ()),
    "title": ("U", ()),
    "plan": ("U", ()),
    "steps": ("iu", ()),
    "done": ("iu", ()),
    "arms": ("U", ("arms",)),
    "horizons": ("iu", ("arms",)),
    "rates": ("f", ("arms",)),
    "fields": ("U", ("arms",)),
    "seeds": ("iu", ("seeds",)),
    "train_loss": ("f", ("arms", "seeds", "records")),
    "valid_steps": ("iu", ("validations",)),
    "valid_loss": ("f", ("arms", "seeds", "validations")),
    "valid_accuracy": ("f", ("arms", "seeds", "validations")),
    "changes": ("U", ("changes",)),
    "gradient_norm": ("f", ("arms", "seeds", "records")),
}
OPTIONAL = ("changes", "gradient_norm")  # not in every file


def _fields(read: dict[str, np.ndarray]) -> dict[str, Any]:
    """The fields of `Results` from the arrays of a file.

    **Raises:** `ValueError` unless `Results.save` could have written them.
    """
    read = {"changes": np.array([], str), **read}
    _require_layout(read)
    told = {name: read[name].tolist() for name in LAYOUT if name not in History._fields}
    arms, horizons, rates, fields = (told.pop(name) for name in ("arms", "horizons", "rates", "fields"))
    seeds, steps, plan = tuple(told["seeds"]), told["steps"], parsed_json(told["plan"])
    fields = [*map(parsed_json, fields)]
    consistent = {
        "arms": len({*arms}) == len(arms) > 0,
        "seeds": len({*seeds}) == len(seeds) > 0,
        "plan": isinstance(plan, dict),
        "train_loss": read["train_loss"].shape[-1] == -(-steps // record_length(steps)) > 0,
        "done": 0 <= told["done"] <= steps,
        "horizons": all(0 < end <= steps for end in horizons),
        "rates": np.isfinite(rates).all(),
        "fields": all(map(_are_fields, fields)),
    }
    if wrong := [name for name, right in consistent.items() if not right]:
        raise ValueError(f"its {wrong[0]} cannot be those of a run")
    said = [value for each in fields for value in each.values() if isinstance(value, str)]
    "".join([told["study"], told["title"], *arms, *said, *told["changes"]]).encode()  # which the report will be
    trained = {name: Trained(*about) for name, *about in zip(arms, horizons, rates, fields, strict=True)}
    history = History(**{name: read[name] for name in History._fields if name in read})
    return {
        **told,
        "arms": trained,
        "plan": plan,
        "seeds": seeds,
        "changes": tuple(told["changes"]),
        "history": history,
    }


def _are_fields(read: Any) -> bool:
    """Whether they are strings and numbers by name, and `policy` and `factor` are as `Trained` says."""
    if not isinstance(read, dict):
        return False
    plain = all(isinstance(value, str) or _is_number(value) for value in read.values())
    policy, factor = read.get("policy", ""), read.get("factor", 1.0)
    return plain and isinstance(policy, str) and _is_number(factor) and factor > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _require_layout(read: Mapping[str, np.ndarray]) -> None:
    sizes: dict[str, int] = {}
    for name, (kinds, axes) in LAYOUT.items():
        if name not in read and name in OPTIONAL:
            continue
        if name not in read:
            raise ValueError(f"it holds no {name}")
        array = read[name]
        expected = tuple(sizes.setdefault(axis, size) for axis, size in zip(axes, array.shape, strict=False))
        if array.ndim != len(axes) or array.shape != expected or array.dtype.kind not in kinds:
            raise ValueError(f"its {name} is an array of {array.dtype} of shape {array.shape}")


def one_rate(results: Results) -> bool:
    """Whether all arms have the same peak rate; claims compare only such arms."""
    rates = [arm.rate for arm in results.arms.values()]
    return all(math.isclose(rate, rates[0], rel_tol=1e-6) for rate in rates)


def record_length(steps: int) -> int:
    """The number of updates over which a record is a mean, so that histories of long runs stay small."""
    return max(steps // RECORDS, 1)


def _require_one_rate(several: Sequence[Results]) -> None:
    """**Raises:** `ResultsError` unless the rates of each policy are its factors times one rate."""
    own: dict[str, float] = {}
    for each in several:
        for policy, arms in each.grid().items():
            for arm in arms:
                unit = each.arms[arm].rate / each.factor(arm)
                if not math.isclose(own.setdefault(policy, unit), unit, rel_tol=1e-5):
                    got = f"{own[policy]:g} and {unit:g}"
                    raise ResultsError(f"runs to merge must have the same learning rate for {policy}, got {got}")


def merged(several: Sequence[Results]) -> Results:
    """Merges runs of the same length: the same arms with different seeds, or different arms with the same seeds.

    **Raises:** `ResultsError` if they differ in anything else, or share arms and seeds.
    """
    first = several[0]
    if len(several) == 1:
        return first
    for each in several:
        told, expected = ({**r.plan, "done": r.done} for r in (each, first))
        if differs := [key for key in {**expected, **told} if told.get(key) != expected.get(key)]:
            key = differs[0]
            raise ResultsError(f"runs to merge must have the same {key}, got {expected.get(key)} and {told.get(key)}")
    if any(not np.array_equal(each.history.valid_steps, first.history.valid_steps) for each in several):
        raise ResultsError("runs to merge must be validated after the same numbers of updates")
    _require_one_rate(several)
    other_seeds = all(each.arms == first.arms for each in several)
    if not other_seeds and any(each.seeds != first.seeds for each in several):
        raise ResultsError(
            "runs to merge must have the same arms and different seeds, or different arms and the same seeds"
        )
    arms = [arm for each in ([first] if other_seeds else several) for arm in each.arms]
    seeds = [seed for each in (several if other_seeds else [first]) for seed in each.seeds]
    if len(set(arms)) < len(arms) or len(set(seeds)) < len(seeds):
        shared = "seeds" if other_seeds else "arms"
        raise ResultsError(f"runs to merge must not share {shared} as well, as the same measurement would count twice")

    def joined(name: str) -> np.ndarray:
        if not other_seeds:
            return np.concatenate([getattr(each.history, name) for each in several])
        # By name, since the order of the arms may differ.
        rows = [getattr(each.history, name)[[each.row(arm) for arm in arms]] for each in several]
        return np.concatenate(rows, axis=1)

    measured = {name: joined(name) for name in first.history.recorded() if name != "valid_steps"}
    return dataclasses.replace(
        first,
        study=" and ".join(dict.fromkeys(each.study for each in several)),
        arms={arm: trained for each in several for arm, trained in each.arms.items()},
        seeds=tuple(seeds),
        changes=tuple(dict.fromkeys(change for each in several for change in each.changes)),
        history=first.history._replace(**measured),
    )
