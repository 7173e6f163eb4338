"""Several processes of one run. Only the first reads and writes files; a single process is the first."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.errors import UserError

T = TypeVar("T")


def start_processes() -> None:
    """Connects the processes of one run. JAX finds them if SLURM, Kubernetes, Open MPI or a TPU pod started them.

    **Raises:** `RuntimeError` or `ValueError` if none of these started the process.
    """
    jax.distributed.initialize()


def is_first() -> bool:
    """Whether this process is the one that reads and writes files."""
    return jax.process_index() == 0


def together(action: Callable[[], T]) -> T:
    """Runs `action` and returns its result. If it raises in the first process, all processes fail.

    **Raises:** what `action` raises, or `UserError` if it raised in the first process only.
    """
    error = None
    try:
        result = action()
    except Exception as raised:
        error = raised
    failed = bool(agreed(np.asarray(error is not None)))
    if error:
        raise error
    if failed:
        raise UserError("the first process has failed; see its message")
    return result


def by_first(action: Callable[[], None]) -> None:
    """Runs `action` in the first process only, `together`."""
    together(action if is_first() else lambda: None)


def agreed(tree: Any) -> Any:
    """The numbers or arrays of the first process, in all processes: decisions by a clock must be the same in all."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)
