"""The changes of the learning rate before given updates: all that the laws of loss curves know about a schedule."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

SMALLEST = 1e-30  # replaces a rate of 0, whose negative powers are infinite
AT_ONCE = 2**22  # numbers in one array: many updates of an irregular schedule would fill the memory


class Changes(NamedTuple):
    """The changes before one point of a run, or before each of several points; shape (..., changes)."""

    area: Any  # (...): the sum of the rates before the point
    drop: Any  # the decrease of the rate, negative if it rose
    rate: Any  # the rate after the change
    area_since: Any  # the sum of the rates from the change to the point
    updates_since: Any  # the number of updates from the change to the point


def every_change(rates: Array, updates: Array) -> Changes:
    """The changes before one point, one for each of the rates; differentiable with respect to the rates."""
    k = jnp.arange(len(rates))
    before = jnp.cumsum(rates) - rates
    area = jnp.sum(jnp.where(k < updates, rates, 0.0))
    drop = jnp.where(k < updates, jnp.concatenate([rates[:1], rates[:-1]]) - rates, 0.0)
    area_since = jnp.where(k < updates, area - before, 0.0)
    return Changes(area, drop, jnp.maximum(rates, SMALLEST), area_since, jnp.maximum(updates - k, 0))


def grouped(rates: np.ndarray, updates: np.ndarray, width: float) -> Changes:
    """The changes before each point, with similar changes merged into one at their mean.

    Similar changes are consecutive, have the same sign, and lead to rates that are equal within a factor of about
    1 + `width`. Their distances from the point, in updates and in area, are equal within the same factor. Merging them
    changes their contribution to a law by a share of about width² / 24.
    """
    rates = np.asarray(rates, np.float64)
    drop = np.concatenate([[0.0], rates[:-1] - rates[1:]])
    before = np.concatenate([[0.0], np.cumsum(rates)])
    factors = (1.0, rates, before[:-1], np.arange(len(rates)))
    moments = [np.concatenate([[0.0], np.cumsum(drop * factor)]) for factor in factors]
    always = _edges_of_rates(rates, drop, width)
    pieces = -(-len(updates) * (len(always) + 1_000) // AT_ONCE)
    return joined([_grouped(rates, before, moments, always, t, width) for t in np.array_split(updates, pieces)])


def joined(parts: Sequence[Changes]) -> Changes:
    """Concatenates the points of several parts; those with fewer changes are padded with changes of 0."""
    most = max(part.drop.shape[1] for part in parts)

    def filled(array: np.ndarray, fill: float) -> np.ndarray:
        return np.pad(array, [(0, 0), (0, most - array.shape[1])], constant_values=fill)

    area, *fields = zip(*parts, strict=True)
    fills = zip(fields, (0.0, 1.0, 1.0, 1.0), strict=True)
    return Changes(np.concatenate(area), *(np.concatenate([filled(x, fill) for x in field]) for field, fill in fills))


def _edges_of_rates(rates: np.ndarray, drop: np.ndarray, width: float) -> np.ndarray:
    """The updates at which the logarithm of the rate enters another band of `width`, or the rate changes direction."""
    band = np.floor(np.log(np.maximum(rates, SMALLEST)) / width)
    moves = np.flatnonzero(drop)
    turns = moves[1:][np.diff(np.sign(drop[moves])) != 0]
    return np.union1d(np.flatnonzero(np.diff(band)) + 1, turns)


def _grouped(
    rates: np.ndarray,
    before: np.ndarray,
    moments: list[np.ndarray],
    always: np.ndarray,
    updates: np.ndarray,
    width: float,
) -> Changes:
    t, area = updates[:, None], before[updates][:, None]
    long_ago, areas = _ages(rates, before, width)
    own = [t - long_ago, np.searchsorted(before, area - areas), np.zeros_like(t), t]
    edges = np.concatenate([np.broadcast_to(always, (len(t), len(always))), *own], axis=1)
    edges = _without_repeats(np.sort(np.clip(edges, 0, t), axis=1), t)
    low, high = edges[:, :-1], edges[:, 1:]
    drop, *sums = (moment[high] - moment[low] for moment in moments)
    first, last = np.minimum(low, t - 1), np.maximum(high, 1) - 1
    # Means over a group, clipped to its range because of rounding.
    rate, area_before, k = (
        np.clip(total / np.where(drop == 0, 1.0, drop), *np.sort([of[first], of[last]], axis=0))
        for total, of in zip(sums, (rates, before, np.arange(len(rates))), strict=True)
    )
    return Changes(area[:, 0], drop, np.maximum(rate, SMALLEST), area - area_before, t - k)


def _ages(rates: np.ndarray, before: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Where groups begin, as distances back in updates and in area. The latest updates are a group each, earlier groups
    grow geometrically."""
    alone = int(2 / width)
    updates = np.concatenate([np.arange(alone), np.unique(_grid(alone, len(rates), width).astype(int))])
    smallest = max(rates[rates > 0].min(initial=np.inf), before[-1] * 1e-9)
    return updates, _grid(smallest, before[-1], width)


def _grid(first: float, last: float, width: float) -> np.ndarray:
    """From `first` to beyond `last` by factors of 1 + `width`."""
    count = int(np.log(max(last / first, 1.0)) / np.log1p(width)) + 2
    return first * (1 + width) ** np.arange(count)


def _without_repeats(edges: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Removes duplicates from sorted rows, and pads the rows with `end`."""
    repeated = np.concatenate([np.zeros_like(end, bool), np.diff(edges) == 0], axis=1)
    edges = np.sort(np.where(repeated, end, edges), axis=1)
    unlike = np.diff(edges) > 0
    return edges[:, : unlike.sum(axis=1).max(initial=0) + 1]
