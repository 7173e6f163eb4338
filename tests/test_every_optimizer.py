"""What holds for every optimizer: it learns, and it lives with what people do to optimizers."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_optim import GRADS, OPTIMIZERS, as_jax, close

from optim import (
    adam,
    adamw,
    average,
    ema,
    eval_params,
    gpa,
    hyperparameters,
    lawa,
    polyak,
    radam,
    schedule_free,
    schedule_free_adamw,
    schedule_free_plus,
    schedule_free_radam,
    schedule_free_sgd,
    sgd,
    swa,
    tail,
    weighted,
)
from schedules import linear

pytestmark = pytest.mark.usefixtures("quick_compilation")

EVERY = {
    **{name: make for name, (make, _) in OPTIMIZERS.items()},
    "swa": lambda: average(adam(0.05), swa(10, 3)),
    "several": lambda: average(adam(0.05), {"short": ema(0.9), "long": polyak()}),
    "lawa": lambda: lawa(adam(0.05), last=3, every=2),
    "schedule-free-radam": lambda: schedule_free_radam(0.05, b2=0.99),
    "schedule-free-any": lambda: schedule_free(optax.lion(0.01, b1=0.5), weighted(0.01)),
    "schedule-free-plus": lambda: schedule_free_plus(0.3),
}
NAMES = {"several": "long"}  # of the average to evaluate
every = pytest.mark.parametrize("name", EVERY)

RNG = np.random.default_rng(1)
POINTS = jnp.asarray(RNG.normal(size=(40, 4)), jnp.float32)
TARGETS = POINTS @ jnp.array([1.0, -2.0, 0.5, 0.0]) + 0.1 * jnp.asarray(RNG.normal(size=40), jnp.float32)
LABELS = (TARGETS > 0).astype(jnp.float32)

# Each loss is 0 at best, or near it.
PROBLEMS = {
    "quadratic": ([3.0, -2.0], lambda p: jnp.sum(jnp.array([1.0, 10.0]) * p**2)),
    "rosenbrock": ([-0.5, 1.5], lambda p: 0.1 * (1 - p[0]) ** 2 + (p[1] - p[0] ** 2) ** 2),
    "least squares": ([0.0] * 4, lambda p: jnp.mean((POINTS @ p - TARGETS) ** 2)),
    "logistic": ([0.0] * 4, lambda p: jnp.mean(optax.sigmoid_binary_cross_entropy(POINTS @ p, LABELS))),
}
# One array for all, of which each problem has a part, and a scalar: the fewer arrays, the less is compiled.
START = {"parts": jnp.array([x for start, _ in PROBLEMS.values() for x in start]), "scalar": jnp.float32(2.0)}
ENDS = np.cumsum([len(start) for start, _ in PROBLEMS.values()])


def losses(params):
    parts = jnp.split(params["parts"], ENDS[:-1])
    found = {name: loss(part) for (name, (_, loss)), part in zip(PROBLEMS.items(), parts, strict=True)}
    return {**found, "scalar": (params["scalar"] - 1.0) ** 2}


def total(params):
    return sum(losses(params).values())


@functools.cache
def program(optimizer):
    """That of `run`, compiled once for any number of updates."""

    def step(_, carry):
        params, state = carry
        value, grads = jax.value_and_grad(total)(params)
        steps, state = optimizer.update(grads, state, params, value=value)
        return optax.apply_updates(params, steps), state

    return jax.jit(lambda carry, updates: jax.lax.fori_loop(0, updates, step, carry))


def run(optimizer, params, updates, state=None):
    return program(optimizer)((params, optimizer.init(params) if state is None else state), updates)


@functools.cache
def made(name):
    return EVERY[name]()


@every
def test_it_learns_every_problem(name):
    params, state = run(made(name), START, 400)
    found = losses(eval_params(state, params, NAMES.get(name)))
    for problem, start in losses(START).items():
        assert found[problem] < 0.6 * start, problem


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Parameters and states after some updates, and what comes back of them from one checkpoint, by name."""
    import orbax.checkpoint as ocp

    states, path = {name: run(made(name), START, 7) for name in EVERY}, tmp_path_factory.mktemp("saved") / "states"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, states)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(path, jax.eval_shape(lambda: states))
    return states, jax.device_get(restored)  # what is bound to a device would be compiled anew


@every
def test_a_saved_state_goes_on_bit_for_bit(name, checkpoint):
    (params, state), restored = (states[name] for states in checkpoint)
    whole = run(made(name), params, 5, state)
    for saved in (restored, pickle.loads(pickle.dumps((params, state)))):
        chex.assert_trees_all_equal(run(made(name), saved[0], 5, saved[1]), whole)


@every
def test_holes_in_the_parameters_stay_holes(name):
    params = {"a": jnp.ones(2), "b": None, "c": [None, jnp.ones(())]}

    def updated(params):
        updates, state = made(name).update(params, made(name).init(params), params, value=jnp.float32(1.0))
        return updates, eval_params(state, params, NAMES.get(name))

    chex.assert_trees_all_equal_structs(params, *jax.eval_shape(updated, params))


@every
def test_state_is_sharded_as_the_parameters_are(name):
    mesh = jax.make_mesh((8,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params = jax.device_put(jnp.arange(16.0), sharding)
    arguments = params, made(name).init(params), params
    compiled = jax.jit(made(name).update).lower(*arguments, value=jnp.float32(1.0)).compile()
    assert "all-gather" not in compiled.as_text()
    for leaf in jax.tree.leaves(compiled(*arguments, value=jnp.float32(1.0))):
        if leaf.shape == (16,):
            assert leaf.sharding.is_equivalent_to(sharding, 1)


@functools.cache
def jitted_updates(name):
    """Alone, and inside of `apply_if_finite`, each with its init."""
    return [(o.init, jax.jit(o.update)) for o in (made(name), optax.apply_if_finite(made(name), 3))]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@every
def test_a_gradient_that_is_not_finite_is_kept_out_by_apply_if_finite(name, bad):
    (init_alone, alone), (init, update) = jitted_updates(name)
    params = jnp.array([1.0, -2.0])
    good, broken = jnp.array([0.3, -0.1]), jnp.array([0.3, bad])
    updates, state = update(broken, init(params), params, value=jnp.float32(1.0))
    np.testing.assert_array_equal(updates, 0)
    updates, state = update(good, state, params, value=jnp.float32(1.0))
    # As if it had never come.
    expected = alone(good, init_alone(params), params, value=jnp.float32(1.0))
    chex.assert_trees_all_equal((updates, state.inner_state), expected)
    # Without it, what is not a number is neither hidden nor mended. (The sign that lion takes of it is finite.)
    lost, lost_state = alone(broken, init_alone(params), params, value=jnp.float32(1.0))
    if name != "schedule-free-any" or np.isnan(bad):
        assert not np.isfinite(lost[1])
        after = eval_params(lost_state, optax.apply_updates(params, lost), NAMES.get(name))
        assert not np.isfinite(after[1]) or name == "swa"
    assert np.isfinite(lost[0]) or name == "schedule-free-plus"  # whose rate is that of all parameters


@every
def test_updates_have_the_dtypes_of_the_parameters(name):
    if "lean" in name:
        pytest.skip("the lean form is for float32 parameters")
    params = {"half": jnp.ones(2, jnp.bfloat16), "full": jnp.ones(2)}
    for wrapped in (made(name), optax.apply_if_finite(made(name), 3)):
        updates = jax.eval_shape(lambda p, o=wrapped: o.update(p, o.init(p), p, value=jnp.float32(1.0))[0], params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)


@every
def test_it_is_evaluated_in_an_nnx_model(name):
    from flax import nnx

    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, made(name), wrt=nnx.Param)
    for _ in range(3):
        optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)), value=jnp.float32(1.0))
    averaged = nnx.clone(model)
    nnx.update(averaged, eval_params(optimizer.opt_state, nnx.state(averaged, nnx.Param), NAMES.get(name)))
    assert np.isfinite(averaged(jnp.ones((1, 2)))).all()
    assert all(f"{value:.3f}" for value in hyperparameters(optimizer.opt_state).values())


@every
def test_what_was_used_can_be_read(name):
    before = hyperparameters(made(name).init(START))
    _, state = run(made(name), START, 2)
    assert before.keys() == hyperparameters(state).keys() != set()
    assert all(value.shape == () and np.isfinite(value) for value in hyperparameters(state).values())


def with_numbers(lr):
    """Optimizers of every kind, with numbers that follow from one."""
    return [
        adam(lr, b1=1 - lr),
        adamw(lr, weight_decay=lr),
        radam(lr, b2=1 - lr / 10),
        sgd(linear(lr, 0.0, round(100 * lr)), momentum=1 - lr),
        average(adam(lr), ema(1 - lr)),
        average(adam(lr), {"a": tail(round(100 * lr)), "b": swa(round(10 * lr), 3)}),
        schedule_free_sgd(lr, 1 - lr, round(100 * lr), r=lr),
        schedule_free_adamw(lr, 1 - lr, weight_decay=lr, scale=1 + lr),
        schedule_free_plus(lr, 1 - lr, beta_steps=round(100 * lr), newest_until=round(10 * lr)),
        gpa(adam(lr), 1 - lr, 1 - lr),
        lawa(sgd(lr), 3, every=round(10 * lr), start=round(100 * lr)),
    ]


def test_changing_any_number_compiles_nothing_anew_for_an_eager_update(compiled):
    params, programs = as_jax(GRADS[0]), []
    for lr in (0.1, 0.2, 0.3):
        for optimizer in with_numbers(lr):
            optimizer.update(params, optimizer.init(params), params, value=jnp.float32(1.0))
        programs.append(compiled())
    assert programs[0]
    assert programs[1:] == [[], []]


def test_masks_of_decay_work_inside_masks_and_partitions_and_for_subtrees():
    params = {"w": jnp.ones(2), "n": {"k": jnp.ones(3), "s": jnp.ones(1)}}
    whole = {"w": True, "n": {"k": False, "s": False}}
    for mask in (whole, {"w": True, "n": False}, lambda p: jax.tree.map(lambda leaf: leaf.size == 2, p)):
        for wrap in (
            lambda o: o,
            lambda o: optax.masked(o, {"w": True, "n": {"k": True, "s": True}}),
            lambda o: optax.partition({"a": o}, {"w": "a", "n": {"k": "a", "s": "a"}}),
        ):
            ours, theirs = (wrap(make(0.1, weight_decay=0.5, mask=mask)) for make in (adamw, optax.adamw))
            found, expected = (o.update(params, o.init(params), params)[0] for o in (ours, theirs))
            close(found, expected, 1e-5)
    masked = optax.masked(adamw(0.1, mask={"w": True, "n": False}), {"w": True, "n": False})
    assert masked.update(params, masked.init(params), params)[0]["n"] is params["n"]


def test_schedule_free_decays_what_its_mask_says():
    params, mask = {"w": jnp.ones(2), "b": jnp.ones(2)}, {"w": True, "b": False}
    grads = jax.tree.map(jnp.zeros_like, params)
    for make in (schedule_free_sgd, schedule_free_adamw, lambda *a, **k: schedule_free_radam(*a, **k, silent=False)):
        optimizer = make(0.1, weight_decay=0.5, mask=mask)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        assert (updates["w"] < 0).all()
        np.testing.assert_array_equal(updates["b"], 0)


def test_hyperparameters_may_be_injected_and_swept():
    for make in (schedule_free_adamw, schedule_free_sgd, schedule_free_plus, radam, adamw):
        optimizer = optax.inject_hyperparams(make)(learning_rate=0.1)
        state = optimizer.init(START)
        updates, _ = jax.jit(optimizer.update)(START, state, START, value=jnp.float32(1.0))
        assert np.isfinite(jax.tree.leaves(updates)[0]).all()
    swept = jax.vmap(
        lambda m: gpa(adam(0.1), m).update(jnp.ones(2), gpa(adam(0.1), m).init(jnp.ones(2)), jnp.ones(2))[0]
    )
    assert np.isfinite(swept(jnp.array([0.5, 0.9]))).all()


def test_the_derivative_by_b1_is_finite_at_0():
    def after(b1):
        optimizer = adam(0.1, b1=b1)
        state = optimizer.init(jnp.ones(2))
        _, state = optimizer.update(jnp.ones(2), state)
        return optimizer.update(-jnp.ones(2), state)[0].sum()

    assert np.isfinite(jax.grad(after)(0.0))


# Optimizers that find their own rate, as bases -------------------------------------------------------------

LR_FREE = {
    "prodigy": lambda: optax.contrib.prodigy(1.0),
    "dadapt_adamw": lambda: optax.contrib.dadapt_adamw(1.0),
    "dog": lambda: optax.contrib.dog(1.0),
    "mechanize": lambda: optax.contrib.mechanize(sgd(1.0)),
    "momo": lambda: optax.contrib.momo(1.0),
}


@pytest.mark.parametrize("name", LR_FREE)
def test_an_average_goes_around_optimizers_that_find_their_own_rate(name):
    from schedules import cosine

    optimizer = average(LR_FREE[name](), ema(0.9))
    params, state = run(optimizer, START, 300)
    assert total(eval_params(state, params)) < 0.5 * total(START)
    if name == "prodigy":  # its authors recommend a cosine without restarts
        params, state = run(average(optax.contrib.prodigy(cosine(1.0, 0.0, 300)), ema(0.9)), START, 300)
        assert total(eval_params(state, params)) < 0.5 * total(START)


def test_a_vmapped_sweep_of_every_number_is_one_program():
    rates, betas = jnp.array([0.02, 0.05]), jnp.array([0.8, 0.95])

    def trained(rate, beta):
        optimizer = schedule_free(adam(rate, b1=0.0), weighted(rate), beta)
        params, state = run(optimizer, START, 20)
        return eval_params(state, params)

    swept = jax.vmap(trained)(rates, betas)
    for i in range(2):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], swept), trained(rates[i], betas[i]), 1e-5)
