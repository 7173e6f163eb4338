"""The devices of this machine: one for each CPU core, and checks that they can be used."""

import os
from pathlib import Path

import jax

from experiments.errors import UserError, reason
from experiments.files import require_writable

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"  # for each device


def use_all_cores() -> None:
    """Makes one JAX device with one thread for each CPU core, so that runs train side by side.

    Devices that share the threads of all cores wait for each other: on two cores, 13 arms of `cifar10-small` made 1.3
    times as many updates per second with one thread for each device.

    Call it before the process uses JAX. If the variable JAX_NUM_CPU_DEVICES is set, it does nothing.
    """
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", min(cores(), 8))
        os.environ["XLA_FLAGS"] = f"{ONE_THREAD} {os.environ.get('XLA_FLAGS', '')}".strip()


def require_devices() -> None:
    """**Raises:** `UserError` if JAX has no devices."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition("\n")[0] or f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS')}"
        raise UserError(f"JAX finds no devices that it can use ({said})") from None


def require_cache() -> None:
    """**Raises:** `UserError` if the cache of compiled programs is a folder that cannot be written.

    JAX would only warn, in two lines for each program.
    """
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if folder and "://" not in folder:
        try:
            require_writable(Path(folder))
        except OSError as error:
            must = "JAX_COMPILATION_CACHE_DIR must be a folder that can be written"
            raise UserError(f"{must}, got {folder} ({reason(error)})") from None


def cores() -> int:
    """The number of CPU cores of this process if the system knows it, else of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
