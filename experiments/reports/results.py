"""What was measured, with what is needed to read it: one file, from which every table and figure can be made again."""

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

RECORDS = 2_000  # training losses kept for each run: as many, up to twice as many, or one an update

Loss = Literal["training", "validation"]


class ResultsError(UserError):
    """Histories that cannot be read or merged; the message says why."""


class History(NamedTuple):
    """What was measured; not finite where a run has not come to, or after it has diverged."""

    train_loss: np.ndarray  # (arms, seeds, records): at the evaluated parameters, before each update; means of `every`
    valid_steps: np.ndarray  # (evaluations,): after how many updates
    valid_loss: np.ndarray  # (arms, seeds, evaluations)
    valid_accuracy: np.ndarray  # (arms, seeds, evaluations)
    gradient_norm: np.ndarray | None = None  # (arms, seeds, records), means of `every`; None where it was not recorded

    def recorded(self) -> dict[str, np.ndarray]:
        """The arrays that there are, by name."""
        return {name: array for name, array in self._asdict().items() if array is not None}


Field = str | float


@dataclass(frozen=True)
class Trained:
    """What is known of an arm besides its losses.

    `horizon`: updates until its schedule ends; `rate`: its peak learning rate; `fields`: what its study says of it, by
    name. An arm that trains some policy at one of several rates says so in two of them: `policy`, by name, and
    `factor`, by which the policy's own rate is multiplied.
    """

    horizon: int
    rate: float
    fields: Mapping[str, Field] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """What was trained and measured: rows of the history are the arms, in their order."""

    study: str  # by its name
    title: str
    plan: Mapping[str, Any]  # what all arms and seeds have in common, as JSON
    arms: Mapping[str, Trained]  # by name
    seeds: tuple[int, ...]
    steps: int  # the length of the run
    done: int  # updates made, fewer if it was stopped
    history: History
    changes: tuple[str, ...] = ()  # a sentence for each time it was resumed on another machine or with other versions

    @property
    def exact(self) -> bool:
        """Whether losses are expected ones that were computed: without noise, and the same on any data."""
        return bool(self.plan.get("exact"))

    @property
    def losses(self) -> tuple[Loss, ...]:
        """Those that differ; the first stands for all."""
        return get_args(Loss)[:1] if self.exact else get_args(Loss)

    def named(self, of: Loss) -> str:
        return "expected loss" if self.exact else f"{of} loss"

    @property
    def sample(self) -> str:
        """Of how much everything is the mean, in words."""
        return "exact" if self.exact else counted(len(self.seeds), "seed")

    @property
    def every(self) -> int:
        """Updates of which a record of the training loss is the mean."""
        return record_length(self.steps)

    @property
    def window(self) -> int:
        """Records over which a loss is averaged, because of its noise: 5 % of the run."""
        return 1 if self.exact else max(self.steps // 20 // self.every, 1)

    def train_loss(self, arm: str, percent: int = 100) -> np.ndarray:
        """Each seed's training loss before the end of the arm, or before a percentage of the run.

        The mean over the window, or over the last fifth of what has been trained where that is less.

        **Raises:** `KeyError` if there is no such arm.
        """
        end = self._records(min(self.end(arm), self.steps * percent // 100))
        window = max(min(self.window, end // 5), 1)
        return self.history.train_loss[self.row(arm), :, max(end - window, 0) : end].mean(axis=-1, dtype=np.float64)

    def train_loss_curve(self, arm: str) -> np.ndarray:
        """(seeds, records) up to the end of the arm."""
        return self.history.train_loss[self.row(arm), :, : self._records(self.end(arm))]

    def valid_loss_curve(self, arm: str) -> tuple[np.ndarray, np.ndarray]:
        """After how many updates, and (seeds, evaluations), up to the end of the arm."""
        reached = self._validated(self.end(arm))
        return self.history.valid_steps[reached], self.history.valid_loss[self.row(arm)][:, reached]

    def valid_loss(self, arm: str, percent: int = 100) -> np.ndarray:
        """Each seed's validation loss at the end of the arm, or at a percentage of the run; NaN before any."""
        return self._at(self.history.valid_loss, arm, percent)

    def valid_accuracy(self, arm: str, percent: int = 100) -> np.ndarray:
        """Likewise, from 0 to 1."""
        return self._at(self.history.valid_accuracy, arm, percent)

    def loss(self, arm: str, of: Loss) -> np.ndarray:
        """Each seed's training or validation loss at the end of the arm."""
        return self.train_loss(arm) if of == "training" else self.valid_loss(arm)

    def diverged(self, arm: str) -> int:
        """How many seeds came to a training loss that is no number."""
        return int(np.sum(~np.isfinite(self.train_loss_curve(arm)).all(axis=-1)))

    def grid(self) -> dict[str, list[str]]:
        """The arms of each policy by ascending rate. What says nothing of a policy is one of its own."""
        ascending = sorted(self.arms, key=lambda arm: self.arms[arm].rate)
        policies = {arm: str(self.arms[arm].fields.get("policy", arm)) for arm in self.arms}
        return {policy: [arm for arm in ascending if policies[arm] == policy] for policy in policies.values()}

    def factor(self, arm: str) -> float:
        """By which the rate of its policy is multiplied."""
        return float(self.arms[arm].fields.get("factor", 1.0))

    def best(self, arms: Sequence[str], of: Loss = "validation") -> str | None:
        """The one with the lowest loss at its end, in the mean over seeds; None if none has one."""
        losses = {arm: float(self.loss(arm, of).mean()) for arm in arms}
        finite = [arm for arm in arms if np.isfinite(losses[arm])]
        return min(finite, key=losses.__getitem__, default=None)

    def reaches(self, arm: str, percent: int) -> bool:
        """Whether the arm was trained up to a percentage of the run."""
        return self.end(arm) >= self.steps * percent // 100

    def end(self, arm: str) -> int:
        """Updates that count for an arm: to the end of its schedule, or to where the run was stopped."""
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
        """Which validations count up to there: they are made where a record ends."""
        return np.asarray(self.history.valid_steps <= min(self._records(updates) * self.every, self.steps))

    def _at(self, measured: np.ndarray, arm: str, percent: int) -> np.ndarray:
        reached = self._validated(min(self.end(arm), self.steps * percent // 100))
        if not reached.any():
            return np.full(len(self.seeds), np.nan)
        return measured[self.row(arm), :, np.flatnonzero(reached)[-1]].astype(np.float64)

    def save(self, path: Path) -> None:
        """Everything, in one compressed file of named arrays, in full or not at all."""
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
        """**Raises:** `ResultsError` if the file cannot be read as what `save` writes."""
        try:
            return cls(**_fields(read_arrays(path)))
        except (OSError, ValueError) as error:
            raise ResultsError(f"{path} cannot be read as the history of a run ({reason(error)})") from None


# What a file holds: the kinds of dtype and the axes of each array. The first one with an axis says how long it is.
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
OPTIONAL = ("changes", "gradient_norm")  # which not every run has


def _fields(read: dict[str, np.ndarray]) -> dict[str, Any]:
    """What `Results` is made of, from the arrays of a file.

    **Raises:** `ValueError` unless they are what `Results.save` writes.
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
    """Whether they are texts and numbers by name, and those that `Trained` names are what it says."""
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
    """Whether all arms have the same peak rate, as those that claims compare."""
    rates = [arm.rate for arm in results.arms.values()]
    return all(math.isclose(rate, rates[0], rel_tol=1e-6) for rate in rates)


def record_length(steps: int) -> int:
    """Updates of which one record of a run of `steps` is the mean, so that histories stay small."""
    return max(steps // RECORDS, 1)


def _require_one_rate(several: Sequence[Results]) -> None:
    """**Raises:** `ResultsError` unless the rates of each policy are multiples of one, as its factors say."""
    own: dict[str, float] = {}
    for each in several:
        for policy, arms in each.grid().items():
            for arm in arms:
                unit = each.arms[arm].rate / each.factor(arm)
                if not math.isclose(own.setdefault(policy, unit), unit, rel_tol=1e-5):
                    got = f"{own[policy]:g} and {unit:g}"
                    raise ResultsError(f"runs to merge must have one learning rate of {policy}, got {got}")


def merged(several: Sequence[Results]) -> Results:
    """Runs of the same length as one: of the same arms with other seeds, or of other arms with the same seeds.

    **Raises:** `ResultsError` if they differ otherwise, or measured the same thing twice.
    """
    first = several[0]
    if len(several) == 1:
        return first
    for each in several:
        told, expected = ({**r.plan, "done": r.done} for r in (each, first))
        if differs := [key for key in {**expected, **told} if told.get(key) != expected.get(key)]:
            key = differs[0]
            raise ResultsError(f"runs to merge must have one {key}, got {expected.get(key)} and {told.get(key)}")
    if any(not np.array_equal(each.history.valid_steps, first.history.valid_steps) for each in several):
        raise ResultsError("runs to merge must have been validated after the same updates")
    _require_one_rate(several)
    other_seeds = all(each.arms == first.arms for each in several)
    if not other_seeds and any(each.seeds != first.seeds for each in several):
        raise ResultsError("runs to merge must have the same arms and other seeds, or other arms and the same seeds")
    arms = [arm for each in ([first] if other_seeds else several) for arm in each.arms]
    seeds = [seed for each in (several if other_seeds else [first]) for seed in each.seeds]
    if len(set(arms)) < len(arms) or len(set(seeds)) < len(seeds):
        shared = "seeds" if other_seeds else "arms"
        raise ResultsError(f"runs to merge must not share {shared} as well: what was measured twice counts once")

    def joined(name: str) -> np.ndarray:
        if not other_seeds:
            return np.concatenate([getattr(each.history, name) for each in several])
        # By name: the same arms may be there in another order.
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
