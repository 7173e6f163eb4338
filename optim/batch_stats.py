r"""BatchNorm statistics for parameters other than the trained ones, such as their average.

The running mean and variance belong to the training parameters. For other parameters they must be re-estimated: run the
model in training mode over some batches, with the parameters fixed, and give every sample the same weight. From the
sizes n_b, means m_b and (biased) variances v_b of the batches, with N the sum of the n_b,

$$M = \frac{1}{N} \sum_b n_b\, m_b, \qquad V = \frac{1}{N} \sum_b n_b\, (v_b + m_b^2) - M^2$$

are the mean and the variance of all batches together. The mean of the v_b alone would be too small: it leaves out how
much the m_b differ, which matters for small batches.

Source: `update_bn_stats` of fvcore; Wu and Johnson, *Rethinking "Batch" in BatchNorm*, arXiv:2105.07576.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from optim.checks import by_path, difference
from optim.numerics import lerp, zeros
from schedules.sentences import shortened, shown

__all__ = ["refresh_batch_stats", "refresh_batch_stats_nnx"]

Model = TypeVar("Model")


def refresh_batch_stats(
    apply_fn: Callable[[Any, Any], tuple[Any, Any]], variables: Mapping[str, Any], batches: Iterable[Any]
) -> dict[str, Any]:
    """Re-estimates the BatchNorm statistics of a Flax linen model for its parameters, from `batches`.

        def train(variables, batch):
            return model.apply(variables, batch, train=True, mutable=["batch_stats"])

        variables = {"params": eval_params(opt_state, params), "batch_stats": batch_stats}
        variables = refresh_batch_stats(train, variables, batches)

    **Arguments:**

    - `apply_fn`: a pure function `(variables, batch) -> (output, {"batch_stats": ...})`, the model in training mode. It
      is compiled once for each shape of batch.
    - `variables`: a dictionary with "params", "batch_stats" and anything else that `apply_fn` needs.
    - `batches`: an iterable of arrays or trees of arrays, with samples along the first axis of the first array. It is
      iterated once. Batches may differ in size, but each sample must have the same number of positions (such as
      height times width of an image). A few hundred batches of training data are enough.

    **Returns:** a dictionary like `variables`, with new "batch_stats" of the same shapes and dtypes, computed in
    float32 or wider. A BatchNorm that `apply_fn` does not update (a frozen one) keeps its statistics.

    **Raises:** `ValueError` if `batches` is empty or a single array, if a batch has no samples, if `variables` has no
    BatchNorm, or if `apply_fn` updates none or does not return batch_stats like those of `variables`.
    """
    stats = variables.get("batch_stats", {}) if isinstance(variables, Mapping) else {}
    if not _norms(stats):
        raise ValueError(
            "refresh_batch_stats: `variables` must have the mean and var of a BatchNorm in batch_stats, got "
            f"{_shapes(dict(variables)) if isinstance(variables, Mapping) else shown(variables)}"
        )

    def forward(stats: Any, batch: Any) -> Any:
        return _apply(apply_fn, {**variables, "batch_stats": stats}, batch)

    return {**variables, "batch_stats": _refreshed("refresh_batch_stats", "apply_fn", forward, stats, batches)}


@functools.partial(jax.jit, static_argnums=0)
def _apply(apply_fn: Callable[[Any, Any], tuple[Any, Any]], variables: Any, batch: Any) -> Any:
    result = apply_fn(variables, batch)
    updates = result[1] if isinstance(result, tuple) and len(result) == 2 else None
    if not (isinstance(updates, Mapping) and "batch_stats" in updates):
        raise ValueError(
            f'refresh_batch_stats: `apply_fn` must return (output, {{"batch_stats": ...}}), got {_shapes(result)}'
        )
    if what := difference(by_path(updates["batch_stats"]), by_path(variables["batch_stats"])):
        raise ValueError(
            f"refresh_batch_stats: `apply_fn` must return batch_stats like those of `variables`, got {what}"
        )
    # In the containers of `variables`, since Flax returns plain dictionaries for frozen ones.
    return jax.tree.unflatten(jax.tree.structure(variables["batch_stats"]), jax.tree.leaves(updates["batch_stats"]))


def _call(model: Any, batch: Any) -> Any:
    return model(batch)


def refresh_batch_stats_nnx(model: Model, batches: Iterable[Any], forward: Callable[[Model, Any], Any] = _call) -> None:
    """Re-estimates the BatchNorm statistics of a Flax NNX `model` for its parameters, from `batches`, in place.

        averaged = nnx.clone(model)  # continue training with `model`
        nnx.update(averaged, eval_params(optimizer.opt_state, nnx.state(averaged, optimizer.wrt)))
        refresh_batch_stats_nnx(averaged, batches)

    **Arguments:** `model`: a model in training mode (`model.train()`). Only the means and variances of its BatchNorms
    change, not even its random state. `batches`: as in `refresh_batch_stats`. `forward`: a pure function
    `(model, batch) -> anything`, by default `model(batch)`; compiled once for each shape of batch.

    **Raises:** `ValueError` as `refresh_batch_stats`.
    """
    from flax import nnx

    if not isinstance(model, nnx.Module):
        raise ValueError(f"refresh_batch_stats_nnx: `model` must be a Flax nnx model, got {type(model).__name__}")
    graph, state = nnx.split(model)
    stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    if not _norms(stats):
        raise ValueError(
            "refresh_batch_stats_nnx: `model` must have the mean and var of a BatchNorm, got "
            f"{type(model).__name__} with the statistics {_shapes(stats)}"
        )

    def updated(stats: Any, batch: Any) -> Any:
        return _apply_nnx(forward, graph, state, stats, batch)

    nnx.update(model, _refreshed("refresh_batch_stats_nnx", "model", updated, stats, batches))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply_nnx(forward: Callable[[Any, Any], Any], graph: Any, state: Any, stats: Any, batch: Any) -> Any:
    from flax import nnx

    model = nnx.merge(graph, state)
    nnx.update(model, stats)
    forward(model, batch)
    return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


# The computation, on trees of statistics: a BatchNorm is a node with "mean" and "var" ------------------------


def _refreshed(
    function: str, argument: str, forward: Callable[[Any, Any], Any], stats: Any, batches: Iterable[Any]
) -> Any:
    """The statistics of all batches. `forward` maps running statistics and a batch to those after the batch."""
    if isinstance(batches, np.ndarray | Array) or not isinstance(batches, Iterable):
        got = f"one array of shape {batches.shape}" if hasattr(batches, "shape") else shown(batches)
        raise ValueError(f"{function}: `batches` must be an iterable of batches (one batch is [batch]), got {got}")
    sized = ((_size(function, batch), batch) for batch in batches)
    first = next(sized, None)
    if first is None:
        raise ValueError(f"{function}: `batches` must have one batch or more, got none")
    shares = _shares(forward, stats, first[1])
    if not any(jax.tree.leaves(shares)):
        raise ValueError(f"{function}: `{argument}` must be in training mode, got statistics that no batch changes")
    total = nothing = _map(lambda node, share: zeros(node) if share else node, stats, shares)
    samples = 0
    for size, batch in itertools.chain([first], sized):
        samples += size
        total = _added(total, forward(nothing, batch), shares, size / samples)
    old, structure = jax.tree.flatten(stats)
    return jax.tree.unflatten(
        structure, [new.astype(jnp.result_type(o)) for new, o in zip(jax.tree.leaves(total), old, strict=True)]
    )


def _size(function: str, batch: Any) -> int:
    shape = np.shape((*jax.tree.leaves(batch), 0)[0])
    if not shape or not shape[0]:
        raise ValueError(f"{function}: `batches` must have samples along their first axis, got the shape {shape}")
    return shape[0]


def _shares(forward: Callable[[Any, Any], Any], stats: Any, batch: Any) -> Any:
    """The c of every BatchNorm, which updates its running statistics r to (1 - c) r + c s; 0 where it is frozen.

    With an r so large that c s is lost in rounding, the result shows 1 - c. This is read as the shortest decimal of
    that float, since 1 - 0.99 in float32 is wrong in the sixth digit.
    """
    large = 2.0**100

    def share(node: Any, after: Any) -> float:
        return 1 - float(str(np.ravel(after["mean"])[0] / large)) if _is_norm(node) else 0.0

    before = _map(lambda node: jax.tree.map(lambda r: r + large, zeros(node)) if _is_norm(node) else node, stats)
    return _map(share, stats, forward(before, batch))


@jax.jit
def _added(total: Any, after: Any, shares: Any, weight: Array) -> Any:
    r"""`total` and one more batch; `weight` is its share of all samples so far.

    $$M \leftarrow M + w (m - M), \qquad V \leftarrow V + w (v - V) + w (1 - w) (m - M)^2$$

    This equals the sums in the module docstring, without their cancellation if the variance is small beside the mean.
    """

    def add(node: Any, after: Any, share: Array) -> Any:
        if not _is_norm(node):
            return node
        M, V = node["mean"], node["var"]
        m, v = after["mean"] / share, after["var"] / share
        between = weight * (1 - weight) * (m - M) * (m - M)  # 0 for the first batch, even of a mean with no square
        added = {"mean": lerp(M, m, weight), "var": lerp(V, v, weight) + between}
        return {name: jnp.where(share > 0, added[name], node[name]) for name in added}

    return _map(add, total, after, shares)


def _shapes(tree: Any) -> str:
    return shortened(str(jax.tree.map(np.shape, tree)), 200)


def _is_norm(node: Any) -> bool:
    return isinstance(node, Mapping) and {"mean", "var"} == node.keys()


def _norms(stats: Any) -> list[Any]:
    return [node for node in jax.tree.leaves(stats, is_leaf=_is_norm) if _is_norm(node)]


_map = functools.partial(jax.tree.map, is_leaf=_is_norm)
