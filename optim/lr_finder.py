"""The learning-rate range test (learning-rate finder): a short run in which the rate grows until the loss diverges.

`range_test` runs it for any model and optimizer, `suggest_rate` picks a rate from its curve, and `plot_range_test`
plots the curve.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from typing_extensions import TypeAliasType

from optim.adaptive import adam
from optim.checks import Fraction, require_real
from schedules import Schedule, exponential
from schedules.arguments import checked
from schedules.drawing import COLOURS
from schedules.kinds import VALUE, Choice, Kind, Number, Positive, in_order, require
from schedules.sentences import shortened, shown

__all__ = ["range_test", "RangeTest", "suggest_rate", "plot_range_test"]

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LAST = 5  # points at the end of a curve to ignore, since it diverges there
LEAST_STEPS = LAST + 2
WINDOW = 15  # "slide" compares slopes that are this many points apart
FLAT = 0.005  # "slide" takes slopes for equal up to this difference

# The run --------------------------------------------------------------------------------------------------


class RangeTest(NamedTuple):
    """What `range_test` recorded: arrays of shape (N,), float32 (float64 under x64). `jax.vmap` adds axes in front."""

    rates: Array  # of every update
    losses: Array  # before it; NaN once the run has diverged
    smoothed: Array  # the average of the losses so far; likewise


class Unbounded(Number):
    largest = math.inf


class FunctionOf(Kind):
    """A function that is a static argument of a jitted function, and so must be hashable."""

    def __init__(self, expected: str):
        self.expected = expected

    def build(self, value: Any) -> Any:
        return require(value, callable(value) and _is_hashable(value))

    def got(self, value: Any) -> str:
        # A method of an Equinox model, for example, is not hashable.
        return f"a {type(value).__name__}, which is not hashable: use def" if callable(value) else shown(value)


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


OPTIMIZER = FunctionOf("a function from a schedule to an optax transformation, such as adam")
LossFunction = TypeAliasType(
    "LossFunction",
    Annotated[Callable[[Any, Any], Any], FunctionOf("a function from parameters and a batch to one number")],
)
OptimizerFunction = TypeAliasType(
    "OptimizerFunction", Annotated[Callable[[Schedule], optax.GradientTransformation], OPTIMIZER]
)
Divergence = TypeAliasType("Divergence", Annotated[float | Array, Unbounded(float, above=1)])


@checked
def range_test(
    loss: LossFunction,
    params: Any,
    batches: Any,
    optimizer: OptimizerFunction = adam,
    start: Positive = 1e-7,
    end: Positive = 10.0,
    smoothing: Fraction = 0.98,
    divergence: Divergence = 4.0,
) -> RangeTest:
    r"""The learning-rate range test: records the losses of a short run whose rate grows at every update.

    The run has one update for each of the N batches. Its rates are the schedule `exponential(start, end, N)`:

    $$\eta_i = \mathrm{start}\,(\mathrm{end} / \mathrm{start})^{i / N}, \qquad i = 0, \dots, N - 1$$

        found = range_test(loss, params, batches, optimizer=lambda lr: optax.sgd(lr, momentum=0.9))
        lr = suggest_rate(found)

    The loss $\ell_i$ is computed before update i. It is smoothed by a bias-corrected exponential average. The run has
    diverged at the first $s_i$ that is not finite or for which

    $$s_i > b_i + (\mathrm{divergence} - 1)\, |b_i|, \qquad b_i = \min_{k \le i} s_k, \qquad
      s_i = \frac{\sum_{k \le i} \mathrm{smoothing}^{i - k}\, \ell_k}{\sum_{k \le i} \mathrm{smoothing}^{i - k}}$$

    That point is the last one recorded; NaN follows. For positive losses, the threshold is `divergence` times the best
    smoothed loss, as in fastai. For negative ones it is the same distance above the best. If your loss passes through
    zero, add a constant to it, or turn this rule off with `divergence=math.inf`.

    **Arguments:**

    - `loss`: a function `(params, batch) -> one number`.
    - `params`: the parameters to start from. They are not changed.
    - `batches`: a pytree of arrays with one batch per update along the first axis, 7 or more (fastai uses 100): data,
      indices into data, keys for dropout.
    - `optimizer`: a function from a schedule to an optax transformation. Its updates get the loss as `value=`.
    - `start`, `end`: the lowest rate, and the rate to grow to; positive, in this order.
    - `smoothing`: the decay of the average, in [0, 1); `divergence`: above 1.

    Everything is one compiled program. Changing numbers, parameters or batches does not compile it again, if `loss` and
    `optimizer` are the same objects (each new lambda is a new object). `jax.vmap` over parameters or batches tests
    several seeds at once. Since a run that diverges ends in NaN, `jax_debug_nans` must be off.

    **Returns:** a `RangeTest`.

    **Raises:** `ValueError` if an argument is not as above.

    Source: Smith, arXiv:1506.01186; rates, smoothing and divergence of fastai's `lr_find`.
    """
    if wrong := in_order("start", "end", start=start, end=end):
        raise ValueError(f"range_test: {wrong}")
    given = {"start": start, "end": end, "smoothing": smoothing, "divergence": divergence}
    numbers = {name: VALUE.cast(number, None) for name, number in given.items()}
    _require_steps(batches)
    require_real("range_test", params)
    return _run(loss, optimizer, params, batches, numbers)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(
    loss: Callable[[Any, Any], Any], optimizer: Callable[[Schedule], Any], params: Any, batches: Any, numbers: Any
) -> RangeTest:
    steps = len(jax.tree.leaves(batches)[0])
    rate = exponential(numbers["start"], numbers["end"], steps)
    transformation = optimizer(rate)
    if not isinstance(transformation, optax.GradientTransformation):
        got = f"a function that returns {shown(transformation)}"
        raise ValueError(f"range_test: `optimizer` must be {OPTIMIZER.expected}, got {got}")
    transformation = optax.with_extra_args_support(transformation)

    def update(run: Any, batch: Any) -> tuple[Any, Array]:
        params, state = run
        value, grads = jax.value_and_grad(_one_number(loss))(params, batch)
        updates, state = transformation.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), jnp.asarray(value, float)

    _, losses = jax.lax.scan(update, (params, transformation.init(params)), batches)
    smoothed = _smoothed(losses, numbers["smoothing"])
    over = _diverged(smoothed, numbers["divergence"])
    return RangeTest(rate(jnp.arange(steps)), jnp.where(over, jnp.nan, losses), jnp.where(over, jnp.nan, smoothed))


def _smoothed(losses: Array, smoothing: Array) -> Array:
    def add(sums: tuple[Array, Array], loss: Array) -> tuple[tuple[Array, Array], Array]:
        total, weight = smoothing * sums[0] + loss, smoothing * sums[1] + 1
        return (total, weight), total / weight

    zero = jnp.zeros((), losses.dtype)
    return jax.lax.scan(add, (zero, zero), losses)[1]


def _diverged(smoothed: Array, divergence: Array) -> Array:
    """Whether an earlier point was beyond the threshold."""
    best = jax.lax.cummin(smoothed)
    # With an infinite divergence and a best of 0 the threshold is NaN, and nothing is greater than that either.
    beyond = (smoothed > best + (divergence - 1) * jnp.abs(best)) | ~jnp.isfinite(smoothed)
    return jnp.cumsum(beyond.astype(int)) > beyond.astype(int)


def _require_steps(batches: Any) -> None:
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
    if len(lengths) != 1 or min(lengths) < (LEAST_STEPS,):
        raise ValueError(
            f"range_test: `batches` must be arrays with the same number of updates, {LEAST_STEPS} or more, along their "
            f"first axes, got the shapes {_shapes(batches)}"
        )


def _one_number(loss: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def checked(params: Any, batch: Any) -> Any:
        try:
            value = loss(params, batch)
        except (TypeError, ValueError) as error:
            if not isinstance(batch, list):
                raise
            raise ValueError(
                f"range_test: `loss` cannot take a list of {len(batch)} arrays or trees as a batch; if `batches` is a "
                "list of batches, stack them: jax.tree.map(lambda *several: jnp.stack(several), *batches)"
            ) from error
        if jax.tree.map(np.shape, value) != ():
            raise ValueError(f"range_test: `loss` must return one number, got the shapes {_shapes(value)}")
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise ValueError(f"range_test: `loss` must return a real float, got {jnp.result_type(value)}")
        return value

    return checked


def _shapes(tree: Any) -> str:
    return shortened(str(jax.tree.map(np.shape, tree)), 200)


# Picking a rate from the curve ---------------------------------------------------------------------------


def _valley(rates: np.ndarray, losses: np.ndarray) -> float:
    lengths = np.ones(len(losses), int)  # of the longest decreasing subsequences that end at each point
    for i, loss in enumerate(losses):
        lengths[i] += np.max(lengths[:i], where=losses[:i] > loss, initial=0)
    end, length = np.argmax(lengths), np.max(lengths)
    # end - length is -1 if the subsequence is the whole curve, or the first point alone.
    return rates[max(end - length + length // 3 + length // 6, 0)]


def _steep(rates: np.ndarray, losses: np.ndarray) -> float:
    return rates[np.argmin(np.diff(losses) / np.diff(np.log(rates)))]


def _minimum(rates: np.ndarray, losses: np.ndarray) -> float:
    return rates[np.argmin(losses)] / 10


def _slide(rates: np.ndarray, losses: np.ndarray) -> float:
    slopes = np.gradient(losses)
    bent = np.abs(slopes[WINDOW:] - slopes[:-WINDOW]) > FLAT  # indexed by the left end of the window
    straight = max(np.flatnonzero(~bent), default=-1)
    return rates[min(straight + 1, len(bent) - 1)]


class Picker(NamedTuple):
    pick: Callable[[np.ndarray, np.ndarray], float]  # (rates, smoothed losses) of one curve -> rate
    least: int  # how many points it needs


PICKERS = {
    "valley": Picker(_valley, 2),
    "steep": Picker(_steep, 2),
    "minimum": Picker(_minimum, 2),
    "slide": Picker(_slide, WINDOW + 1),
}


DEFAULT_PICKER = "valley"
PickerName = TypeAliasType("PickerName", Annotated[str, Choice(*PICKERS)])


@checked
def suggest_rate(found: RangeTest, picker: PickerName = DEFAULT_PICKER) -> Any:
    r"""Suggests a learning rate from the smoothed losses $s_i$ of a range test, by one of four rules of thumb:

    | picker | rate |
    |---|---|
    | "valley" | about the middle of the longest decreasing subsequence: if it has length n and ends at the point e, the rate at the point $e - n + \lfloor n / 3 \rfloor + \lfloor n / 6 \rfloor$ |
    | "steep" | the rate where the loss falls fastest: the lowest $(s_{i + 1} - s_i) / (\ln \eta_{i + 1} - \ln \eta_i)$ |
    | "minimum" | a tenth of the rate at the lowest $s_i$ |
    | "slide" | a window of 15 points slides down from the highest rate, as long as the slopes of s at its two ends differ by more than 0.005: the rate at its left end where it stops |

    As in fastai, the first N // 10 points and the last 5 before the run diverged are ignored. The four rates may differ by
    an order of magnitude: look at all of them on the curve, with `plot_range_test`.

    **Arguments:** `found`: what `range_test` returned, not traced (this is NumPy); `picker`: one of the four names.

    **Returns:** a float; for several seeds, an array with one rate for each.

    **Raises:** `ValueError` for another `picker`, if `found` is not a `RangeTest`, or if a curve has too few points: fewer than 2, or 16 for "slide".

    Source: fastai's `lr_find`.
    """  # noqa: E501, rows of a table
    _require_found("suggest_rate", found)
    suggest = np.vectorize(functools.partial(_suggested, picker), signature="(n),(n)->()")
    return suggest(np.asarray(found.rates, float), np.asarray(found.smoothed, float))[()]


def _require_found(function: str, found: Any) -> None:
    if not isinstance(found, RangeTest):
        raise ValueError(f"{function}: `found` must be what range_test returned, got {shown(found)}")


def _suggested(picker: str, rates: np.ndarray, smoothed: np.ndarray) -> float:
    pick, least = PICKERS[picker]
    points = slice(len(rates) // 10, max(_finite(smoothed) - LAST, 0))
    got = len(rates[points])
    if got < least:
        raise ValueError(
            f"suggest_rate: `found` must have {least} or more points for {picker!r} after its first tenth and before "
            f"the last {LAST} until the loss diverged, got {got}"
        )
    return pick(rates[points], smoothed[points])


def _finite(curve: np.ndarray) -> int:
    """The number of points before the first that is not finite."""
    return int(np.argmin(np.append(np.isfinite(curve), False)))


# As a picture --------------------------------------------------------------------------------------------

MARKERS = dict(zip(PICKERS, "osD^", strict=True))  # told apart without colours
THE_ONE, THE_OTHERS = COLOURS[1], "0.35"


def plot_range_test(found: RangeTest, ax: "Axes | None" = None) -> "Axes":
    """Plots the smoothed losses of a range test against the rate, with the suggestion of "valley", the default picker.

    The suggestions of the other pickers are drawn in grey, for comparison; pickers that would need more points are left
    out. For several seeds, it draws a thin line for each, a thick line for their mean (up to where the first one
    diverges), and the median of each picker's suggestions.

    **Arguments:** `found`: what `range_test` returned; `ax`: the matplotlib axes to draw on, by default those of a new
    figure.

    **Returns:** the axes.

    **Raises:** `ImportError` without matplotlib, `ValueError` if `found` is not a `RangeTest`.
    """
    _require_found("plot_range_test", found)
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError("plot_range_test: matplotlib is needed and not installed: pip install matplotlib") from None
    if ax is None:
        ax = plt.subplots(figsize=(7, 3.2), layout="constrained")[1]
    rates, curves = (np.reshape(np.asarray(x, float), (-1, x.shape[-1])) for x in (found.rates, found.smoothed))
    rate, mean, several = rates.mean(0), curves.mean(0), len(curves) > 1
    if several:
        ax.plot(rates.T, curves.T, color="0.8", linestyle="-", linewidth=0.8)
    ax.plot(rate, mean, color="black", linestyle="-", linewidth=1.8)
    suggestions = sorted(_suggestions(found).items(), key=lambda suggestion: suggestion[1])
    heights = [float(np.interp(picked, rate[: _finite(mean)], mean[: _finite(mean)])) for _, picked in suggestions]
    for i, ((name, picked), height) in enumerate(zip(suggestions, heights, strict=True)):
        _mark(ax, name, picked, height, above=i % 2 == 0)
    ylabel = f"smoothed loss, {len(curves)} seeds\nand their mean" if several else "smoothed loss"
    ax.set(xscale="log", xlabel="learning rate", ylabel=ylabel, ylim=_frame(curves, heights))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _mark(ax: "Axes", picker: str, picked: float, height: float, above: bool) -> None:
    """A suggestion and its name, above to the right or below to the left: two are often at nearly the same rate."""
    from matplotlib.patheffects import withStroke

    default = picker == DEFAULT_PICKER
    colour = THE_ONE if default else THE_OTHERS
    style: dict[str, Any] = {"marker": MARKERS[picker], "color": colour, "linestyle": "none", "zorder": 3 + default}
    face = colour if default else "white"
    ax.plot(picked, height, markersize=9 if default else 7, markerfacecolor=face, markeredgewidth=1.4, **style)
    ax.annotate(
        f"{picker} {picked:.2g}",
        (picked, height),
        xytext=(7, 7) if above else (-7, -7),
        textcoords="offset points",
        ha="left" if above else "right",
        va="bottom" if above else "top",
        color=colour,
        fontweight="bold" if default else "normal",
        fontsize="medium" if default else "small",
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )


def _suggestions(found: RangeTest) -> dict[str, float]:
    """The median over seeds of each picker's suggestions, for the pickers that have enough points."""
    suggestions = {}
    for picker in PICKERS:
        with contextlib.suppress(ValueError):
            suggestions[picker] = float(np.median(suggest_rate(found, picker)))
    return suggestions


def _frame(curves: np.ndarray, heights: Sequence[float]) -> tuple[float, float] | None:
    """Limits of the y axis that show the descents and the marks: after its minimum, a curve may rise to any height."""
    descents = [curve[: np.argmin(curve[: _finite(curve)]) + 1] for curve in curves if _finite(curve)]
    shown = np.concatenate([*descents, heights])
    room = np.ptp(shown) if shown.size else 0.0
    return (float(np.min(shown) - 0.1 * room), float(np.max(shown) + 0.3 * room)) if room else None
