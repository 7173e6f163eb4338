"""The comparison as one compiled program: every arm with every seed, vmapped and sharded over devices.

A step is a pure function of seed, step and the state of the runs. The batch and the dropout masks of a step do not
depend on the arm, so that arms are compared with the same noise. Training losses are measured at the parameters at
which an arm is evaluated, on the next batch and before the update on it: no arm is scored on data that it has just
fitted.
"""

import copy
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array

from experiments.engine.loops import one_by_one
from experiments.engine.placing import BY_ARM, BY_BATCH, BY_RUN, BY_SEED, BY_STEP_AND_RUN, REPLICATED, Placing
from experiments.engine.plan import Norm, Plan, Precision
from experiments.reports.results import record_length
from experiments.studies.study import Optimizer
from optim import eval_params
from schedules import table as from_table
from schedules import tabulate

Numbers = dict[str, Array]  # hyperparameters by name, each (arms, steps): schedules of any shape are rows of a table

ORDERS: dict[Norm, int] = {"l1": 1, "l2": 2}
# The dtype of activations, and the precision of products for JAX.
DTYPES: dict[Precision, Any] = {"float32": jnp.float32, "tf32": jnp.float32, "bfloat16": jnp.bfloat16}
MATMULS: dict[Precision, str] = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "default"}


class Run(NamedTuple):
    """The state of a run; in a program, with leading axes (seeds, arms)."""

    params: Any
    opt_state: Any
    valid_loss: Array  # at the last validation, infinite before the first one; plateau rules use it


class Measured(NamedTuple):
    """The loss before each update, and the norm of its gradient if recorded. A program has one for each group."""

    loss: Any
    norm: Any


LAST_SEED = 2**32 - 1  # with 64-bit types disabled, the keys of JAX would drop the bits of larger seeds


def as_seeds(seeds: Sequence[int]) -> np.ndarray:
    """**Raises:** `OverflowError` if one is not from 0 to `LAST_SEED`."""
    return np.array([*seeds], np.uint32)


# One step, one seed -----------------------------------------------------------------------------------


def draw(seed: Array, step: Array, batch_size: int, count: int) -> tuple[Array, Array]:
    """The batch of a step, as indices below `count`, and the key of its dropout masks: pure in (seed, step)."""
    batch_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
    return jax.random.randint(batch_key, (batch_size,), 0, count), dropout_key


def predicted(model: nn.Module, params: Any, images: Array, **options: Any) -> Array:
    """Logits in float32. The model computes in the dtype of `images`, to which the parameters are rounded."""
    logits: Any = model.apply({"params": optax.tree.cast(params, images.dtype)}, images, **options)
    return logits.astype(jnp.float32)


def batch_loss(model: nn.Module, images: Array, labels: Array, key: Array, params: Any) -> Array:
    logits = predicted(model, params, images, deterministic=False, rngs={"dropout": key})
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def update(
    optimizers: Sequence[Optimizer],
    numbers: Sequence[Numbers],
    loss: Callable[[Any], Array],
    over: Callable[[Callable[[Any], Any]], Callable[[Any], Any]],
    norm: Norm | None,
    runs: Sequence[Run],
) -> tuple[list[Run], list[Measured]]:
    """One update of all groups of arms on one batch. Returns the new runs, and what was measured before it.

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
    size = jax.vmap(functools.partial(optax.tree.norm, ord=ORDERS[norm])) if norm else lambda _: None
    measured = [Measured(value, size(each)) for value, each in zip(values, grads, strict=True)]
    return [step(*group) for step, *group in zip(steps, numbers, runs, grads, strict=True)], measured


def _step(optimizer: Optimizer, numbers: Numbers, run: Run, grads: Any) -> Run:
    updates, opt_state = built(optimizer, numbers).update(grads, run.opt_state, run.params, value=run.valid_loss)
    return run._replace(params=optax.apply_updates(run.params, updates), opt_state=opt_state)


def built(optimizer: Optimizer, numbers: Numbers) -> optax.GradientTransformationExtraArgs:
    """The optimizer of one arm, built inside the program from that arm's numbers."""
    made = optimizer(**{name: from_table(row) for name, row in numbers.items()})
    return optax.with_extra_args_support(made)


def _joined(trees: Sequence[Any], axis: int = 0) -> Any:
    """Joins trees of arrays, one for each group, to one tree of all arms along `axis`."""
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis), *trees)


def _split(tree: Any, like: Sequence[Any], axis: int = 0) -> list[Any]:
    """Splits a tree of all arms along `axis` into one tree for each group: the inverse of `_joined` for `like`."""
    ends = np.cumsum([jax.tree.leaves(each)[0].shape[axis] for each in like])
    return [jax.tree.map(lambda a, i=i: jnp.split(a, ends[:-1], axis)[i], tree) for i in range(len(like))]


def _same(x: Any, y: Any) -> bool:
    return all(a is b for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))


def validate(model: nn.Module, dtype: Any, images: Array, labels: Array, params: Any) -> tuple[Array, Array]:
    """Mean loss and accuracy over a data set."""

    def one(example: tuple[Array, Array]) -> tuple[Array, Array]:
        image, label = example
        logits = predicted(model, params, as_floats(image[None], dtype), deterministic=True)[0]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return loss, jnp.where(jnp.isfinite(loss), jnp.argmax(logits) == label, jnp.nan)  # NaN would count as class 0

    losses, hits = jax.lax.map(one, (images, labels), batch_size=250)
    return losses.mean(), hits.mean()


def as_floats(images: Array, dtype: Any = jnp.float32) -> Array:
    return (images.astype(jnp.float32) / 255).astype(dtype)


# All of them ----------------------------------------------------------------------------------------

# Bytes, about the cache of a CPU for one core. Runs that store more for their backward pass are computed one after the
# other, which takes 0.7 to 0.9 of the time of all at once. Smaller runs are faster all at once.
CACHE = 4 * 2**20


class Program:
    """All arms with all seeds of a plan, in groups of arms that differ only in numbers.

    The runs of a group are one `Run` whose arrays have leading axes (seeds, arms). On the devices they are padded with
    fillers, which `save` removes and `load` adds. Measurements are returned as (arms, seeds, ...), with the arms in
    their original order, in every process.

    **Arguments:** `devices`: by default all devices of all processes.
    """

    def __init__(self, plan: Plan, devices: Sequence[jax.Device] | None = None):
        self.plan = plan
        self.longest = max(1_000 // record_length(plan.steps), 1) * record_length(plan.steps)
        self.inner = math.gcd(
            record_length(plan.steps), 10
        )  # updates in a round; a record has a whole number of rounds
        families: dict[Any, list[int]] = {}
        for i, arm in enumerate(plan.arms):
            families.setdefault((arm.optimizer, *arm.hyperparameters), []).append(i)
        groups = [*families.values()]
        self.optimizers = [plan.arms[group[0]].optimizer for group in groups]
        self.placing = Placing(devices or jax.devices(), len(plan.seeds), groups, plan.batch_size)
        self.seeds = self.placing.placed(as_seeds(plan.seeds), BY_SEED)
        self.data = self.placing.placed(plan.data, REPLICATED)
        self.numbers = [self.placing.placed(_tabulated(plan, group), BY_ARM) for group in groups]
        self._advance = functools.cache(self._advance_by)
        self._start = self.placing.compiled(self._start_some, (BY_ARM, REPLICATED, BY_SEED), BY_RUN)
        self._validate = self.placing.compiled(
            self._validate_some, (REPLICATED, BY_RUN), (BY_RUN, BY_RUN), donate_argnums=1
        )

    def with_seeds(self, seeds: Sequence[int]) -> Self:
        """The same program for the same number of other seeds, without compiling again."""
        other = copy.copy(self)
        other.plan = replace(self.plan, seeds=tuple(seeds))
        other.seeds = self.placing.placed(as_seeds(seeds), BY_SEED)
        return other

    def start(self) -> list[Run]:
        return self._start(self.numbers, self.data, self.seeds)

    def advance(self, runs: list[Run], step: int, count: int) -> tuple[list[Run], Measured]:
        """`count` more updates after `step` of them, at most `longest`.

        **Returns:** the runs, and what was measured, (arms, seeds, count)."""
        rest, measured = count % self.inner, []
        for inner, part in ((self.inner, count - rest), (1, rest)):
            if part:
                some = np.int32(step), np.int32(part)
                runs, found = self._advance(inner)(self.numbers, self.data, self.seeds, runs, *some)
                measured.append(jax.tree.map(functools.partial(self._by_run, part), *self.placing.host(found)))
                step += part
        return runs, jax.tree.map(lambda *parts: np.concatenate(parts, axis=-1), *measured)

    def _by_run(self, count: int, *of_groups: np.ndarray) -> np.ndarray:
        return self.placing.in_order([np.moveaxis(array, 0, -1) for array in of_groups])[..., :count]

    def lowered(self, platform: str) -> list[jax.stages.Lowered]:
        """The programs that start, advance and validate, lowered for a platform, for example "cuda"."""
        given = self.numbers, self.data, self.seeds
        runs, some = jax.eval_shape(self._start, *given), jax.ShapeDtypeStruct((), np.int32)
        calls = ((self._start, given), (self._advance(self.inner), (*given, runs, some, some)),
                 (self._validate, (self.data, runs)))  # fmt: skip
        return [function.trace(*arguments).lower(lowering_platforms=(platform,)) for function, arguments in calls]

    def validate(self, runs: list[Run]) -> tuple[list[Run], np.ndarray, np.ndarray]:
        """**Returns:** the runs with their new `valid_loss`; validation loss and accuracy, each (arms, seeds)."""
        runs, measured = self._validate(self.data, runs)
        losses, accuracies = zip(*self.placing.host(measured), strict=True)
        return runs, self.placing.in_order(losses), self.placing.in_order(accuracies)

    def save(self, runs: list[Run]) -> list[Run]:
        """The runs as NumPy arrays (seeds, arms of the group, ...), independent of the devices."""
        # Copies: on a CPU they would be views of memory that the next update writes to.
        return self.placing.given(self.placing.host(runs), lambda a, seeds, arms: np.array(a[:seeds, :arms]))

    def load(self, saved: list[Run]) -> list[Run]:
        """Puts what `save` returned on the devices of this program."""
        return self.placing.placed(saved, BY_RUN)

    def saved_shapes(self) -> list[Run]:
        """The shapes and dtypes of what `save` returns."""
        started = jax.eval_shape(self._start, self.numbers, self.data, self.seeds)
        return self.placing.given(
            started, lambda a, seeds, arms: jax.ShapeDtypeStruct((seeds, arms, *a.shape[2:]), a.dtype)
        )

    # The work of one device on its seeds and arms.

    def _start_some(self, numbers: list[Numbers], data: Any, seeds: Array) -> list[Run]:
        def one_seed(seed: Array) -> list[Run]:
            params = self.plan.model.init(jax.random.key(seed), as_floats(data.train_images[:1]), deterministic=True)[
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
        return self.placing.compiled(
            functools.partial(self._advance_some, inner),
            (BY_ARM, REPLICATED, BY_SEED, BY_RUN, REPLICATED, REPLICATED),
            (BY_RUN, BY_STEP_AND_RUN),
            donate_argnums=3,
        )

    def _advance_some(
        self, inner: int, numbers: list[Numbers], data: Any, seeds: Array, runs: list[Run], step: Array, count: Array
    ) -> tuple[list[Run], list[Measured]]:
        norm = self.plan.gradient_norms

        def one_seed(step: Array, seed_and_runs: tuple[Array, list[Run]]) -> tuple[list[Run], list[Measured]]:
            seed, runs = seed_and_runs
            # Outside the map over arms: one batch, and one set of dropout masks, serves them all.
            return update(self.optimizers, numbers, self._loss(data, seed, step), over, norm, runs)

        def one_step(i: Array, carry: Any) -> Any:
            runs, measured = carry
            runs, now = over(functools.partial(one_seed, step + i))((seeds, runs))
            return runs, jax.tree.map(lambda array, value: array.at[i].set(value), measured, now)

        def some_steps(i: Array, carry: Any) -> Any:
            return jax.lax.fori_loop(0, inner, lambda j, carry: one_step(inner * i + j, carry), carry)

        over = one_by_one if self._is_large(data, seeds, step, runs) else jax.vmap
        # The length of the outer loop is known only at run time, since pieces differ in length. For such a loop, an
        # accelerator asks the host in every round. The length of the inner loop is known when it is compiled.
        nothing = [jnp.full((self.longest, *run.valid_loss.shape), jnp.nan) for run in runs]
        measured = [Measured(each, each if norm else None) for each in nothing]
        with jax.default_matmul_precision(MATMULS[self.plan.precision]):
            return jax.lax.fori_loop(0, count // inner, some_steps, (runs, measured))

    def _loss(self, data: Any, seed: Array, step: Array) -> Callable[[Any], Array]:
        """The loss of a step as a function of the parameters, on the batch and with the dropout masks of the step."""
        batch, key = draw(seed, step, self.plan.batch_size, len(data.train_labels))
        batch = jax.lax.with_sharding_constraint(batch, BY_BATCH)
        images = as_floats(data.train_images[batch], DTYPES[self.plan.precision])
        labels = data.train_labels[batch]
        return functools.partial(batch_loss, self.plan.model, images, labels, key)

    def _is_large(self, data: Any, seeds: Array, step: Array, runs: list[Run]) -> bool:
        """Whether, on a CPU, the forward pass of one run stores more for the backward pass than the cache holds."""
        if self.placing.mesh.devices.flat[0].platform != "cpu":
            return False
        params = jax.tree.map(lambda array: array[0, 0], runs[0].params)
        kept = jax.eval_shape(lambda params: jax.vjp(self._loss(data, seeds[0], step), params)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept)) > CACHE

    def _validate_some(self, data: Any, runs: list[Run]) -> tuple[list[Run], list[tuple[Array, Array]]]:
        one = functools.partial(
            validate, self.plan.model, DTYPES[self.plan.precision], data.valid_images, data.valid_labels
        )
        scored = [eval_params(run.opt_state, run.params) for run in runs]
        with jax.default_matmul_precision(MATMULS[self.plan.precision]):
            measured = _split(jax.vmap(jax.vmap(one))(_joined(scored, axis=1)), scored, axis=1)
        return [run._replace(valid_loss=loss) for run, (loss, _) in zip(runs, measured, strict=True)], measured


def _tabulated(plan: Plan, group: Sequence[int]) -> dict[str, np.ndarray]:
    """The hyperparameters of a group of arms by name, each of shape (arms, steps)."""
    arms = [plan.arms[i] for i in group]
    return {
        name: np.stack([tabulate(arm.hyperparameters[name], plan.steps) for arm in arms])
        for name in arms[0].hyperparameters
    }
