"""What holds for every schedule.

Compiling is what takes time. So a law has one jitted function for all rows, whose arguments are the schedule, with all
its numbers, and as many steps for each: rows that differ in their numbers only are compiled once. All but the values
in float32 that are compared with the oracle are compiled quickly.
"""

import copy
import os
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table import TABLE, Row, steps_to_test

from schedules import Schedule, stack, stretch

every = pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
ONE_EACH = [*{row.schedule.formula: row for row in TABLE}.values()]
one_each = pytest.mark.parametrize("row", ONE_EACH, ids=[row.name for row in ONE_EACH])
SAME = 6e-7  # the same formula compiled in another way: XLA's sine differs between scalars and vectors
MOST = max(len(steps_to_test(row)) for row in TABLE)
FEW = np.arange(12)
FRACTIONS = np.array([2.5, 7.0], np.float32)
pytestmark = pytest.mark.usefixtures("strict", "quick_compilation")


def padded(steps: list[int] | np.ndarray) -> np.ndarray:
    return np.pad(steps, (0, MOST - len(steps)), mode="edge")


AS_FOR_USERS = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
if "xla_cpu_use_fusion_emitters" in os.environ["XLA_FLAGS"]:  # as the suite sets it where JAX knows it
    AS_FOR_USERS["xla_cpu_use_fusion_emitters"] = True
values = jax.jit(Schedule.__call__, compiler_options=AS_FOR_USERS)
quick_values = jax.jit(Schedule.__call__)


def values_at(schedule: Schedule, steps: list[int] | np.ndarray, values=values) -> np.ndarray:
    return np.asarray(values(schedule, padded(steps)))[: len(steps)]


def scaled(schedule: Schedule, factor: float, times: int = 1) -> Schedule:
    """The same schedule with other numbers: floats multiplied by one, whole numbers by the other."""
    return jax.tree.map(lambda n: n * factor if isinstance(n, float) else min(n * times, 2**31 - 1), schedule)


@every
def test_equals_the_float64_oracle(row: Row):
    steps = steps_to_test(row)
    # What decays for ever ends at the smallest float: below it, nothing is relative.
    np.testing.assert_allclose(values_at(row.schedule, steps), [*map(row.oracle, steps)], rtol=1e-6, atol=1e-37)


@every
def test_equals_the_oracle_in_float64(row: Row, x64):
    steps = steps_to_test(row)
    found = values_at(row.schedule, steps, quick_values)
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, [*map(row.oracle, steps)], rtol=2e-12, atol=1e-37)


@every
def test_an_eager_call_with_one_step_is_a_jitted_one_with_an_array(row: Row):
    found = [row.schedule(t) for t in FEW.tolist()]
    assert all(isinstance(value, jax.Array) for value in found)
    np.testing.assert_allclose(found, values_at(row.schedule, FEW), rtol=SAME, atol=0)


@pytest.mark.parametrize("row", ONE_EACH, ids=[row.name for row in ONE_EACH])
def test_at_is_the_value_as_a_python_float(row: Row):
    found = [row.schedule.at(t) for t in FEW.tolist()]
    assert {type(value) for value in found} == {float}
    np.testing.assert_allclose(found, values_at(row.schedule, FEW), rtol=SAME, atol=0)


@every
def test_values_are_float32_arrays_of_the_steps_shape(row: Row):
    for step in (3, np.int64(3), jnp.int8(3), np.arange(6, dtype=np.uint8).reshape(2, 3), jnp.zeros((0,), int), 2.5):
        value = jax.eval_shape(row.schedule, step)
        assert (value.dtype, value.shape, value.weak_type) == (jnp.float32, np.shape(step), False)


@jax.jit
def scanned_and_mapped(stacked: Schedule, numbers: jax.Array) -> jax.Array:
    """(instances, steps). Some schedules have no numbers to be mapped over, so the instances are numbered."""
    at = lambda t: jax.vmap(lambda schedule, _: schedule(t))(stacked, numbers)  # noqa: E731
    return jax.lax.map(at, FEW).T


@every
def test_scanned_over_steps_and_mapped_over_stacked_instances_it_is_a_loop(row: Row):
    instances = [scaled(row.schedule, f, n) for f, n in ((1.0, 1), (0.5, 2), (0.25, 1))]  # peaks and horizons
    found = scanned_and_mapped(stack(instances), np.arange(3))
    np.testing.assert_allclose(found, [values_at(each, FEW) for each in instances], rtol=SAME, atol=0)


@jax.jit
def stretched(schedule: Schedule, steps: jax.Array) -> jax.Array:
    return stretch(schedule, 3.0)(3 * steps)


@every
def test_stretched_it_is_the_same_on_a_slower_clock(row: Row):
    if row.schedule.formula.__module__.startswith("optim"):
        pytest.skip("a coefficient counts updates, and is not stretched")
    if row.name == "restarts-10-1.1-to-1e6":
        pytest.skip("cycles of 11, 12.1, 13.31 steps are rounded otherwise than three times as long ones")
    steps = np.array([0, 1, 2, 7, 30, 99, 100, 150, 1000])
    np.testing.assert_allclose(stretched(row.schedule, steps), values_at(row.schedule, steps), rtol=2e-6, atol=1e-37)


@every
def test_is_a_pytree_of_its_numbers(row: Row):
    leaves, structure = jax.tree.flatten(row.schedule)
    assert all(type(leaf) in (int, float) for leaf in leaves)
    assert bool(leaves) == any(map(str.isdigit, repr(row.schedule)))
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
    value = jax.jit(chex.assert_max_traces(lambda schedule, t: schedule(t), n=1))
    for t, (factor, times) in enumerate([(1.0, 1), (0.5, 2), (0.25, 3)]):
        value.trace(scaled(row.schedule, factor, times), t)


def is_float(number: jax.Array) -> bool:
    return jnp.issubdtype(number.dtype, np.floating)


@jax.jit
def derivatives(schedule: Schedule, steps: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    """At every step, by all numbers together, forwards; of the sum over the steps, by each number, backwards."""
    # Durations are integers: their derivatives are of the empty dtype float0.
    tangents = jax.tree.map(lambda n: np.ones((), n.dtype if is_float(n) else jax.dtypes.float0), schedule)
    _, forward = jax.jvp(lambda s: s(steps), (schedule,), (tangents,))
    backward = jax.grad(lambda s: jnp.sum(s(steps)), allow_int=True)(schedule)
    return forward, [*filter(is_float, jax.tree.leaves(backward))]


@every
def test_finite_with_finite_gradients_everywhere(row: Row):
    forward, backward = derivatives(row.schedule, padded(steps_to_test(row)))
    assert np.isfinite(forward).all()
    assert np.isfinite(backward).all()
    forward, backward = np.asarray(forward, float), np.asarray(backward, float)
    np.testing.assert_allclose(forward.sum(), backward.sum(), rtol=0, atol=1e-4 * np.abs(forward).sum())


@every
def test_arguments_are_attributes_and_cannot_be_changed(row: Row):
    for name, value in row.schedule.arguments.items():
        assert getattr(row.schedule, name) is value
        with pytest.raises(AttributeError, match="cannot be changed"):
            setattr(row.schedule, name, value)
    with pytest.raises(AttributeError, match=f"a {row.schedule.formula} schedule has no attribute 'peek'"):
        row.schedule.peek  # noqa: B018


@jax.jit
def at_fractions(schedule: Schedule) -> tuple[jax.Array, jax.Array, jax.Array]:
    """In a loop, with derivatives by the step; and mapped."""
    return *jax.lax.map(jax.value_and_grad(schedule), FRACTIONS), jax.vmap(schedule)(FRACTIONS)


@one_each
def test_fractional_steps_are_mapped_over_and_differentiated(row: Row):
    looped, derivatives, mapped = at_fractions(row.schedule)
    np.testing.assert_allclose(mapped, looped, rtol=SAME, atol=0)
    assert np.isfinite(derivatives).all()


@one_each
def test_without_jit_it_is_the_same(row: Row):
    with jax.disable_jit():
        whole, fraction = row.schedule(7), row.schedule(2.5)
    np.testing.assert_allclose(whole, values_at(row.schedule, FEW)[7], rtol=2e-6, atol=1e-37)
    np.testing.assert_allclose(fraction, at_fractions(row.schedule)[0][0], rtol=2e-6, atol=1e-37)
