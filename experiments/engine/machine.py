"""The device and the package versions, which results depend on besides the code."""

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax

PACKAGES = ("pure-schedules", "jax", "jaxlib", "numpy", "optax", "flax", "orbax-checkpoint")


def machine() -> dict[str, Any]:
    """The devices, and the versions of the packages that are installed."""
    versions = {"python": sys.version.split()[0], **{name: found for name in PACKAGES if (found := installed(name))}}
    return {"device": jax.devices()[0].device_kind, "devices": jax.device_count(), "versions": versions}


def installed(package: str) -> str | None:
    """The version of a package, by its name on PyPI, if it is installed."""
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that was not installed
        return None
