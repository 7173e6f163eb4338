"""Merging checkpoints: against the average that ran along, in little memory, with what it says of mistakes."""

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from experiments.studies import merging
from optim import adam, average, average_of, eval_params, merge
from optim.__main__ import main
from schedules import constant, cosine, linear, warmup, wsd

pytestmark = pytest.mark.usefixtures("quick_compilation")
STEPS, EVERY = 24, 4
DECAY = wsd(0.1, 0, 12, 12)


def params_after(updates):
    key = jax.random.key(updates)
    return {"w": jax.random.normal(key, (3, 2)), "layers": [jnp.full(2, updates, jnp.bfloat16)], "count": updates}


MANY = {updates: params_after(updates) for updates in range(0, STEPS + 1, EVERY)}


def saved(folder, tree=lambda params: params, kind=ocp.args.StandardSave, **options):
    """The checkpoints of `MANY`, as a manager writes them."""
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(**options)) as manager:
        for updates, params in MANY.items():
            manager.save(updates, args=tree(params) if kind is None else kind(tree(params)))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("plain"))


def sum_of(weights, name="w"):
    return sum(w * np.asarray(MANY[updates][name], np.float64) for updates, w in weights.items())


# What comes of it -------------------------------------------------------------------------------------


def test_it_is_the_weighted_sum_of_the_checkpoints(folder):
    weights = [0.1, -0.2, 0.3, 0.4, 0.0, 0.1, 0.3]
    for checkpoints in (folder, str(folder), MANY, {at: folder / str(at) for at in MANY}):
        found = merge(checkpoints, weights=weights)
        np.testing.assert_allclose(found["w"], sum_of(dict(zip(MANY, weights, strict=True))), rtol=0, atol=1e-6)
        assert found["w"].dtype == np.float32
        assert found["layers"][0].dtype == jnp.bfloat16
        assert found["count"] == STEPS


def test_a_decay_weighs_each_checkpoint_by_the_mean_multiplier_around_it():
    lr, own = cosine(0.3, 0.0, STEPS), 0.3
    multipliers = [np.mean([float(lr(t)) / own for t in range(at, at + EVERY)]) for at in range(0, STEPS, EVERY)]
    weights = -np.diff([1.0, *multipliers, 0.0])
    np.testing.assert_allclose(merge(MANY, like=lr)["w"], sum_of(dict(zip(MANY, weights, strict=True))), atol=1e-6)
    np.testing.assert_allclose(merge(MANY, like=lr, of=own)["w"], merge(MANY, like=lr)["w"])


def test_with_a_checkpoint_after_every_update_it_is_the_average_of_the_schedule():
    every = {updates: {"w": np.eye(10)[updates]} for updates in range(10)}
    lr, own = warmup(cosine(0.3, 0.0, 6), 3), warmup(constant(0.3), 3)
    np.testing.assert_allclose(merge(every, like=lr, of=own)["w"], average_of(lr, 9, own), rtol=0, atol=1e-12)


def test_it_ends_with_the_checkpoint_that_is_asked_for(folder):
    early = {updates: params for updates, params in MANY.items() if updates <= 16}
    asked = merge(folder, like=linear(0.1, 0.0, 16), updates=16)
    np.testing.assert_array_equal(asked["w"], merge(early, like=linear(0.1, 0.0, 16))["w"])
    assert asked["count"] == 16


def test_what_came_before_the_first_checkpoint_is_as_it_was():
    late = {updates: MANY[updates] for updates in (16, 20, 24)}
    lr = linear(1.0, 0.0, STEPS)
    means = [np.mean([float(lr(t)) for t in range(at, at + EVERY)]) for at in (16, 20)]
    expected = dict(zip(late, -np.diff([1.0, *means, 0.0]), strict=True))
    np.testing.assert_allclose(merge(late, like=lr, of=1.0)["w"], sum_of(expected), atol=1e-6)
    np.testing.assert_array_equal(merge({24: MANY[24]}, like=lr)["w"], MANY[24]["w"])


@pytest.mark.parametrize(
    ("tree", "kind", "options", "subtree"),
    [
        (lambda p: p, ocp.args.StandardSave, {"step_prefix": "ckpt", "step_format_fixed_length": 8}, ""),
        (lambda p: {"params": p, "opt": [jnp.zeros(3), None]}, ocp.args.PyTreeSave, {}, "params"),
        (lambda p: {"runs": [{"opt": jnp.zeros(3)}, {"params": p}]}, ocp.args.StandardSave, {}, "runs/1/params"),
        (lambda p: ocp.args.Composite(state=ocp.args.StandardSave({"params": p}), about=ocp.args.JsonSave({})), None, {}, "params"),
        (lambda p: ocp.args.Composite(now=ocp.args.StandardSave(p), old=ocp.args.StandardSave({"w": 0})), None, {}, "now"),
    ],
    ids=["prefix", "beside others", "deep", "item", "items"],
)  # fmt: skip
def test_checkpoints_of_all_makes_are_read(tree, kind, options, subtree, tmp_path):
    found = merge(saved(tmp_path, tree, kind, **options), like=DECAY, subtree=subtree)
    jax.tree.map(np.testing.assert_array_equal, found, merge(MANY, like=DECAY))


def test_sums_are_as_wide_as_float32_or_wider():
    halves = {i: {"w": jnp.full(3, 1 + i / 128, jnp.bfloat16), "v": np.full(3, 1 + 2**-40 * i)} for i in range(100)}
    found = merge(halves, weights=[0.01] * 100)
    assert (found["w"].dtype, found["v"].dtype) == (jnp.bfloat16, np.float64)
    np.testing.assert_array_equal(found["w"], jnp.full(3, np.mean([1 + i / 128 for i in range(100)]), jnp.bfloat16))
    np.testing.assert_allclose(found["v"], 1 + 2**-40 * 49.5, rtol=1e-15)


def test_in_hindsight_it_is_the_average_that_ran_along_in_the_experiments(tmp_path):
    arms = {arm.name: arm.hyperparameters["coefficient"] for arm in merging.merging(0.1, STEPS)}
    averages = {name: coefficient for name, coefficient in arms.items() if name.startswith("merged-")}
    assert len(averages) == 6
    averages["few"] = averages[merging.FEW].replace(every=5)
    optimizer, params = average(adam(0.1), averages), {"w": jnp.ones(3)}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(0, args=ocp.args.StandardSave({"params": params}))
        for updates in range(1, STEPS + 1):
            grads = {"w": params["w"] + jax.random.normal(jax.random.key(updates), 3)}
            steps, state = update(grads, state, params)
            params = optax.apply_updates(params, steps)
            manager.save(updates, args=ocp.args.StandardSave({"params": params}))
    for name, decay in merging.decays(0.1, STEPS).items():
        found = merge(tmp_path, like=decay, of=0.1, subtree="params")
        averaged = eval_params(state, params, f"merged-{name}")
        np.testing.assert_allclose(found["w"], averaged["w"], rtol=0, atol=1e-6)
    folders = {at: tmp_path / str(at) for at in (*range(0, STEPS, 5), STEPS)}
    found = merge(folders, like=merging.decays(0.1, STEPS)["wsd"], subtree="params")
    np.testing.assert_allclose(found["w"], eval_params(state, params, "few")["w"], rtol=0, atol=1e-6)


# In how much memory -----------------------------------------------------------------------------------


class Counted(np.ndarray):
    """An array that can be referred to weakly, also from views of it."""


class Lazy(Mapping):
    """Makes each checkpoint when it is asked for, and counts those of which something is left."""

    def __init__(self, count):
        self.count, self.alive, self.most = count, weakref.WeakSet(), 0

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter(range(self.count))

    def __getitem__(self, updates):
        array = np.full((4, 5), float(updates), np.float32).view(Counted)
        gc.collect()
        self.alive.add(Kept(array))
        self.most = max(self.most, len(self.alive))
        return {"w": array, "v": np.ones(2, np.float32)}


class Kept:
    """Alive as long as an array is."""

    def __init__(self, array):
        array.kept = self


def test_no_more_than_one_checkpoint_is_held_beside_the_sum():
    lazy = Lazy(9)
    found = merge(lazy, weights=[1 / 9] * 9)
    np.testing.assert_allclose(found["w"], 4.0, rtol=1e-6)
    assert lazy.most == 1


def test_what_does_not_weigh_is_not_read(folder, monkeypatch):
    read = []
    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "metadata", lambda *_: read.append(1) or 1 / 0)
    with pytest.raises(ValueError, match="cannot be read as an Orbax checkpoint"):
        merge(folder, weights=[0, 0, 0, 0, 0, 0, 1])
    assert len(read) == 1


def test_orbax_is_imported_where_folders_are_read(tmp_path):
    program = """
import sys
import numpy as np
from optim import merge
assert merge({0: {"w": np.zeros(2)}, 1: {"w": np.ones(2)}}, weights=[0.5, 0.5])["w"].tolist() == [0.5, 0.5]
assert not [name for name in sys.modules if name.startswith("orbax")]
sys.modules["orbax.checkpoint"] = None
try:
    merge({0: "somewhere"}, weights=[1.0])
except ImportError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert found.stdout == "merge: folders of checkpoints need Orbax: pip install orbax-checkpoint\n", found.stderr


# Mistakes ---------------------------------------------------------------------------------------------

OTHER = {**MANY, 8: {**MANY[8], "w": jnp.zeros((2, 2))}}
MISTAKES = {
    "neither": (lambda f: merge(f), "merge: one of `like` and `weights` must be given, got none"),
    "both": (lambda f: merge(f, like=DECAY, weights=[1.0]), "merge: one of `like` and `weights` must be given, got both"),
    "no schedule": (lambda f: merge(f, like="wsd"), "merge: `like` must be a schedule, a number or a function of the step, got 'wsd'"),
    "a run that stands": (lambda f: merge(f, like=DECAY, of=0.0), "merge: `of` must be above 0 at one or more of the 24 updates, got at most 0"),
    "too few weights": (lambda f: merge(f, weights=[0.5, 0.5]), "merge: `weights` must have one number for each of the 7 checkpoints, got 2"),
    "another sum": (lambda f: merge(f, weights=[0.1] * 7), "merge: `weights` must sum to 1, got 0.7"),
    "no numbers": (lambda f: merge(f, weights="all"), "merge: `weights` must be a list of numbers, got 'all'"),
    "of with weights": (lambda f: merge(f, weights=[0.0] * 6 + [1.0], of=0.1), "merge: `of` must be None if `weights` are given, got 0.1"),
    "no such update": (lambda f: merge(f, like=DECAY, updates=5), "merge: `updates` must be the updates of a checkpoint, one of 0, 4, 8, 12, 16, 20, 24, got 5"),
    "no folder": (lambda f: merge(f / "none", like=DECAY), "merge: `checkpoints` must be a folder of checkpoints, or a mapping from updates to them, got "),
    "empty": (lambda f: merge({}, like=DECAY), "merge: `checkpoints` must be one checkpoint or more, got none in {}"),
    "no updates": (lambda f: merge({"last": {}}, like=DECAY), "merge: `updates of a checkpoint` must be a whole number from 0 to 2147483647, got 'last'"),
    "another shape": (lambda f: merge(OTHER, like=0.1 * linear(1.0, 0.0, STEPS)), "merge: `checkpoints` must be of the same parameters, got shape (2, 2) at ['w'] where (3, 2) is expected after 8 updates"),
    "another dtype": (lambda f: merge({0: np.zeros(2), 1: np.zeros(2, np.float32)}, weights=[0.5, 0.5]), "merge: `checkpoints` must be of the same parameters, got float32 where float64 is expected after 1 updates"),
    "another tree": (lambda f: merge({0: {"a": np.zeros(2)}, 1: {"b": np.zeros(2)}}, weights=[0.5, 0.5]), "merge: `checkpoints` must be of the same parameters, got nothing at ['a'] after 1 updates"),
    "no such subtree": (lambda f: merge(f, like=DECAY, subtree="params"), "merge: `subtree` must be the path of the parameters in every checkpoint, got 'params'; "),
    "not in a tree": (lambda f: merge(MANY, like=DECAY, subtree="layers/1"), "merge: `subtree` must be the path of the parameters in every checkpoint, got 'layers/1'; 12 has 0"),
    "no checkpoint": (lambda f: merge({0: f}, weights=[1.0]), "cannot be read as an Orbax checkpoint (Metadata file (named _METADATA) does not exist at "),
}  # fmt: skip


@pytest.mark.parametrize(("call", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(call, sentence, folder):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        call(folder)
    said = str(raised.value)
    # Where it names a folder, that is another in every run.
    assert sentence in said if str(folder) in said else said == sentence
    assert "\n" not in said


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of what else Orbax was reading
def test_a_checkpoint_that_was_cut_off_is_named(folder, tmp_path):
    damaged = saved(tmp_path)
    for file in (damaged / "24").rglob("*"):
        if file.is_file() and file.name != "_METADATA":
            file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"^merge: .*/24 cannot be read as an Orbax checkpoint \("):
        merge(damaged, like=DECAY)


# As a command -----------------------------------------------------------------------------------------


def test_the_command_says_what_weighs_and_writes_a_checkpoint(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["merge", str(folder), "--like", "wsd(0.1, 0, 12, 12)", "--out", str(out)]) == 0
    weights = [1 / 8, 1 / 3, 1 / 3, 5 / 24]
    assert capsys.readouterr().out.splitlines() == [
        "    updates     weight",
        *(f"{at:>11}   {w:.6f}" for at, w in zip((12, 16, 20, 24), weights, strict=True)),
        "checkpoints with a weight: 4 of 7; effective number averaged: 3.6",
        f"Merged in {out}",
    ]
    with ocp.StandardCheckpointer() as checkpointer:
        written = checkpointer.restore(out)
    jax.tree.map(np.testing.assert_array_equal, written, merge(folder, like=DECAY))


def test_its_options_are_those_of_the_function(folder, tmp_path, capsys):
    words = ["--like", "warmup(cosine(0.3, 0, 8), 8)", "--of", "warmup(0.3, 8)", "--updates", "16"]
    assert main(["merge", str(folder), *words, "--out", str(tmp_path / "out")]) == 0
    like, own = warmup(cosine(0.3, 0.0, 8), 8), warmup(constant(0.3), 8)
    with ocp.StandardCheckpointer() as checkpointer:
        written = checkpointer.restore(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, written, merge(folder, like=like, of=own, updates=16))
    assert main(["merge", str(folder), "--weights", *"0000001"]) == 0
    assert "checkpoints with a weight: 1 of 7; effective number averaged: 1.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--like", "wsd(0.1"], "parse: the text ends before the schedule is complete"),
        ([], "merge: one of `like` and `weights` must be given, got none"),
        (["--like", "0.1", "--out", "."], "--out must be a new folder, got ., which exists"),
        (
            ["--like", "0.1", "--subtree", "params", "--out", "new"],
            "merge: `subtree` must be the path of the parameters",
        ),
    ],
)
def test_a_mistake_in_the_command_is_said_and_nothing_written(words, said, folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["merge", str(folder), *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"python -m optim: {said}")
    assert not list(tmp_path.iterdir())


def test_a_warmup_is_that_of_the_run():
    checkpoints = {updates: {"w": np.ones(1) * updates} for updates in range(0, 10_001, 500)}
    merged = merge(checkpoints, like=wsd(3e-4, 1_000, 7_000, 2_000))
    np.testing.assert_allclose(merged["w"], merge(checkpoints, like=wsd(3e-4, 0, 8_000, 2_000))["w"])
    found = average_of(wsd(1.0, 4, 4, 4), 12)
    np.testing.assert_allclose(found[9:], 0.25)
    np.testing.assert_allclose(found[:9], 0, atol=1e-12)


def test_updates_may_be_any_whole_numbers():
    assert merge({np.int64(1): {"w": 1.0}, 2.0: {"w": 3.0}}, weights=[0.5, 0.5])["w"] == 2.0
