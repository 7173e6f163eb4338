"""The learning-rate range test on a task, over several seeds in one program."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib import style
from matplotlib.figure import Figure

from experiments.commands.options import RATES, Sampling, folder_of, require, to_draw
from experiments.engine.machine import machine
from experiments.engine.plan import Plan
from experiments.engine.program import as_floats, as_seeds, batch_loss, draw
from experiments.errors import UsageError
from experiments.files import write_text
from experiments.reports.output import new_report, save_figure
from experiments.reports.tables import heading_of
from experiments.reports.text import counted, markdown
from experiments.studies.published import EPS
from optim import RangeTest, adam, plot_range_test, range_test, sgd, suggest_rate
from optim.lr_finder import LEAST_STEPS, PICKERS

NUMBERS = "range-test.json"
MOST_RATES = 10_000_000  # of all seeds together: each is kept, with its losses
OPTIMIZERS = {"adam": lambda lr: adam(lr, eps=EPS), "sgd": lambda lr: sgd(lr, momentum=0.9)}


@dataclass(frozen=True)
class Range(Sampling):
    """Learning-rate range test: train briefly while the rate grows at every update, and suggest a rate.

    All seeds run in one program. Different rules can suggest rates an order of magnitude apart: look at the plot.
    """

    steps: int = 100
    """Number of updates over which the rate grows from --start to --end."""
    start: float = 1e-7
    """The first rate."""
    end: float = 10.0
    """The rate that the next update would have."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """The optimizer. sgd has a momentum of 0.9."""


def find_range(options: Range) -> int:
    """The command; returns its exit status."""
    require(*RATES, start=options.start, end=options.end)
    if not np.float32(options.start) < np.float32(options.end):
        raise UsageError(f"--start must be below --end, got {options.start} and {options.end}")
    plan, out = to_draw(options), folder_of(options, "range-test")
    require(LEAST_STEPS, MOST_RATES // len(plan.seeds), steps=options.steps)
    new_report(out, NUMBERS)
    found = jax.device_get(tested(plan, options))
    heading = heading_of(plan.title, f"range test of {options.optimizer}", counted(len(plan.seeds), "seed"))
    text = f"{heading}\n\n{table(found)}\n"
    _save(found, text, plan, options, out)
    print(f"{text}\nIn {out}: report.md, figure.png, {NUMBERS}")
    return 0


def tested(plan: Plan, options: Range) -> RangeTest:
    """Of every seed, with the batches and dropout masks that the comparison would draw. Arrays are (seeds, steps)."""
    model, data = plan.model, jax.tree.map(jnp.asarray, plan.data)

    def loss(params: Any, at: tuple[Array, Array]) -> Array:
        batch, key = draw(*at, plan.batch_size, len(data.train_labels))
        return batch_loss(model, as_floats(data.train_images[batch]), data.train_labels[batch], key, params)

    def one_seed(seed: Array) -> RangeTest:
        params = model.init(jax.random.key(seed), as_floats(data.train_images[:1]), deterministic=True)["params"]
        steps = jnp.arange(options.steps)
        batches = jnp.broadcast_to(seed, steps.shape), steps
        return range_test(loss, params, batches, OPTIMIZERS[options.optimizer], options.start, options.end)

    return jax.jit(jax.vmap(one_seed))(as_seeds(plan.seeds))


def table(found: RangeTest) -> str:
    """A Markdown table: what each rule suggests, over the seeds."""
    rows: list[list[str]] = [["rule", "median", "lowest", "highest"]]
    for picker in PICKERS:
        try:
            rates = suggest_rate(found, picker)
            rows.append([picker, *(f"{of(rates):.3g}" for of in (np.median, np.min, np.max))])
        except ValueError:  # a curve too short for it
            rows.append([picker, "-", "-", "-"])
    return markdown(rows)


def _save(found: RangeTest, text: str, plan: Plan, options: Range, out: Path) -> None:
    curves = {name: np.asarray(values).tolist() for name, values in found._asdict().items()}
    curves = json.loads(json.dumps(curves), parse_constant=lambda _: None)  # JSON has no NaN
    about = {"optimizer": options.optimizer, "seeds": plan.seeds, "batch_size": plan.batch_size, **machine()}
    write_text(out / NUMBERS, json.dumps({**about, **curves}) + "\n")
    write_text(out / "report.md", f"# {text}")
    with style.context("default"):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        plot_range_test(found, figure.subplots())
        figure.suptitle(text.splitlines()[0], parse_math=False, x=0.01, ha="left", fontsize=11)
        save_figure(figure, out / "figure.png")
