r"""Which decay of the rate an average of the parameters is equivalent to, and which average imitates a decay.

The parameters after t updates are theta_t = theta_0 - u_0 - ... - u_{t-1}, where u_t is the update that follows t
others. Their average with weights a_0 to a_k, which sum to 1, multiplies each update by the weights of all parameters
that contain it:

    sum_j a_j theta_j = theta_0 - sum_t m_t u_t,    m_t = a_{t+1} + ... + a_k

So the average is where a run would have ended whose rate was multiplied by m_t, had its gradients been the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from optim.averaging import Coefficient, as_remembering
from optim.coefficients import Remembering
from schedules import ScheduleLike, Steps, as_schedule, schedule, tabulate
from schedules.arguments import built_as, checked
from schedules.core import Nested
from schedules.kinds import Size

__all__ = ["weights_of", "decay_of", "average_of", "average_like", "effective_window", "half_life"]


# What an average is worth ------------------------------------------------------------------------------


@checked
def weights_of(average: Coefficient, steps: Size) -> np.ndarray:
    r"""How much the parameters after 0, 1, ..., `steps` updates weigh in an average after the last of them.

    $$a_{t+1} = c(t) \prod_{s=t+1}^{k-1} \big(1 - c(s)\big), \qquad a_0 = \prod_{s=0}^{k-1} \big(1 - c(s)\big),
      \qquad k = \mathrm{steps}$$

    They sum to 1. The weight $a_0$ of the parameters before the run is 0 for every coefficient that is 1 at the first
    update.

    **Arguments:** `average`: what `optim.average` takes for a coefficient: a schedule, a function of the step, or what
    remembers something, such as `weighted(lr)`, which is replayed.

    **Returns:** a NumPy array of shape (steps + 1,), float64 as everything on the way to it.

    **Raises:** `ValueError` if `average` is no coefficient, or `steps` not a whole number, 1 or more.
    """
    return _weights("weights_of", average, steps)


@checked
def decay_of(average: Coefficient, steps: Size) -> np.ndarray:
    r"""The decay that is equivalent to an average: the factor by which it multiplies each update.

    $$m_t = \sum_{j=t+1}^{k} a_j = 1 - \prod_{s=t}^{k-1} \big(1 - c(s)\big), \qquad k = \mathrm{steps}$$

    where $a_j$ are the weights that `weights_of` returns. Whatever updates $u_t$ the optimizer made, the average is
    $\theta_0 - \sum_t m_t u_t$ exactly. A run whose rate is multiplied by $m_t$ ends there as far as its gradients are
    those of the undecayed run: with SGD on a linear loss exactly, else about, and less so the longer the decay.

    | average | decay |
    |---|---|
    | `polyak()` | linear, $1 - t / k$ |
    | `tail(start)` | none, and from `start` on linear: `wsd` |
    | `power_ema(r)` | polynomial, $1 - (t / k)^{r+1}$ |
    | `polynomial_average(r)` | nearly the same: $1 - \prod_{i=0}^{r} (t + i) / (k + i)$ for a whole r |
    | `constant(1 - b)`, which begins at $\theta_0$ | an exponential cooldown, $1 - b^{k-t}$ |
    | `ema(b)` | the same from 1 on, $(1 - b^{k-t}) / (1 - b^k)$ |

    **Arguments:** as of `weights_of`.

    **Returns:** a NumPy array of float64 and of shape (steps,); entry t is for the update that follows t updates.

    **Raises:** as `weights_of`.

    Source: WSM, arXiv:2507.17634; for two points Sandler et al., arXiv:2301.02312.
    """
    return _decay("decay_of", average, steps)


@checked
def effective_window(average: Coefficient, steps: Size) -> float:
    r"""The effective number of parameters in an average: a plain mean of that many would have its variance.

    $$\frac{1}{\sum_j a_j^2}$$

    where $a_j$ are the weights that `weights_of` returns. It is `steps` for `polyak()`, and 1,999 for `ema(0.999)` in a
    long run. Parameters that are close in time are not independent, so that less noise is averaged away than this says.

    **Arguments, raises:** as `weights_of`.
    """
    return float(1 / np.sum(_weights("effective_window", average, steps) ** 2))


@checked
def half_life(average: Coefficient, steps: Size) -> float:
    r"""How many of the latest parameters hold half of the weight of an average, after `steps` updates.

    The age in updates that half of the weight is younger than: the n at which $m_{k-n}$, of `decay_of`, is 1/2, with
    linear interpolation. It is `steps / 2` for `polyak()`, and n for `ema_half_life(n)` in a long run.

    **Arguments, raises:** as `weights_of`.
    """
    younger = np.append(0.0, np.cumsum(_weights("half_life", average, steps)[::-1]))
    n = int(np.argmax(younger >= 0.5))
    return float(n - (younger[n] - 0.5) / (younger[n] - younger[n - 1]))


def _decay(function: str, average: Any, steps: int) -> np.ndarray:
    return np.cumsum(_weights(function, average, steps)[:0:-1])[::-1]


def _weights(function: str, average: Any, steps: int) -> np.ndarray:
    coefficient = as_remembering(function, "average", average)
    with jax.enable_x64(True):
        c = np.asarray(_coefficients(coefficient, jnp.arange(steps, dtype=jnp.int32)), np.float64)
    left = np.append(np.cumprod(1 - c[::-1])[::-1], 1.0)  # of what was there before each update, and after the last
    return np.append(left[0], c * left[1:])


@jax.jit
def _coefficients(coefficient: Remembering, counts: Array) -> Array:
    """Those of all updates, in turn."""

    def update(memory: Any, count: Array) -> tuple[Any, Array]:
        c, after = coefficient.update(count, memory)
        return jax.tree.map(lambda new, old: new.astype(old.dtype), after, memory), c

    return jax.lax.scan(update, coefficient.init(), counts)[1]


# The average that is worth a decay ---------------------------------------------------------------------


@checked
def average_of(schedule: ScheduleLike, steps: Size, of: ScheduleLike | None = None) -> np.ndarray:
    r"""The weights of the parameters after 0, 1, ..., `steps` updates whose average imitates a decay.

    The inverse of `decay_of`. With $m_t = \mathrm{schedule}(t) / \mathrm{of}(t)$,

    $$a_0 = 1 - m_0, \qquad a_j = m_{j-1} - m_j, \qquad a_k = m_{k-1}, \qquad k = \mathrm{steps}$$

    They sum to 1 whatever the schedule. Where it rises against `of` they are negative: the identity still
    holds, but such an average adds noise instead of taking it away. Where both are 0 nothing moved, so that the
    weights of the parameters before and after are one, and are given to one of them.

    **Arguments:** `schedule`: the rates to imitate; `of`: those that the run has, a schedule or a number; by default
    the highest of `schedule` so far, which has its warm-up and does not decay.

    **Returns:** a NumPy array of shape (steps + 1,), float64 as everything on the way to it.

    **Raises:** `ValueError` if an argument is no schedule or `steps` not a whole number, 1 or more; if a rate of
    `schedule` is not finite, or not 0 where that of the run is not positive; or if all rates of the run are 0.
    """
    return weights_like("average_of", "schedule", schedule, of, np.arange(steps + 1))


def weights_like(function: str, argument: str, schedule: Any, of: Any, places: np.ndarray) -> np.ndarray:
    """The weights of the parameters after `places` updates, ascending, whose average imitates `schedule`.

    Only the sum of the updates between two places is known. It is multiplied by the mean of their multipliers, in which
    each counts as much as its rate: by the area under the schedule over that under `of`. What came before the first
    place cannot be taken back.
    """
    if len(places) == 1:
        return np.ones(1)
    wanted, own = (np.add.reduceat(r, places[:-1]) for r in _rates(function, argument, schedule, of, int(places[-1])))
    return -np.diff(np.concatenate([[1.0], _filled(wanted, own), [0.0]]))


def _rates(function: str, argument: str, schedule: Any, of: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
    of = None if of is None else built_as(Nested(), function, "of", of)
    with jax.enable_x64(True):
        wanted = np.asarray(tabulate(schedule, steps), np.float64)
        own = np.maximum.accumulate(wanted) if of is None else np.asarray(tabulate(of, steps), np.float64)
    if len(strange := np.flatnonzero(~np.isfinite(wanted))):
        got = f"{wanted[strange[0]]} at step {strange[0]}"
        raise ValueError(f"{function}: `{argument}` must be finite over the {steps} updates of the run, got {got}")
    if not (own > 0).any():
        name = argument if of is None else "of"
        raise ValueError(f"{function}: `{name}` must be above 0 at one update of {steps} or more, got {own.max():g}")
    if len(strange := np.flatnonzero(~(own > 0) & ((wanted != 0) | (own != 0)))):
        at = strange[0]
        got = f"{own[at]:g} at step {at}, where `{argument}` is {wanted[at]:g}"
        raise ValueError(f"{function}: `of` must be positive, or 0 where `{argument}` is, got {got}")
    return wanted, own


def _filled(wanted: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Their ratio; where both are 0, that of the next place, or at the end of the last."""
    defined = np.flatnonzero(own > 0)
    if not len(defined):
        return np.zeros(len(own))
    places = np.minimum(np.searchsorted(defined, np.arange(len(own))), len(defined) - 1)
    return (wanted[defined] / own[defined])[places]


@schedule(ends=False)
def average_like(step: Array, schedule: ScheduleLike, steps: Steps, of: ScheduleLike, every: Size = 1) -> Array:
    r"""The coefficient of the average that imitates a decay, after `steps` updates at other rates.

    $$c(t) = \frac{m_t - m_{t+1}}{1 - m_{t+1}}, \qquad m_t = \frac{\mathrm{schedule}(t)}{\mathrm{of}(t)}, \quad
      m_{\mathrm{steps}} = 0$$

    Its `weights_of` are `average_of(schedule, steps, of)`, if m never rises. Where both rates are still alike the
    average is the newest parameters; after `steps` updates it stays what it is.

    **Arguments:** `schedule`: the rates to imitate; `of`: those of the run; `every`: average only the parameters after
    every so many updates, and the last, as from checkpoints. Then m is the ratio of the areas under both between two
    of them. Where m is 1 or more the average is the newest parameters, and begins anew.

    In float32 c has the few digits that the difference leaves, but the decay that it amounts to has those of m, since
    the errors of one update are undone by the next.

    Source: the inverse of the identity that `decay_of` states.

    Example: `average_like(linear(0.1, 0, 100), steps=100, of=0.1)` over 100 steps.
    """

    def ratio(block: Array) -> tuple[Array, Array]:
        within = block * every + jnp.arange(every, dtype=step.dtype)
        areas = [jnp.sum(jnp.where(within < steps, as_schedule(each)(within), 0.0)) for each in (schedule, of)]
        return areas[0] / jnp.where(areas[1] > 0, areas[1], 1.0), areas[1] > 0

    block = step // every
    (here, moved), (following, moves), (beyond, will_move) = (ratio(block + i) for i in range(3))
    # What did not move may have any multiplier. That of the next is the simplest, but looks ahead, and only so far.
    here = jnp.where(moved, here, jnp.where(moves, following, 0.0))
    following = jnp.where(moves, following, jnp.where(will_move, beyond, 0.0))
    left = 1 - following
    c = jnp.where(left > 0, (here - following) / jnp.where(left > 0, left, 1.0), 1.0)
    sampled = ((step + 1) % every == 0) | (step + 1 == steps)
    return jnp.where(sampled & (step < steps), c, 0.0)
