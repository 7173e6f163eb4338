"""The suite for an accelerator, on the CPU with a small model: stopped anywhere, it ends as if it had not been."""

import dataclasses
import functools
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from engine import QUICKLY_TOLD, Fork, kept_in
from flax import linen as nn
from PIL import Image

from experiments import accelerator
from experiments.accelerator import ARMS, Block, Suite, main
from experiments.bench import optimizers, throughput
from experiments.bench.measurement import Measurement
from experiments.bench.plans import little
from experiments.bench.throughput import Trainee, one_program, paced, race, row_name
from experiments.commands.options import Running, to_train
from experiments.engine.program import Program
from experiments.errors import UserError
from experiments.reports.results import Results
from experiments.studies import published as studies
from experiments.studies.published import PUBLISHED, published
from experiments.tasks import cifar10 as tasks
from experiments.tasks.cifar10 import FOLDER, RECORD, TRAIN_FILES, VALID_FILES, cifar10
from experiments.tasks.task import DataError
from experiments.tasks.vision_transformer import TinyViT

pytestmark = pytest.mark.slow
FILES = {
    "config.json", "figure.png", "history.npz", "measured.json", "measured.md", "report.md", "results.json",
    "validation.png",
}  # fmt: skip
PARTS = [
    "correctness", "13 arms, tf32", "kernels", "13 arms, bfloat16", "13 arms, float32", "1 arm, tf32", "4 arms, tf32",
    "26 arms, tf32", "52 arms, tf32", "correctness, float32", "averages", "optimizers",
]  # fmt: skip
STEPS = 20
ROOT = Path(__file__).parent.parent


class Small(nn.Module):
    """One layer, and dropout before it."""

    @nn.compact
    def __call__(self, images, deterministic):
        pixels = images[:, ::4, ::4].reshape(len(images), -1)
        return nn.Dense(10, use_bias=False)(nn.Dropout(0.1, deterministic=deterministic)(pixels))


BLOCK_SIZE = Suite.block_size


def small():
    """Everything as quick as it can be; a seed after the other, as on one device."""
    tasks.PUBLISHED = dataclasses.replace(tasks.PUBLISHED, model=Small())
    throughput.SECONDS, throughput.ROUNDS, accelerator.STYLE_SECONDS, optimizers.ARRAYS = 1e-4, 1, 1e-4, 2
    Suite.block_size = lambda suite, first: 1
    studies.PUBLISHED = QUICKLY_TOLD
    accelerator.one_program = counted


def counted(plan, names, seeds, precision, kind="arm"):
    """What `one_program` says of arms, and nothing to train."""
    count = seeds * sum(arm.name in names for arm in plan.arms)
    return Trainee(row_name(count, precision, kind), count, lambda rounds: None)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with kept_in(folder):
        yield folder


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (tasks, "PUBLISHED"),
            (throughput, "SECONDS"), (throughput, "ROUNDS"), (accelerator, "STYLE_SECONDS"), (optimizers, "ARRAYS"),
            (Suite, "block_size"), (studies, "PUBLISHED"), (accelerator, "one_program"),
        ):  # fmt: skip
            patch.setattr(module, name, getattr(module, name))
        small()
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """CIFAR-10's binary layout with 20 images a file."""
    folder = tmp_path_factory.mktemp("data") / FOLDER
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in TRAIN_FILES + VALID_FILES:
        records = np.column_stack([rng.integers(0, 10, 20), rng.integers(0, 256, (20, RECORD - 1))])
        records.astype(np.uint8).tofile(folder / name)
    return folder


def words(data, folder, *more):
    size = ["--steps", STEPS, "--seeds", 2, "--batch-size", 8, "--parameters", 1000]
    return [*map(str, ["--data", data, "--work", folder / "work", "--out", folder / "out", *size, *more])]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Both folders after one call that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(words(data, folder)) == 0
    return folder


def history(folder):
    return Results.load(folder / "out" / "history.npz")


def measured(folder):
    return json.loads((folder / "out" / "measured.json").read_text())


def assert_same(results, expected):
    assert dataclasses.replace(results, history=None) == dataclasses.replace(expected, history=None)
    for ours, theirs in zip(results.history, expected.history, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# From the beginning to the end ------------------------------------------------------------------------


def test_everything_is_measured_and_written(whole):
    out = whole / "out"
    assert {path.name for path in out.iterdir()} == FILES
    assert max(path.stat().st_size for path in out.iterdir()) < 2**24
    found = measured(whole)
    assert [*found["parts"]] == PARTS
    assert found["passed"]
    assert found["devices"] == 8
    assert all(row["ours"] > 0 for name, rows in found["parts"].items() if "correctness" not in name for row in rows)
    text = (out / "measured.md").read_text()
    assert "8 x cpu. Correctness: passed." in text
    assert all(f"| {name} |" in text for name in PARTS if "arm" in name)
    assert "| 5 averaged arms, tf32 |" in text
    assert "| one arm in the published style, tf32 |" in text
    assert len(text.splitlines()) == 4 + 2 + 2 * 2 + 2 + len(found["parts"]["kernels"]) + 7 + 8
    assert (out / "report.md").read_text().startswith("# CIFAR-10: 20 updates, 2 seeds\n")
    plan = json.loads((out / "config.json").read_text())["plan"]
    assert plan["precision"] == "tf32"
    assert plan["parameters"] == 1000
    assert [*plan["arms"]] == [*ARMS]
    assert "seeds" not in plan


def planned(data, **options):
    running = Running(task="cifar10", data=data, **{"steps": STEPS, "batch_size": 8, "precision": "tf32", **options})
    return to_train(running, PUBLISHED, PUBLISHED.arms, len(ARMS))


def suite(plan, folder, **options):
    for name in ("work", "out"):
        (folder / name).mkdir(exist_ok=True)
    return Suite(plan, folder / "work", folder / "out", parameters=1000, **options)


def seen(folder):
    """What there is in the folder of the results: parts, seeds and updates."""
    out = folder / "out"
    results = history(folder) if (out / "history.npz").exists() else None
    return [*measured(folder)["parts"]], results.seeds if results else (), results.done if results else 0


@pytest.fixture
def correct(monkeypatch):
    """Nothing is computed to find that the devices are."""
    row = Measurement("losses", 1e-6, "tolerance", 1e-3, "")
    monkeypatch.setattr(Suite, "correctness", lambda suite, precision: [row])


def test_what_a_minute_is_worth_most_comes_first(data, whole, tmp_path, monkeypatch, correct):
    quick = Trainee("other", 1, lambda count: None)
    for name, value in (("published_style", quick), ("large_updates", []), ("save", "")):
        monkeypatch.setattr(accelerator, name, lambda *about, value=value: value)
    plan = planned(data, seeds=2)
    met = []
    # Made anew for each part, as by a call that is stopped after it, when there is no time left for another seed.
    while [*itertools.islice(parts := suite(plan, tmp_path, deadline=0.0), 1)]:
        assert parts.unfinished() == (len(met) < len(PARTS) + 1)
        met.append(seen(tmp_path))
    assert met == [
        (PARTS[:1], (), 0),
        (PARTS[:1], (0,), STEPS),
        *((PARTS[:done], (0,), STEPS) for done in range(2, len(PARTS) + 1)),
        (PARTS, (0, 1), STEPS),
    ]
    assert_same(history(tmp_path), history(whole))


def test_another_seed_is_trained_before_the_rest_is_measured_where_it_fits(data, tmp_path, whole, correct):
    shutil.copytree(whole / "work", tmp_path / "work")
    (tmp_path / "work" / "measured.json").unlink()
    more = planned(data, seeds=3)
    met = []
    for _ in itertools.islice(suite(more, tmp_path), 4):
        met.append(seen(tmp_path))
    assert met == [
        (PARTS[:1], (0, 1), STEPS),
        *((PARTS[:done], (0, 1), STEPS) for done in (2, 3)),
        (PARTS[:3], (0, 1, 2), STEPS),
    ]


def test_what_is_under_way_at_the_limit_is_kept(data, whole, tmp_path, capsys, correct):
    assert main(words(data, tmp_path, "--minutes", "0")) == 130
    assert seen(tmp_path) == (["correctness"], (), 0)
    assert main(words(data, tmp_path, "--minutes", "0")) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert seen(tmp_path) == (["correctness"], (0,), 1)
    assert (tmp_path / "out" / "report.md").read_text().startswith("# CIFAR-10: 1 of 20 updates, 1 seed\n")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    shutil.copy(whole / "work" / "measured.json", tmp_path / "work")  # only seeds are left to do
    assert main(words(data, tmp_path)) == 0
    assert seen(tmp_path) == (PARTS, (0, 1), STEPS)
    assert_same(history(tmp_path), history(whole))


def test_a_call_with_nothing_left_to_do_writes_the_results_again(data, whole, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole / "work", tmp_path / "work")
    for name in ("run", "published_style", "one_program", "large_updates"):
        monkeypatch.delattr(accelerator, name)
    monkeypatch.setattr(Suite, "_program", lambda suite, size: pytest.fail("nothing is left to do"))
    assert main(words(data, tmp_path)) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert_same(history(tmp_path), history(whole))
    capsys.readouterr()
    assert main(words(data, tmp_path, "--batch-size", "4")) == 2
    assert "work holds a run with batch size 8, not 4: choose another folder" in capsys.readouterr().err


def test_a_signal_stops_it_in_order(data, tmp_path, monkeypatch, capsys):
    def told_to_stop(suite, precision):
        os.kill(os.getpid(), signal.SIGTERM)
        return [Measurement("losses", 1e-6, "tolerance", 1e-3, "")]

    monkeypatch.setattr(Suite, "correctness", told_to_stop)
    assert main(words(data, tmp_path)) == 130
    assert [*measured(tmp_path)["parts"]] == ["correctness"]
    assert capsys.readouterr().out.endswith(": config.json, measured.json, measured.md\n")


# Killed -----------------------------------------------------------------------------------------------


def killable():
    """Everything is kept after each piece."""
    small()
    accelerator.run = functools.partial(accelerator.run, checkpoint_seconds=0.0)


def checkpoints(folder, block):
    return [*(folder / "work" / block / "checkpoints").glob("[0-9]*")]


def test_a_killed_comparison_goes_on(data, whole, tmp_path, cache):
    (tmp_path / "work").mkdir()
    for name in ("config.json", "measured.json"):
        shutil.copy(whole / "work" / name, tmp_path / "work")
    shutil.copytree(whole / "work" / "seeds-0-1", tmp_path / "work" / "seeds-0-1")
    about = {"devices": 8, "first": killable, "command": main}
    killed = Fork(words(data, tmp_path), cache, seconds_a_piece=0.0, **about)
    killed.until(lambda: len(checkpoints(tmp_path, "seeds-1-1")) >= 2)
    assert killed.running, killed.said
    killed.kill()
    assert history(tmp_path).seeds == (0,)  # what was finished is there
    ended = Fork(words(data, tmp_path), cache, **about).finish()
    assert ended.resumed_from > 0
    assert_same(history(tmp_path), history(whole))


# Parts ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings(data):
    return planned(data)


def test_correctness_fails_where_devices_differ(settings, monkeypatch, tmp_path):
    class Wrong(Program):
        """Another number, or none, on several devices."""

        def advance(self, runs, step, count):
            runs, measured = super().advance(runs, step, count)
            measured.loss[3, 0, 7] *= self.factor if self.placing.mesh.size > 1 else 1.0
            return runs, measured

    monkeypatch.setattr(accelerator, "Program", Wrong)
    for factor, expected in ((1.0, 0.0), (1.1, 0.1), (np.nan, 1.0)):
        Wrong.factor = factor
        first, all_of_them = suite(settings, tmp_path).correctness("tf32")
        np.testing.assert_allclose([first.ours, all_of_them.ours], [0.0, expected], atol=1e-5)
        rows = [first, all_of_them]
        assert accelerator.passed({"correctness": rows}) == (factor == 1.0)
        assert accelerator.passed({"correctness": [first], "correctness, float32": rows}) == (factor == 1.0)
    assert not accelerator.passed({})
    assert not accelerator.passed({"correctness": "RESOURCE_EXHAUSTED: out of memory"})
    assert not accelerator.passed({"correctness": [first], "correctness, float32": "RESOURCE_EXHAUSTED"})


def test_the_published_style_trains_as_the_program_does(settings):
    loop = throughput.published_style(settings, "float32")
    losses = [*loop.advance(3), *loop.advance(4)]
    one = dataclasses.replace(settings, arms=settings.arms[:1], precision="float32")
    program = Program(one, jax.devices()[:1])
    np.testing.assert_allclose(losses, program.advance(program.start(), 0, 7)[1].loss[0, 0], rtol=1e-5)


def test_some_arms_with_some_seeds_are_one_program(settings, monkeypatch):
    made = []
    monkeypatch.setattr(throughput, "Program", lambda plan: made.append(Program(plan)) or made[-1])
    names = ["ema-long", "sf-ema"]
    trainee = one_program(settings, names, 2, "bfloat16", "averaged arm")
    assert (trainee.name, trainee.work) == ("4 averaged arms, bfloat16", 4 * made[0].inner)
    assert ([arm.name for arm in made[0].plan.arms], made[0].plan.seeds) == (names, (0, 1))
    assert made[0].plan.precision == "bfloat16"
    for count in (1, 2):  # and go on from there
        trainee.advance(count)


def test_a_race_counts_the_updates_of_all_arms(monkeypatch):
    monkeypatch.setattr(throughput, "SECONDS", 0.04)
    made = []

    def slow(seconds):
        return lambda count: (made.append(count), time.sleep(seconds * count))

    assert paced(slow(0.005)) == 4
    assert made == [1, 1, 2, 4]
    assert paced(lambda count: None) == throughput.MOST
    row = race(Trainee("three", 3, slow(0.002)), Trainee("one", 1, slow(0.004)))
    assert (row.what, row.against, row.unit) == ("three", "one", "arm-updates/s")
    assert row.ours <= 3 / 0.002
    assert row.theirs <= 1 / 0.004


def test_what_a_device_cannot_do_is_recorded_and_the_rest_goes_on(settings, tmp_path, capsys):
    def fails():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nand more")

    row = Measurement("one", 12_345.6, "other", 2.0, "s")
    parts = {"52 arms, tf32": fails, "optimizers": lambda: iter([row])}
    assert len([*suite(settings, tmp_path).measure(parts)]) == 2
    assert measured(tmp_path)["parts"]["52 arms, tf32"] == "RESOURCE_EXHAUSTED: out of memory"
    assert accelerator.measured_in(tmp_path / "work")["optimizers"] == [row]
    assert "| 52 arms, tf32 | failed | RESOURCE_EXHAUSTED: out of memory | | | |" in capsys.readouterr().out
    assert "| one | 12,346 s | other | 2 s |" in (tmp_path / "out" / "measured.md").read_text()
    assert [*suite(settings, tmp_path).measure(parts)] == []


def test_the_kernels_of_an_update_take_their_share_of_it(whole):
    together, *some = measured(whole)["parts"]["kernels"]
    assert re.fullmatch(r"13 arms, tf32, in an update: [\d.e+]+ x all kernels", together["what"])
    assert [row["ours"] for row in some] == sorted((row["ours"] for row in some), reverse=True)
    assert 0 < sum(row["ours"] for row in some) <= together["ours"] * 1.0001
    assert {(row["against"], row["theirs"], row["unit"]) for row in some} == {("the update", together["theirs"], "ms")}
    assert [*(whole / "work" / "profile").rglob("*.xplane.pb")]


def test_optimizers_are_timed_against_others_and_a_copy():
    rows = [*optimizers.large_updates(1000, calls=2)]
    assert [row.what for row in rows[:2]] == ["Adam, 0.001 M parameters, per byte moved", "Adam, 0.001 M parameters"]
    assert [row.unit for row in rows] == ["s/GB", "s"] * 4
    assert {row.against for row in rows[1::2]} == {"reading and writing as many bytes"}
    assert all(row.ours > 0 and row.theirs > 0 for row in rows)


def lowered_for_gpus(model, arms, precision, monkeypatch):
    """The programs to start, to advance and to validate a run of 100,000 updates."""
    monkeypatch.setattr("experiments.engine.program.CACHE", np.inf)  # as where the devices are none of a CPU
    plan = dataclasses.replace(little(model, 128, arms=arms), precision=precision)
    return Program(plan, jax.devices()[:1]).lowered("cuda")


def assert_multiplied(lowered, how, least):
    """Each matrix product of the programs, at least so many of one, is computed so."""
    start, *others = (each.as_text() for each in lowered)
    for text in others:
        products = re.findall(r"stablehlo.dot_general.*", text)
        assert len(products) > least
        assert [line for line in products if not re.search(how, line)] == []
    assert "dot_general" not in start


def test_the_published_size_lowers_for_gpus_and_costs_what_is_said(monkeypatch):
    lowered = lowered_for_gpus(TinyViT(), published(1e-3, 100_000), "tf32", monkeypatch)
    counted = json.loads((ROOT / "experiments/results/bench/roofline/numbers.json").read_text())
    products = sum(term["GFLOP"] for term in counted["terms"].values())
    # XLA counts what lies between the products too.
    assert products < lowered[1].cost_analysis()["flops"] / 1e9 < 1.05 * products
    assert_multiplied(lowered, r"precision = \[HIGH, HIGH\]", least=30)


def test_products_are_of_bfloat16_numbers_on_gpus(monkeypatch):
    arms = [arm for arm in published(1e-3, 100_000) if arm.name in ("cosine", "sf-ema")]
    lowered = lowered_for_gpus(TinyViT(layers=1), arms, "bfloat16", monkeypatch)
    two_factors = r"\(tensor<[\dx]+xbf16>, tensor<[\dx]+xbf16>\)"
    assert_multiplied(lowered, two_factors, least=8)


# Blocks of seeds --------------------------------------------------------------------------------------


def test_a_block_has_a_seed_for_each_device_and_an_unfinished_one_goes_first(data, tmp_path, monkeypatch, whole):
    monkeypatch.setattr(Suite, "block_size", BLOCK_SIZE)
    five = planned(data, seeds=11)
    ended, stopped = history(whole), dataclasses.replace(history(whole), done=3)
    for blocks, expected in (
        ({}, Block(0, 8)),
        ({Block(0, 8): ended}, Block(8, 3)),
        ({Block(0, 8): ended, Block(8, 3): ended}, None),
        ({Block(0, 13): ended}, None),
        ({Block(0, 2): ended, Block(2, 4): stopped}, Block(2, 4)),
        ({Block(0, 2): ended, Block(2, 4): None}, Block(2, 4)),
    ):
        monkeypatch.setattr(accelerator, "blocks_in", lambda work, blocks=blocks: blocks)
        assert Suite(five, tmp_path, tmp_path, 1000).following() == expected


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"parts": 3}', '{"parts": {"one": [3]}}', "[" * 100_000, "\xff"])
def test_measurements_that_cannot_be_read_are_named(text, tmp_path):
    (tmp_path / "measured.json").write_text(text, encoding="latin1")
    with pytest.raises(UserError, match=r"measured.json cannot be read \([^\n]+\): delete it to measure again$"):
        accelerator.measured_in(tmp_path)


def test_folders_that_are_no_blocks_of_seeds_are_left_alone(tmp_path):
    for name in ("seeds-0-8", "seeds-a-b", "seeds-1-2-3", "compiled"):
        (tmp_path / name).mkdir()
    assert accelerator.blocks_in(tmp_path) == {Block(0, 8): None}


def test_the_time_of_a_block_is_what_the_first_took(settings, tmp_path):
    folder = tmp_path / "work" / "seeds-0-1"
    folder.mkdir(parents=True)
    assert suite(settings, tmp_path).seconds() == np.inf
    lines = [(1, 0.1), (101, 50.0), (201, 200.0), (401, 100.0)]  # compilation, and a validation in the second
    log = [json.dumps({"step": step, "updates_per_second": rate}) for step, rate in lines]
    (folder / "metrics.jsonl").write_text("\n".join([*log, '{"step": 4']))
    assert suite(settings, tmp_path).pace() == (75.0, pytest.approx(10 + 2 + 0.5 + 2))
    assert suite(settings, tmp_path).seconds() == pytest.approx(1.1 * STEPS / 75)


# The command ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps", "5"], "--steps must be from 20 to 15,384,615, got 5"),
        (["--minutes", "nan"], "--minutes must be 0 or more, got nan"),
        (["--parameters", "0"], "--parameters must be from 1 to 10,000,000,000, got 0"),
        (["--data", "/nowhere"], "/nowhere/data_batch_1.bin cannot be read (No such file or directory): --data must be the folder"),
        (["--out", "/proc/nowhere"], "--out must be a folder that can be written, got /proc/nowhere (No such file or directory)"),
        (["--work", "/proc/nowhere"], "/proc/nowhere must be a folder that can be written (No such file or directory)"),
    ],
)  # fmt: skip
def test_a_bad_value_is_one_sentence(more, message, data, tmp_path, capsys):
    assert main(words(data, tmp_path, *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("python -m experiments.accelerator: ")
    assert message in error
    assert error.count("\n") == 1


def test_without_a_cpu_to_compare_with_it_says_so(data, tmp_path, capsys, monkeypatch):
    def devices(platform=None):
        if platform == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return found

    found = jax.devices()
    monkeypatch.setattr(jax, "devices", devices)
    assert main(words(data, tmp_path)) == 2
    assert "JAX_PLATFORMS must include cpu" in capsys.readouterr().err


def test_without_the_devices_that_are_asked_for_it_says_so(data, tmp_path):
    script = ["bash", "experiments/accelerator.sh", data, tmp_path / "out"]
    environment = {**os.environ, "JAX_PLATFORMS": "none,cpu", "PYTHON": sys.executable}
    ended = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2
    (said,) = ended.stderr.splitlines()
    assert said.startswith("python -m experiments.accelerator: JAX finds no devices that it can use (")


def test_the_script_says_how_it_is_called():
    ended = subprocess.run(["bash", "experiments/accelerator.sh"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "accelerator.sh DATA OUT" in ended.stderr


BARE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tyro", "pooch", "sklearn", "tensorboardX"):
            raise ImportError(name)

sys.meta_path.insert(0, Missing())
from experiments.accelerator import main
sys.exit(sum(main(["--work", sys.argv[1], "--out", sys.argv[1], "--task", task]) for task in ("cifar10", "digits")))
"""


def test_neither_tyro_nor_pooch_nor_scikit_learn_is_needed(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", BARE, tmp_path],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert ended.stderr.splitlines() == [
        "python -m experiments.accelerator: without --data CIFAR-10 is downloaded by pooch, which must be installed: pip install pooch",
        "python -m experiments.accelerator: the digits come with scikit-learn, which must be installed: pip install scikit-learn",
    ]
    assert ended.returncode == 4


# The packed data --------------------------------------------------------------------------------------


def jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=75)
    return file.getvalue()


def packed(path, images, classes, **changes):
    """`images`, whose JPEG files begin alike, as one file of arrays."""
    files = [jpeg(image) for image in images]
    common = next(n for n in range(len(files[0]) + 1) if len({file[: n + 1] for file in files}) > 1)
    tails = [file[common:] for file in files]
    arrays = {
        "header": np.frombuffer(files[0][:common], np.uint8),
        "payload": np.frombuffer(b"".join(tails), np.uint8),
        "offsets": np.cumsum([0, *map(len, tails)], dtype=np.uint32),
        "labels": np.array(classes, np.uint8),
    }
    np.savez(path, **{**arrays, **changes})
    return [np.asarray(Image.open(io.BytesIO(file))) for file in files]


def plain(level):
    """A picture in which rows, columns and colours can be told apart."""
    rows, columns = np.mgrid[:32, :32]
    return np.stack([rows * 4 + level, columns * 4 + level, np.full((32, 32), level)], axis=-1).astype(np.uint8)


def test_packed_images_are_read_as_they_were_packed(tmp_path):
    path = tmp_path / "cifar10_jpeg.npz"
    images = [plain(level) for level in (0, 20, 40, 60, 80, 100)]
    decoded = packed(path, images, [3, 1, 4, 1, 5, 9])
    found = cifar10(path)
    np.testing.assert_array_equal(found.train_images, decoded[:5])  # five of six, as 50,000 of 60,000
    np.testing.assert_array_equal(found.valid_images, decoded[5:])
    np.testing.assert_array_equal(found.train_labels, [3, 1, 4, 1, 5])
    np.testing.assert_array_equal(found.valid_labels, [9])
    assert [array.dtype for array in found] == [np.uint8, np.int32] * 2
    assert abs(found.train_images[0].astype(int) - images[0]).max() < 30
    for title, expected in ((None, "CIFAR-10 (JPEG copy)"), ("mine", "mine")):
        assert planned(path, title=title, batch_size=5).title == expected


def test_packed_images_take_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(
        DataError, match="^the images of copy.npz are read by Pillow, which must be installed: pip install pillow$"
    ):
        cifar10(Path("copy.npz"))


@pytest.mark.parametrize(
    ("side", "reason"), [(20_000, "400000000 pixels"), (10_000, "an image is 10000 x 10000 RGB, not 32 x 32 RGB")]
)
def test_packed_images_that_claim_to_be_enormous_are_not_decoded(side, reason, tmp_path):
    path = tmp_path / "copy.npz"
    packed(path, [plain(0)] * 5 + [plain(9)], range(6))
    with np.load(path) as file:
        arrays = dict(file)
    header = arrays["header"].tobytes()
    frame = header.index(b"\xff\xc0") + 5  # where a JPEG file has its height and its width
    header = header[:frame] + 2 * side.to_bytes(2, "big") + header[frame + 4 :]
    np.savez(path, **{**arrays, "header": np.frombuffer(header, np.uint8)})
    with pytest.raises(
        DataError, match=f"copy.npz cannot be read as a packed JPEG copy of CIFAR-10 .*{reason}.*: fetch"
    ):
        cifar10(path)


def test_a_packed_file_that_is_none_is_one_sentence(tmp_path):
    path, images = tmp_path / "copy.npz", [plain(0)] * 5 + [plain(9)]
    bad = [
        {"labels": np.zeros(5, np.uint8)},
        {"payload": np.zeros(3, np.uint8)},
        {"offsets": np.array([0.5, 1.5])},
        {"labels": np.array([{}] * 6)},
    ]
    for change in bad:
        packed(path, images, range(6), **change)
        with pytest.raises(
            DataError, match="copy.npz cannot be read as a packed JPEG copy of CIFAR-10 .*: fetch it again"
        ):
            cifar10(path)
    packed(path, images, [0, 1, 2, 3, 4, 10])
    with pytest.raises(DataError, match="a CIFAR-10 label must be from 0 to 9, got 10"):
        cifar10(path)
    packed(path, [image[:16, :16] for image in images], range(6))
    with pytest.raises(DataError, match=r"\(an image is 16 x 16 RGB, not 32 x 32 RGB\): fetch it again"):
        cifar10(path)
    whole = path.read_bytes()
    for content in (whole[:-200], whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="copy.npz cannot be read"):
            cifar10(path)
    path.unlink()
    with pytest.raises(DataError, match="copy.npz cannot be read .*No such file"):
        cifar10(path)
