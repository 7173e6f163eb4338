"""Where arrays are: runs dealt out over devices, and back as they were given."""

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

    On the devices there are fillers after the seeds, and after the arms of each group, so that they divide evenly.

    **Arguments:** `groups`: for each the places of its arms in the order in which they were given.
    """

    def __init__(self, devices: Sequence[jax.Device], seeds: int, groups: Sequence[Sequence[int]], batch_size: int):
        self.seeds, self.groups = seeds, groups
        grid = np.array(devices).reshape(layout(len(devices), seeds, [*map(len, groups)], batch_size))
        self.mesh = Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)
        self._gather = jax.jit(lambda tree: tree, out_shardings=NamedSharding(self.mesh, REPLICATED))

    def compiled(self, function: Callable[..., Any], inputs: Any, outputs: Any, **options: Any) -> Any:
        """`function` of the seeds and arms of one device, for all of them."""
        # Seeds and arms are divided by hand, so that no device ever waits for another; batches by the compiler.
        mapped = jax.shard_map(
            function, mesh=self.mesh, in_specs=inputs, out_specs=outputs, axis_names={"seeds", "arms"}, check_vma=False
        )
        return jax.jit(mapped, **options)

    def placed(self, tree: Any, spec: PartitionSpec) -> Any:
        """NumPy arrays on the devices, filled up along the axes that `spec` divides."""
        return jax.tree.map(functools.partial(self._placed, spec=spec), tree)

    def _placed(self, array: np.ndarray, spec: PartitionSpec) -> Array:
        array = np.asarray(array)
        for axis, name in enumerate(spec):
            array = filled(array, axis, self.mesh.shape[name])
        # An axis of one device is left out, as jitted functions do: specs that differ would compile anew.
        divided = [name if self.mesh.shape[name] > 1 else None for name in spec]
        while divided and divided[-1] is None:
            divided.pop()
        sharding = NamedSharding(self.mesh, PartitionSpec(*divided))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    def host(self, tree: Any) -> Any:
        """As NumPy arrays in every process, with their fillers."""
        return jax.device_get(self._gather(tree))

    def given(self, of_groups: Sequence[Any], as_part: Callable[[Any, int, int], Any]) -> list[Any]:
        """A tree of arrays (seeds, arms of the group, ...) a group: `as_part` of each, and of how many of its seeds and
        arms are no fillers."""
        counted = [(len(group), tree) for group, tree in zip(self.groups, of_groups, strict=True)]
        return [jax.tree.map(lambda array, n=arms: as_part(array, self.seeds, n), tree) for arms, tree in counted]

    def in_order(self, of_groups: Sequence[np.ndarray]) -> np.ndarray:
        """Arrays (seeds, arms of the group, ...), one a group, as one (arms, seeds, ...) without fillers."""
        parts = self.given(of_groups, lambda array, seeds, arms: array[:seeds, :arms])
        return np.concatenate(parts, axis=1)[:, np.argsort(np.concatenate(self.groups))].swapaxes(0, 1)


def filled(array: np.ndarray, axis: int, parts: int) -> np.ndarray:
    """With its last entry repeated until `axis` can be divided into equal parts."""
    count = np.shape(array)[axis]
    return np.take(array, np.minimum(np.arange(-(-count // parts) * parts), count - 1), axis)


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
