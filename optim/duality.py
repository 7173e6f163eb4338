r"""The decay of the learning rate that an average of the parameters is equivalent to, and the reverse.

The parameters after t updates are theta_t = theta_0 - u_0 - ... - u_{t-1}, where u_t is the update after t others. Take
their average with weights a_0 to a_k, which sum to 1. In it, each update is multiplied by the sum of the weights of all
parameters that contain it:

    sum_j a_j theta_j = theta_0 - sum_t m_t u_t,    m_t = a_{t+1} + ... + a_k

So the average is where the run would have ended with its rate multiplied by m_t, if the gradients had been the same.
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


# The decay of an average -------------------------------------------------------------------------------


@checked
def weights_of(average: Coefficient, steps: Size) -> np.ndarray:
    r"""The weights of the parameters after 0, 1, ..., `steps` updates in an average at the end of a run.

    $$a_{t+1} = c(t) \prod_{s=t+1}^{k-1} \big(1 - c(s)\big), \qquad a_0 = \prod_{s=0}^{k-1} \big(1 - c(s)\big),
      \qquad k = \mathrm{steps}$$

    They sum to 1. The weight $a_0$ of the initial parameters is 0 if the coefficient is 1 at the first update.

    **Arguments:** `average`: a coefficient, as for `optim.average`: a schedule, a function of the step, or a
    `Remembering` such as `weighted(lr)`; `steps`: the length of the run in updates.

    **Returns:** a NumPy array of shape (steps + 1,), computed in float64.

    **Raises:** `ValueError` if `average` is not a coefficient, or `steps` is not a whole number, 1 or more.
    """
    return _weights("weights_of", average, steps)


@checked
def decay_of(average: Coefficient, steps: Size) -> np.ndarray:
    r"""The decay that is equivalent to an average: the factor by which the average multiplies each update.

    $$m_t = \sum_{j=t+1}^{k} a_j = 1 - \prod_{s=t}^{k-1} \big(1 - c(s)\big), \qquad k = \mathrm{steps}$$

    where $a_j$ are the weights that `weights_of` returns. For any optimizer with updates $u_t$, the average is exactly
    $\theta_0 - \sum_t m_t u_t$. A run with its rate multiplied by $m_t$ ends at the same point if its gradients are
    those of the undecayed run. This is exact for SGD on a linear loss, and otherwise approximate; the longer the decay,
    the larger the difference.

    | average | decay |
    |---|---|
    | `polyak()` | linear, $1 - t / k$ |
    | `tail(start)` | none until `start`, then linear, as in `wsd` |
    | `power_ema(r)` | polynomial, $1 - (t / k)^{r+1}$ |
    | `polynomial_average(r)` | nearly the same: $1 - \prod_{i=0}^{r} (t + i) / (k + i)$ for a whole r |
    | `constant(1 - b)`, which includes $\theta_0$ | an exponential cooldown, $1 - b^{k-t}$ |
    | `ema(b)` | the same, scaled to begin at 1: $(1 - b^{k-t}) / (1 - b^k)$ |

    **Arguments:** as for `weights_of`.

    **Returns:** a NumPy array of shape (steps,), float64; entry t is for the update that follows t updates.

    **Raises:** as `weights_of`.

    Source: WSM, arXiv:2507.17634; for the average of two points, Sandler et al., arXiv:2301.02312.
    """
    return _decay("decay_of", average, steps)


@checked
def effective_window(average: Coefficient, steps: Size) -> float:
    r"""The effective length of an average: a plain mean of this many independent values has the same variance.

    $$\frac{1}{\sum_j a_j^2}$$

    where $a_j$ are the weights that `weights_of` returns. It is `steps` for `polyak()`, and 1,999 for `ema(0.999)` in a
    long run. Parameters that are close in time are not independent, so the average removes less noise than this
    suggests.

    **Arguments, raises:** as `weights_of`.
    """
    return float(1 / np.sum(_weights("effective_window", average, steps) ** 2))


@checked
def half_life(average: Coefficient, steps: Size) -> float:
    r"""How many of the latest parameters hold half of the weight of an average, after `steps` updates.

    This is the n at which $m_{k-n}$ of `decay_of` is 1/2, with linear interpolation. It is `steps / 2` for `polyak()`,
    and n for `ema_half_life(n)` in a long run.

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
    left = np.append(np.cumprod(1 - c[::-1])[::-1], 1.0)  # what is left, at the end, of the average before update t
    return np.append(left[0], c * left[1:])


@jax.jit
def _coefficients(coefficient: Remembering, counts: Array) -> Array:
    """The coefficients of all updates, in order."""

    def update(memory: Any, count: Array) -> tuple[Any, Array]:
        c, after = coefficient.update(count, memory)
        return jax.tree.map(lambda new, old: new.astype(old.dtype), after, memory), c

    return jax.lax.scan(update, coefficient.init(), counts)[1]


# The average that imitates a decay ---------------------------------------------------------------------


@checked
def average_of(schedule: ScheduleLike, steps: Size, of: ScheduleLike | None = None) -> np.ndarray:
    r"""The weights of the parameters after 0, 1, ..., `steps` updates whose average imitates a decay.

    The inverse of `decay_of`. With $m_t = \mathrm{schedule}(t) / \mathrm{of}(t)$,

    $$a_0 = 1 - m_0, \qquad a_j = m_{j-1} - m_j, \qquad a_k = m_{k-1}, \qquad k = \mathrm{steps}$$

    They always sum to 1. Where `schedule` rises relative to `of`, weights are negative: the identity still holds, but
    the average adds noise instead of removing it. Where both rates are 0 the parameters did not move, so one of the two
    equal sets of parameters gets all of their weight.

    **Arguments:** `schedule`: the rates to imitate; `steps`: the length of the run in updates; `of`: the rates of the
    run, a schedule or a number; by default the highest value of `schedule` up to each step.
    This keeps its warm-up and leaves out its decay.

    **Returns:** a NumPy array of shape (steps + 1,), computed in float64.

    **Raises:** `ValueError` if an argument is not a schedule or `steps` is not a whole number, 1 or more; if a rate of
    `schedule` is not finite; if a rate of the run is negative, or 0 where `schedule` is not; or if all rates of the run
    are 0.
    """
    return weights_like("average_of", "schedule", schedule, of, np.arange(steps + 1))


def weights_like(function: str, argument: str, schedule: Any, of: Any, places: np.ndarray) -> np.ndarray:
    """The weights of the parameters after `places` updates, ascending, whose average imitates `schedule`.

    Only the sum of the updates between two places is known. It is multiplied by the ratio of the areas under `schedule`
    and under `of`, which is the mean of the multipliers weighted by the rate. Updates before the first place cannot be
    changed.
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
        raise ValueError(
            f"{function}: `{name}` must be above 0 at one or more of the {steps} updates, got at most {own.max():g}"
        )
    if len(strange := np.flatnonzero(~(own > 0) & ((wanted != 0) | (own != 0)))):
        at = strange[0]
        got = f"{own[at]:g} at step {at}, where `{argument}` is {wanted[at]:g}"
        raise ValueError(f"{function}: `of` must be positive, or 0 where `{argument}` is 0, got {got}")
    return wanted, own


def _filled(wanted: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The ratio of both; where both are 0, the ratio at the next place, or at the end the last one."""
    defined = np.flatnonzero(own > 0)
    if not len(defined):
        return np.zeros(len(own))
    places = np.minimum(np.searchsorted(defined, np.arange(len(own))), len(defined) - 1)
    return (wanted[defined] / own[defined])[places]


@schedule(ends=False)
def average_like(step: Array, schedule: ScheduleLike, steps: Steps, of: ScheduleLike, every: Size = 1) -> Array:
    r"""The coefficient of the average that imitates `schedule` after `steps` updates with the rates `of`.

    $$c(t) = \frac{m_t - m_{t+1}}{1 - m_{t+1}}, \qquad m_t = \frac{\mathrm{schedule}(t)}{\mathrm{of}(t)}, \quad
      m_{\mathrm{steps}} = 0$$

    If m never rises, its `weights_of` are `average_of(schedule, steps, of)`. As long as both rates are equal, the
    average is the newest parameters. After `steps` updates it stays as it is.

    **Arguments:** `schedule`: the rates to imitate; `steps`: the length of the run in updates; `of`: the rates of the
    run; `every`: average only the parameters after every `every`-th update and the last, like checkpoints. Then m is
    the ratio of the areas under both schedules between two checkpoints. Where m is 1 or more, the average restarts from
    the newest parameters.

    In float32, the difference leaves c with few correct digits. The resulting decay has all the digits of m, since the
    errors of consecutive updates cancel.

    Source: the inverse of the identity in `decay_of`.

    Example: `average_like(linear(0.1, 0, 100), steps=100, of=0.1)` over 100 steps.
    """

    def ratio(block: Array) -> tuple[Array, Array]:
        within = block * every + jnp.arange(every, dtype=step.dtype)
        areas = [jnp.sum(jnp.where(within < steps, as_schedule(each)(within), 0.0)) for each in (schedule, of)]
        return areas[0] / jnp.where(areas[1] > 0, areas[1], 1.0), areas[1] > 0

    block = step // every
    (here, moved), (following, moves), (beyond, will_move) = (ratio(block + i) for i in range(3))
    # Blocks where nothing moved may have any multiplier: take the next one's, looking at most two blocks ahead.
    here = jnp.where(moved, here, jnp.where(moves, following, 0.0))
    following = jnp.where(moves, following, jnp.where(will_move, beyond, 0.0))
    left = 1 - following
    c = jnp.where(left > 0, (here - following) / jnp.where(left > 0, left, 1.0), 1.0)
    sampled = ((step + 1) % every == 0) | (step + 1 == steps)
    return jnp.where(sampled & (step < steps), c, 0.0)
