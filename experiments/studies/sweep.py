"""A grid of policies and rates: how the final loss depends on the peak rate, and which rate is best."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator

from experiments.reports.figure import LOOKS, STYLE, WIDTH, Look, scale_for, titled
from experiments.reports.labels import label_lines
from experiments.reports.results import Loss, Results
from experiments.reports.tables import changes
from experiments.reports.text import decimals, markdown
from experiments.studies.study import Arm, Arms, Study

FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)

# Arms -------------------------------------------------------------------------------------------------


def grid(arms: Arms, names: Sequence[str], factors: Sequence[float]) -> Arms:
    """The named arms, each at several multiples of the peak rate, ordered by arm and then by factor."""

    def several(rate: float, steps: int) -> list[Arm]:
        at = {factor: {arm.name: arm for arm in arms(factor * rate, steps)} for factor in factors}
        return [_at(factor, at[factor][name]) for name in names for factor in factors]

    return several


def _at(factor: float, arm: Arm) -> Arm:
    fields = {**arm.fields, "policy": arm.name, "factor": factor}
    return replace(arm, name=f"{arm.name}@{factor:g}", fields=fields)


def best(arms: Sequence[Arm], results: Results) -> list[Arm]:
    """The arm with the best rate of each policy, under the name of the policy; policies that diverged at every rate are
    left out."""
    found = {results.best(of_policy): policy for policy, of_policy in results.grid().items()}
    own = {arm.name: {k: v for k, v in arm.fields.items() if k not in ("policy", "factor")} for arm in arms}
    return [replace(arm, name=found[arm.name], fields=own[arm.name]) for arm in arms if arm.name in found]


# The table --------------------------------------------------------------------------------------------


def table(results: Results) -> str:
    """Markdown tables of the losses at the end by policy and rate, with the lowest of each policy in bold."""
    parts = []
    for of in reversed(results.losses):
        rows = _rows(results, of)
        name = results.named(of).capitalize()
        parts += [f"{name} at the end, by the peak rate in multiples of the policy's default.", markdown(rows)]
        parts += ["* the lowest or highest rate tried: the best one may be beyond it"] * any(
            row[-1].endswith("*") for row in rows
        )
    return "\n\n".join(parts)


def _rows(results: Results, of: Loss) -> list[Sequence[str]]:
    factors = sorted({results.factor(arm) for arm in results.arms})
    rows: list[Sequence[str]] = [("policy", *(f"x {factor:g}" for factor in factors), "best rate")]
    for policy, arms in results.grid().items():
        shown = {arm: _shown(results, arm, of) for arm in arms}
        best = results.best(arms, of)
        if best:
            shown[best] = f"**{shown[best]}**"
        edge = "*" if best in (arms[0], arms[-1]) else ""
        at = {results.factor(arm): cell for arm, cell in shown.items()}
        cells = [at.get(factor, "-") for factor in factors]
        rows.append((policy, *cells, f"{results.arms[best].rate:.3g}{edge}" if best else "-"))
    return rows


def _shown(results: Results, arm: str, of: Loss) -> str:
    loss = float(results.loss(arm, of).mean())
    return decimals(loss, 3) if math.isfinite(loss) else "diverged" if results.diverged(arm) else "-"


# The figure -------------------------------------------------------------------------------------------

MARKERS = ("o", "s", "^", "D", "v", "P")


def plot_rates(results: Results) -> Figure:
    """A sweep: final validation loss by peak rate. A few policies are a line each, and many are rows of one map."""
    with matplotlib.rc_context(STYLE):
        seeds = f", mean of {len(results.seeds)} seeds" if len(results.seeds) > 1 else ""
        told = f"{results.title}: {results.named('validation')} after {results.steps:,} updates{seeds}"
        policies = results.grid()
        return _lines(told, results) if len(policies) <= len(LOOKS) else _map(told, results)


def _lines(title: str, results: Results) -> Figure:
    figure = titled(title, "Filled: the best rate of each")
    figure.set_size_inches(7.0, 4.2)
    ax = figure.subplots()
    for (policy, arms), look, marker in zip(results.grid().items(), LOOKS, MARKERS, strict=False):
        rates = [results.arms[arm].rate for arm in arms]
        losses = np.array([results.valid_loss(arm).mean() for arm in arms])
        style: Look = {**look, "marker": marker, "markersize": 5}
        ax.plot(rates, losses, label=policy, linewidth=1.5, markerfacecolor="white", **style)
        if best := results.best(arms):
            ax.plot(results.arms[best].rate, results.valid_loss(best).mean(), **{**style, "markersize": 7})
    ax.set(xscale="log", xlabel="peak learning rate", ylabel=results.named("validation"))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    scale_for(ax, "y", np.array([results.valid_loss(arm).mean() for arm in results.arms]))
    label_lines(figure)
    return figure


def _map(title: str, results: Results) -> Figure:
    """A row for each policy, the one with the lowest loss on top, and a column for each multiple of its rate."""
    grid, ends = results.grid(), {arm: float(results.valid_loss(arm).mean()) for arm in results.arms}
    lowest = {policy: results.best(arms) for policy, arms in grid.items()}
    policies = sorted(grid, key=lambda policy: ends[arm] if (arm := lowest[policy]) else math.inf)
    factors = sorted({results.factor(arm) for arm in results.arms})
    losses = np.full((len(policies), len(factors)), np.nan)
    figure = titled(title, "Framed: the best rate of each. Dark: a low loss. Grey: diverged, or not tried")
    figure.set_size_inches(WIDTH, 1.3 + 0.24 * len(policies))
    ax = figure.subplots()
    for row, policy in enumerate(policies):
        for arm in grid[policy]:
            column = factors.index(results.factor(arm))
            losses[row, column] = ends[arm] if math.isfinite(ends[arm]) else np.nan
            if arm == lowest[policy]:
                frame = Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, fill=False, edgecolor="#D55E00", linewidth=2)
                ax.add_patch(frame)
    # Pale from four times the lowest of all on, so that the losses near it can be told apart.
    shades = np.log2(losses / np.nanmin(losses, initial=np.inf)) / 2
    ax.set_facecolor("#dddddd")
    ax.imshow(shades, cmap="Blues_r", vmin=-0.2, vmax=1.1, aspect="auto")
    for (row, column), shade in np.ndenumerate(shades):
        if np.isfinite(shade):
            written: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": "x-small"}
            ax.text(
                column,
                row,
                decimals(float(losses[row, column]), 3),
                color="white" if shade < 0.4 else "black",
                **written,
            )
    ax.set_yticks(range(len(policies)), policies, fontsize="small", parse_math=False)
    ax.set_xticks(range(len(factors)), [f"x {factor:g}" for factor in factors])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("peak learning rate, in multiples of each policy's default")
    return figure


SWEEP = Study(
    "sweep",
    sections=(table, changes),
    details=(),
    figures=lambda study, results: {"figure.png": plot_rates(results)},
)
