"""Refreshed BatchNorm statistics: against NumPy in float64 over all batches together."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import FrozenDict

from optim import adam, average, eval_params, polyak
from optim.batch_stats import refresh_batch_stats, refresh_batch_stats_nnx

pytestmark = pytest.mark.usefixtures("quick_compilation")
RNG = np.random.default_rng(0)
SIZES = (7, 2, 12, 7)
IMAGES = [
    (RNG.normal(size=(n, 2, 3, 3)) * [0.5, 1.0, 2.0] + RNG.normal(size=3) + [0.0, 5.0, -3.0]).astype(np.float32)
    for n in SIZES
]
EPSILON = 1e-5


class Linen(nn.Module):
    """BatchNorm, 1x1 convolution, BatchNorm, ReLU, mean over the image, dense layer, BatchNorm."""

    momentum: float = 0.99
    frozen: tuple[str, ...] = ()
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train=True):
        def norm(name, x):
            running = name in self.frozen or not train
            return nn.BatchNorm(running, momentum=self.momentum, param_dtype=self.param_dtype, name=name)(x)

        x = nn.Conv(4, (1, 1), param_dtype=self.param_dtype, name="conv")(norm("bn0", x))
        x = nn.relu(norm("bn1", x)).mean((1, 2))
        return norm("bn2", nn.Dense(2, param_dtype=self.param_dtype, name="dense")(x))


class Nnx(nnx.Module):
    """The same, with dropout at the end."""

    def __init__(self, rngs, momentum=0.99):
        norm = functools.partial(nnx.BatchNorm, momentum=momentum, rngs=rngs)
        self.norms = nnx.List([norm(3), norm(4), norm(2)])
        self.conv = nnx.Conv(3, 4, (1, 1), rngs=rngs)
        self.dense = nnx.Linear(4, 2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norms[1](self.conv(self.norms[0](x)))).mean((1, 2))
        return self.dropout(self.norms[2](self.dense(x)))


def numpy_inputs(params, batch, frozen):
    """What enters each BatchNorm in training mode, by name, one row per position; in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    inputs = {}

    def norm(name, x):
        inputs[name] = x.reshape(-1, x.shape[-1])
        mean, var = frozen.get(name) or (inputs[name].mean(0), inputs[name].var(0))
        return (x - mean) / np.sqrt(var + EPSILON) * p[name]["scale"] + p[name]["bias"]

    x = norm("bn0", batch.astype(np.float64)) @ p["conv"]["kernel"][0, 0] + p["conv"]["bias"]
    x = np.maximum(norm("bn1", x), 0).mean((1, 2))
    norm("bn2", x @ p["dense"]["kernel"] + p["dense"]["bias"])
    return inputs


def expected(params, batches, frozen=()):
    """Mean and variance of what entered each BatchNorm, over all batches together."""
    runs = [numpy_inputs(params, batch, dict(frozen)) for batch in batches]
    together = {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}
    return {name: {"mean": x.mean(0), "var": x.var(0)} for name, x in together.items()}


def initialized(model, seed=0):
    """Variables with stale statistics and with scales and biases that are not 1 and 0."""
    rng = np.random.default_rng(seed)
    variables = model.init(jax.random.key(seed), IMAGES[0])
    variables = jax.tree.map(lambda leaf: leaf + jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), variables)
    return {**variables, "batch_stats": jax.tree.map(lambda s: 100 + jnp.abs(s), variables["batch_stats"])}


def training(model):
    return lambda variables, batch: model.apply(variables, batch, mutable=["batch_stats"])


def close(actual, desired, rtol):
    """Within `rtol`, of means relative to the standard deviation, if that is larger."""
    assert actual.keys() == desired.keys()
    for name, norm in desired.items():
        np.testing.assert_allclose(actual[name]["var"], norm["var"], rtol=rtol, err_msg=name)
        error = np.abs(actual[name]["mean"] - norm["mean"]) / np.maximum(np.abs(norm["mean"]), np.sqrt(norm["var"]))
        assert error.max() < rtol, name


# Linen ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("momentum", "rtol"), [(0.0, 2e-6), (0.9, 2e-6), (0.99, 2e-6), (0.999, 2e-6), (1 - 1 / 4096, 2.0**-25 * 4096)]
)
def test_linen_equals_the_statistics_of_all_batches_together(momentum, rtol):
    """Whatever the momentum; one of 12 digits is known to the half of the last one that float32 has."""
    model = Linen(momentum)
    variables = initialized(model)
    refreshed = refresh_batch_stats(training(model), variables, iter(IMAGES))
    close(refreshed["batch_stats"], expected(variables["params"], IMAGES), rtol=5 * rtol)
    everything = np.concatenate([batch.reshape(-1, 3) for batch in IMAGES]).astype(np.float64)
    np.testing.assert_allclose(refreshed["batch_stats"]["bn0"]["mean"], everything.mean(0), rtol=rtol)
    np.testing.assert_allclose(refreshed["batch_stats"]["bn0"]["var"], everything.var(0), rtol=rtol)


def test_the_mean_of_the_variances_of_batches_is_something_else():
    """And so is the average that weighs batches and not samples: neither would pass the test above."""
    variables = initialized(Linen())
    right = expected(variables["params"], IMAGES)
    each = [expected(variables["params"], [batch]) for batch in IMAGES]
    naive = np.average([e["bn0"]["var"] for e in each], axis=0, weights=SIZES)
    assert (np.abs(naive / right["bn0"]["var"] - 1) > 1e-2).any()
    unweighted = np.mean([e["bn0"]["mean"] for e in each], axis=0)
    assert (np.abs(unweighted / right["bn0"]["mean"] - 1) > 1e-2).any()


def test_returns_variables_with_all_else_as_it_was():
    model = Linen()
    variables = {**initialized(model), "cache": {"x": jnp.ones(2)}}
    before = jax.tree.map(np.array, variables)
    refreshed = refresh_batch_stats(training(model), variables, IMAGES)
    assert refreshed.keys() == variables.keys()
    assert refreshed["params"] is variables["params"]
    assert refreshed["cache"] is variables["cache"]
    assert jax.eval_shape(lambda: refreshed) == jax.eval_shape(lambda: variables)
    chex.assert_trees_all_equal(variables, before)


def test_one_batch_gives_its_own_statistics_and_a_split_one_the_same_for_the_first_layer():
    model = Linen()
    variables = initialized(model)
    whole = refresh_batch_stats(training(model), variables, [IMAGES[2]])["batch_stats"]
    close(whole, expected(variables["params"], [IMAGES[2]]), rtol=1e-5)
    split = refresh_batch_stats(training(model), variables, np.split(IMAGES[2], 6))["batch_stats"]
    close({"bn0": split["bn0"]}, {"bn0": jax.tree.map(np.asarray, whole["bn0"])}, rtol=3e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_parameters(dtype):
    model = Linen(param_dtype=jnp.dtype(dtype))
    variables = initialized(model)
    assert variables["params"]["conv"]["kernel"].dtype == dtype
    stats = refresh_batch_stats(training(model), variables, IMAGES)["batch_stats"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(stats)} == {"float32"}
    close(stats, expected(variables["params"], IMAGES), rtol=1e-5)


def test_a_frozen_batchnorm_keeps_its_statistics_and_normalizes_with_them():
    model = Linen(frozen=("bn1",))
    variables = initialized(model)
    stale = {"mean": jnp.array([0.5, -1.0, 0.0, 1.0]), "var": jnp.array([1.0, 2.0, 9.0, 0.5])}
    variables["batch_stats"]["bn1"] = stale
    stats = refresh_batch_stats(training(model), variables, IMAGES)["batch_stats"]
    chex.assert_trees_all_equal(stats["bn1"], stale)
    frozen = {"bn1": (np.asarray(stale["mean"], float), np.asarray(stale["var"], float))}
    right = expected(variables["params"], IMAGES, frozen)
    del stats["bn1"], right["bn1"]
    close(stats, right, rtol=1e-5)


def test_is_compiled_once_for_each_shape_of_batch_and_function():
    model, traces = Linen(), 0

    def train(variables, batch):
        nonlocal traces
        traces += 1
        return model.apply(variables, batch["image"], mutable=["batch_stats"])

    batches = [{"image": image, "label": np.zeros(len(image))} for image in IMAGES]
    first = refresh_batch_stats(train, initialized(model), batches)
    assert traces == len(set(SIZES)) < len(SIZES)
    second = refresh_batch_stats(train, initialized(model, seed=1), batches)
    assert traces == len(set(SIZES))
    assert (first["batch_stats"]["bn1"]["mean"] != second["batch_stats"]["bn1"]["mean"]).any()


def test_averaged_parameters_get_statistics_of_their_own():
    model = Linen()
    variables = initialized(model)
    params, optimizer = variables["params"], average(adam(0.05), polyak())
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, batch):
        def loss(params):
            output, _ = training(model)({**variables, "params": params}, batch)
            return jnp.mean((output - batch.mean((1, 2, 3))[:, None]) ** 2)

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(10):
        params, state = step(params, state, IMAGES[0])
    averaged = eval_params(state, params)
    refreshed = refresh_batch_stats(training(model), {**variables, "params": averaged}, IMAGES)
    close(refreshed["batch_stats"], expected(averaged, IMAGES), rtol=1e-5)
    with pytest.raises(AssertionError):
        close(refreshed["batch_stats"], expected(params, IMAGES), rtol=1e-2)
    # At these statistics the model in evaluation mode gives, on the very batches, outputs of mean 0 and variance 1.
    scale, bias = averaged["bn2"]["scale"], averaged["bn2"]["bias"]
    outputs = np.concatenate([model.apply(refreshed, batch, train=False) for batch in IMAGES])
    stale = np.concatenate([model.apply({**variables, "params": averaged}, batch, train=False) for batch in IMAGES])
    assert np.abs((outputs - bias) / scale).mean() < 2
    assert np.abs((stale - bias) / scale).mean() > 2


# NNX ------------------------------------------------------------------------------------------------------


def linen_params(model):
    """The parameters of an NNX model by the names of the linen one."""
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    return {**{f"bn{i}": norm for i, norm in params["norms"].items()}, "conv": params["conv"], "dense": params["dense"]}


def nnx_stats(model):
    return {f"bn{i}": {"mean": norm.mean[...], "var": norm.var[...]} for i, norm in enumerate(model.norms)}


def nnx_model(momentum=0.99, seed=0):
    model = Nnx(nnx.Rngs(seed), momentum)
    rng = np.random.default_rng(seed)
    params = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda p: p + jnp.asarray(0.3 * rng.normal(size=p.shape), p.dtype), params))
    return model


@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_nnx_equals_the_statistics_of_all_batches_together(momentum):
    model = nnx_model(momentum)
    assert refresh_batch_stats_nnx(model, iter(IMAGES)) is None
    close(nnx_stats(model), expected(linen_params(model), IMAGES), rtol=1e-5)


def test_nnx_changes_nothing_but_statistics():
    model = nnx_model()
    key_of = lambda state: jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.array(x), state)  # fmt: skip  # noqa: E731
    before = key_of(nnx.state(model, nnx.Not(nnx.BatchStat)))
    stale = key_of(nnx.state(model, nnx.BatchStat))
    refresh_batch_stats_nnx(model, IMAGES)
    chex.assert_trees_all_equal(key_of(nnx.state(model, nnx.Not(nnx.BatchStat))), before)
    changed = jax.tree.map(lambda a, b: bool((a != b).all()), key_of(nnx.state(model, nnx.BatchStat)), stale)
    assert all(jax.tree.leaves(changed))
    model(IMAGES[0])  # still a model


def test_nnx_with_a_function_of_model_and_batch_is_compiled_once_for_each_shape():
    traces = 0

    def forward(model, batch):
        nonlocal traces
        traces += 1
        model(batch["image"])

    batches = [{"image": image, "label": np.zeros(len(image))} for image in IMAGES]
    for seed in (0, 1):
        model = nnx_model(seed=seed)
        refresh_batch_stats_nnx(model, iter(batches), forward)
        close(nnx_stats(model), expected(linen_params(model), IMAGES), rtol=1e-5)
    assert traces == len(set(SIZES))


def test_nnx_averaged_parameters():
    model = nnx_model()
    optimizer = nnx.Optimizer(model, average(adam(0.05), polyak()), wrt=nnx.Param)
    for _ in range(3):
        optimizer.update(model, nnx.grad(lambda model: jnp.mean((model(IMAGES[0]) - 1) ** 2))(model))
    averaged = nnx.clone(model)
    nnx.update(averaged, eval_params(optimizer.opt_state, nnx.state(averaged, nnx.Param)))
    refresh_batch_stats_nnx(averaged, IMAGES)
    close(nnx_stats(averaged), expected(linen_params(averaged), IMAGES), rtol=1e-5)
    with pytest.raises(AssertionError):
        close(nnx_stats(averaged), expected(linen_params(model), IMAGES), rtol=1e-3)


# Without Flax ---------------------------------------------------------------------------------------------


def moments(variables, batch, k=0.9):
    """A model of one BatchNorm, with one statistic that is not a BatchNorm's."""
    stats = variables["batch_stats"]
    running = {"mean": batch.mean(0), "var": batch.var(0)}
    new = {name: k * stats["bn"][name] + (1 - k) * running[name].astype(stats["bn"][name].dtype) for name in running}
    return batch, {"batch_stats": {"bn": new, "spectral": {"sigma": stats["spectral"]["sigma"] + 1}}}


def moments_variables(dtype=jnp.float32, features=3):
    norm = {"mean": jnp.zeros(features, dtype), "var": jnp.full(features, jnp.nan, dtype)}
    return {"batch_stats": {"bn": norm, "spectral": {"sigma": jnp.float32(2.0)}}}


def test_means_far_from_zero_cancel_no_digits():
    data = (1000 + RNG.normal(size=(400, 3))).astype(np.float32)
    stats = refresh_batch_stats(moments, moments_variables(), np.split(data, 50))["batch_stats"]["bn"]
    np.testing.assert_allclose(stats["var"], data.astype(np.float64).var(0), rtol=1e-4)
    # The sum of squares less the square of the mean keeps no digit of it in float32.
    square = np.square(data).mean(0, dtype=np.float32) - np.square(data.mean(0, dtype=np.float32))
    assert (np.abs(square / data.astype(np.float64).var(0) - 1) > 1e-3).any()


def test_other_statistics_stay_and_a_nan_is_forgotten():
    stats = refresh_batch_stats(moments, moments_variables(), [*IMAGES[0].reshape(-1, 1, 3)])["batch_stats"]
    assert stats["spectral"] == {"sigma": 2.0}
    assert np.isfinite(stats["bn"]["var"]).all()


def test_frozen_dictionaries_come_back():
    variables = FrozenDict(moments_variables())
    stats = refresh_batch_stats(moments, variables, [IMAGES[0][:, 0, 0]])["batch_stats"]
    assert jax.tree.structure(stats) == jax.tree.structure(variables["batch_stats"])


def test_many_batches_of_one_sample_in_float64(x64):
    data = RNG.normal(size=(500, 3))
    stats = refresh_batch_stats(moments, moments_variables(jnp.float64), np.split(data, 500))["batch_stats"]["bn"]
    np.testing.assert_allclose(stats["mean"], data.mean(0), rtol=1e-12)
    np.testing.assert_allclose(stats["var"], data.var(0), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_statistics_in_half_precision_are_rounded_once(dtype):
    data = RNG.normal(size=(500, 3)).astype(np.float32)
    stats = refresh_batch_stats(moments, moments_variables(dtype), np.split(data, 250))["batch_stats"]["bn"]
    wide = refresh_batch_stats(moments, moments_variables(), np.split(data, 250))["batch_stats"]["bn"]
    for name in stats:
        assert stats[name].dtype == dtype
        np.testing.assert_array_equal(stats[name], wide[name].astype(dtype))


# Mistakes -------------------------------------------------------------------------------------------------


def evaluating(variables, batch):
    return batch, {"batch_stats": variables["batch_stats"]}


BATCH = np.ones((2, 3), np.float32)
TRAINING = "must be in training mode, got statistics that no batch changes"


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            lambda: refresh_batch_stats(moments, moments_variables(), []),
            "refresh_batch_stats: `batches` must have one batch or more, got none",
        ),
        (
            lambda: refresh_batch_stats(moments, moments_variables(), [BATCH, BATCH[:0]]),
            "refresh_batch_stats: `batches` must have samples along their first axis, got the shape (0, 3)",
        ),
        (
            lambda: refresh_batch_stats(moments, moments_variables(), [jnp.float32(1)]),
            "refresh_batch_stats: `batches` must have samples along their first axis, got the shape ()",
        ),
        (
            lambda: refresh_batch_stats(moments, {"params": {"w": BATCH}}, [BATCH]),
            "refresh_batch_stats: `variables` must have the mean and var of a BatchNorm in batch_stats, got "
            "{'params': {'w': (2, 3)}}",
        ),
        (
            lambda: refresh_batch_stats(moments, {"batch_stats": {"sigma": BATCH}}, [BATCH]),
            "refresh_batch_stats: `variables` must have the mean and var of a BatchNorm in batch_stats, got "
            "{'batch_stats': {'sigma': (2, 3)}}",
        ),
        (
            lambda: refresh_batch_stats(evaluating, moments_variables(), [BATCH]),
            f"refresh_batch_stats: `apply_fn` {TRAINING}",
        ),
        (
            lambda: refresh_batch_stats(lambda variables, batch: batch, moments_variables(), [BATCH]),
            'refresh_batch_stats: `apply_fn` must return (output, {"batch_stats": ...}), got (2, 3)',
        ),
        (
            lambda: refresh_batch_stats(lambda variables, batch: (batch, batch), moments_variables(), [BATCH]),
            'refresh_batch_stats: `apply_fn` must return (output, {"batch_stats": ...}), got ((2, 3), (2, 3))',
        ),
        (
            lambda: refresh_batch_stats_nnx(nnx_model(), []),
            "refresh_batch_stats_nnx: `batches` must have one batch or more, got none",
        ),
        (
            lambda: refresh_batch_stats_nnx(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), [BATCH]),
            "refresh_batch_stats_nnx: `model` must have the mean and var of a BatchNorm, got Linear with the statistics {}",
        ),
        (
            lambda: refresh_batch_stats_nnx(nnx.view(nnx_model(), use_running_average=True), IMAGES),
            f"refresh_batch_stats_nnx: `model` {TRAINING}",
        ),
        (
            lambda: refresh_batch_stats(moments, moments_variables(), IMAGES[0]),
            "refresh_batch_stats: `batches` must be an iterable of batches (one batch is [batch]), got one array of "
            f"shape {IMAGES[0].shape}",
        ),
        (
            lambda: refresh_batch_stats_nnx(nnx_model(), None),
            "refresh_batch_stats_nnx: `batches` must be an iterable of batches (one batch is [batch]), got None",
        ),
        (
            lambda: refresh_batch_stats(moments, None, []),
            "refresh_batch_stats: `variables` must have the mean and var of a BatchNorm in batch_stats, got None",
        ),
        (
            lambda: refresh_batch_stats_nnx({"w": 1.0}, []),
            "refresh_batch_stats_nnx: `model` must be a Flax nnx model, got dict",
        ),
    ],
)
def test_a_mistake_is_one_clear_sentence(mistake, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, compared whole below
        mistake()
    assert str(caught.value) == message


def test_a_model_in_evaluation_mode_is_left_as_it_was():
    model = nnx_model()
    model.eval()
    before = jax.tree.map(np.array, nnx_stats(model))
    with pytest.raises(ValueError, match="training mode"):
        refresh_batch_stats_nnx(model, IMAGES)
    chex.assert_trees_all_equal(nnx_stats(model), before)
