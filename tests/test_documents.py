"""What the documents promise: the README's examples run, its commands are those that CI runs."""

import functools
import json
import pickle
import re
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from experiments.bench.measurement import Measurement
from experiments.reports.claims import verdicts
from experiments.reports.results import Results
from experiments.studies.published import CLAIMS
from experiments.tasks import every_task

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_of_the_readme_runs_and_prints_what_it_says(example, capsys):
    namespace = {"__name__": "__main__"}
    for module, names in re.findall(r"^from (schedules|optim|theory) import (.*)$", README, re.MULTILINE):
        exec(f"from {module} import {names}", namespace)
    exec(compile(example, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    promised = re.findall(r"print\(\w+\)  # (.*)$", example, re.MULTILINE)
    assert [line for line in printed if line in promised] == promised


def test_there_are_examples():
    assert len(EXAMPLES) == 3


COOKBOOK = ROOT / "docs/cookbook.md"  # its recipes run one by one, in test_cookbook.py
PAGES = [p for p in sorted((ROOT / "docs").rglob("*.md")) if "```python" in p.read_text() and p != COOKBOOK]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run_one_after_another(page):
    namespace = {"__name__": "__main__"}
    for example in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(example, page.name, "exec"), namespace)


@pytest.mark.parametrize("frozen", ["nothing", "norm"])
def test_validating_as_the_page_says_leaves_a_run_with_nnx_alone(frozen):
    from flax import nnx

    from optim import adam, refresh_batch_stats_nnx, schedule_free

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.linear, self.norm = nnx.Linear(4, 1, rngs=rngs), nnx.BatchNorm(1, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, rngs=rngs)

        def __call__(self, x):
            return self.norm(self.dropout(self.linear(x)))

    page = {}
    (example,) = re.findall(r"```python\n(from flax import nnx\n.*?)```", OPTIMIZERS, re.DOTALL)
    exec(example, page)
    x = jax.random.normal(jax.random.key(0), (16, 4))
    wrt = nnx.All(nnx.Param, nnx.Not(nnx.PathContains(frozen)))
    grad = nnx.grad(lambda model: jnp.mean((model(x) - x[:, :1]) ** 2), argnums=nnx.DiffState(0, wrt))

    def trained(validate):
        model = Net(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, schedule_free(adam(0.05, b1=0.0)), wrt=wrt)
        for _ in range(4):
            optimizer.update(model, grad(model))
            if validate:
                averaged = page["evaluated"](model, optimizer)
                refresh_batch_stats_nnx(averaged, [x])
                averaged(x)  # in training mode, which counts random numbers
        assert (page["evaluated"](model, optimizer).linear.kernel[...] != model.linear.kernel[...]).all()
        return nnx.to_pure_dict(nnx.state((model, optimizer), nnx.Not(nnx.RngKey)))

    chex.assert_trees_all_equal(trained(validate=True), trained(validate=False))


def test_a_loss_that_is_not_finite_is_skipped_as_the_page_says():
    page = {"jax": jax, "jnp": jnp}
    (example,) = re.findall(
        r"```python\n(import optax\nfrom optim import schedule_free_plus\n.*?)```", OPTIMIZERS, re.DOTALL
    )
    exec(example, page)
    update = jax.jit(page["update"])
    params = {"w": jnp.ones(2)}
    before = params, page["optimizer"].init(params)
    for loss in (jnp.nan, jnp.inf):
        new, state = update(*before, loss, params)
        assert state.total_notfinite == 1
        chex.assert_trees_all_equal((new, state.inner_state), (params, before[1].inner_state))
    assert (update(*before, 1.0, params)[0]["w"] != 1).all()


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_every_measured_number_of_a_page_is_in_the_results(page):
    reports = "".join(path.read_text() for path in (ROOT / "experiments/results").rglob("*.md"))
    for number in re.findall(r"\d+\.\d+ ± \d+\.\d+", page.read_text()):
        assert number in reports, number


def cells(line: str) -> list[str]:
    return [cell.strip(" *") for cell in line.split("|")[2:-1]]


def test_the_sweep_of_cifar10_is_that_of_the_results():
    page = (ROOT / "docs/experiments.md").read_text()
    report = (ROOT / "experiments/results/cifar10-small/sweep/report.md").read_text()
    validation, training = (cells(line)[:-1] for line in re.findall(r"^\| constant \|.*", report, re.MULTILINE))
    for name, expected in (("training", training), ("validation", validation)):
        assert cells(re.search(rf"^\| {name} loss \|.*", page, re.MULTILINE)[0]) == expected
    best = min(zip(map(float, training), (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3), strict=True))[1]
    assert best == every_task()["cifar10-small"].learning_rate


def test_the_rates_of_more_arms_are_those_of_the_results():
    page = (ROOT / "docs/experiments.md").read_text()
    report = (ROOT / "experiments/results/cifar10-small/rates/report.md").read_text()
    said = {
        "constant": "constant rate",
        "linear": "linear decay",
        "ema": "long EMA",
        "schedule-free-ema": "schedule-free, long EMA",
    }
    for policy, name in said.items():
        _, training = re.findall(rf"^\| {policy} +\|.*", report, re.MULTILINE)
        assert cells(re.findall(rf"^\| {name} \|.*", page, re.MULTILINE)[-1]) == cells(training)[1:5]


def test_the_sizes_of_the_tasks_are_those_that_are_said():
    page = (ROOT / "docs/experiments.md").read_text()
    for name, size in (("digits", 8), ("cifar10-small", 32), ("cifar10", 32)):
        task = every_task()[name]
        images = jax.ShapeDtypeStruct((1, size, size, 1 if size == 8 else 3), jnp.float32)
        params = jax.eval_shape(lambda k, i, t=task: t.model.init(k, i, True), jax.random.key(0), images)
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        (row,) = re.findall(rf"^\| `{name}`.*", page, re.MULTILINE)
        for said in (f"{count:,} parameters", f"batch {task.batch_size}", f"{task.steps:,} updates"):
            assert said in row


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def recorded(name: str) -> Results:
    return Results.load(ROOT / "experiments/results" / name / "history.npz")


def test_the_claims_of_the_readme_are_those_of_the_results():
    table = verdicts(CLAIMS, recorded("cifar10-small"), recorded("digits"))
    assert len(re.findall(r"^\| C\d ", table, re.MULTILINE)) == 7
    assert table in README


@pytest.mark.parametrize("name", ["cifar10-small", "digits"])
def test_it_is_said_how_far_a_run_is_from_done(name):
    loss = recorded(name).train_loss
    last_quarter = loss("constant", 75).mean() - loss("constant").mean()
    decay = loss("constant").mean() - loss("cosine").mean()
    assert (last_quarter > decay) == (name == "cifar10-small")
    for page in (README, (ROOT / "docs/which.md").read_text()):
        assert f"{last_quarter:.3f}" in page
        assert f"{decay:.3f}" in page


def test_the_readmes_commands_are_what_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text()
    for command in re.findall(r"^    (python -m pip install .*) && (python -m \w+)(?:  #.*)?$", README, re.MULTILINE):
        install, run = command
        assert install.replace("install -e", "install --quiet -e") in ci
        assert run in ci


def test_the_extras_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"plot", "experiments", "test", "dev", "cuda", "tpu"} <= project["optional-dependencies"].keys()
    assert project["requires-python"] == ">=3.11"


def test_the_ratios_of_the_readme_are_those_of_the_bench():
    answers = [json.loads(path.read_text()) for path in (ROOT / "experiments/results/bench").glob("*/numbers.json")]
    rows = [row for answer in answers for row in answer.get("rows", [])]
    told = re.findall(r"^\| .* \| [\d.]+ \|$", README, re.MULTILINE)
    assert len(told) == 4
    assert {*told} <= {f"| {row['what']} | {row['against']} | {row['ratio']:.3f} |" for row in rows}


def test_the_readme_counts_what_was_recorded_from_peers():
    recorded = [json.loads(path.read_text())["cases"] for path in (ROOT / "tests/golden").glob("*.json")]
    kinds = Counter(case.get("kind") for cases in recorded for case in cases)
    runs = kinds["trajectory"] + kinds["average"]
    assert f"{kinds['schedule']} schedules and {runs} runs of optimizers and averages" in README


def test_what_the_readme_names_exists():
    import optim
    import schedules

    (vocabulary,) = re.findall(r"## The vocabulary\n(.*?)\n## ", README, re.DOTALL)
    names = re.findall(r"`([a-z]\w+)`", "".join(re.findall(r"^\|.*", vocabulary, re.MULTILINE)))
    assert len(names) > 60
    assert {name for name in names if not hasattr(schedules, name) and not hasattr(optim, name)} == {"optim", "shape"}


def told(column: str) -> dict[str, bool]:
    """What the README's table of features says of a library, row by row, but for what does not apply to it."""
    (table,) = re.findall(r"^(\| \| pure-schedules .*?)\n\n", README, re.MULTILINE | re.DOTALL)
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    cells = {row[0].partition(" ([")[0]: row[head.index(column)] for row in rows}
    return {name: not cell.startswith("no") for name, cell in cells.items() if cell != "–"}


def works(call: Callable[[], object]) -> bool:
    try:
        return bool(call())
    except (AttributeError, TypeError, pickle.PicklingError, jax.errors.TracerBoolConversionError):
        return False


def test_the_table_of_features_is_true_of_us_and_of_optax():
    import optim
    import schedules
    from optim import average, ema
    from schedules import cosine, parse

    def lengths(make: Callable[[Any], Any]) -> Callable[[], object]:
        return lambda: jax.vmap(lambda steps: make(steps)(3))(jnp.array([5, 10])).shape

    theirs = functools.partial(optax.cosine_decay_schedule, 1.0)
    everything = {*dir(optax), *dir(optax.contrib)}
    assert told("optax") == {
        "schedules print, compare, pickle, parse": works(lambda: pickle.dumps(theirs(9))) or theirs(9) == theirs(9),
        "one compiled program for all peaks, lengths and warm-ups": works(lengths(theirs)),
        "hyperparameters that can follow a schedule": hasattr(optax, "inject_hyperparams"),
        "warm-up, stable, decay (WSD) and inverse square root, ready-made": any(
            re.search("wsd|sqrt_sch", name) for name in everything
        ),
        "warns of a first update at 0, a decay that is cut off": any(name.startswith("check") for name in everything),
        "averaging of the weights": any(re.search("polyak_av|swa|lawa|average", name) for name in everything),
        "schedule-free": {"schedule_free", "schedule_free_sgd", "schedule_free_adamw"} <= everything,
        "reduce on plateau": "reduce_on_plateau" in everything,
        "learning-rate range test": any("range_test" in name or "lr_find" in name for name in everything),
        "choosing the decay after the run": "merge" in everything,
    }
    assert told("pure-schedules") == {
        **dict.fromkeys(told("pure-schedules"), False),
        "schedules print, compare, pickle, parse": parse(repr(pickle.loads(pickle.dumps(cosine(1, 0, 9)))))
        == cosine(1, 0, 9),
        "one compiled program for all peaks, lengths and warm-ups": works(
            lengths(lambda steps: cosine(1.0, 0.0, steps))
        ),
        "hyperparameters that can follow a schedule": works(
            lambda: average(optim.adam(*3 * [cosine(0.9, 0.1, 9)]), ema(0.9))
        ),
        "warm-up, stable, decay (WSD) and inverse square root, ready-made": {"wsd", "inverse_sqrt"}
        <= {*dir(schedules)},
        "warns of a first update at 0, a decay that is cut off": schedules.check(schedules.warmup(1.0, 9), 5) != [],
        "averaging of the weights": {"polyak", "tail", "swa", "ema", "lawa", "power_ema"} <= {*dir(optim)},
        "schedule-free": {"schedule_free", *(f"schedule_free_{base}" for base in ("sgd", "adamw", "radam"))}
        <= {*dir(optim)},
        "reduce on plateau": hasattr(optim, "reduce_on_plateau"),
        "learning-rate range test": hasattr(optim, "range_test"),
        "choosing the decay after the run": hasattr(optim, "merge"),
    }


def test_the_table_of_features_is_true_of_pytorch():
    pytest.importorskip("torch")
    from torch.optim import lr_scheduler, swa_utils

    names = {*dir(lr_scheduler)}
    found = told("PyTorch")
    assert found["warm-up, stable, decay (WSD) and inverse square root, ready-made"] == any(
        re.search("WSD|Sqrt", n) for n in names
    )
    assert found["reduce on plateau"] == ("ReduceLROnPlateau" in names)
    assert found["averaging of the weights"] == ({"SWALR", "get_ema_avg_fn", "AveragedModel"} <= {*dir(swa_utils)})
    assert found["schedules print, compare, pickle, parse"] == hasattr(lr_scheduler.LRScheduler, "state_dict")


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 205


def test_what_an_average_costs_is_what_was_measured():
    (row,) = json.loads((ROOT / "experiments/results/cpu/measured.json").read_text())["parts"]["averages"]
    said = re.search(r"one make ([\d.]+) of the updates a second", (ROOT / "docs/experiments.md").read_text())
    assert f"{Measurement(**row).ratio:.2f}" == said[1]


def test_what_training_costs_is_what_was_measured():
    page = " ".join((ROOT / "docs/experiments.md").read_text().split())
    bench = ROOT / "experiments/results/bench"
    growth, engine = (json.loads((bench / name / "numbers.json").read_text()) for name in ("growth", "engine"))
    rate = {axis: {value: each["rate"] for value, each in rows.items()} for axis, rows in growth["grown"].items()}
    memory = [each["memory"] / 1e3 for rows in growth["grown"].values() for each in rows.values()]
    updates = 200 * growth["added"]["updates"]
    ratio = {row["against"]: row["ratio"] for row in engine["rows"] if row["what"].startswith("published")}
    for sentence in (
        f"At width 128 it costs {rate['width']['64'] / rate['width']['128']:.1f} times as much as at width 64, and with "
        f"batches of 128 images {rate['batch']['64'] / rate['batch']['128']:.1f} times as much as with 64.",
        f"takes {min(memory):.1f} to {max(memory):.1f} GB of memory",
        f"20 validations add {20 * growth['added']['validation'] / updates:.0%}".replace("%", " %"),
        f"a checkpoint every minute adds {growth['added']['checkpoint'] / 60:.0%}".replace("%", " %"),
        f"one arm makes {ratio['one arm in eager PyTorch']:.1f} times as many updates",
        f"and {ratio['one arm in the published style, float32']:.1f} times as many as in a plain JAX loop",
        f"run at {ratio['a large matrix product']:.2f} of the speed of a large product",
    ):
        assert sentence in page
    assert 0.6 < rate["arms"]["1"] / rate["arms"]["52"] < 1.2
    assert 1 < ratio["1 arm, float32"] < 1.1


OPTIMIZERS = (ROOT / "docs" / "optimizers.md").read_text()
BYTES = re.findall(r"^\| (`.*`) \| (\d+) \|$", OPTIMIZERS, re.MULTILINE)


@pytest.mark.parametrize(("names", "size"), BYTES, ids=[names for names, _ in BYTES])
def test_optimizers_take_the_memory_that_is_said(names, size):
    import jax.numpy as jnp
    import optax

    import optim
    from experiments.bench.optimizers import bytes_per_parameter

    for expression in re.findall("`([^`]+)`", names):
        optimizer = eval(expression, {**vars(optim), "optax": optax, "jnp": jnp})
        assert bytes_per_parameter(optimizer) == float(size)


MOVED = re.findall(r"^\| (`.*`) \| (\d+) \| (\d+) \| (\d+) \|$", OPTIMIZERS, re.MULTILINE)


@pytest.mark.parametrize(("names", "state", "needed", "moved"), MOVED, ids=[names for names, *_ in MOVED])
def test_updates_move_the_bytes_that_are_said(names, state, needed, moved):
    import optax

    import optim
    from experiments.bench.optimizers import bytes_moved, bytes_needed, bytes_per_parameter

    for expression in re.findall("`([^`]+)`", names):
        optimizer = eval(expression, {**vars(optim), "optax": optax})
        assert bytes_per_parameter(optimizer) == float(state)
        assert bytes_needed(optimizer) == float(needed)
        assert bytes_needed(optimizer) <= bytes_moved(optimizer) <= float(moved) + 0.1


def test_every_public_optimizer_is_documented():
    import inspect

    import optim
    from optim import coefficients

    for name, value in vars(optim).items():
        if inspect.isfunction(value) and name not in coefficients.__all__:
            assert re.search(rf"\b{name}\b", OPTIMIZERS), name
