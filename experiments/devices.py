"""Many devices, and many processes that each hold some of them."""

import itertools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh

from experiments.errors import UserError, reason
from experiments.files import require_writable

T = TypeVar("T")
AXES = ("seeds", "arms", "batch")


def mesh(devices: Sequence[jax.Device], seeds: int, groups: Sequence[int], batch_size: int) -> Mesh:
    """The devices as a grid of (seeds, arms, batch), see `layout`."""
    grid = np.array(devices).reshape(layout(len(devices), seeds, groups, batch_size))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def layout(devices: int, seeds: int, groups: Sequence[int], batch_size: int) -> tuple[int, int, int]:
    """How many devices lie along each axis: the division that leaves the least work to the busiest one.

    A run is on one device, and devices never wait for each other, unless a batch is divided: that takes an exchange
    of gradients in every update, for which a quarter is added to the work.

    **Arguments:** `groups`: arms in each group; arms of a group are dealt out together.
    """

    def work(split: tuple[int, int, int]) -> tuple[float, int]:
        along_seeds, along_arms, along_batch = split
        runs = math.ceil(seeds / along_seeds) * sum(math.ceil(arms / along_arms) for arms in groups)
        exchange = 1.25 if along_batch > 1 else 1.0
        return runs * (batch_size // along_batch) * exchange, along_arms

    counts = range(1, devices + 1)
    pairs = [(s, a) for s, a in itertools.product(counts, counts) if devices % (s * a) == 0]
    splits = [(s, a, devices // (s * a)) for s, a in pairs]
    return min((split for split in splits if batch_size % split[2] == 0), key=work)


def use_all_cores() -> None:
    """A device for each core of the CPU, with one thread: their runs go side by side.

    Devices that share the threads of all cores wait for each other: on two cores, 13 arms of `cifar10-small` make 1.3
    times as many updates a second with a thread for each device.

    For a process that has not begun to use JAX. JAX_NUM_CPU_DEVICES, where it is set, is what counts.
    """
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", min(cores(), 8))
        one_thread = "--xla_cpu_multi_thread_eigen=false"
        os.environ["XLA_FLAGS"] = f"{one_thread} {os.environ.get('XLA_FLAGS', '')}".strip()


def require_devices() -> None:
    """**Raises:** `UserError` where JAX has none."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition("\n")[0] or f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS')}"
        raise UserError(f"JAX finds no devices that it can use ({said})") from None


def require_cache() -> None:
    """**Raises:** `UserError` if compiled programs are to be kept in a folder that cannot be written.

    JAX would say so of each of them, in a warning of two lines.
    """
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if folder and "://" not in folder:
        try:
            require_writable(Path(folder))
        except OSError as error:
            must = "JAX_COMPILATION_CACHE_DIR must be a folder that can be written"
            raise UserError(f"{must}, got {folder} ({reason(error)})") from None


def cores() -> int:
    """Of this process, where the system says so, else of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_processes() -> None:
    """Joins the processes of one run. What SLURM, Kubernetes, Open MPI or a TPU pod say of them is found by JAX.

    **Raises:** `RuntimeError` or `ValueError` where none of these started the process.
    """
    jax.distributed.initialize()


def is_first() -> bool:
    """Whether this process is the one that reads and writes files."""
    return jax.process_index() == 0


def by_first(action: Callable[[], T]) -> T | None:
    """What `action` returns in the first process, and None in the others. If it raises, they all do.

    **Raises:** what `action` raises, and `UserError` in the other processes.
    """
    result, error = None, None
    if is_first():
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


def agreed(tree: Any) -> Any:
    """Numbers or arrays of the first process, in all of them: what is decided by a clock must be decided once."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)
