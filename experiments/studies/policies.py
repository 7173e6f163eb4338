"""Every common policy on one task, each at its best rate: schedules, averages and schedule-free optimizers."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from experiments.reports.results import Results
from experiments.reports.tables import changes, diverged, table
from experiments.reports.text import spread
from experiments.studies.published import EPS, averaged_adam, decayed_adam, schedule_free_adam
from experiments.studies.study import Arm, Study, with_sgd
from experiments.studies.sweep import FACTORS
from optim import Plateau, adam, exponential_average, gpa, polyak, schedule_free_adamw, sgd, warmed
from schedules import (
    Schedule,
    ScheduleLike,
    Shape,
    constant,
    cosine,
    exponential_decay,
    inverse_time,
    linear,
    multistep,
    one_cycle,
    one_cycle_momentum,
    one_cycle_three_phase,
    one_minus_sqrt,
    restarts,
    step_decay,
    triangular,
    warmup,
    wsd,
)

# Optimizers --------------------------------------------------------------------------------------------


@with_sgd(lambda learning_rate, momentum: {"lr": learning_rate, "momentum": momentum})
def momentum_sgd(learning_rate: ScheduleLike, momentum: ScheduleLike) -> optax.GradientTransformationExtraArgs:
    return sgd(learning_rate, momentum)


def reference_schedule_free(learning_rate: ScheduleLike) -> optax.GradientTransformationExtraArgs:
    return schedule_free_adamw(learning_rate)


def adam_in_gpa(learning_rate: ScheduleLike) -> optax.GradientTransformationExtraArgs:
    return gpa(adam(learning_rate, eps=EPS))


def adam_on_plateau(learning_rate: ScheduleLike) -> optax.GradientTransformationExtraArgs:
    return optax.chain(adam(learning_rate, eps=EPS), reduce_on_validation(Plateau(patience=1)))


def reduce_on_validation(rule: Plateau) -> optax.GradientTransformationExtraArgs:
    """Applies `rule` once for each new value of a metric. The metric comes with every update, and changes after a
    validation."""

    def init(params: Any) -> Any:
        del params
        return rule.init(), jnp.full((), jnp.inf, jnp.float32)

    def update(updates: Any, state: Any, params: Any = None, *, value: Array, **_: Any) -> Any:
        del params
        plateau, before = state
        after = jax.tree.map(lambda a, b: jnp.where(value != before, a, b), rule.update(plateau, value), plateau)
        return jax.tree.map(lambda u: after.scale * u, updates), (after, value)

    return optax.GradientTransformationExtraArgs(init, update)


# Schedules for Adam, from a peak rate and the length of the run -----------------------------------------


def part(steps: int, share: float) -> int:
    """The number of updates in a share of the run, at least 1."""
    return max(round(steps * share), 1)


def sgdr(shape: Shape, rate: float, steps: int) -> Schedule:
    """Three cycles, each twice as long as the one before. The last ends with the run, or up to six updates later."""
    first = math.ceil(steps / 7)
    return restarts(shape(rate, 0.0, first), first, growth=2.0)


def wave(rate: float, steps: int, decay: float = 1.0, last: float = 1.0) -> Schedule:
    """Four triangles from a tenth of the rate to the rate, times a factor that falls from 1 to `last` over the run."""
    half = part(steps, 1 / 8)
    return triangular(rate / 10, rate, half, half, decay=decay, fade=last ** (1 / steps))


def trapezoid(shape: Shape, rate: float, steps: int) -> Schedule:
    up, down = part(steps, 0.05), part(steps, 0.2)
    return wsd(rate, up, max(steps - up - down, 0), down, shape=shape)


def warmed_cosine(percent: int, rate: float, steps: int) -> Schedule:
    up = part(steps, percent / 100)
    return warmup(cosine(rate, 0.0, steps - up), up)


SCHEDULES: dict[str, Callable[[float, int], Schedule]] = {
    "constant": lambda rate, steps: constant(rate),
    "inverse-time": lambda rate, steps: inverse_time(rate, 9.0, steps),
    "step": lambda rate, steps: step_decay(rate, part(steps, 1 / 3)),
    "exponential": lambda rate, steps: exponential_decay(rate, 0.01, steps),
    "linear": lambda rate, steps: linear(rate, 0.0, steps),
    "cosine": lambda rate, steps: cosine(rate, 0.0, steps),
    "sgdr-cosine": functools.partial(sgdr, cosine),
    "sgdr-linear": functools.partial(sgdr, linear),
    "triangular": wave,
    "triangular2": functools.partial(wave, decay=0.5),
    "triangular-exp": functools.partial(wave, last=0.1),
    "wsd-linear": functools.partial(trapezoid, linear),
    "wsd-sqrt": functools.partial(trapezoid, one_minus_sqrt),
    "wsd-cosine": functools.partial(trapezoid, cosine),
    "warmup-1": functools.partial(warmed_cosine, 1),
    "warmup-5": functools.partial(warmed_cosine, 5),
    "warmup-20": functools.partial(warmed_cosine, 20),
}


# All of them -------------------------------------------------------------------------------------------


def policies(rate: float, steps: int) -> list[Arm]:
    """Every policy for a run of `steps` updates; `rate` is that of Adam, and other optimizers use a multiple of it."""
    still, window = constant(rate), exponential_average(max(steps / 10, 1.0))
    up, warm = part(steps, 0.3), part(steps, 0.05)
    halves = [part(steps, 0.5), part(steps, 0.75)]
    return [
        *(
            Arm(name, decayed_adam, {"learning_rate": schedule(rate, steps), "b1": 0.9}, steps)
            for name, schedule in SCHEDULES.items()
        ),
        Arm(
            "one-cycle",
            decayed_adam,
            {"learning_rate": one_cycle(rate, up, steps - up), "b1": one_cycle_momentum(up, steps - up)},
            steps,
        ),
        # Divides the rate by 10 after two validations in a row without a lower loss.
        Arm("plateau", adam_on_plateau, {"learning_rate": still}, steps),
        Arm("polyak", averaged_adam, {"learning_rate": still, "coefficient": polyak()}, steps),
        Arm("ema", averaged_adam, {"learning_rate": still, "coefficient": window}, steps),
        Arm("schedule-free-ema", schedule_free_adam, {"learning_rate": still, "coefficient": window}, steps),
        # The reference settings: a warm-up, and weights that are the squares of the rates.
        Arm("schedule-free", reference_schedule_free, {"learning_rate": warmed(2.5 * rate, warm)}, steps),
        # GPA as released: an average over about 300 updates, for any length of run.
        Arm("gpa", adam_in_gpa, {"learning_rate": cosine(rate, 0.0, steps)}, steps),
        Arm(
            "sgd-step",
            momentum_sgd,
            {"learning_rate": multistep(10.0 * rate, halves, 0.1), "momentum": 0.9},
            steps,
            fields={ROLE: GOAL},
        ),
        *(cycle(percent, 10.0 * rate, part(steps, percent / 100)) for percent in (5, 10, 25, 50, 100)),
    ]


def cycle(percent: int, rate: float, steps: int) -> Arm:
    """One-cycle with SGD in a part of the run: the momentum falls while the rate rises, and rises while it falls."""
    up = part(steps, 0.45)
    lr = one_cycle_three_phase(rate, up, up, max(steps - 2 * up, 1), div=10.0, final_div=100.0, shape=linear)
    momentum = one_cycle_momentum(up, up, shape=linear)
    numbers = {"learning_rate": lr, "momentum": momentum}
    return Arm(f"sgd-one-cycle-{percent}", momentum_sgd, numbers, steps, fields={ROLE: RIVAL})


# Super-convergence -------------------------------------------------------------------------------------

ROLE, GOAL, RIVAL = "super-convergence", "goal", "rival"  # a field of arms, and its values


def super_convergence(results: Results) -> str:
    """How much faster one-cycle reaches the accuracy of SGD with step decay, if both were trained."""
    roles = {arm: trained.fields.get(ROLE) for arm, trained in results.arms.items()}
    goals = [arm for arm in roles if roles[arm] == GOAL]
    rivals = sorted((arm for arm in roles if roles[arm] == RIVAL), key=results.end)
    if not goals or not rivals or results.done < results.steps:
        return ""
    goal, steps = 100 * results.valid_accuracy(goals[0]), results.end(goals[0])
    ahead = {arm: 100 * results.valid_accuracy(arm) - goal for arm in rivals}
    listed = ", ".join(f"{spread(ahead[arm], 1, ' %', '+')} after {results.end(arm):,}" for arm in rivals)
    told = (
        f"SGD with step decay ends at an accuracy of {spread(goal, 1, ' %')} after {steps:,} updates. One-cycle, "
        f"compared with that: {listed}."
    )
    enough = [results.end(arm) for arm in rivals if ahead[arm].mean() >= 0]
    times = (
        f" One-cycle reaches that accuracy in {steps / enough[0]:.3g} times fewer updates."
        if enough and enough[0] < steps
        else ""
    )
    return told + times


POLICIES = Study(
    "policies",
    "every common schedule at its best rate",
    policies,
    factors=FACTORS,
    sections=(table, changes, diverged, super_convergence),
)
