"""What holds for every schedule."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table import TABLE, Row, steps_to_test

from schedules import Schedule, stack, stretch, tabulate

every = pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
SAME = 6e-7  # the same formula compiled in another way: XLA's sine differs between scalars and vectors
pytestmark = pytest.mark.usefixtures("strict")


jitted = jax.jit(lambda schedule, step: schedule(step))  # once, so that rows of one structure are compiled once


def scaled(schedule: Schedule, factor: float, times: int = 1) -> Schedule:
    """The same schedule with other numbers: floats multiplied by one, whole numbers by the other."""
    return jax.tree.map(lambda n: n * factor if isinstance(n, float) else min(n * times, 2**31 - 1), schedule)


@every
def test_equals_the_float64_oracle(row: Row):
    steps = steps_to_test(row)
    expected = np.array([row.oracle(t) for t in steps])
    # What decays for ever ends at the smallest float: below it, nothing is relative.
    np.testing.assert_allclose(row.schedule(np.array(steps)), expected, rtol=1e-6, atol=1e-37)


@every
def test_equals_the_oracle_in_float64(row: Row, x64):
    steps = steps_to_test(row)
    values = row.schedule(np.array(steps))
    assert values.dtype == jnp.float64
    np.testing.assert_allclose(values, [row.oracle(t) for t in steps], rtol=2e-12, atol=1e-37)


@every
def test_jit_equals_eager(row: Row):
    for t in (0, 1, 7, 1000):
        np.testing.assert_allclose(jitted(row.schedule, t), row.schedule(t), rtol=SAME, atol=0)


@every
def test_an_array_of_steps_is_a_loop(row: Row):
    steps = jnp.arange(12).reshape(3, 4)
    expected = np.reshape([row.schedule(t) for t in range(12)], (3, 4))
    np.testing.assert_allclose(row.schedule(steps), expected, rtol=SAME, atol=0)
    np.testing.assert_array_equal(tabulate(row.schedule, 12), row.schedule(steps).ravel())


@every
def test_values_are_float32_arrays_of_the_steps_shape(row: Row):
    for step in (3, np.int64(3), jnp.int8(3), np.arange(6, dtype=np.uint8).reshape(2, 3), jnp.zeros((0,), int), 2.5):
        value = row.schedule(step)
        assert isinstance(value, jax.Array)
        assert value.dtype == jnp.float32
        assert not value.weak_type
        assert value.shape == np.shape(step)
        assert jax.eval_shape(row.schedule, step).shape == np.shape(step)


@every
def test_vmap_over_stacked_instances_is_a_loop(row: Row):
    instances = [scaled(row.schedule, f, n) for f, n in ((1.0, 1), (0.5, 2), (0.25, 1))]  # peaks and horizons
    mapped = jax.vmap(lambda s: s(jnp.arange(12)), axis_size=3)(stack(instances))
    np.testing.assert_allclose(mapped, [s(jnp.arange(12)) for s in instances], rtol=SAME, atol=0)


@every
def test_scan_is_a_loop(row: Row):
    _, scanned = jax.lax.scan(lambda carry, t: (carry, row.schedule(t)), None, jnp.arange(12))
    np.testing.assert_allclose(scanned, tabulate(row.schedule, 12), rtol=SAME, atol=0)


@every
def test_stretched_it_is_the_same_on_a_slower_clock(row: Row):
    if row.schedule.formula.__module__.startswith("optim"):
        pytest.skip("a coefficient counts updates, and is not stretched")
    if row.name == "restarts-10-1.1-to-1e6":
        pytest.skip("cycles of 11, 12.1, 13.31 steps are rounded otherwise than three times as long ones")
    steps = np.array([0, 1, 2, 7, 30, 99, 100, 150, 1000])
    np.testing.assert_allclose(stretch(row.schedule, 3.0)(3 * steps), row.schedule(steps), rtol=2e-6, atol=1e-37)


@every
def test_is_a_pytree_of_its_numbers(row: Row):
    leaves, structure = jax.tree.flatten(row.schedule)
    assert all(type(leaf) in (int, float) for leaf in leaves)
    assert jax.tree.unflatten(structure, leaves) == row.schedule
    hollow = jax.tree.map(lambda _: None, row.schedule)  # as jax and optax do with leaves they mask
    assert jax.tree.leaves(hollow) == []
    repr(hollow)


@every
def test_equality_hash_copies_and_pickles(row: Row):
    schedule = row.schedule
    for other in (
        copy.copy(schedule),
        copy.deepcopy(schedule),
        pickle.loads(pickle.dumps(schedule)),
        schedule.replace(),
        schedule.formula(*_positional(schedule)),
    ):
        assert other == schedule
        assert hash(other) == hash(schedule)
    changed = jax.tree.map(lambda n: n + 1, schedule)
    assert (changed == schedule) == (jax.tree.leaves(schedule) == [])
    assert schedule != repr(schedule)


def _positional(schedule: Schedule) -> list:
    arguments = list(schedule.arguments.values())
    return list(arguments[0]) if schedule.formula.variadic else arguments


@every
def test_one_trace_whatever_the_numbers(row: Row):
    traces = 0

    @jax.jit
    def value(schedule, t):
        nonlocal traces
        traces += 1
        return schedule(t)

    for t, (factor, times) in enumerate([(1.0, 1), (0.5, 2), (0.25, 3)]):
        value(scaled(row.schedule, factor, times), t)
    assert traces == 1


@every
def test_finite_with_finite_gradients_everywhere(row: Row):
    steps = np.array(steps_to_test(row))

    def total(schedule):
        return jnp.sum(schedule(steps))

    # Durations are integers: their derivatives are of the empty dtype float0.
    gradients = [g for g in jax.tree.leaves(jax.grad(total, allow_int=True)(row.schedule)) if g.dtype == jnp.float32]
    tangents = jax.tree.map(lambda n: np.zeros((), jax.dtypes.float0) if type(n) is int else jnp.ones(()), row.schedule)
    _, forward = jax.jvp(lambda s: s(steps), (row.schedule,), (tangents,))
    assert np.isfinite(forward).all()
    assert np.isfinite(gradients).all()
    forward, backward = np.asarray(forward, float), np.asarray(gradients, float)
    np.testing.assert_allclose(forward.sum(), backward.sum(), rtol=2e-3)


@every
def test_arguments_are_attributes_and_cannot_be_changed(row: Row):
    for name, value in row.schedule.arguments.items():
        assert getattr(row.schedule, name) is value
        with pytest.raises(AttributeError, match="cannot be changed"):
            setattr(row.schedule, name, value)
    with pytest.raises(AttributeError, match=f"a {row.schedule.formula} schedule has no attribute 'peek'"):
        row.schedule.peek  # noqa: B018


ONE_EACH = [*{row.schedule.formula: row for row in TABLE}.values()]


one_each = pytest.mark.parametrize("row", ONE_EACH, ids=[row.name for row in ONE_EACH])


@one_each
def test_fractional_steps_are_mapped_over_and_differentiated(row: Row):
    steps = jnp.array([2.5, 7.0])
    np.testing.assert_allclose(jax.vmap(row.schedule)(steps), row.schedule(steps), rtol=SAME, atol=0)
    assert np.isfinite(jax.grad(row.schedule)(2.5))


@one_each
def test_without_jit_it_is_the_same(row: Row):
    for step in (7, 2.5):
        expected = row.schedule(step)
        with jax.disable_jit():
            np.testing.assert_allclose(row.schedule(step), expected, rtol=2e-6, atol=1e-37)
