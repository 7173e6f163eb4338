"""The time that each function of `theory`, and of averages as decays, takes for a run of 100,000 updates."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.engine.machine import machine
from experiments.reports.figure import titled
from experiments.reports.question import Answer, Question
from experiments.reports.text import markdown
from experiments.studies.published import BLUE, SKY
from optim import average_of, decay_of, effective_window, half_life, merge, polyak
from schedules import constant, cosine, linear, wsd
from theory import Curve, MultiPower, advise, best_peak, bound, compare, fit, optimize, quadratic, refine, transfer

STEPS, ROUNDS = 100_000, 5


def functions(steps: int) -> dict[str, Callable[[], Any]]:
    """A call of each function, for a run of `steps` updates."""
    lr, old = linear(1e-3, 0.0, steps), wsd(1e-3, steps // 100, steps * 4 // 5 - steps // 100, steps // 5)
    law = MultiPower(2.7, 0.6, 0.45, 440.0, 2.1, 0.6, 0.65)
    recorded = np.linspace(steps / 100, steps, 100).astype(int)
    curves = [Curve(each, recorded, np.asarray(law.predict(each, recorded))) for each in (constant(3e-4), old * 0.3)]
    rates = jnp.asarray(lr(jnp.arange(steps)))
    gradient = jax.jit(jax.grad(lambda rates: bound(rates, steps)))
    problem = quadratic(1.0 / jnp.arange(1, 101) ** 2)
    norms = 1 + np.exp(-np.arange(steps) / steps)
    saved = {int(at): {"w": np.ones(10**6, np.float32)} for at in np.linspace(0.8, 1, 11) * steps}
    return {
        "bound": lambda: bound(lr, steps),
        "its gradient in all rates": lambda: gradient(rates),
        "best_peak": lambda: best_peak(lr, steps),
        "compare, 3 schedules": lambda: compare({"a": lr, "b": old, "c": cosine(1.0, 0.0, steps)}, steps),
        "transfer, to 1.25 times the length": lambda: transfer(old, steps, steps * 5 // 4),
        "fit, 2 curves of 100 losses": lambda: fit(curves),
        "MultiPower.predict, the end": lambda: law.predict(lr, steps),
        "MultiPower.predict, 100 losses": lambda: law.predict(lr, recorded),
        "refine": lambda: refine(norms),
        "optimize, the bound, its own numbers": lambda: optimize(
            cosine(1e-3, 1e-4, steps), steps, lambda rates: bound(rates, steps)
        ),
        "expected_loss, 100 curvatures": lambda: problem.expected_loss(lr, steps),
        "advise, a run of known length": lambda: advise(steps),
        "advise, a run that is extended": lambda: advise(steps * 5 // 4, after=old, at=steps // 2),
        "decay_of": lambda: decay_of(polyak(), steps),
        "average_of": lambda: average_of(lr, steps),
        "effective_window and half_life": lambda: (effective_window(polyak(), steps), half_life(polyak(), steps)),
        "merge, 11 checkpoints of a million numbers": lambda: merge(saved, like=old),
    }


def timed(steps: int, rounds: int) -> dict[str, dict[str, float]]:
    """The seconds of the first call, which compiles, and the median of later calls."""

    def once(function: Callable[[], Any]) -> float:
        begun = time.perf_counter()
        jax.block_until_ready(function())
        return time.perf_counter() - begun

    return {
        name: {"first": once(function), "later": float(np.median([once(function) for _ in range(rounds)]))}
        for name, function in functions(steps).items()
    }


def drawn(seconds: dict[str, dict[str, float]]) -> Figure:
    figure = titled(f"Seconds of one call, for a run of {STEPS:,} updates: the first call compiles")
    figure.set_size_inches(8, 5)
    ax = figure.subplots()
    places = np.arange(len(seconds))[::-1]
    for which, colour in (("first", SKY), ("later", BLUE)):
        at = [each[which] for each in seconds.values()]
        ax.plot(at, places, "o", color=colour, label={"first": "first call", "later": "later calls"}[which])
    ax.set(xscale="log", xlabel="seconds")
    ax.set_yticks(places, [*seconds])
    ax.grid(color="#e5e5e5")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper left", ncols=2, bbox_to_anchor=(0, 1.1))
    return figure


def measure() -> Answer:
    seconds = timed(STEPS, ROUNDS)
    rows = [["function", "first call, s", "later calls, s"]]
    rows += [[name, f"{each['first']:.2g}", f"{each['later']:.2g}"] for name, each in seconds.items()]
    text = (
        f"For a run of {STEPS:,} updates. A first call includes compilation, which later calls with other numbers "
        f"reuse;\nlater calls are the median of {ROUNDS}.\n\n{markdown(rows)}"
    )
    return Answer(text, {"steps": STEPS, "seconds": seconds, **machine()}, {"figure.png": drawn(seconds)})


THEORY = Question("theory", "How long does each function of `theory` take?", measure)
