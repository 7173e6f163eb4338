"""The comparison: its data, model, program, report and command, at toy size."""

import hashlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import bench
from experiments.__main__ import main
from experiments.arms import ARMS, published
from experiments.claims import CLAIMS, judge
from experiments.data import FOLDER, RECORD, TRAIN_FILES, VALID_FILES, DataError, Dataset, cifar10, digits
from experiments.figure import PANELS, STYLES, moving_average
from experiments.model import TinyViT, positions, split_into_patches
from experiments.report import heading, save, table
from experiments.results import Results
from experiments.tasks import TASKS
from experiments.train import Program, draw, train
from schedules import tabulate

TINY = TinyViT(patch_size=2, features=8, layers=1, heads=2, dropout=0.1)


STEPS = 40


@pytest.fixture(scope="module")
def data():
    return digits()


def program(data, *names, seeds=2):
    arms = published(1e-2, STEPS)
    return Program(TINY, data, [arms[name] for name in names], seeds, STEPS, batch_size=8)


def finished(program, evaluations=4):
    *_, (done, history) = train(program, STEPS, evaluations)
    assert done == STEPS
    return history


@pytest.fixture(scope="module")
def everything(data):
    """The history of all arms with two seeds."""
    return finished(program(data, *ARMS))


# The model ------------------------------------------------------------------------------------------------


def test_the_published_model_has_the_published_size():
    params = TinyViT().init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), deterministic=True)["params"]
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
    """As published: what the last block leaves at the other tokens changes nothing."""
    model = TinyViT(patch_size=2, features=8, layers=1, heads=2)
    images = jax.random.uniform(jax.random.key(1), (3, 8, 8, 1))
    variables = model.init(jax.random.key(0), images, deterministic=True)
    logits, inner = model.apply(variables, images, deterministic=True, capture_intermediates=True)
    tokens = inner["intermediates"]["Block_0"]["__call__"][0]
    readout = variables["params"]["classify"]
    assert tokens.shape == (3, 17, 8)
    np.testing.assert_allclose(logits, tokens[:, 0] @ readout["kernel"] + readout["bias"], rtol=1e-5, atol=1e-6)


# The arms -------------------------------------------------------------------------------------------------


def test_the_arms_are_the_published_ones():
    arms = published(1e-3, 100_000)
    assert tuple(arms) == ARMS
    assert len(arms) == 13
    assert all(name == arm.name for name, arm in arms.items())
    at = lambda name, t: float(arms[name].learning_rate(t))  # noqa: E731
    np.testing.assert_allclose([at("linear-50", 25_000), at("linear-50", 50_000)], [5e-4, 0], rtol=1e-6)
    np.testing.assert_allclose([at("step-75", 74_999), at("step-75", 75_000)], [1e-3, 1e-4], rtol=1e-6)
    np.testing.assert_allclose(at("cosine", 50_000), 5e-4, rtol=1e-6)
    assert arms["ema-long"].coefficient.window == 10_000  # the published decay, 0.9999
    assert arms["ema-short"].coefficient.window == 1_000  # 0.999
    assert arms["sf-ema"].b1 == 0.0
    assert arms["sf-ema"].beta == 0.9
    assert {n for n, arm in arms.items() if arm.coefficient is None} == set(ARMS[:8])


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


def test_arms_and_seeds_together_are_each_alone(data, everything):
    for name in ("cosine", "sf-ema"):
        alone = finished(program(data, name, seeds=1))
        for together, theirs in zip(everything, alone, strict=True):
            if together.ndim == 3:
                np.testing.assert_allclose(together[ARMS.index(name), :1], theirs[0], rtol=5e-4, err_msg=name)
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


def test_an_arm_is_a_plain_training_loop(data):
    """One arm of the program, written again as anyone would: a loop, optax, and an average kept by hand."""
    import optax

    from experiments.train import as_floats

    batch_size, decay = 8, 1 - 1 / 4
    model_key = jax.random.key(0)
    params = TINY.init(model_key, as_floats(jnp.asarray(data.train_images[:1])), deterministic=True)["params"]
    optimizer = optax.adam(1e-2, eps=1e-6)
    state, total, average, losses = optimizer.init(params), 0.0, params, []

    @jax.jit
    def loss(params, images, labels, key):
        logits = TINY.apply({"params": params}, images, deterministic=False, rngs={"dropout": key})
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
    history = finished(program(data, "ema-long", seeds=1))
    np.testing.assert_allclose(history.train_loss[0, 0], losses, rtol=2e-3)
    logits = TINY.apply({"params": average}, data.valid_images / np.float32(255), deterministic=True)
    assert abs(float(np.mean(logits.argmax(-1) == data.valid_labels)) - history.valid_accuracy[0, 0, -1]) < 0.01


def test_pieces_of_any_length_give_the_same_run_and_one_compilation(data):
    before = Program._advance._cache_size(), Program._validate._cache_size()
    p = program(data, "cosine", "polyak")
    runs, losses = p.advance(p.start(), 0, STEPS)
    broken, parts = p.start(), []
    for step, count in ((0, 7), (7, 1), (8, 32)):
        broken, part = p.advance(broken, step, count)
        parts.append(part)
    np.testing.assert_array_equal(np.concatenate(parts, axis=-1), losses)
    jax.tree.map(np.testing.assert_array_equal, broken, runs)
    np.testing.assert_array_equal(finished(p, evaluations=7).train_loss, losses)
    assert (Program._advance._cache_size() - before[0], Program._validate._cache_size() - before[1]) == (1, 1)


def test_history_is_measured_where_it_says(data):
    history = finished(program(data, "linear-25", "sf-ema"))
    assert history.train_loss.shape == (2, 2, 40)
    assert history.valid_steps.tolist() == [10, 20, 30, 40]
    assert np.isfinite(history.train_loss).all()
    # The rate of linear-25 is zero from its end on: what is validated no longer changes.
    assert (history.valid_loss[0] == history.valid_loss[0, :, :1]).all()
    assert (history.valid_loss[1, :, 1:] != history.valid_loss[1, :, :-1]).all()


# Claims and report ----------------------------------------------------------------------------------------


def results(losses, steps=100, done=100):
    """Results in which every arm of `losses` has a constant loss for every seed."""
    arms = {name: arm for name, arm in published(1e-2, steps).items() if name in losses}
    train_loss = np.stack(
        [np.broadcast_to(np.array(losses[n], np.float32)[:, None], (len(losses[n]), steps)) for n in arms]
    )
    valid = np.ones((*train_loss.shape[:2], 4), np.float32)
    from experiments.train import History

    history = History(train_loss.copy(), np.array([25, 50, 75, 100]), valid, valid / 2)
    history.train_loss[..., done:] = np.nan
    return Results("toy", arms, history, steps, done)


AS_PUBLISHED = {
    "constant": 0.5, "linear-100": 0.2, "linear-75": 0.25, "linear-50": 0.3, "linear-25": 0.4, "cosine": 0.2,
    "step-25": 0.4, "step-75": 0.2, "polyak": 0.6, "ema-long": 0.2, "ema-short": 0.3, "sf-polyak": 0.2, "sf-ema": 0.1,
}  # fmt: skip


def shaken(losses, seeds=3):
    """Every arm with noise common to its seeds, and a little of its own."""
    noise = np.random.default_rng(0)
    common = noise.normal(scale=0.5, size=seeds)
    return {name: loss + common + noise.normal(scale=1e-3, size=seeds) for name, loss in losses.items()}


def test_claims_hold_where_they_hold():
    findings = judge(results(shaken(AS_PUBLISHED)).train_loss)
    assert len(findings) == len(CLAIMS) == 7
    assert {f.verdict for f in findings} == {"holds"}


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({"linear-50": 0.7}, 0),
        ({"linear-100": 0.35}, 1),
        ({"step-75": 0.45}, 2),
        ({"ema-long": 0.05}, 3),
        ({"polyak": 0.45}, 4),
        ({"sf-polyak": 0.3}, 5),
        ({"sf-ema": 0.35}, 6),
    ],
)
def test_a_claim_fails_where_it_is_false(change, failing):
    findings = judge(results(shaken({**AS_PUBLISHED, **change})).train_loss)
    assert findings[failing].verdict == "fails"
    assert findings[failing].margin < 0


def test_noise_and_single_seeds_decide_nothing():
    noise = np.random.default_rng(0)
    # Mirrored, so that the means stay those of the published claims and only their errors grow.
    half = {name: noise.normal(scale=5.0, size=2) for name in AS_PUBLISHED}
    noisy = {name: loss + np.concatenate([half[name], -half[name]]) for name, loss in AS_PUBLISHED.items()}
    assert {f.verdict for f in judge(results(noisy).train_loss)} == {"undecided"}
    assert {f.verdict for f in judge(results(shaken(AS_PUBLISHED, seeds=1)).train_loss)} == {"undecided"}


def test_claims_about_missing_arms_are_not_judged():
    losses = {name: [AS_PUBLISHED[name]] * 2 for name in ("step-25", "step-75")}
    assert [f.statement for f in judge(results(losses).train_loss)] == ["A step at 75 % ends below a step at 25 %"]


def test_losses_are_means_of_the_last_twentieth_before_the_end_of_the_arm():
    r = results({"cosine": [0.0, 0.0], "linear-50": [0.0, 0.0]})
    r.history.train_loss[:] = np.arange(100)
    np.testing.assert_allclose(r.train_loss("cosine"), [97, 97])
    np.testing.assert_allclose(r.train_loss("linear-50"), [47, 47])
    np.testing.assert_allclose(r.train_loss("cosine", 25), [22, 22])
    np.testing.assert_allclose(moving_average(np.arange(5.0), 2), [0.5, 1.5, 2.5, 3.5])


def test_the_table_and_the_heading_tell_what_was_measured():
    r = results({"cosine": [0.2, 0.4], "linear-50": [0.5, 0.5]}, done=60)
    assert heading(r) == "toy: 100 updates, stopped after 60, 2 seeds"
    lines = table(r).splitlines()
    assert lines[2] == "| linear-50 |      50 | 0.500 ± 0.000 |   1.000 ± 0.000 |        50.0 ± 0.0 % |"
    assert lines[3] == "| cosine    |      60 | 0.300 ± 0.100 |   1.000 ± 0.000 |        50.0 ± 0.0 % |"


def test_a_stopped_run_is_not_judged_anywhere(tmp_path):
    text = save(results(shaken(AS_PUBLISHED), done=60), tmp_path, {})
    assert "The run did not end, so the claims are not judged." in text
    assert json.loads((tmp_path / "config.json").read_text())["claims"] == []


def test_every_arm_is_in_a_panel_and_has_a_look_of_its_own_there():
    assert {name for names in PANELS.values() for name in names} == set(ARMS) == set(STYLES)
    for names in PANELS.values():
        looks = [(STYLES[n]["color"], str(STYLES[n].get("linestyle"))) for n in names]
        assert len(set(looks)) == len(names)


# The command ----------------------------------------------------------------------------------------------

SMALL = ["--steps", "20", "--seeds", "1", "--batch-size", "4"]


def test_the_command_leaves_a_table_a_figure_and_the_numbers(tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*SMALL, "--seeds", "2", "--out", str(out)]) == 0
    assert {p.name for p in out.iterdir()} == {"config.json", "figure.png", "history.npz", "report.md"}
    printed, progress = capsys.readouterr()
    assert "13 arms x 2 seeds: 100%" in progress
    report = (out / "report.md").read_text()
    assert report.removeprefix("# ") in printed
    assert all(f"| {name} " in report for name in ARMS)
    assert len([line for line in report.splitlines() if line.startswith("- ")]) == 7
    config = json.loads((out / "config.json").read_text())
    assert config["arms"]["cosine"]["learning_rate"] == "cosine(start=0.014, end=0.0, steps=20)"
    assert config["steps"] == config["done"] == 20
    assert config["versions"]["jax"] == jax.__version__
    with np.load(out / "history.npz") as history:
        assert history["train_loss"].shape == (13, 2, 20)
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    # A second run into the same folder would overwrite the first.
    assert main([*SMALL, "--out", str(out)]) == 2
    assert "--out must be a new or empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "-5"], "--steps must be 20 or more, got -5"),
        (["--seeds", "0"], "--seeds must be 1 or more, got 0"),
        (["--batch-size", "0"], "--batch-size must be 1 or more, got 0"),
        (["--learning-rate", "nan"], "--learning-rate must be a positive number, got nan"),
        (["--arms", "cosine", "cosine"], "--arms must name one or more arms, each once, got cosine cosine"),
        (["--data", "/nowhere"], "--data is for the task cifar10: digits come with scikit-learn, got /nowhere"),
        (["--out", "/proc/nowhere"], "--out must be a folder that can be written, got /proc/nowhere (No such file or directory)"),
        (["--task", "cifar10", "--data", "/nowhere"], "/nowhere/data_batch_1.bin cannot be read (No such file or directory): --data must be"),
    ],
)  # fmt: skip
def test_a_bad_value_is_one_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("python -m experiments: ")
    assert error.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


def test_an_unknown_arm_is_refused_with_the_choices(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--arms", "cosin"])
    assert stopped.value.code == 2
    assert "cosine" in capsys.readouterr().err


def test_help_names_the_defaults_of_each_task(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, task in TASKS.items():
        for value in (task.steps, task.seeds, task.batch_size, task.learning_rate):
            assert f"{name} {value}" in text


def test_interrupting_keeps_what_was_measured(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-u", "-m", "experiments", "--steps", "1000000", "--seeds", "1", "--batch-size", "4"]
    command += ["--arms", "cosine", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        seen = ""
        while not re.search(r"[1-9]\d*/1000000 \[", seen):
            seen += (character := run.stderr.read(1))
            assert character, f"the run ended before its first update: {seen}"
        os.kill(run.pid, signal.SIGINT)
        printed, progress = run.communicate(timeout=120)
    assert run.returncode == 130
    assert "Interrupted: keeping what has been measured." in progress
    assert "Traceback" not in progress
    assert "the claims are not judged" in printed
    done = json.loads((out / "config.json").read_text())["done"]
    assert 0 < done < 1_000_000
    with np.load(out / "history.npz") as history:
        assert np.isfinite(history["train_loss"][..., :done]).all()
        assert np.isnan(history["train_loss"][..., done:]).all()


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


def test_three_arms_learn_from_files_in_the_binary_layout(tmp_path, capsys, monkeypatch):
    import dataclasses

    from experiments import __main__ as command

    small = dataclasses.replace(
        TASKS["cifar10"], model=TinyViT(features=16, layers=1, heads=2, dropout=0.0), evaluations=4
    )
    monkeypatch.setitem(command.TASKS, "cifar10", small)
    write_cifar(tmp_path / "data" / FOLDER)
    arguments = ["--task", "cifar10", "--data", str(tmp_path / "data"), "--arms", "cosine", "ema-long", "sf-ema"]
    arguments += ["--steps", "100", "--batch-size", "16", "--learning-rate", "0.01", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert "CIFAR-10: 100 updates, 1 seed" in capsys.readouterr().out
    with np.load(tmp_path / "run" / "history.npz") as history:
        losses = history["train_loss"]
    assert (losses[..., -10:].mean(axis=-1) < 0.8 * losses[..., :10].mean(axis=-1)).all()


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
        threading.Thread(target=running.serve_forever, daemon=True).start()
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
        (url, "0" * 64, "its SHA-256 differs"),
        (truncated, sha256, "its SHA-256 differs"),
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
        with pytest.raises(DataError, match="is not the binary version of CIFAR-10: delete it and try again"):
            cifar10(url=url, sha256=sha256)


def test_no_pickle_is_ever_loaded():
    """Also not by what reads the results again: history.npz holds plain arrays."""
    source = "".join(p.read_text() for p in Path(main.__code__.co_filename).parent.glob("*.py"))
    assert "pickle" not in source.replace("without ever loading a pickle", "")


def test_schedules_reach_the_program_as_rows_of_a_table(data):
    p = program(data, "cosine", "sf-polyak")
    plain, averaged = p.numbers
    np.testing.assert_array_equal(plain.learning_rate[0], tabulate(published(1e-2, 40)["cosine"].learning_rate, 40))
    assert plain.averaging is None
    np.testing.assert_allclose(averaged.averaging.coefficient[0], 1 / np.arange(1, 41), rtol=1e-6)


# The bench ----------------------------------------------------------------------------------------------


def test_the_bench_writes_what_it_measured(tmp_path, monkeypatch, capsys):
    measured = [bench.Measurement("one", 1.0, "other", 4.0, "µs", "at most 1/2"), bench.traces()]
    monkeypatch.setattr(bench, "measurements", lambda: iter(measured))
    assert main(["bench", "--out", str(tmp_path / "bench")]) == 0
    record = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert [row["ratio"] for row in record["rows"]] == [0.25, 0.1]
    assert "| one | 1 µs | other | 4 µs | 0.250 | at most 1/2 |" in capsys.readouterr().out
    assert (tmp_path / "bench" / "bench.md").read_text().count("\n") == 4


def test_times_are_taken_in_turn():
    calls = []
    first, second = bench.in_turn(lambda: calls.append("a"), lambda: calls.append("b"), rounds=3, calls=2)
    assert "".join(calls) == "ab" + "aabb" * 3
    assert min(first, second) > 0
