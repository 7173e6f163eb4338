"""Where the time of a computation goes: the kernels that JAX's profiler saw, added up by name."""

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.profiler import ProfileData

NUMBER = re.compile(r"([._]\d+|\.clone)+$")  # by which names of the same kind of kernel differ


class Kernels(NamedTuple):
    """All kernels of one name, on all devices together."""

    name: str
    times: int
    seconds: float


def profiled(function: Callable[[], Any], folder: Path) -> list[Kernels]:
    """The kernels of one call of a function, those first that take longest.

    The function must wait for its results. The profile stays in `folder`, where XProf and Perfetto can read it.

    **Raises:** `RuntimeError` if the profiler saw no kernel.
    """
    with jax.profiler.trace(folder):
        function()
    newest = max(folder.rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime_ns)
    seconds = defaultdict(list)
    for event in executed(ProfileData.from_file(str(newest))):
        seconds[NUMBER.sub("", event.name)].append(event.duration_ns / 1e9)
    if not seconds:
        raise RuntimeError("the profiler saw no kernel")
    added = [Kernels(name, len(each), sum(each)) for name, each in seconds.items()]
    return sorted(added, key=lambda kernels: -kernels.seconds)


def executed(profile: Any) -> list[Any]:
    """Events of what ran on a GPU, else on a TPU, else on the threads of a CPU."""
    lines = [(plane.name.startswith("/device:"), line) for plane in profile.planes for line in plane.lines]
    streams = [line.events for device, line in lines if device and line.name.startswith("Stream")]
    if streams:
        return [event for events in streams for event in events]  # those of a CUDA graph may overlap
    operations = [line.events for device, line in lines if device and line.name == "XLA Ops"]
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # jaxlib's, on Python 3.12
        threads = [[event for event in line.events if "hlo_op" in dict(event.stats)] for _, line in lines]
    return [event for events in operations or threads for event in innermost(events)]


def innermost(events: Iterable[Any]) -> list[Any]:
    """Without loops, whose events enclose those of what they repeat."""
    ordered = sorted(events, key=lambda event: (event.start_ns, -event.end_ns))
    return [event for event, after in pairwise(ordered) if after.start_ns >= event.end_ns] + ordered[-1:]
