"""A schedule from what was seen in a run, and the best one for an objective."""

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
    r"""The schedule that a first run's gradient norms call for, as a `table` with a rate for each of its T updates.

    $$f(t) \propto w_t \sum_{p=t+1}^{T} w_p, \qquad
      w_t = \begin{cases} G_t^{-2} & \text{L2 norms, for SGD} \\ G_t^{-1} & \text{L1 norms, for Adam} \end{cases}$$

    scaled to a highest value of `peak`. $G_t$ is the norm of the gradient of update t, the run's noise taken out by a
    median over a share `smoothing` of the run. $G_T$, at the parameters that the run ends with, is taken to be that of
    the last update: the paper's rates are those of the updates before its last gradient, so that its last rate, which
    is 0, belongs to an update that is never made. Constant norms give `linear(peak, 0, T)`; norms that fall as the run
    goes on give a warm-up and a later decay, those that rise an earlier one.

        norms = ...  # of the gradients that a run with a constant rate saw, a mean over each 10 updates
        lr = refine(norms, "l1", every=10, peak=1e-3)

    The rates minimize a bound on the loss of the last iterate for convex losses, assuming that the norms of the
    next run are the same, which they are not, since its rates differ. Theory gives only the shape: tune the peak.

    **Arguments:** `gradient_norms`: two or more, such as the means over seeds; `norm`: which norm they are; `every`:
    how many updates each of them is the mean of; `warmup`: so many updates at the start whose norms are not used, in
    which the rate grows from 0; `smoothing`: the share of the run that the median is taken over, from 0 to below 1; it
    sees the run mirrored at its end, and before its start the first norm.

    **Returns:** a `table`, `warmup(table, ...)` where it has one; together they last `every` updates for each norm.

    **Raises:** `ValueError` if the norms are fewer than two or one is not positive and finite, if `warmup` is as long
    as the run, or an argument is not as above.

    Source: Defazio et al., *When, why and how much? Adaptive learning rate scheduling by refinement*,
    arXiv:2310.07831.
    """
    if warmup >= (steps := len(gradient_norms) * every):
        raise ValueError(f"refine: `warmup` must be shorter than the run of {steps} updates, got {warmup}")
    smooth = np.repeat(median_filtered(np.asarray(gradient_norms), float(smoothing)), every)[warmup:]
    weights = (smooth / smooth.min()) ** POWERS[norm]
    # From the end, as a difference of sums would lose the digits of the small ones there.
    later = np.cumsum(np.append(weights, weights[-1])[::-1])[-2::-1]
    refined = table(peak * (weights * later / np.max(weights * later)))
    return warmed_up(refined, warmup) if warmup else refined


def median_filtered(norms: np.ndarray, smoothing: float) -> np.ndarray:
    """Medians of the 2 int(smoothing n / 2) + 1 norms around each."""
    from scipy.ndimage import median_filter  # not at the top: it takes longer to import than all else here

    half = int(smoothing * len(norms) / 2)
    if not half:
        return norms
    padded = np.pad(np.pad(norms, (0, half), "reflect"), (half, 0), "edge")
    return median_filter(padded, 2 * half + 1)[half:-half]


# The best one -------------------------------------------------------------------------------------------


class Optimized(NamedTuple):
    """What `optimize` found.

    `schedule`; `before` and `after`: the objective of the rates of `lr` and of those found; `converged`: whether
    it ended because the objective fell no more, and not after 2,000 iterations or because it fell without end.
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
    r"""The schedule whose rates at the updates 0 to `steps` - 1 have the least `objective`, by gradient descent.

        optimize(cosine(0.1, 0.01, 1000), 1000, lambda rates: bound(rates, 1000))
        optimize(0.1, 1000, lambda rates: bound(rates, 1000), pieces=50)

    Without `pieces`, the numbers of `lr` itself are changed: those that are values and not lengths. Each keeps its
    sign, and one that is 0 stays 0:

    $$v_i = v_i^{\mathrm{start}}\; e^{w_i}$$

    With `pieces`, the schedule is any that never grows: straight between equally distant steps, of which `lr` only
    says where to begin. Its values there are sums of drops from the end,

    $$v_i = \mathrm{floor} + \sum_{j \ge i} \delta_j, \qquad \delta_j = w_j^2 \ge 0,$$

    scaled so that $v_0$ is `peak` where one is given. A warm-up, or anything else that is to stay as it is, belongs in
    the objective: `lambda rates: of_all(jnp.concatenate([before, rates]))`.

    **Arguments:** `objective`: a function from the rates, float64 of shape (steps,), to a real number, which JAX can
    trace and differentiate; `pieces`: from 1 to `steps`; `peak`: the first rate, above `floor`, which is free unless
    given; `floor`: the lowest rate allowed.

    All of it is one compiled program in float64: L-BFGS over w, until none of ten iterations has lowered the objective
    by one part in 10^10, or for 2,000 of them. It finds the minimum that is downhill from `lr`; an objective with
    several may have a lower one elsewhere. What is best for the objective may not be best for the run: most objectives
    do not know, for one, at which rate a run diverges.

    **Returns:** an `Optimized`. Its schedule is `lr` with other numbers, or an `interpolate`.

    **Raises:** `ValueError` if no number can be changed, the objective is no finite number at the rates of `lr`, `peak`
    or `floor` is given without `pieces`, or an argument is not as above.
    """
    start = as_schedule(lr)
    if pieces is None and (peak is not None or floor):
        raise ValueError(f"optimize: `peak` and `floor` are for `pieces`, got {peak} and {floor} without")
    with jax.enable_x64(True):
        build, weights = _own_numbers(start) if pieces is None else _falling(start, steps, pieces, peak, floor)
        before = _at_start(objective, tabulate(start, steps))

        def of_weights(weights: Weights) -> Array:
            return jnp.asarray(objective(tabulate(build(weights), steps)), float)

        minimum = functools.partial(_minimum, of_weights)
        least = jax.jit(minimum)(weights)
        found, least = jax.device_get((build(least.point), least))
    # Of the dtype of the user's, and plain numbers where they were plain.
    schedule = jax.tree.map(lambda leaf: jnp.asarray(leaf) if np.ndim(leaf) else np.asarray(leaf).item(), found)
    converged = least.since == PATIENCE and np.isfinite(least.value)
    return Optimized(schedule, before, float(least.value), bool(converged))


def _at_start(objective: Callable[[Array], ArrayLike], rates: Array) -> float:
    """**Raises:** `ValueError` unless it is a finite real number."""
    found = jax.jit(lambda rates: objective(rates))(rates)
    is_number = jnp.shape(found) == () and jnp.issubdtype(jnp.result_type(found), jnp.floating)
    if not is_number or not np.isfinite(found):
        expected = "a function from the rates to one real number, which is finite at those of `lr`"
        got = shown(np.asarray(found).tolist())
        raise ValueError(f"optimize: `objective` must be {expected}, got one to {got}")
    return float(found)


Weights = list[Array]
Built = tuple[Callable[[Weights], Schedule], Weights]  # a schedule of weights, and the weights to begin with


def _own_numbers(lr: Schedule) -> Built:
    leaves, structure = jax.tree.flatten(lr)
    free = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and bool(np.any(leaf)) for leaf in leaves]
    if not any(free):
        raise ValueError(
            f"optimize: `lr` must hold a number other than 0 that is a value, or `pieces` be given, got {lr}"
        )

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

    # The highest that is still to come; no drop begins at 0, where the gradient of its square is 0.
    drops = -np.diff(np.maximum.accumulate(np.append(values, floor)[::-1])[::-1])
    shares = 0.99 * drops / max(drops.sum(), np.finfo(float).tiny) + 0.01 / len(drops)
    return build, [jnp.sqrt((top - floor) * shares)]


# Downhill ---------------------------------------------------------------------------------------------

PATIENCE, PRECISION, MOST = 10, 1e-10, 2_000  # iterations without progress, what counts as such, and iterations


class Least(NamedTuple):
    """The lowest point so far, and for how many iterations it has been."""

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
        # Not written as a difference: the first value is compared with infinity.
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
