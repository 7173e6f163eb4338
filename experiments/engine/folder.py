"""The folder of a run, written by one process of one run, with all that it takes to resume after a kill."""

import contextlib
import fcntl
import itertools
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import orbax.checkpoint as ocp

from experiments.engine.machine import machine
from experiments.errors import UserError, reason, reason_in
from experiments.files import read_json, require_regular, write_text
from experiments.reports.results import Results, ResultsError

CONFIG, METRICS, HISTORY, LOCK, CHECKPOINTS = "config.json", "metrics.jsonl", "history.npz", ".lock", "checkpoints"


class FolderError(UserError):
    """A folder that cannot be used, or can no longer be written; the message says what to do."""


class Change(NamedTuple):
    """A sentence about what was different when a run was resumed after `after` updates."""

    after: int
    sentence: str


class Folder:
    """Opens `path` for the run that `plan` describes, a new one or one to resume. Use it in a `with` statement.

    **Arguments:** `plan`: all that the numbers depend on, as JSON; only a run with the same plan is resumed.

    **Raises:** `FolderError` if it cannot be written, holds anything else, or another run is writing to it.
    """

    def __init__(self, path: Path, plan: Mapping[str, Any]):
        self.path, self._saved_at = path, time.monotonic()
        with contextlib.ExitStack() as opened:
            try:
                path.mkdir(parents=True, exist_ok=True)
                self._require_own()
                require_regular(path / LOCK)
                self._lock = opened.enter_context((path / LOCK).open("a"))
                self._require_alone()
                self._require_same(json.loads(json.dumps(plan)))
                (path / CHECKPOINTS).mkdir(exist_ok=True)
            except OSError as error:
                raise FolderError(f"{path} must be a folder that can be written ({reason_in(path, error)})") from None
            opened.enter_context(without_noise())
            # Only the first process of a run reads and writes.
            alone = ocp.options.MultiprocessingOptions(active_processes={0}, barrier_sync_key_prefix="folder")
            options = ocp.CheckpointManagerOptions(
                max_to_keep=2, create=False, cleanup_tmp_directories=True, multiprocessing_options=alone
            )
            self._checkpoints = ocp.CheckpointManager((path / CHECKPOINTS).absolute(), options=options)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self._checkpoints.close()
        except Exception as failed:
            error = error or failed
        finally:
            self._opened.__exit__(type(error) if error else None, error, None)
        # Any error of the system in a run is about its folder, except for a closed pipe.
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise self._failed(error) from None

    def _require_alone(self) -> None:
        try:
            # The system releases the lock when the process ends, for whatever reason.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderError(f"another run is writing to {self.path}: wait for it, or choose another folder") from None

    def _require_own(self) -> None:
        others = [p.name for p in self.path.iterdir() if not p.name.startswith(".")]
        if others and CONFIG not in others:
            raise FolderError(
                f"{self.path} must be a new or empty folder, or the folder of a run, got one with {min(others)}"
            )

    def _require_same(self, plan: dict[str, Any]) -> None:
        config = self.path / CONFIG
        if not config.exists():
            write_text(config, _config(plan, [{"after": 0, **machine()}]))
        try:
            content = read_json(config)
            held, self._machines = dict(content["plan"]), _machines(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise FolderError(f"{config} cannot be read as the configuration of a run: choose another folder") from None
        for name in {**plan, **held}:
            if plan.get(name) != held.get(name):
                raise FolderError(
                    f"{self.path} holds a run with {_difference(name, held.get(name), plan.get(name))}: choose another "
                    "folder, or delete it"
                )

    def changes(self, step: int, goes_on: bool) -> list[Change]:
        """The changes of machine and versions before the checkpoint after `step` updates, and at it if the run goes on.

        They are kept in the folder. Changes at later updates, which were lost, are dropped."""
        held = self._machines
        self._machines = [each for each in held if each["after"] < step]
        now = {"after": step, **machine()}
        if goes_on and (not self._machines or _flat(self._machines[-1]) != _flat(now)):
            self._machines.append(now)
        if self._machines != held:
            plan = read_json(self.path / CONFIG)["plan"]
            write_text(self.path / CONFIG, _config(plan, self._machines))
        return [_change(before, after) for before, after in itertools.pairwise(self._machines)]

    def restore(self, like: Any, most: int) -> tuple[int, Any] | None:
        """The latest complete checkpoint, or None: its number of updates, at most `most`, and arrays like those of
        `like`."""
        step = self._checkpoints.latest_step()
        if step is None:
            return None
        place = self.path / CHECKPOINTS / str(step)
        if not 0 < step <= most:
            raise FolderError(f"{place} must be a checkpoint after 1 to {most:,} updates: delete it to go on")
        try:
            return step, self._checkpoints.restore(step, args=ocp.args.StandardRestore(like))
        except Exception as error:
            raise FolderError(
                f"{place} cannot be read ({reason(error)}): delete it to go on from the one before"
            ) from None

    def measured(self) -> Results | None:
        """The measurements up to the last checkpoint, if they can be read."""
        try:
            return Results.load(self.path / HISTORY)
        except ResultsError:
            return None

    def due(self, seconds: float) -> bool:
        """Whether the last checkpoint is `seconds` old."""
        return time.monotonic() - self._saved_at >= seconds

    def checkpoint(self, step: int, tree: Any, results: Results) -> None:
        """Starts to save the measurements and NumPy arrays, which must not change any more, after the previous
        checkpoint is complete."""
        with self._watched():
            self._checkpoints.save(step, args=ocp.args.StandardSave(tree))
        self._saved_at = time.monotonic()
        results.save(self.path / HISTORY)

    def leave(self, results: Results) -> None:
        """Returns when the last checkpoint and the measurements are on the disk."""
        with self._watched():
            self._checkpoints.wait_until_finished()
        # Again, as a kill may have come between the checkpoint and its history.
        results.save(self.path / HISTORY)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the storage raises many types of errors
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> FolderError:
        return FolderError(
            f"{self.path} can no longer be written ({reason(error)}): when it can, the same command goes on from the "
            "last checkpoint"
        )


class Nowhere(contextlib.nullcontext["Nowhere"]):
    """The folder of a process that is not the first of its run: it reads and writes nothing."""

    def __init__(self) -> None:
        super().__init__(self)

    def changes(self, step: int, goes_on: bool) -> list[Change]:
        return []

    def restore(self, like: Any, most: int) -> None:
        return None

    def measured(self) -> None:
        return None

    def due(self, seconds: float) -> bool:
        return False

    def checkpoint(self, step: int, tree: Any, results: Results) -> None:
        pass

    def leave(self, results: Results) -> None:
        pass


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Silences the messages of Orbax on failed reads and writes; it raises the first of them anyway.

    After a failure they stay silent, since other writes may fail at any time later.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, before = [logger.level for logger in loggers], sys.unraisablehook

    def without_leftovers(raised: Any) -> None:
        # When a save fails, each of its other writes finds the event loop of Orbax closed, and prints a long message,
        # some of them before the error itself.
        if str(raised.exc_value) != "Event loop is closed":
            before(raised)

    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = without_leftovers
    yield
    sys.unraisablehook = before
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def _difference(name: str, held: Any, given: Any) -> str:
    """`name` with both values; for dicts, the first entry that differs."""
    if isinstance(held, dict) and isinstance(given, dict):
        key = next(k for k in [*held, *given] if held.get(k) != given.get(k))
        return f"{name}: {_difference(key, held.get(key), given.get(key))}"
    return f"{name.replace('_', ' ')} {held}, not {given}"


def _config(plan: Mapping[str, Any], machines: Sequence[Mapping[str, Any]]) -> str:
    """The content of config.json: the plan, the machine on which the run began, and those on which it was resumed."""
    first = {name: value for name, value in machines[0].items() if name != "after"}
    resumed = {"resumed": machines[1:]} if machines[1:] else {}
    return json.dumps({"plan": plan, **first, **resumed}, indent=1) + "\n"


def _machines(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The inverse of `_config`."""
    several = [{**config, "after": 0}, *config.get("resumed", [])]
    return [
        {
            "after": int(each["after"]),
            "device": each["device"],
            "devices": each["devices"],
            "versions": {**each["versions"]},
        }
        for each in several
    ]


def _flat(machine: Mapping[str, Any]) -> dict[str, Any]:
    """The facts about a machine that may change when a run is resumed, by name."""
    return {"device": machine["device"], "devices": machine["devices"], **machine["versions"]}


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> Change:
    was, now = _flat(before), _flat(after)
    changed = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    listed = ", ".join(f"{name} {now.get(name, 'none')} (before: {was.get(name, 'none')})" for name in changed)
    return Change(after["after"], f"Resumed after {after['after']:,} updates with {listed}.")
