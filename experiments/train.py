"""The comparison as one compiled program: every arm with every seed, vmapped.

A step is a pure function of (seed, step) and of where the runs stand. The batch and the dropout masks of a
step do not depend on the arm, so arms are compared on the same noise. Training losses are read at the
parameters an arm is evaluated at, before the update, on the batch about to be used: no arm is scored on
data it has just fitted.
"""

import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array

from experiments.arms import Arm
from experiments.data import Dataset
from optim import adam, average, eval_params
from schedules import table as from_table
from schedules import tabulate


class Averaging(NamedTuple):
    coefficient: Array  # (arms, steps)
    beta: Array  # (arms,)


class Numbers(NamedTuple):
    """What tells arms apart, as arrays: schedules of any shape become rows of one table."""

    learning_rate: Array  # (arms, steps)
    b1: Array  # (arms,)
    averaging: Averaging | None  # None for arms that keep no average, which then costs them nothing


class Run(NamedTuple):
    """Where a run stands; in a program, with leading axes (seeds, arms)."""

    params: Any
    opt_state: Any


class History(NamedTuple):
    """What was measured; NaN where a run has not come to."""

    train_loss: np.ndarray  # (arms, seeds, steps): at the evaluated parameters, before each update
    valid_steps: np.ndarray  # (evaluations,): after how many updates
    valid_loss: np.ndarray  # (arms, seeds, evaluations)
    valid_accuracy: np.ndarray  # (arms, seeds, evaluations)


# Updates are made in pieces, each one call of a compiled loop, of about this many seconds: long enough that an
# accelerator does not wait for the host, short enough that a progress bar moves and Ctrl-C is heard. The loop
# serves the CPU too: a call for every update took 1.4 to 1.6 times as long there (published model, two cores).
SECONDS_A_PIECE = 1.0
LONGEST_PIECE = 1_000  # updates


# One arm, one seed ----------------------------------------------------------------------------------


def optimizer(numbers: Numbers) -> optax.GradientTransformationExtraArgs:
    """The optimizer of one arm, built inside the program from that arm's numbers."""
    base = adam(from_table(numbers.learning_rate), b1=numbers.b1, eps=1e-6)
    if numbers.averaging is None:
        return base
    return average(base, from_table(numbers.averaging.coefficient), numbers.averaging.beta)


def draw(seed: Array, step: Array, batch_size: int, count: int) -> tuple[Array, Array]:
    """The batch of a step, as indices below `count`, and the key of its dropout masks: pure in (seed, step)."""
    batch_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
    return jax.random.randint(batch_key, (batch_size,), 0, count), dropout_key


def train_step(
    model: nn.Module, images: Array, labels: Array, key: Array, numbers: Numbers, run: Run
) -> tuple[Run, Array]:
    """One update. Returns the new run and the loss before it."""

    def loss(params: Any) -> Array:
        logits = model.apply({"params": params}, images, deterministic=False, rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, grads = jax.value_and_grad(loss)(run.params)
    if numbers.averaging is not None:
        value = loss(eval_params(run.opt_state, run.params))
    updates, opt_state = optimizer(numbers).update(grads, run.opt_state, run.params)
    return Run(optax.apply_updates(run.params, updates), opt_state), value


def validate(model: nn.Module, images: Array, labels: Array, params: Any) -> tuple[Array, Array]:
    """Mean loss and accuracy over a data set."""

    def one(example: tuple[Array, Array]) -> tuple[Array, Array]:
        image, label = example
        logits = model.apply({"params": params}, as_floats(image[None]), deterministic=True)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label), jnp.argmax(logits) == label

    losses, hits = jax.lax.map(one, (images, labels), batch_size=250)
    return losses.mean(), hits.mean()


def as_floats(images: Array) -> Array:
    return images.astype(jnp.float32) / 255


def tabulated(arms: Sequence[Arm], steps: int) -> Numbers:
    """Arms that all keep an average, or that all keep none, as arrays."""
    coefficients = [tabulate(arm.coefficient, steps) for arm in arms if arm.coefficient is not None]
    betas = jnp.asarray([arm.beta for arm in arms])
    return Numbers(
        jnp.stack([tabulate(arm.learning_rate, steps) for arm in arms]),
        jnp.asarray([arm.b1 for arm in arms]),
        Averaging(jnp.stack(coefficients), betas) if coefficients else None,
    )


# All of them ----------------------------------------------------------------------------------------


class Program:
    """All arms with all seeds, in as few groups as can share code: those with an average and those without.

    The runs of a group are one `Run` whose arrays have leading axes (seeds, arms); what the methods return
    has leading axes (arms, seeds), in the order the arms were given.
    """

    def __init__(self, model: nn.Module, data: Dataset, arms: Sequence[Arm], seeds: int, steps: int, batch_size: int):
        self.model, self.batch_size = model, batch_size
        self.data: Any = jax.tree.map(jnp.asarray, data)
        self.seeds = jnp.arange(seeds)
        plain = [i for i, arm in enumerate(arms) if arm.coefficient is None]
        averaged = [i for i, arm in enumerate(arms) if arm.coefficient is not None]
        self.groups = [group for group in (plain, averaged) if group]
        self.numbers = [tabulated([arms[i] for i in group], steps) for group in self.groups]

    def start(self) -> list[Run]:
        return self._start(self.numbers, self.data)

    def advance(self, runs: list[Run], step: int, count: int) -> tuple[list[Run], np.ndarray]:
        """`count` more updates after `step` of them, at most `LONGEST_PIECE`.

        **Returns:** the runs, and the losses (arms, seeds, count)."""
        runs, losses = self._advance(self.numbers, self.data, runs, step, count)
        return runs, self._in_order(losses).swapaxes(1, 2)[..., :count]

    def validate(self, runs: list[Run]) -> tuple[np.ndarray, np.ndarray]:
        """Validation loss and accuracy, each (arms, seeds)."""
        loss, accuracy = self._validate(self.data, runs)
        return self._in_order([loss]), self._in_order([accuracy])

    def _in_order(self, of_groups: Sequence[Array]) -> np.ndarray:
        """Arrays (..., arms of the group), one a group, as one (arms, ...)."""
        joined = np.concatenate([np.asarray(array) for array in of_groups], axis=-1)
        return np.moveaxis(joined[..., np.argsort(np.concatenate(self.groups))], -1, 0)

    @functools.partial(jax.jit, static_argnums=0)
    def _start(self, groups: list[Numbers], data: Any) -> list[Run]:
        def one_seed(seed: Array) -> list[Run]:
            image = as_floats(data.train_images[:1])
            params = self.model.init(jax.random.key(seed), image, deterministic=True)["params"]
            return [jax.vmap(lambda n: Run(params, optimizer(n).init(params)))(numbers) for numbers in groups]

        return jax.vmap(one_seed)(self.seeds)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
    def _advance(self, groups: list[Numbers], data: Any, runs: list[Run], step: Array, count: Array) -> Any:
        def one_seed(seed: Array, runs: list[Run], step: Array) -> Any:
            # Outside the map over arms: one batch, and one set of dropout masks, serves them all.
            batch, key = draw(seed, step, self.batch_size, len(data.train_labels))
            images, labels = as_floats(data.train_images[batch]), data.train_labels[batch]
            one_arm = functools.partial(train_step, self.model, images, labels, key)
            return [jax.vmap(one_arm)(numbers, run) for numbers, run in zip(groups, runs, strict=True)]

        def one_step(i: Array, carry: Any) -> Any:
            runs, losses = carry
            stepped = jax.vmap(one_seed, in_axes=(0, 0, None))(self.seeds, runs, step + i)
            losses = [array.at[i].set(loss) for array, (_, loss) in zip(losses, stepped, strict=True)]
            return [run for run, _ in stepped], losses

        # A loop of a length known at run time: the pieces between two validations need not be alike.
        losses = [jnp.full((LONGEST_PIECE, len(self.seeds), len(group)), jnp.nan) for group in self.groups]
        return jax.lax.fori_loop(0, count, one_step, (runs, losses))

    @functools.partial(jax.jit, static_argnums=0)
    def _validate(self, data: Any, runs: list[Run]) -> tuple[Array, Array]:
        evaluated = [eval_params(run.opt_state, run.params) for run in runs]
        joined = jax.tree.map(lambda *groups: jnp.concatenate(groups, axis=1), *evaluated)
        one = functools.partial(validate, self.model, data.valid_images, data.valid_labels)
        return jax.vmap(jax.vmap(one))(joined)


def train(program: Program, steps: int, evaluations: int) -> Iterator[tuple[int, History]]:
    """Trains and yields, after each piece, the number of updates done and the history so far (one object,
    filled as it goes, so that whoever stops early keeps it)."""
    shape = sum(map(len, program.groups)), len(program.seeds)
    stops = sorted({round(steps * (i + 1) / evaluations) for i in range(evaluations)} - {0})
    unmeasured = functools.partial(np.full, fill_value=np.nan, dtype=np.float32)
    history = History(
        unmeasured((*shape, steps)), np.array(stops), unmeasured((*shape, len(stops))), unmeasured((*shape, len(stops)))
    )
    runs, step, length = program.start(), 0, 1
    for i, stop in enumerate(stops):
        while step < stop:
            count, begun = min(length, stop - step), time.monotonic()
            runs, history.train_loss[..., step : step + count] = program.advance(runs, step, count)
            step += count
            fitting = round(count * SECONDS_A_PIECE / (time.monotonic() - begun))
            length = min(max(fitting, 1), 2 * length, LONGEST_PIECE)
            if step < stop:
                yield step, history
        history.valid_loss[..., i], history.valid_accuracy[..., i] = program.validate(runs)
        yield step, history
