"""The comparison as one compiled program: every arm with every seed, vmapped and sharded over devices.

A step is a pure function of (seed, step) and of where the runs stand. The batch and the dropout masks of a
step do not depend on the arm, so arms are compared on the same noise. Training losses are read at the
parameters an arm is evaluated at, before the update, on the batch about to be used: no arm is scored on
data it has just fitted.
"""

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from experiments.arms import Arm, Optimizer
from experiments.data import Dataset
from experiments.devices import mesh
from experiments.results import record_length
from optim import eval_params
from schedules import table as from_table
from schedules import tabulate

Numbers = dict[str, Array]  # hyperparameters by name, each (arms, steps): schedules of any shape are rows of a table

Precision = Literal["float32", "tf32", "bfloat16"]
MATMULS = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "BF16_BF16_F32"}


class Run(NamedTuple):
    """Where a run stands; in a program, with leading axes (seeds, arms)."""

    params: Any
    opt_state: Any
    valid_loss: Array  # at the last validation, infinite before the first: what a plateau rule listens to


LAST_SEED = 2**32 - 1  # of which the keys of JAX have all bits; with 64-bit types disabled they would drop those above


def as_seeds(seeds: Sequence[int]) -> np.ndarray:
    """**Raises:** `OverflowError` if one is not from 0 to `LAST_SEED`."""
    return np.array([*seeds], np.uint32)


# One step, one seed -----------------------------------------------------------------------------------


def draw(seed: Array, step: Array, batch_size: int, count: int) -> tuple[Array, Array]:
    """The batch of a step, as indices below `count`, and the key of its dropout masks: pure in (seed, step)."""
    batch_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
    return jax.random.randint(batch_key, (batch_size,), 0, count), dropout_key


def batch_loss(model: nn.Module, images: Array, labels: Array, key: Array, params: Any) -> Array:
    logits = model.apply({"params": params}, images, deterministic=False, rngs={"dropout": key})
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def update(
    optimizers: Sequence[Optimizer],
    numbers: Sequence[Numbers],
    loss: Callable[[Any], Array],
    over: Callable[[Callable[[Any], Any]], Callable[[Any], Any]],
    runs: Sequence[Run],
) -> tuple[list[Run], list[Array]]:
    """One update of all groups of arms on one batch. Returns the new runs and the losses before it.

    `over` maps a function over arms: `jax.vmap` or `one_by_one`.

    Gradients do not depend on the optimizer, so all arms share one pass, whatever trains them. Only arms that keep
    an average take another forward pass, for their loss there: a loss they hold already is not computed again.
    """
    held = [run.params for run in runs]
    scored = [eval_params(run.opt_state, run.params) for run in runs]
    values, grads = map(functools.partial(_split, like=held), over(jax.value_and_grad(loss))(_joined(held)))
    averaged = [i for i, (x, y) in enumerate(zip(scored, held, strict=True)) if not _same(x, y)]
    if averaged:
        elsewhere = [scored[i] for i in averaged]
        for i, value in zip(averaged, _split(over(loss)(_joined(elsewhere)), elsewhere), strict=True):
            values[i] = value
    steps = [jax.vmap(functools.partial(_step, optimizer)) for optimizer in optimizers]
    return [step(*group) for step, *group in zip(steps, numbers, runs, grads, strict=True)], values


def one_by_one(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What `jax.vmap` computes, in a loop."""
    return functools.partial(jax.lax.map, function)


def _step(optimizer: Optimizer, numbers: Numbers, run: Run, grads: Any) -> Run:
    updates, opt_state = built(optimizer, numbers).update(grads, run.opt_state, run.params, value=run.valid_loss)
    return run._replace(params=optax.apply_updates(run.params, updates), opt_state=opt_state)


def built(optimizer: Optimizer, numbers: Numbers) -> optax.GradientTransformationExtraArgs:
    """The optimizer of one arm, built inside the program from that arm's numbers."""
    made = optimizer(**{name: from_table(row) for name, row in numbers.items()})
    return optax.with_extra_args_support(made)


def _joined(trees: Sequence[Any], axis: int = 0) -> Any:
    """Trees of arrays, one a group, as one tree of all arms, which lie along `axis`."""
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis), *trees)


def _split(tree: Any, like: Sequence[Any], axis: int = 0) -> list[Any]:
    """What `_joined` made of `like`, or something computed from it for every arm, as one tree a group."""
    ends = np.cumsum([jax.tree.leaves(each)[0].shape[axis] for each in like])
    return [jax.tree.map(lambda a, i=i: jnp.split(a, ends[:-1], axis)[i], tree) for i in range(len(like))]


def _same(x: Any, y: Any) -> bool:
    return all(a is b for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))


def validate(model: nn.Module, images: Array, labels: Array, params: Any) -> tuple[Array, Array]:
    """Mean loss and accuracy over a data set."""

    def one(example: tuple[Array, Array]) -> tuple[Array, Array]:
        image, label = example
        logits = model.apply({"params": params}, as_floats(image[None]), deterministic=True)[0]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return loss, jnp.where(jnp.isfinite(loss), jnp.argmax(logits) == label, jnp.nan)  # NaN would count as class 0

    losses, hits = jax.lax.map(one, (images, labels), batch_size=250)
    return losses.mean(), hits.mean()


def as_floats(images: Array) -> Array:
    return images.astype(jnp.float32) / 255


# All of them ----------------------------------------------------------------------------------------

# Bytes, about what the caches of a CPU hold for one core. Runs that keep more for their backward pass are computed
# one after the other, in 0.8 of the time of all at once; small ones all at once, which is quicker for them.
CACHE = 4 * 2**20

REPLICATED, BY_SEED, BY_ARM = PartitionSpec(), PartitionSpec("seeds"), PartitionSpec("arms")
BY_RUN = PartitionSpec("seeds", "arms")
BY_STEP_AND_RUN = PartitionSpec(None, "seeds", "arms")


class Program:
    """All arms with all seeds, in groups of arms that differ in numbers alone.

    The runs of a group are one `Run` whose arrays have leading axes (seeds, arms). On the devices both are filled
    up to what can be divided evenly; `save` and `load` have them as they were given. What is measured comes
    back as (arms, seeds, ...), in the order the arms were given, in every process.

    **Arguments:** `precision`: of matrix products, as "float32", "tf32" (on devices that have it) or "bfloat16"
    with sums in float32; `devices`: all that there are, of all processes, unless given.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        arms: Sequence[Arm],
        seeds: Sequence[int],
        steps: int,
        batch_size: int,
        precision: Precision = "float32",
        devices: Sequence[jax.Device] | None = None,
    ):
        self.model, self.batch_size, self.precision = model, batch_size, precision
        self.longest = max(1_000 // record_length(steps), 1) * record_length(steps)
        self.inner = math.gcd(record_length(steps), 10)  # updates in a round, of which every record has whole ones
        self.arms, self.steps = [*arms], steps
        families: dict[Any, list[int]] = {}
        for i, arm in enumerate(arms):
            families.setdefault((arm.optimizer, *arm.hyperparameters), []).append(i)
        self.groups = [*families.values()]
        self.optimizers = [arms[group[0]].optimizer for group in self.groups]
        self.mesh = mesh(devices or jax.devices(), len(seeds), [*map(len, self.groups)], batch_size)
        self.logical_seeds = as_seeds(seeds)
        self.seeds = self._place(_filled(self.logical_seeds, 0, self.mesh.shape["seeds"]), BY_SEED)
        self.data = jax.tree.map(lambda array: self._place(array, REPLICATED), data)
        self.numbers = [self._tabulated([arms[i] for i in group]) for group in self.groups]
        self._advance = functools.cache(self._advance_by)
        self._start = self._compiled(self._start_some, (BY_ARM, REPLICATED, BY_SEED), BY_RUN)
        self._validate = self._compiled(self._validate_some, (REPLICATED, BY_RUN), (BY_RUN, BY_RUN), donate_argnums=1)
        self._gather = jax.jit(lambda tree: tree, out_shardings=NamedSharding(self.mesh, REPLICATED))

    def with_seeds(self, seeds: Sequence[int]) -> Self:
        """The same program for as many other seeds: nothing is compiled again."""
        other = copy.copy(self)
        other.logical_seeds = as_seeds(seeds)
        other.seeds = self._place(_filled(other.logical_seeds, 0, self.mesh.shape["seeds"]), BY_SEED)
        return other

    def start(self) -> list[Run]:
        return self._start(self.numbers, self.data, self.seeds)

    def advance(self, runs: list[Run], step: int, count: int) -> tuple[list[Run], np.ndarray]:
        """`count` more updates after `step` of them, at most `longest`.

        **Returns:** the runs, and the losses (arms, seeds, count)."""
        rest, measured = count % self.inner, []
        for inner, part in ((self.inner, count - rest), (1, rest)):
            if part:
                some = np.int32(step), np.int32(part)
                runs, losses = self._advance(inner)(self.numbers, self.data, self.seeds, runs, *some)
                measured.append(self._in_order([np.moveaxis(array, 0, -1) for array in self._host(losses)])[..., :part])
                step += part
        return runs, np.concatenate(measured, axis=-1)

    def lowered(self, platform: str) -> list[jax.stages.Lowered]:
        """What is compiled to start, to advance and to validate, as it is lowered for "cuda" or "tpu", say."""
        given = self.numbers, self.data, self.seeds
        runs, some = jax.eval_shape(self._start, *given), jax.ShapeDtypeStruct((), np.int32)
        calls = ((self._start, given), (self._advance(self.inner), (*given, runs, some, some)),
                 (self._validate, (self.data, runs)))  # fmt: skip
        return [function.trace(*arguments).lower(lowering_platforms=(platform,)) for function, arguments in calls]

    def validate(self, runs: list[Run]) -> tuple[list[Run], np.ndarray, np.ndarray]:
        """**Returns:** the runs, which have been told; validation loss and accuracy, each (arms, seeds)."""
        runs, measured = self._validate(self.data, runs)
        losses, accuracies = zip(*self._host(measured), strict=True)
        return runs, self._in_order(losses), self._in_order(accuracies)

    def save(self, runs: list[Run]) -> list[Run]:
        """The runs as NumPy arrays (seeds, arms of the group, ...), on whatever devices they are."""
        # Copies: on a CPU they would be views of memory that the next update writes to.
        return self._each_logical(lambda array, seeds, arms: np.array(array[:seeds, :arms]), self._host(runs))

    def load(self, saved: list[Run]) -> list[Run]:
        """What `save` returned, on the devices of this program."""
        along_seeds, along_arms = self.mesh.shape["seeds"], self.mesh.shape["arms"]

        def place(array: np.ndarray) -> Array:
            return self._place(_filled(_filled(array, 0, along_seeds), 1, along_arms), BY_RUN)

        return jax.tree.map(place, saved)

    def saved_shapes(self) -> list[Run]:
        """The shapes and dtypes of what `save` returns."""
        started = jax.eval_shape(self._start, self.numbers, self.data, self.seeds)
        return self._each_logical(
            lambda a, seeds, arms: jax.ShapeDtypeStruct((seeds, arms, *a.shape[2:]), a.dtype), started
        )

    def _each_logical(self, function: Callable[..., Any], runs: list[Run]) -> list[Run]:
        """`function` of every array of `runs`, and of how many seeds and arms in it are no fillers."""
        seeds = len(self.logical_seeds)
        counted = [(len(group), run) for group, run in zip(self.groups, runs, strict=True)]
        return [jax.tree.map(functools.partial(function, seeds=seeds, arms=arms), run) for arms, run in counted]

    def _tabulated(self, arms: Sequence[Arm]) -> Numbers:
        rows = {name: np.stack([tabulate(arm.hyperparameters[name], self.steps) for arm in arms])
                for name in arms[0].hyperparameters}  # fmt: skip
        return {name: self._place(_filled(row, 0, self.mesh.shape["arms"]), BY_ARM) for name, row in rows.items()}

    def _compiled(self, function: Callable[..., Any], inputs: Any, outputs: Any, **options: Any) -> Any:
        # Seeds and arms are divided by hand, so that no device ever waits for another; batches by the compiler.
        mapped = jax.shard_map(
            function, mesh=self.mesh, in_specs=inputs, out_specs=outputs, axis_names={"seeds", "arms"}, check_vma=False
        )
        return jax.jit(mapped, **options)

    def _place(self, array: np.ndarray, spec: PartitionSpec) -> Array:
        # An axis of one device is left out, as jitted functions do: specs that differ would compile anew.
        divided = [axis if axis and self.mesh.shape[axis] > 1 else None for axis in spec]
        while divided and divided[-1] is None:
            divided.pop()
        sharding, array = NamedSharding(self.mesh, PartitionSpec(*divided)), np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    def _host(self, tree: Any) -> Any:
        return jax.device_get(self._gather(tree))

    def _in_order(self, of_groups: Sequence[np.ndarray]) -> np.ndarray:
        """Arrays (seeds, arms of the group, ...) with all fillers, one a group, as one (arms, seeds, ...)."""
        seeds = len(self.logical_seeds)
        parts = [array[:seeds, : len(group)] for group, array in zip(self.groups, of_groups, strict=True)]
        joined = np.concatenate(parts, axis=1)
        return joined[:, np.argsort(np.concatenate(self.groups))].swapaxes(0, 1)

    # What one device does with its seeds and arms.

    def _start_some(self, numbers: list[Numbers], data: Any, seeds: Array) -> list[Run]:
        def one_seed(seed: Array) -> list[Run]:
            params = self.model.init(jax.random.key(seed), as_floats(data.train_images[:1]), deterministic=True)[
                "params"
            ]

            def one_arm(optimizer: Optimizer, row: Numbers) -> Run:
                return Run(params, built(optimizer, row).init(params), jnp.full((), jnp.inf, jnp.float32))

            return [
                jax.vmap(functools.partial(one_arm, optimizer))(rows)
                for optimizer, rows in zip(self.optimizers, numbers, strict=True)
            ]

        return jax.vmap(one_seed)(seeds)

    def _advance_by(self, inner: int) -> Any:
        return self._compiled(
            functools.partial(self._advance_some, inner),
            (BY_ARM, REPLICATED, BY_SEED, BY_RUN, REPLICATED, REPLICATED),
            (BY_RUN, BY_STEP_AND_RUN),
            donate_argnums=3,
        )

    def _advance_some(
        self, inner: int, numbers: list[Numbers], data: Any, seeds: Array, runs: list[Run], step: Array, count: Array
    ) -> tuple[list[Run], list[Array]]:
        def one_seed(step: Array, seed_and_runs: tuple[Array, list[Run]]) -> tuple[list[Run], list[Array]]:
            seed, runs = seed_and_runs
            # Outside the map over arms: one batch, and one set of dropout masks, serves them all.
            return update(self.optimizers, numbers, self._loss(data, seed, step), over, runs)

        def one_step(i: Array, carry: Any) -> Any:
            runs, losses = carry
            runs, now = over(functools.partial(one_seed, step + i))((seeds, runs))
            return runs, [array.at[i].set(loss) for array, loss in zip(losses, now, strict=True)]

        def some_steps(i: Array, carry: Any) -> Any:
            return jax.lax.fori_loop(0, inner, lambda j, carry: one_step(inner * i + j, carry), carry)

        over = one_by_one if self._is_large(data, seeds, step, runs) else jax.vmap
        # The outer loop has a length known at run time, as the pieces between two validations are not alike. An
        # accelerator asks the host about such a loop in every round; the inner loop has a length known beforehand.
        losses = [jnp.full((self.longest, *run.valid_loss.shape), jnp.nan) for run in runs]
        with jax.default_matmul_precision(MATMULS[self.precision]):
            return jax.lax.fori_loop(0, count // inner, some_steps, (runs, losses))

    def _loss(self, data: Any, seed: Array, step: Array) -> Callable[[Any], Array]:
        """That of a step, as a function of the parameters: on its batch, with its dropout masks."""
        batch, key = draw(seed, step, self.batch_size, len(data.train_labels))
        batch = jax.lax.with_sharding_constraint(batch, PartitionSpec("batch"))
        images, labels = as_floats(data.train_images[batch]), data.train_labels[batch]
        return functools.partial(batch_loss, self.model, images, labels, key)

    def _is_large(self, data: Any, seeds: Array, step: Array, runs: list[Run]) -> bool:
        """Whether, on a CPU, the forward pass of one run keeps more for the backward pass than the caches hold."""
        if self.mesh.devices.flat[0].platform != "cpu":
            return False
        params = jax.tree.map(lambda array: array[0, 0], runs[0].params)
        kept = jax.eval_shape(lambda params: jax.vjp(self._loss(data, seeds[0], step), params)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept)) > CACHE

    def _validate_some(self, data: Any, runs: list[Run]) -> tuple[list[Run], list[tuple[Array, Array]]]:
        one = functools.partial(validate, self.model, data.valid_images, data.valid_labels)
        scored = [eval_params(run.opt_state, run.params) for run in runs]
        with jax.default_matmul_precision(MATMULS[self.precision]):
            measured = _split(jax.vmap(jax.vmap(one))(_joined(scored, axis=1)), scored, axis=1)
        return [run._replace(valid_loss=loss) for run, (loss, _) in zip(runs, measured, strict=True)], measured


def _filled(array: np.ndarray, axis: int, parts: int) -> np.ndarray:
    """With its last entry repeated until `axis` can be divided into equal parts."""
    count = np.shape(array)[axis]
    return np.take(array, np.minimum(np.arange(-(-count // parts) * parts), count - 1), axis)
