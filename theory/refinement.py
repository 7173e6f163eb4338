"""A schedule from the gradient norms of a first run, and the best schedule for an objective."""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from typing_extensions import TypeAliasType

from optim.checks import Fraction, NotNegative
from optim.lr_finder import FunctionOf
from schedules import Schedule, ScheduleLike, as_schedule, interpolate, table, tabulate
from schedules import warmup as warmed_up
from schedules.arguments import built_as, checked
from schedules.kinds import COUNT, POSITIVE, Kind, Length, Positive, Size, require
from schedules.sentences import shown

__all__ = ["refine", "optimize", "Optimized"]


class OfNorms(Kind):
    expected = "two or more positive numbers, one for each equal part of a run"

    def build(self, value: Any) -> np.ndarray:
        try:
            norms = np.asarray(value, np.float64)
        except TypeError:
            raise ValueError from None
        return require(norms, norms.ndim == 1 and len(norms) >= 2 and bool(np.all((norms > 0) & (norms < np.inf))))


Norms = TypeAliasType("Norms", Annotated[Sequence[float] | np.ndarray | Array, OfNorms()])

# A first run --------------------------------------------------------------------------------------------

POWERS = {"l2": -2.0, "l1": -1.0}


@checked
def refine(
    gradient_norms: Norms,
    norm: Literal["l2", "l1"] = "l2",
    every: Size = 1,
    peak: Positive = 1.0,
    warmup: Length = 0,
    smoothing: Fraction = 0.1,
) -> Schedule:
    r"""A schedule from the gradient norms of a first run, as a `table` with a rate for each of its T updates.

    $$f(t) \propto w_t \sum_{p=t+1}^{T} w_p, \qquad
      w_t = \begin{cases} G_t^{-2} & \text{L2 norms, for SGD} \\ G_t^{-1} & \text{L1 norms, for Adam} \end{cases}$$

    It is scaled so that its highest rate is `peak`. $G_t$ is the gradient norm of update t, smoothed by a moving
    median. Constant norms give `linear(peak, 0, T)`. Norms that fall during the run give a warm-up and a later decay;
    norms that rise give an earlier decay.

        norms = ...  # of the gradients in a run at a constant rate, each the mean over 10 updates
        lr = refine(norms, "l1", every=10, peak=1e-3)

    The rates minimize a bound on the loss of the last iterate for convex losses, assuming that the norms of the next
    run are the same. They are not the same, since its rates differ. Theory gives only the shape: tune the peak.

    The norm $G_T$ at the final parameters is assumed to equal that of the last update. The last rate of the paper is 0;
    it belongs to an update after the last gradient, which is never made, and is left out here.

    **Arguments:** `gradient_norms`: two or more norms, for example means over seeds; `norm`: which norm they are;
    `every`: the number of updates over which each of them is a mean; `warmup`: the number of updates at the start in
    which the rate grows from 0, and whose norms are not used; `smoothing`: the window of the median as a share of the
    run, from 0 to below 1. The median sees the run mirrored at its end, and the first norm repeated before its start.

    **Returns:** a `table`, or `warmup(table, ...)` if there is a warm-up. It lasts `every` updates for each norm.

    **Raises:** `ValueError` if there are fewer than two norms, if a norm is not positive and finite, if `warmup` is not
    shorter than the run, or if an argument is not as above.

    Source: Defazio et al., *When, why and how much? Adaptive learning rate scheduling by refinement*,
    arXiv:2310.07831.
    """
    if warmup >= (steps := len(gradient_norms) * every):
        raise ValueError(f"refine: `warmup` must be shorter than the run of {steps} updates, got {warmup}")
    smooth = np.repeat(median_filtered(np.asarray(gradient_norms), float(smoothing)), every)[warmup:]
    weights = (smooth / smooth.min()) ** POWERS[norm]
    # Sums from the end: differences of sums from the start would lose the digits of the small weights there.
    later = np.cumsum(np.append(weights, weights[-1])[::-1])[-2::-1]
    refined = table(peak * (weights * later / np.max(weights * later)))
    return warmed_up(refined, warmup) if warmup else refined


def median_filtered(norms: np.ndarray, smoothing: float) -> np.ndarray:
    """For each of n norms, the median of the 2 int(smoothing n / 2) + 1 norms around it."""
    from scipy.ndimage import median_filter  # not at the top, as it is slow to import

    half = int(smoothing * len(norms) / 2)
    if not half:
        return norms
    padded = np.pad(np.pad(norms, (0, half), "reflect"), (half, 0), "edge")
    return median_filter(padded, 2 * half + 1)[half:-half]


# The best one -------------------------------------------------------------------------------------------


class Optimized(NamedTuple):
    """What `optimize` returns.

    `schedule`: the schedule found; `before` and `after`: the objective for `lr` and for `schedule`; `converged`: True
    if the objective stopped falling, False if it was still falling after 2,000 iterations or has no minimum.
    """

    schedule: Schedule
    before: float
    after: float
    converged: bool


Objective = TypeAliasType(
    "Objective", Annotated[Callable[[Array], ArrayLike], FunctionOf("a function from the rates to one number")]
)


@checked
def optimize(
    lr: ScheduleLike,
    steps: Size,
    objective: Objective,
    pieces: int | None = None,
    peak: float | None = None,
    floor: NotNegative = 0.0,
) -> Optimized:
    r"""Finds the schedule with the least `objective` of its rates at updates 0 to `steps` - 1, by gradient descent.

        optimize(cosine(0.1, 0.01, 1000), 1000, lambda rates: bound(rates, 1000))
        optimize(0.1, 1000, lambda rates: bound(rates, 1000), pieces=50)

    Without `pieces`, it changes the numbers of `lr` itself, those that are values and not lengths. Each keeps its sign,
    and a number that is 0 stays 0:

    $$v_i = v_i^{\mathrm{start}}\; e^{w_i}$$

    With `pieces`, it searches all piecewise linear schedules that never increase, with `pieces` pieces of equal length,
    starting from `lr`. The values between the pieces are sums of drops, counted from the end:

    $$v_i = \mathrm{floor} + \sum_{j \ge i} \delta_j, \qquad \delta_j = w_j^2 \ge 0$$

    If you give a `peak`, they are scaled so that $v_0$ is `peak`. Put a warm-up, or anything else that must not change,
    into the objective: `lambda rates: of_all(jnp.concatenate([before, rates]))`.

    The search is one compiled program in float64. It runs L-BFGS over w until ten iterations in a row have not lowered
    the objective by one part in 10^10, for 2,000 iterations at most. It finds the minimum that is downhill from `lr`;
    there may be a lower one elsewhere. The best schedule for the objective may not be the best one for training: most
    objectives do not know, for example, at which rate a run diverges.

    **Arguments:** `lr`: the schedule to start from; `steps`: the number of updates; `objective`: a function from the
    rates, a float64 array of shape (steps,), to a real number, which JAX can trace and differentiate; `pieces`: from 1
    to `steps`; `peak`: the first rate, above `floor`; free if None; `floor`: the lowest rate allowed.

    **Returns:** an `Optimized`. Its schedule is `lr` with other numbers, or an `interpolate`.

    **Raises:** `ValueError` if `lr` has no number to change, if the objective for `lr` is not a finite number, if
    `peak` or `floor` is given without `pieces`, or if an argument is not as above.
    """
    start = as_schedule(lr)
    if pieces is None and (peak is not None or floor):
        raise ValueError(f"optimize: `peak` and `floor` must be given with `pieces` only, got {peak} and {floor}")
    with jax.enable_x64(True):
        build, weights = _own_numbers(start) if pieces is None else _falling(start, steps, pieces, peak, floor)
        before = _at_start(objective, tabulate(start, steps))

        def of_weights(weights: Weights) -> Array:
            return jnp.asarray(objective(tabulate(build(weights), steps)), float)

        minimum = functools.partial(_minimum, of_weights)
        least = jax.jit(minimum)(weights)
        found, least = jax.device_get((build(least.point), least))
    # Back to the default dtype, and to Python numbers where there were Python numbers.
    schedule = jax.tree.map(lambda leaf: jnp.asarray(leaf) if np.ndim(leaf) else np.asarray(leaf).item(), found)
    converged = least.since == PATIENCE and np.isfinite(least.value)
    return Optimized(schedule, before, float(least.value), bool(converged))


def _at_start(objective: Callable[[Array], ArrayLike], rates: Array) -> float:
    """The objective for the rates of `lr`.

    **Raises:** `ValueError` unless it is a finite real number.
    """
    found = jax.jit(lambda rates: objective(rates))(rates)
    is_number = jnp.shape(found) == () and jnp.issubdtype(jnp.result_type(found), jnp.floating)
    if not is_number or not np.isfinite(found):
        expected = "a function from the rates to one real number, finite for the rates of `lr`"
        got = shown(np.asarray(found).tolist())
        raise ValueError(f"optimize: `objective` must be {expected}, got the value {got}")
    return float(found)


Weights = list[Array]
Built = tuple[Callable[[Weights], Schedule], Weights]  # a function from weights to a schedule, and the first weights


def _own_numbers(lr: Schedule) -> Built:
    leaves, structure = jax.tree.flatten(lr)
    free = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and bool(np.any(leaf)) for leaf in leaves]
    if not any(free):
        raise ValueError(f"optimize: `lr` must have a value other than 0 to change (or give `pieces`), got {lr}")

    def build(weights: Weights) -> Schedule:
        left = iter(weights)
        return jax.tree.unflatten(
            structure,
            [leaf * jnp.exp(next(left)) if changes else leaf for leaf, changes in zip(leaves, free, strict=True)],
        )

    return build, [jnp.zeros(np.shape(leaf)) for leaf, changes in zip(leaves, free, strict=True) if changes]


def _falling(lr: Schedule, steps: int, pieces: Any, peak: Any, floor: Any) -> Built:
    pieces = built_as(COUNT, "optimize", "pieces", pieces)
    if pieces > steps:
        raise ValueError(f"optimize: `pieces` must be at most the {steps} updates, got {pieces}")
    boundaries = jnp.round(jnp.linspace(0, steps, pieces + 1)).astype(int)
    values = np.asarray(lr(boundaries))
    top = values.max() if peak is None else built_as(POSITIVE, "optimize", "peak", peak)
    if top <= floor:
        raise ValueError(f"optimize: `floor` must be below the highest rate, got {floor} and {top}")

    def build(weights: Weights) -> Schedule:
        above = jnp.cumsum(weights[0][::-1] ** 2)[::-1]
        scale = 1.0 if peak is None else (top - floor) / above[0]
        return interpolate(floor + scale * above, boundaries)

    # Each value is raised to the highest one after it. No drop starts at 0, where the gradient of w^2 is 0.
    drops = -np.diff(np.maximum.accumulate(np.append(values, floor)[::-1])[::-1])
    shares = 0.99 * drops / max(drops.sum(), np.finfo(float).tiny) + 0.01 / len(drops)
    return build, [jnp.sqrt((top - floor) * shares)]


# Downhill ---------------------------------------------------------------------------------------------

PATIENCE, PRECISION, MOST = 10, 1e-10, 2_000  # iterations without progress, relative progress, iterations in all


class Least(NamedTuple):
    """The lowest point so far, and the number of iterations since it was found."""

    point: Any
    value: Array
    since: Array


def _minimum(function: Callable[[Any], ArrayLike], start: Any) -> Least:
    solver = optax.lbfgs(memory_size=20)
    value_and_grad = optax.value_and_grad_from_state(function)

    def goes_on(carry: Any) -> Array:
        _, _, least, count = carry
        return (least.since < PATIENCE) & (count < MOST)

    def iteration(carry: Any) -> Any:
        point, state, least, count = carry
        value, grads = value_and_grad(point, state=state)
        # Not `least.value - value`: the first value is compared with infinity.
        is_lower = value + PRECISION * jnp.abs(value) < least.value
        least = Least(
            jax.tree.map(lambda new, old: jnp.where(value < least.value, new, old), point, least.point),
            jnp.where(value < least.value, value, least.value),  # which leaves NaN out
            jnp.where(is_lower, 0, least.since + 1),
        )
        updates, state = solver.update(grads, state, point, value=value, grad=grads, value_fn=function)
        return optax.apply_updates(point, updates), state, least, count + 1

    begun = Least(start, jnp.asarray(jnp.inf), jnp.asarray(0))
    return jax.lax.while_loop(goes_on, iteration, (start, solver.init(start), begun, 0))[2]
