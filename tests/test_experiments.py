"""The comparison: its model, arms, program and data, at toy size."""

import functools
import hashlib
import http.server
import tarfile
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine import Small, compiled, plan, same

from experiments.engine.loops import one_by_one
from experiments.engine.plan import stalled, validated_after
from experiments.engine.program import LAST_SEED, Program, as_floats, as_seeds, batch_loss, draw
from experiments.engine.run import run
from experiments.engine.train import beginning, train
from experiments.reports.results import History, Results
from experiments.studies.published import PUBLISHED, decayed_adam, published
from experiments.studies.study import Arm
from experiments.tasks import sampled_tasks
from experiments.tasks.cifar10 import FOLDER, RECORD, TRAIN_FILES, VALID_FILES, cifar10
from experiments.tasks.digits import digits
from experiments.tasks.task import DataError, Dataset
from experiments.tasks.vision_transformer import Block, TinyViT, positions, split_into_patches
from optim import adam
from schedules import linear, tabulate

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]

STEPS, ARMS = 40, PUBLISHED.names


@pytest.fixture(scope="module")
def data():
    return digits()


def arms_by_name(rate=1e-2, steps=STEPS):
    return {arm.name: arm for arm in published(rate, steps)}


def of(arms, **options):
    """On one device, whatever the machine: how runs are spread over several is tested elsewhere."""
    return Program(plan(arms, **{"steps": STEPS, **options}), jax.devices()[:1])


def program(*names, seeds=2, steps=STEPS, **options):
    arms = arms_by_name(steps=steps)
    return of([arms[name] for name in names], seeds=range(seeds), steps=steps, **options)


def finished(program):
    *_, progress = train(program, beginning(program))
    assert progress.step == program.plan.steps
    return progress.history


@pytest.fixture(scope="module")
def everything():
    """The history of all arms with two seeds."""
    return finished(program(*ARMS))


@pytest.fixture(scope="module")
def pair():
    """A program of two kinds of arms with two seeds, its history, and what was compiled for it."""
    p = program("cosine", "polyak")
    with compiled() as names:
        history = finished(p)
    return p, history, names


def of_arms(history, *names):
    """What a history of all arms has of some."""
    rows = [ARMS.index(name) for name in names]
    return jax.tree.map(lambda array: array if array.ndim == 1 else array[rows], history)


# The model ------------------------------------------------------------------------------------------------


def test_the_published_model_has_the_published_size():
    init = functools.partial(TinyViT().init, deterministic=True)
    params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    assert sum(p.size for p in jax.tree.leaves(params)) == 556_042


def test_patches_are_squares_row_by_row():
    images = jnp.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    patches = split_into_patches(images, 2)
    assert patches.shape == (2, 4, 12)
    np.testing.assert_array_equal(patches[1, 1], images[1, :2, 2:].ravel())
    np.testing.assert_array_equal(patches[1, 2], images[1, 2:, :2].ravel())


def test_positions_are_sines_and_cosines_of_column_and_row():
    codes = positions(16, 9)
    assert codes.shape == (9, 16)
    row, column, frequency = 1, 2, 10_000 ** -(3 / 4)
    code = codes[row * 3 + column]
    np.testing.assert_allclose(code[3], np.sin(column * frequency), rtol=1e-6)
    np.testing.assert_allclose(code[7], np.cos(column * frequency), rtol=1e-6)
    np.testing.assert_allclose(code[11], np.sin(row * frequency), rtol=1e-6)
    np.testing.assert_allclose(code[15], np.cos(row * frequency), rtol=1e-6)


def test_the_readout_is_the_first_patch():
    """As published: the last block computes only this token."""
    model = TinyViT(patch_size=2, features=8, layers=1, heads=2)
    images = jax.random.uniform(jax.random.key(1), (3, 8, 8, 1))

    @jax.jit
    def results():
        variables = model.init(jax.random.key(0), images, deterministic=True)
        return variables, *model.apply(variables, images, deterministic=True, capture_intermediates=True)

    variables, logits, inner = results()
    tokens = inner["intermediates"]["Block_0"]["__call__"][0]
    readout = variables["params"]["classify"]
    assert tokens.shape == (3, 1, 8)
    np.testing.assert_allclose(logits, tokens[:, 0] @ readout["kernel"] + readout["bias"], rtol=1e-5, atol=1e-6)


def test_a_token_does_not_depend_on_how_many_are_wanted():
    block = Block(features=8, heads=2, dropout=0.3, deterministic=False)
    tokens, keys = jax.random.normal(jax.random.key(1), (3, 17, 8)), {"dropout": jax.random.key(2)}
    variables = jax.jit(functools.partial(block.init, wanted=17))({"params": jax.random.key(0), **keys}, tokens)

    @jax.jit
    def both():
        return [block.apply(variables, tokens, wanted, rngs=keys) for wanted in (1, 17)]

    one, every = both()
    np.testing.assert_allclose(one, every[:, :1], rtol=1e-5, atol=1e-6)


def test_a_loop_computes_once_what_all_runs_share():
    key, many = jax.random.key(0), jnp.arange(12.0).reshape(3, 4)

    def loss(weights, images, scale=2.0):
        mask = jax.random.bernoulli(key, 0.5, images.shape)
        return jax.nn.gelu(jnp.where(mask, images * scale, jnp.zeros(4)) * weights["w"]).sum(), jnp.cos(images)

    def mapped(over):
        return lambda images: over(jax.grad(functools.partial(loss, images=images), has_aux=True))({"w": many})

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6),
        *[jax.jit(mapped(f))(many[0]) for f in (one_by_one, jax.vmap)],
    )
    (loop,) = [each for each in jax.make_jaxpr(mapped(one_by_one))(many[0]).eqns if each.primitive.name == "scan"]
    inside = str(loop.params["jaxpr"])
    assert "tanh" in inside
    assert "random" not in inside
    assert "cos" not in inside


# The arms -------------------------------------------------------------------------------------------------


def test_the_arms_are_the_published_ones():
    arms = arms_by_name(1e-3, 100_000)
    assert tuple(arms) == ARMS
    assert len(arms) == 13
    at = lambda name, t: float(arms[name].hyperparameters["learning_rate"](t))  # noqa: E731
    np.testing.assert_allclose([at("linear-50", 25_000), at("linear-50", 50_000)], [5e-4, 0], rtol=1e-6)
    np.testing.assert_allclose([at("step-75", 74_999), at("step-75", 75_000)], [1e-3, 1e-4], rtol=1e-6)
    np.testing.assert_allclose(at("cosine", 50_000), 5e-4, rtol=1e-6)
    window = lambda name: arms[name].hyperparameters["coefficient"].window  # noqa: E731
    assert [window(name) for name in ("ema-long", "ema-short", "sf-ema")] == [10_000, 1_000, 10_000]  # 0.9999, 0.999
    assert {name for name, each in arms.items() if "coefficient" not in each.hyperparameters} == set(ARMS[:8])


def test_what_is_recorded_of_an_arm_is_its_schedules():
    assert arms_by_name(1e-3, 100)["sf-ema"].record() == {
        "optimizer": "schedule_free_adam",
        "learning_rate": "constant(value=0.001)",
        "coefficient": "exponential_average(window=10.0)",
        "horizon": 100,
    }
    assert Arm("up", decayed_adam, {"learning_rate": linear(0.0, 1.0, 20), "b1": 0.9}, 10).peak_rate == pytest.approx(
        0.45
    )


# The program ----------------------------------------------------------------------------------------------


def test_batches_and_dropout_are_pure_in_seed_and_step():
    batch, key = draw(3, 5, 64, 1000)
    again, key_again = jax.jit(draw, static_argnums=(2, 3))(3, 5, 64, 1000)
    np.testing.assert_array_equal(batch, again)
    assert key == key_again
    for seed, step in ((3, 6), (4, 5)):
        other, other_key = draw(seed, step, 64, 1000)
        assert (other != batch).any()
        assert other_key != key
    assert batch.min() >= 0
    assert batch.max() < 1000


@pytest.mark.parametrize("x64", [False, True])
def test_every_seed_has_a_key_of_its_own(x64):
    with jax.enable_x64(x64):
        keys = jax.jit(jax.vmap(jax.random.key))(as_seeds([0, 1, 2**31 - 1, 2**31, LAST_SEED]))
        assert jax.random.key_data(keys).tolist() == [[0, 0], [0, 1], [0, 2**31 - 1], [0, 2**31], [0, LAST_SEED]]
    for beyond in (-1, LAST_SEED + 1, 10**20):
        with pytest.raises(OverflowError):
            as_seeds([beyond])


def test_seeds_together_are_each_alone(everything):
    names = ("cosine", "sf-ema")
    histories = of_arms(everything, *names), finished(program(*names, seeds=1))
    for together, alone in zip(*map(jax.tree.leaves, histories), strict=True):
        if together.ndim == 3:
            np.testing.assert_allclose(together[:, :1], alone, rtol=5e-4)
    assert (everything.train_loss[:, 0] != everything.train_loss[:, 1]).all()


def test_arms_are_paired_and_scored_before_their_update(everything):
    losses = everything.train_loss
    # The first loss is that of the common initialization on the first batch, for every arm.
    np.testing.assert_allclose(losses[:, :, 0], losses[:1, :, 0].repeat(13, 0), rtol=1e-5)
    # The second is that of the same first update: every arm begins at the peak rate, averages with c = 1.
    same = [i for i, name in enumerate(ARMS) if not name.startswith("sf")]
    np.testing.assert_allclose(losses[same, :, 1], losses[:1, :, 1].repeat(11, 0), rtol=1e-3)
    # Then all go their ways, but for the short EMA: its window is one update in so short a run.
    assert len(np.unique(losses[:, 0, -1].round(5))) == 12


def test_an_arm_is_a_plain_training_loop(data, everything):
    """One arm of the program, written again as anyone would: a loop, optax, and an average kept by hand."""
    import optax

    batch_size, decay = 8, 1 - 1 / 4
    model_key = jax.random.key(0)
    init = jax.jit(functools.partial(Small().init, deterministic=True))
    params = init(model_key, as_floats(jnp.asarray(data.train_images[:1])))["params"]
    optimizer = optax.adam(1e-2, eps=1e-6)
    state, total, average, losses = optimizer.init(params), 0.0, params, []

    @jax.jit
    def loss(params, images, labels, key):
        logits = Small().apply({"params": params}, images, deterministic=False, rngs={"dropout": key})
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1))

    gradient, update = jax.jit(jax.grad(loss)), jax.jit(optimizer.update)
    for step in range(STEPS):
        batch, key = draw(0, step, batch_size, len(data.train_labels))
        examples = data.train_images[batch] / np.float32(255), data.train_labels[batch], key
        losses.append(float(loss(average, *examples)))
        updates, state = update(gradient(params, *examples), state)
        params = optax.apply_updates(params, updates)
        total = decay * total + 1
        average = jax.tree.map(lambda x, z, w=1 / total: (1 - w) * x + w * z, average, params)
    history = of_arms(everything, "ema-long")
    np.testing.assert_allclose(history.train_loss[0, 0], losses, rtol=2e-3)
    logits = Small().apply({"params": average}, data.valid_images / np.float32(255), deterministic=True)
    assert abs(float(np.mean(logits.argmax(-1) == data.valid_labels)) - history.valid_accuracy[0, 0, -1]) < 0.01


@pytest.mark.parametrize(("norm", "powered"), [("l1", np.abs), ("l2", np.square)])
def test_gradient_norms_are_those_of_the_gradients(norm, powered, data):
    """With a rate of 0 the parameters stay, so that every gradient is one at the first."""
    arms = [
        Arm(name, decayed_adam, {"learning_rate": rate, "b1": 0.9}, 21) for name, rate in [("on", 0.1), ("off", 0.0)]
    ]
    p = of(arms, seeds=[5], steps=21, gradient_norms=norm)
    params = jax.tree.map(lambda array: array[0, 1], p.start()[0].params)

    @jax.jit
    def gradient(step):
        batch, key = draw(np.uint32(5), step, 8, len(data.train_labels))
        images, labels = as_floats(jnp.asarray(data.train_images)[batch]), jnp.asarray(data.train_labels)[batch]
        return jax.grad(functools.partial(batch_loss, Small(), images, labels, key))(params)

    sums = [sum(powered(np.float64(leaf)).sum() for leaf in jax.tree.leaves(gradient(step))) for step in range(21)]
    found = finished(p).gradient_norm
    np.testing.assert_allclose(found[1, 0], np.sqrt(sums) if norm == "l2" else sums, rtol=1e-5)
    np.testing.assert_allclose(found[0, 0, 0], found[1, 0, 0], rtol=1e-5)
    assert (found[0, 0, 1:] != found[1, 0, 1:]).all()


def test_recording_gradient_norms_changes_nothing_else():
    cosine = arms_by_name(steps=10_001)["cosine"]  # of which a record is the mean of 5 updates
    (_, without), (_, with_norms) = (
        (p := of([cosine], steps=10_001, gradient_norms=norm)).advance(p.start(), 0, 12) for norm in (None, "l2")
    )
    assert without.norm is None
    assert with_norms.norm.shape == (1, 1, 12)
    np.testing.assert_allclose(with_norms.loss, without.loss, rtol=1e-5)


def test_gradient_norms_go_on_from_a_checkpoint(tmp_path):
    planned = plan([arms_by_name()["cosine"]], steps=STEPS, gradient_norms="l1")
    whole, stopped = run(planned, tmp_path / "whole"), run(planned, tmp_path / "parts", stopped=lambda: True)
    assert 0 < stopped.done < STEPS
    assert np.isnan(stopped.history.gradient_norm[..., stopped.done :]).all()
    same(run(planned, tmp_path / "parts"), whole)
    same(Results.load(tmp_path / "parts" / "history.npz"), whole)


def test_pieces_of_any_length_and_other_seeds_give_the_same_runs_and_one_compilation(pair):
    p, history, names = pair
    assert names
    runs = p.start()
    whole, (losses, _) = p.advance(runs, 0, STEPS)
    broken, parts = p.start(), []
    for step, count in ((0, 7), (7, 1), (8, 32)):
        broken, part = p.advance(broken, step, count)
        parts.append(part.loss)
    np.testing.assert_array_equal(np.concatenate(parts, axis=-1), losses)
    np.testing.assert_array_equal(history.train_loss, losses)
    jax.tree.map(np.testing.assert_array_equal, broken, whole)
    with compiled() as names:
        others = p.with_seeds((1, 7))
        ended, (theirs, _) = others.advance(others.start(), 0, STEPS)
    assert names == []
    # The seed that both have has the same numbers, wherever it stands.
    np.testing.assert_array_equal(theirs[:, 0], losses[:, 1])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[1]), others.save(ended), p.save(whole))


def test_long_runs_advance_in_rounds_and_by_single_updates_to_an_end_between():
    p = program("cosine", steps=10_001)  # a loss is kept of 5 updates
    runs, (losses, _) = p.advance(p.start(), 0, 12)
    assert losses.shape == (1, 2, 12)
    other, parts = p.start(), []
    for step, count in ((0, 5), (5, 1), (6, 6)):
        other, part = p.advance(other, step, count)
        parts.append(part.loss)
    np.testing.assert_allclose(np.concatenate(parts, axis=-1), losses, rtol=1e-6)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(other), jax.tree.leaves(runs), strict=True):
        # What is added to all keys changes no attention: its gradient is rounding, of which Adam makes whole steps.
        if not jax.tree_util.keystr(path).endswith("['key']['bias']"):
            np.testing.assert_allclose(a, b, 1e-5, 1e-6)


def test_runs_one_after_the_other_are_those_that_run_together(monkeypatch, everything):
    monkeypatch.setattr("experiments.engine.program.CACHE", 0)
    names = ("linear-50", "sf-polyak")
    histories = finished(program(*names)), of_arms(everything, *names)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4), *histories)


def test_history_is_measured_where_it_says(everything):
    history = of_arms(everything, "linear-25", "sf-ema")
    assert history.train_loss.shape == (2, 2, 40)
    assert history.valid_steps.tolist() == [10, 20, 30, 40]
    assert np.isfinite(history.train_loss).all()
    # The rate of linear-25 is zero from its end on: what is validated no longer changes.
    assert (history.valid_loss[0] == history.valid_loss[0, :, :1]).all()
    assert (history.valid_loss[1, :, 1:] != history.valid_loss[1, :, :-1]).all()


def test_a_long_history_is_of_means(monkeypatch, pair):
    p, each, _ = pair
    monkeypatch.setattr("experiments.reports.results.RECORDS", 13)  # of 3 updates each; the last of 1
    of_three = finished(p)
    whole = each.train_loss[..., :39].reshape(2, 2, 13, 3).mean(axis=-1, dtype=np.float64)
    np.testing.assert_allclose(of_three.train_loss[..., :13], whole, rtol=1e-6)
    np.testing.assert_array_equal(of_three.train_loss[..., 13], each.train_loss[..., 39])
    assert of_three.valid_steps.tolist() == [12, 21, 30, 40]


def test_validation_is_even_and_where_a_schedule_ends():
    assert validated_after(100_000, 4, [100_000, 33_333]).tolist() == [25_000, 33_350, 50_000, 75_000, 100_000]
    assert validated_after(20, 20, [7]).tolist() == [*range(1, 21)]


def test_a_run_is_stalled_when_no_loss_has_fallen_for_long():
    steps = np.arange(1, 7)

    def losses(*rows):
        return History(np.zeros((1, 1, 6)), steps, np.array(rows)[:, None], np.zeros((2, 1, 6)))

    history = losses([3, 2, 2, 2, 1, 1], [5, 4, 4, 5, np.nan, np.nan])
    assert [stalled(history, step, 2) for step in (2, 3, 4, 6)] == [False, False, True, False]
    assert [stalled(history, step, 1) for step in (2, 3, 4, 5, 6)] == [False, True, True, False, True]
    assert not stalled(history, 6, None)
    assert not stalled(losses([3, 2, 2, 2, 2, 2], [9, 8, 7, 6, 5, 4]), 6, 2)


def test_arms_of_any_optimizer_share_the_gradients_and_differ_in_updates(everything):
    """Four ways to train in one program, the same numbers as each without the others."""
    import optax

    def sgd(learning_rate):
        return optax.sgd(learning_rate)

    def on_plateau(learning_rate):
        return optax.chain(adam(learning_rate), optax.contrib.reduce_on_plateau(factor=0.1, patience=15))

    arms = [
        *(arms_by_name()[name] for name in ("constant", "sf-ema")),
        Arm("sgd", sgd, {"learning_rate": 0.1}, STEPS),
        Arm("plateau", on_plateau, {"learning_rate": 1e-2}, STEPS),
    ]
    together = finished(of(arms))
    for row, each in enumerate(arms):
        alone = of_arms(everything, each.name) if each.name in ARMS else finished(of([each]))
        for ours, theirs in ((together.train_loss, alone.train_loss), (together.valid_loss, alone.valid_loss)):
            np.testing.assert_allclose(ours[row, 0], theirs[0, 0], rtol=5e-4, err_msg=each.name)


def test_a_plateau_rule_hears_the_validation_loss():
    """It sees infinity until the first validation, then its loss; in this rule the rate is that of the last seen."""
    import optax

    def told(learning_rate):
        def update(grads, state, params=None, *, value, **_):
            return jax.tree.map(jnp.zeros_like, grads), jnp.where(jnp.isinf(value), -1.0, value)

        return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)

    p = of([Arm("told", told, {"learning_rate": 0.0}, STEPS)])
    runs, _ = p.advance(p.start(), 0, 3)
    assert float(runs[0].opt_state[0, 0]) == -1
    runs, loss, _ = p.validate(runs)
    runs, _ = p.advance(runs, 3, 1)
    np.testing.assert_array_equal(runs[0].opt_state, loss)


def dtypes(tree):
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]


def test_precision_rounds_activations_and_products_and_nothing_else():
    """On a CPU tf32 is exact."""
    programs = [program("cosine", "ema-long", seeds=1, precision=each) for each in ("float32", "tf32", "bfloat16")]
    begun = programs[0].save(programs[0].start())
    ended = [p.advance(p.load(begun), 0, STEPS) for p in programs]
    exact, tf32, bfloat16 = (measured.loss for _, measured in ended)
    np.testing.assert_array_equal(tf32, exact)
    np.testing.assert_allclose(bfloat16, exact, rtol=0.05)
    assert np.abs(bfloat16 / exact - 1).max() > 1e-4
    assert dtypes(ended[2][0]) == dtypes(ended[0][0])
    (_, exactly, _), (_, rounded, _) = (
        p.validate(runs) for p, (runs, _) in zip(programs[::2], ended[::2], strict=True)
    )
    assert 1e-5 < np.abs(rounded / exactly - 1).max() < 0.05


@pytest.mark.parametrize("task", sampled_tasks().values(), ids=sampled_tasks())
def test_a_model_computes_in_the_dtype_of_its_images_throughout(task):
    model, images = task.model, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.bfloat16)

    def traced(images, deterministic):
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        params = model.init(keys, images, deterministic=True)["params"]
        halves = {"params": jax.tree.map(lambda p: p.astype(images.dtype), params)}
        return model.apply(halves, images, deterministic=deterministic, rngs=keys, capture_intermediates=True)

    for deterministic in (True, False):
        found = jax.eval_shape(functools.partial(traced, deterministic=deterministic), images)
        assert {*dtypes(found)} == {jnp.dtype(jnp.bfloat16)}


# The data -------------------------------------------------------------------------------------------------


def write_cifar(folder, count=20):
    """The data set's binary layout, `count` images a file, in which the label can be seen."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in TRAIN_FILES + VALID_FILES:
        labels = rng.integers(0, 10, count)
        pixels = np.clip(rng.normal(128, 20, (count, RECORD - 1)) + 12 * (labels[:, None] - 4.5), 0, 255)
        np.column_stack([labels, pixels]).astype(np.uint8).tofile(folder / name)
    return folder


def test_digits_are_split_once_and_for_all(data):
    assert isinstance(data, Dataset)
    assert data.train_images.shape == (1438, 8, 8, 1)
    assert data.valid_images.shape == (359, 8, 8, 1)
    assert data.train_images.dtype == np.uint8
    assert data.train_images.max() == 255
    assert np.bincount(data.train_labels).min() > 130
    again = digits()
    np.testing.assert_array_equal(again.valid_labels, data.valid_labels)


def test_cifar10_is_read_from_its_layout(tmp_path):
    folder = write_cifar(tmp_path / FOLDER)
    record = np.arange(RECORD, dtype=np.uint32).astype(np.uint8)
    record[0] = 7
    contents = (folder / "test_batch.bin").read_bytes()
    (folder / "test_batch.bin").write_bytes(record.tobytes() + contents[RECORD:])
    for given in (tmp_path, folder):
        data = cifar10(given)
        assert data.train_images.shape == (100, 32, 32, 3)
        assert data.valid_labels[0] == 7
        row, column, blue = 3, 4, 2
        assert data.valid_images[0, row, column, blue] == record[1 + blue * 1024 + row * 32 + column]


def test_wrong_files_are_one_sentence_that_says_what_to_do(tmp_path):
    folder = write_cifar(tmp_path / FOLDER)
    good = (folder / "data_batch_2.bin").read_bytes()
    for content, message in [
        (good[:-5], "a copy is truncated or is not the binary version; fetch it again"),
        (good[:-RECORD], "a copy is truncated or is not the binary version; fetch it again"),
        (b"", "a copy is truncated or is not the binary version; fetch it again"),
        (b"\x0b" + good[1:], "a CIFAR-10 label must be from 0 to 9, got 11: this is not the binary version"),
    ]:
        (folder / "data_batch_2.bin").write_bytes(content)
        with pytest.raises(DataError) as caught:
            cifar10(tmp_path)
        assert message in str(caught.value)
    with (folder / "data_batch_2.bin").open("wb") as file:
        file.truncate(10**12)  # without a byte on the disk
    with pytest.raises(DataError, match="data_batch_2.bin cannot be read .File too large.: --data must be the folder"):
        cifar10(tmp_path)
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(
        DataError, match="data_batch_2.bin cannot be read .No such file or directory.: --data must be the folder"
    ):
        cifar10(tmp_path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A local server of archives, and an empty cache: (address of a file, its SHA-256, folder served)."""
    served = tmp_path / "served"
    served.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=served)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield lambda name: (f"http://127.0.0.1:{running.server_port}/{name}", hash_of(served / name)), served
        running.shutdown()


def hash_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "0" * 64


def pack(archive, folder, **extra):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, FOLDER)
        for name, content in extra.items():
            (folder.parent / name).write_text(content)
            tar.add(folder.parent / name, f"../{name}")


def test_an_archive_is_downloaded_once_checked_and_read_without_unpacking(server, tmp_path, capsys):
    address, served = server
    pack(served / "cifar.tar.gz", write_cifar(tmp_path / "source" / FOLDER), unexpected="escaped")
    url, sha256 = address("cifar.tar.gz")
    first = cifar10(url=url, sha256=sha256)
    assert first.train_images.shape == (100, 32, 32, 3)
    assert "100%" in capsys.readouterr().err
    (served / "cifar.tar.gz").unlink()
    np.testing.assert_array_equal(cifar10(url=url, sha256=sha256).valid_images, first.valid_images)
    assert [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()] == [
        p.name for p in (tmp_path / "cache").rglob("*cifar.tar.gz")
    ]


def test_a_bad_download_is_one_sentence_and_leaves_nothing_behind(server, tmp_path):
    address, served = server
    pack(served / "whole.tar.gz", write_cifar(tmp_path / "source" / FOLDER))
    (served / "truncated.tar.gz").write_bytes((served / "whole.tar.gz").read_bytes()[:-1000])
    url, sha256 = address("whole.tar.gz")
    truncated, _ = address("truncated.tar.gz")
    missing, _ = address("missing.tar.gz")
    for where, expected, message in [
        (url, "0" * 64, "the SHA-256 of the download differs"),
        (truncated, sha256, "the SHA-256 of the download differs"),
        (missing, sha256, "HTTPError"),
        ("http://127.0.0.1:9/refused.tar.gz", sha256, "ConnectionError"),
    ]:
        with pytest.raises(DataError) as caught:
            cifar10(url=where, sha256=expected)
        assert message in str(caught.value)
        assert "pass its folder with --data" in str(caught.value)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_an_archive_of_something_else_is_refused(server, tmp_path):
    address, served = server
    (served / "empty.tar.gz").write_bytes(b"not an archive")
    with tarfile.open(served / "other.tar.gz", "w:gz") as tar:
        tar.add(Path(__file__), "test.py")
    for name in ("empty.tar.gz", "other.tar.gz"):
        url, sha256 = address(name)
        with pytest.raises(DataError, match=r"cannot be read as the binary version of CIFAR-10 \(.+\): delete it and"):
            cifar10(url=url, sha256=sha256)


@pytest.mark.parametrize(
    ("cache", "reason"),
    [
        (__file__, "Not a directory"),
        ("/proc/nowhere", "No such file or directory"),
        ("/sys/kernel", "Operation not permitted|Permission denied|Read-only file system"),
    ],
)
def test_a_cache_of_data_that_cannot_be_written_is_named_with_the_reason(cache, reason, server, monkeypatch, tmp_path):
    address, served = server
    pack(served / "cifar.tar.gz", write_cifar(tmp_path / "source" / FOLDER))
    url, sha256 = address("cifar.tar.gz")
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    with pytest.raises(DataError, match=f"downloaded from {url} to {cache}/pure-schedules \\(({reason})\\): try again"):
        cifar10(url=url, sha256=sha256)


def test_schedules_reach_the_program_as_rows_of_a_table():
    p = program("cosine", "sf-polyak")
    plain, averaged = p.numbers
    expected = tabulate(arms_by_name()["cosine"].hyperparameters["learning_rate"], 40)
    np.testing.assert_array_equal(plain["learning_rate"][0], expected)
    np.testing.assert_allclose(averaged["coefficient"][0], 1 / np.arange(1, 41), rtol=1e-6)
