"""Schedules made of schedules.

A number in the place of a schedule means `constant`, a plain callable means `function`.
"""

import functools
import operator
from collections.abc import Callable
from typing import Annotated

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from schedules.core import Function, ScheduleLike, Schedules, Shape, as_schedule, schedule
from schedules.decays import one_more
from schedules.kinds import Boundaries, Steps, Value
from schedules.ramps import linear


@schedule
def function(step: Array, of: Annotated[Callable[[Array], ArrayLike], Function()]) -> ArrayLike:
    """A plain callable `step -> value`, such as an optax schedule, as a schedule.

    The callable is structure: two are equal if they are the same object, and another one retraces.
    """
    return of(step)


@schedule
def add(step: Array, *schedules: ScheduleLike) -> ArrayLike:
    r"""The sum of schedules, also written `a + b`.

    $$f(t) = \sum_i f_i(t)$$
    """
    return functools.reduce(operator.add, (as_schedule(f)(step) for f in schedules))


@schedule
def multiply(step: Array, *schedules: ScheduleLike) -> ArrayLike:
    r"""The product of schedules, also written `a * b`.

    $$f(t) = \prod_i f_i(t)$$

    A product runs on one clock: in `warmup_factor * decay` the decay has begun during the warm-up.
    `warmup(decay, steps)` starts the decay after it.
    """
    return functools.reduce(operator.mul, (as_schedule(f)(step) for f in schedules))


@schedule(check=lambda **built: one_more("schedules", "boundaries", **built))
def join(step: Array, schedules: Schedules, boundaries: Boundaries) -> Array:
    r"""One schedule after another: the next takes over at each boundary, from its own step 0.

    $$f(t) = f_i(t - b_i), \qquad b_i \le t < b_{i+1}, \quad b_0 = 0$$

    **Raises:** `ValueError` unless there is one schedule more than there are boundaries and these never decrease.
    """
    boundaries = jnp.asarray(boundaries)
    starts = jnp.concatenate([jnp.zeros(1, boundaries.dtype), boundaries])
    # A piece that has not begun waits at its step 0: all pieces are evaluated, and one that is not
    # finite before its time would make the gradient NaN.
    values = [as_schedule(piece)(jnp.maximum(step - start, 0)) for piece, start in zip(schedules, starts, strict=True)]
    return jnp.stack(values)[jnp.sum(step >= boundaries)]


@schedule
def warmup(step: Array, schedule: ScheduleLike, steps: Steps, init: Value = 0.0, shape: Shape = linear) -> Array:
    r"""A ramp from `init` to the first value of `schedule` over `steps` updates, then `schedule` from its step 0.

    $$f(t) = \begin{cases} \mathrm{shape}(\mathrm{init}, f_0(0), \mathrm{steps})(t) & t < \mathrm{steps} \\
                           f_0(t - \mathrm{steps}) & \text{otherwise} \end{cases}$$

    With `init=0` the first update changes nothing; `init=peak / steps` over `steps - 1` updates gives the
    convention (t + 1) / steps of the schedule-free reference. `warmup(f, 0)` is `f`.
    """
    schedule = as_schedule(schedule)
    ramp = shape(init, schedule(0), steps)
    return join([ramp, schedule], jnp.stack([steps]))(step)
