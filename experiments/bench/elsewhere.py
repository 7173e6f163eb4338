"""Arms that train in a process of their own, since how JAX uses the cores is decided once in a process."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

from experiments.bench.throughput import Trainee
from experiments.engine.devices import ONE_THREAD, use_all_cores

T = TypeVar("T")

_kept: Any = None  # in the other process: what it made


def elsewhere(make: Callable[[], Trainee], every_core_a_device: bool = True) -> Trainee:
    """What `make` returns, a function of a module, made and trained in another process.

    **Arguments:** `every_core_a_device`: as in the commands that train; otherwise as JAX does by itself, with one
    device that has the threads of all cores.
    """
    other = ProcessPoolExecutor(1, get_context("spawn"), _begin, (every_core_a_device,))
    name, work = other.submit(_keep, make).result()
    return Trainee(name, work, lambda count: other.submit(_advance, count).result())


def alone(function: Callable[[], T]) -> T:
    """The result of a function of a module, called in a new process that ends with it."""
    with ProcessPoolExecutor(1, get_context("spawn"), _begin, (True,)) as other:
        return other.submit(function).result()


def _begin(every_core_a_device: bool) -> None:
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "").replace(ONE_THREAD, "")
    if every_core_a_device:
        use_all_cores()


def _keep(make: Callable[[], Trainee]) -> tuple[str, float]:
    global _kept
    _kept = make()
    return _kept.name, _kept.work


def _advance(count: int) -> None:
    _kept.advance(count)
