"""A grid of policies and rates: how the end of training depends on the peak rate, and which rate is the best."""

import math
from collections.abc import Sequence
from dataclasses import replace
from textwrap import fill

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator

from experiments.reports.figure import LOOKS, STYLE, Look
from experiments.reports.results import Loss, Results
from experiments.reports.tables import changes
from experiments.reports.text import decimals, markdown
from experiments.studies.study import Arm, Arms, Study

FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)

# Arms -------------------------------------------------------------------------------------------------


def grid(arms: Arms, names: Sequence[str], factors: Sequence[float]) -> Arms:
    """Some of the arms, each at several multiples of the peak rate: one policy with its factors after the other."""

    def several(rate: float, steps: int) -> list[Arm]:
        at = {factor: {arm.name: arm for arm in arms(factor * rate, steps)} for factor in factors}
        return [_at(factor, at[factor][name]) for name in names for factor in factors]

    return several


def _at(factor: float, arm: Arm) -> Arm:
    fields = {**arm.fields, "policy": arm.name, "factor": factor}
    return replace(arm, name=f"{arm.name}@{factor:g}", fields=fields)


def best(arms: Sequence[Arm], results: Results) -> list[Arm]:
    """Of each policy of a grid the arm with the best rate, called by the policy's name; none of one that diverged at
    every rate."""
    found = {results.best(of_policy): policy for policy, of_policy in results.grid().items()}
    own = {arm.name: {k: v for k, v in arm.fields.items() if k not in ("policy", "factor")} for arm in arms}
    return [replace(arm, name=found[arm.name], fields=own[arm.name]) for arm in arms if arm.name in found]


# The table --------------------------------------------------------------------------------------------


def table(results: Results) -> str:
    """Markdown tables: policies against rates, with the losses at the end, the lowest of each policy in bold."""
    parts = []
    for of in reversed(results.losses):
        rows = _rows(results, of)
        name = results.named(of).capitalize()
        parts += [f"{name} at the end, by rate in multiples of the policy's own.", markdown(rows)]
        parts += ["* the lowest or the highest tried"] * any(row[-1].endswith("*") for row in rows)
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
    """A sweep: final validation loss against the peak rate, a line for each policy, the lowest point of each filled."""
    policies = list(results.grid().items())
    panels = [policies[i : i + len(MARKERS)] for i in range(0, len(policies), len(MARKERS))]
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.5 * columns, 3.8 * rows), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        axes = np.ravel(figure.subplots(rows, columns, sharey=True, squeeze=False))
        for ax, panel in zip(axes, panels, strict=False):
            for (policy, arms), style, marker in zip(panel, LOOKS, MARKERS, strict=False):
                _line(ax, results, policy, arms, {**style, "marker": marker})
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter("")
            ax.set_xlabel("peak learning rate")
            ax.legend(frameon=False, fontsize="small")
        for ax in axes[::columns]:
            ax.set_ylabel(results.named("validation"))
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        seeds = f", mean of {len(results.seeds)} seeds" if len(results.seeds) > 1 else ""
        told = f"{results.named('validation')} after {results.steps:,} updates{seeds} (filled: the best rate)"
        figure.suptitle(
            fill(f"{results.title}: {told}", 64 * columns), parse_math=False, x=0.01, ha="left", fontsize=11
        )
        ends = {arm: results.valid_loss(arm).mean() for arm in results.arms}
        lowest = [ends[arm] for _, arms in policies if (arm := results.best(arms))]
        if lowest:  # what is far above the others' best is cut off, except for the best of each
            highest = max(filter(np.isfinite, ends.values()))
            axes[0].set_ylim(0.95 * min(lowest), min(1.05 * highest, max(3 * np.median(lowest), 1.2 * max(lowest))))
        return figure


def _line(ax: Axes, results: Results, policy: str, arms: Sequence[str], style: Look) -> None:
    rates = [results.arms[arm].rate for arm in arms]
    losses = np.array([results.valid_loss(arm).mean() for arm in arms])
    ax.plot(rates, losses, label=policy, linewidth=1.5, markersize=5, markerfacecolor="white", **style)
    if best := results.best(arms):
        end = results.valid_loss(best).mean()
        ax.plot(results.arms[best].rate, end, marker=style["marker"], markersize=7, color=style["color"])


SWEEP = Study(
    "sweep",
    sections=(table, changes),
    details=(),
    figures=lambda study, results: {"figure.png": plot_rates(results)},
)
