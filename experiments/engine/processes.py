"""Many processes of one run, of which the first reads and writes files. One process is the first of one."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.errors import UserError

T = TypeVar("T")


def start_processes() -> None:
    """Joins the processes of one run. What SLURM, Kubernetes, Open MPI or a TPU pod say of them is found by JAX.

    **Raises:** `RuntimeError` or `ValueError` where none of these started the process.
    """
    jax.distributed.initialize()


def is_first() -> bool:
    """Whether this process is the one that reads and writes files."""
    return jax.process_index() == 0


def together(action: Callable[[], T]) -> T:
    """What `action` returns in this process. If it raises in the first, it fails in all.

    **Raises:** what `action` raises, and `UserError` where it raised in the first process and not in this one.
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
        raise UserError("the first process has failed, and says why")
    return result


def by_first(action: Callable[[], None]) -> None:
    """`action` in the first process, `together`."""
    together(action if is_first() else lambda: None)


def agreed(tree: Any) -> Any:
    """Numbers or arrays of the first process, in all of them: what is decided by a clock must be decided once."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)
