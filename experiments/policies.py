"""Every policy in use, on one task and each at its best rate: schedules, averages and schedule-free optimizers."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.arms import EPS, Arm, Optimizer, arm, averaged_adam, decayed_adam, schedule_free_adam
from experiments.compare import POLICIES as NAME
from experiments.compare import Compare, settle
from experiments.devices import agreed
from experiments.errors import UserError
from experiments.results import CYCLE, STEPPED, Results
from experiments.signals import stop_signals
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

FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
# Far from any that are reported, on which the best rate would be best by luck as well.
SWEEP_SEEDS = (1_000_000_000, 1_000_000_001)


@dataclass(frozen=True)
class Policy:
    """A way to train for any peak rate and any length of the run.

    `scale`: how many times the rate of Adam it wants, about; `build`: an arm of some name, from its peak rate and the
    updates of the run.
    """

    scale: float
    build: Callable[[str, float, int], Arm]

    def arm(self, name: str, rate: float, steps: int) -> Arm:
        """At `rate` of Adam's."""
        return self.build(name, self.scale * rate, steps)


# Optimizers: functions of module level, by which arms are told apart ---------------------------------


def momentum_sgd(learning_rate: ScheduleLike, momentum: ScheduleLike) -> optax.GradientTransformationExtraArgs:
    return sgd(learning_rate, momentum)


def reference_schedule_free(learning_rate: ScheduleLike) -> optax.GradientTransformationExtraArgs:
    return schedule_free_adamw(learning_rate)


def adam_in_gpa(learning_rate: ScheduleLike) -> optax.GradientTransformationExtraArgs:
    return gpa(adam(learning_rate, eps=EPS))


def adam_on_plateau(learning_rate: ScheduleLike) -> optax.GradientTransformationExtraArgs:
    return optax.chain(adam(learning_rate, eps=EPS), reduce_on_validation(Plateau(patience=1)))


def reduce_on_validation(rule: Plateau) -> optax.GradientTransformationExtraArgs:
    """`rule` on a metric that comes with every update and is another after a validation: each counts once."""

    def init(params: Any) -> Any:
        del params
        return rule.init(), jnp.full((), jnp.inf, jnp.float32)

    def update(updates: Any, state: Any, params: Any = None, *, value: Array, **_: Any) -> Any:
        del params
        plateau, before = state
        after = jax.tree.map(lambda a, b: jnp.where(value != before, a, b), rule.update(plateau, value), plateau)
        return jax.tree.map(lambda u: after.scale * u, updates), (after, value)

    return optax.GradientTransformationExtraArgs(init, update)


# Schedules of Adam, from a peak rate and the updates of the run ----------------------------------------


def part(steps: int, share: float) -> int:
    """A share of the run, one update or more."""
    return max(round(steps * share), 1)


def sgdr(shape: Shape, rate: float, steps: int) -> Schedule:
    """Three cycles, each twice as long as the one before; the last ends with the run, or up to six updates later."""
    first = math.ceil(steps / 7)
    return restarts(shape(rate, 0.0, first), first, growth=2.0)


def wave(rate: float, steps: int, decay: float = 1.0, last: float = 1.0) -> Schedule:
    """Four triangles from a tenth of the rate, under a factor that falls from 1 to `last` over the run."""
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


def scheduled(schedule: Callable[[float, int], Schedule], name: str, rate: float, steps: int) -> Arm:
    return arm(name, steps, decayed_adam, learning_rate=schedule(rate, steps), b1=0.9)


# What is more than a schedule --------------------------------------------------------------------------


def cycle_with_adam(name: str, rate: float, steps: int) -> Arm:
    up = part(steps, 0.3)
    b1 = one_cycle_momentum(up, steps - up)
    return arm(name, steps, decayed_adam, learning_rate=one_cycle(rate, up, steps - up), b1=b1)


def plateau(name: str, rate: float, steps: int) -> Arm:
    """A tenth of the rate after two validations in a row without progress of their loss."""
    return arm(name, steps, adam_on_plateau, learning_rate=constant(rate))


def uniform(name: str, rate: float, steps: int) -> Arm:
    return arm(name, steps, averaged_adam, learning_rate=constant(rate), coefficient=polyak())


def exponential(optimizer: Optimizer, name: str, rate: float, steps: int) -> Arm:
    """An average over about a tenth of the run."""
    window = exponential_average(max(steps / 10, 1.0))
    return arm(name, steps, optimizer, learning_rate=constant(rate), coefficient=window)


def schedule_free(name: str, rate: float, steps: int) -> Arm:
    """The reference setting: a warm-up, and weights that are the squares of the rates."""
    return arm(name, steps, reference_schedule_free, learning_rate=warmed(rate, part(steps, 0.05)))


def primal_average(name: str, rate: float, steps: int) -> Arm:
    """GPA as released: an average over about 300 updates, however long the run."""
    return arm(name, steps, adam_in_gpa, learning_rate=cosine(rate, 0.0, steps))


def stepped_sgd(name: str, rate: float, steps: int) -> Arm:
    lr = multistep(rate, [part(steps, 0.5), part(steps, 0.75)], 0.1)
    return arm(name, steps, momentum_sgd, learning_rate=lr, momentum=0.9)


def cycle_with_sgd(percent: int, name: str, rate: float, steps: int) -> Arm:
    """Super-convergence: rate and momentum against each other, in a part of the run."""
    length = part(steps, percent / 100)
    up = part(length, 0.45)
    lr = one_cycle_three_phase(rate, up, up, max(length - 2 * up, 1), div=10.0, final_div=100.0, shape=linear)
    return arm(name, length, momentum_sgd, learning_rate=lr, momentum=one_cycle_momentum(up, up, shape=linear))


POLICIES = {
    **{name: Policy(1.0, functools.partial(scheduled, schedule)) for name, schedule in SCHEDULES.items()},
    "one-cycle": Policy(1.0, cycle_with_adam),
    "plateau": Policy(1.0, plateau),
    "polyak": Policy(1.0, uniform),
    "ema": Policy(1.0, functools.partial(exponential, averaged_adam)),
    "schedule-free-ema": Policy(1.0, functools.partial(exponential, schedule_free_adam)),
    "schedule-free": Policy(2.5, schedule_free),
    "gpa": Policy(1.0, primal_average),
    STEPPED: Policy(10.0, stepped_sgd),
    **{
        f"{CYCLE}{percent}": Policy(10.0, functools.partial(cycle_with_sgd, percent))
        for percent in (5, 10, 25, 50, 100)
    },
}


# Their rates, and the best of them ----------------------------------------------------------------------


def grid(names: Sequence[str], rate: float, steps: int, factors: Sequence[float]) -> dict[str, Arm]:
    """An arm for each policy and each rate, called `policy@factor`."""
    pairs = {f"{name}@{factor:g}": (name, factor) for name in names for factor in factors}
    return {label: POLICIES[name].arm(label, factor * rate, steps) for label, (name, factor) in pairs.items()}


def best_factors(results: Results) -> dict[str, float]:
    """The factor of the best rate of each policy of a grid, but for those that diverged at every rate."""
    best = {name: results.best(arms) for name, arms in results.grid().items()}
    return {name: float(arm.split("@")[1]) for name, arm in best.items() if arm}


def compare_policies(options: Compare) -> int:
    """Sweeps the rate of every policy in one program, and then trains each at its best, with other seeds."""
    settings = settle(options, NAME, arms=len(POLICIES) * len(FACTORS))
    rate, steps = settings.learning_rate, settings.steps
    sweep, best = settings.sample.out / "sweep", settings.sample.out / "best"
    # One watch over both runs, so that a signal at the end of the first is not lost.
    with stop_signals() as stopped:
        swept, status = settings.train(
            settings.plan(grid([*POLICIES], rate, steps, FACTORS), SWEEP_SEEDS), sweep, stopped
        )
        if status or agreed(np.asarray(stopped())):
            return 130
        factors = best_factors(swept)
        if not factors:
            raise UserError(f"every policy has diverged at every rate, see {sweep}: choose another --learning-rate")
        arms = {name: POLICIES[name].arm(name, factor * rate, steps) for name, factor in factors.items()}
        return settings.train(settings.plan(arms), best, stopped)[1]
