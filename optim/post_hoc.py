"""`post_hoc_ema`: choose the length of an average after training, from a few snapshots."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from optim.checks import mismatch
from schedules.arguments import built_as, checked
from schedules.kinds import COUNT, POSITIVE, Positive
from schedules.sentences import shown

__all__ = ["post_hoc_ema", "Snapshot"]


class Snapshot(NamedTuple):
    """The average of `power_ema(exponent)` after `updates` updates."""

    updates: int
    exponent: float
    params: Any


@checked
def post_hoc_ema(snapshots: Sequence[Snapshot], exponent: Positive, updates: int | None = None) -> Any:
    r"""The average that `power_ema(exponent)` would have given after `updates` updates, from snapshots of other
    averages.

    During training, keep two averages, `average(base, {"narrow": power_ema(16.97), "wide": power_ema(6.94)})` (relative
    widths of 0.05 and 0.10), and save snapshots of both now and then (`eval_params` by name, in float32). After
    training, this function computes the average for any similar width. The profile of each average is
    $p(\tau) = (\gamma + 1)\, \tau^{\gamma} / t^{\gamma + 1}$ for $\tau \le t$. The coefficients X of the snapshots are
    the least-squares fit of their profiles to the wanted profile, scaled to sum to 1:

    $$A X = B, \qquad A_{ij} = \langle p_i, p_j \rangle, \quad B_i = \langle p_i, p \rangle,$$

    $$\langle a, b \rangle = \frac{(\gamma_a + 1)(\gamma_b + 1)\,(t_a / t_b)^{e}}
      {(\gamma_a + \gamma_b + 1) \max(t_a, t_b)}, \qquad e = \gamma_b \text{ if } t_a < t_b \text{ else } -\gamma_a$$

    **Arguments:** `snapshots`: a list of `Snapshot`, with any exponents and steps; those after `updates` are not used;
    `exponent`: the wanted one; `updates`: at most those of the latest snapshot, which is the default.

    **Returns:** a tree like the snapshots' parameters, with their dtypes. Sums are computed in float64.

    **Raises:** `ValueError` if `snapshots` is not a list of one `Snapshot` or more, if none of them is from `updates`
    or earlier, if their trees or shapes differ, or if a number is not positive.

    Source: Karras et al., *Analyzing and improving the training dynamics of diffusion models*, arXiv:2312.02696,
    section 3.
    """
    _require_snapshots(snapshots)
    latest = max(s.updates for s in snapshots)
    updates = built_as(COUNT, "post_hoc_ema", "updates", latest if updates is None else updates)
    if updates > latest:
        raise ValueError(f"post_hoc_ema: `updates` must be {latest}, as in the latest snapshot, or less, got {updates}")
    used = [s for s in snapshots if s.updates <= updates]
    if not used:
        raise ValueError(
            f"post_hoc_ema: `snapshots` must hold one after {updates} updates or fewer, got those after "
            f"{[s.updates for s in snapshots]}"
        )
    first = jax.tree.map(np.asarray, used[0].params)
    for snapshot in used:
        if what := mismatch(snapshot.params, first):
            raise ValueError(f"post_hoc_ema: `snapshots` must be of the same parameters, got {what}")
    weights = coefficients([(s.updates, s.exponent) for s in used], (updates, float(exponent)))

    def combined(*leaves: Any) -> Any:
        total = sum(w * np.asarray(leaf, np.float64) for w, leaf in zip(weights, leaves, strict=True))
        return np.asarray(total).astype(np.asarray(leaves[0]).dtype)

    return jax.tree.map(combined, *(s.params for s in used))


def _require_snapshots(snapshots: Any) -> None:
    if not isinstance(snapshots, Sequence) or not snapshots or not all(isinstance(s, Snapshot) for s in snapshots):
        raise ValueError(f"post_hoc_ema: `snapshots` must be a list of one or more Snapshots, got {shown(snapshots)}")
    for i, (updates, exponent, _) in enumerate(snapshots):
        built_as(COUNT, "post_hoc_ema", f"snapshots[{i}].updates", updates)
        built_as(POSITIVE, "post_hoc_ema", f"snapshots[{i}].exponent", exponent)


def coefficients(profiles: Sequence[tuple[int, float]], wanted: tuple[int, float]) -> np.ndarray:
    """The weight of each snapshot (updates, exponent) in the wanted average; the weights sum to 1."""
    products = np.exp([[_log_inner(a, b) for b in profiles] for a in profiles])
    logs = np.array([_log_inner(a, wanted) for a in profiles])
    # The maximum is subtracted, since all of them may underflow; a common factor does not matter.
    solved = np.linalg.lstsq(products, np.exp(logs - logs.max()), rcond=None)[0]
    return solved / solved.sum()


def _log_inner(a: tuple[int, float], b: tuple[int, float]) -> float:
    (t_a, gamma_a), (t_b, gamma_b) = a, b
    log_ratio = (math.log(t_a) - math.log(t_b)) * (gamma_b if t_a < t_b else -gamma_a)
    heights = (math.log(gamma_a + 1), math.log(gamma_b + 1), -math.log(gamma_a + gamma_b + 1))
    return math.fsum((*heights, log_ratio, -math.log(max(t_a, t_b))))
