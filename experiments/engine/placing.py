"""Distributes runs over devices, and collects their arrays in the original order."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("seeds", "arms", "batch")
REPLICATED, BY_SEED, BY_ARM = PartitionSpec(), PartitionSpec("seeds"), PartitionSpec("arms")
BY_RUN, BY_BATCH = PartitionSpec("seeds", "arms"), PartitionSpec("batch")
BY_STEP_AND_RUN = PartitionSpec(None, "seeds", "arms")


class Placing:
    """The seeds and the groups of arms of a program on a grid of devices.

    On the devices, seeds and the arms of each group are padded with copies ("fillers"), so that they divide evenly.

    **Arguments:** `groups`: for each group, the indices of its arms in their original order.
    """

    def __init__(self, devices: Sequence[jax.Device], seeds: int, groups: Sequence[Sequence[int]], batch_size: int):
        self.seeds, self.groups = seeds, groups
        grid = np.array(devices).reshape(layout(len(devices), seeds, [*map(len, groups)], batch_size))
        self.mesh = Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)
        self._gather = jax.jit(lambda tree: tree, out_shardings=NamedSharding(self.mesh, REPLICATED))

    def compiled(self, function: Callable[..., Any], inputs: Any, outputs: Any, **options: Any) -> Any:
        """Compiles `function`, which works on the seeds and arms of one device, for all devices."""
        # Seeds and arms are divided by `shard_map`, so that no device waits for another; batches by the compiler.
        mapped = jax.shard_map(
            function, mesh=self.mesh, in_specs=inputs, out_specs=outputs, axis_names={"seeds", "arms"}, check_vma=False
        )
        return jax.jit(mapped, **options)

    def placed(self, tree: Any, spec: PartitionSpec) -> Any:
        """Puts NumPy arrays on the devices, padded along the axes that `spec` divides."""
        return jax.tree.map(functools.partial(self._placed, spec=spec), tree)

    def _placed(self, array: np.ndarray, spec: PartitionSpec) -> Array:
        array = np.asarray(array)
        for axis, name in enumerate(spec):
            array = filled(array, axis, self.mesh.shape[name])
        # Leave out axes with one device, as jitted functions do: different specs would compile again.
        divided = [name if self.mesh.shape[name] > 1 else None for name in spec]
        while divided and divided[-1] is None:
            divided.pop()
        sharding = NamedSharding(self.mesh, PartitionSpec(*divided))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    def host(self, tree: Any) -> Any:
        """The arrays as NumPy arrays in every process, with their fillers."""
        return jax.device_get(self._gather(tree))

    def given(self, of_groups: Sequence[Any], as_part: Callable[[Any, int, int], Any]) -> list[Any]:
        """Applies `as_part` to each array (seeds, arms of the group, ...) of each group, with the numbers of its seeds
        and arms without fillers."""
        counted = [(len(group), tree) for group, tree in zip(self.groups, of_groups, strict=True)]
        return [jax.tree.map(lambda array, n=arms: as_part(array, self.seeds, n), tree) for arms, tree in counted]

    def in_order(self, of_groups: Sequence[np.ndarray]) -> np.ndarray:
        """Joins arrays (seeds, arms of the group, ...), one for each group, to (arms, seeds, ...) without fillers."""
        parts = self.given(of_groups, lambda array, seeds, arms: array[:seeds, :arms])
        return np.concatenate(parts, axis=1)[:, np.argsort(np.concatenate(self.groups))].swapaxes(0, 1)


def filled(array: np.ndarray, axis: int, parts: int) -> np.ndarray:
    """Repeats the last entry of `axis` until it can be divided into `parts` equal parts."""
    count = np.shape(array)[axis]
    return np.take(array, np.minimum(np.arange(-(-count // parts) * parts), count - 1), axis)


def layout(devices: int, seeds: int, groups: Sequence[int], batch_size: int) -> tuple[int, int, int]:
    """The number of devices along each axis (seeds, arms, batch), with the least work for the busiest device.

    Each run is on one device, and devices do not wait for each other, unless a batch is divided. That needs an exchange
    of gradients in every update, which is counted as a quarter more work.

    **Arguments:** `groups`: the number of arms in each group; the arms of a group are distributed together.
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
