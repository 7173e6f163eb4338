"""`merge`, which averages the checkpoints of a run so that the average imitates a decay of the learning rate."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optim.checks import mismatch
from optim.duality import weights_like
from schedules import ScheduleLike
from schedules.arguments import built_as
from schedules.core import Nested
from schedules.kinds import INDEX
from schedules.sentences import shortened, shown

__all__ = ["merge"]

Checkpoints = str | os.PathLike[str] | Mapping[int, Any]
Read = Callable[[int], Any]
NEGLIGIBLE = 1e-14  # a smaller weight is 0 with a rounding error


def merge(
    checkpoints: Checkpoints,
    *,
    like: ScheduleLike | None = None,
    weights: Sequence[float] | None = None,
    of: ScheduleLike | None = None,
    updates: int | None = None,
    subtree: str = "",
) -> Any:
    r"""Averages the checkpoints of a run so that the average imitates a decay of the learning rate.

        merge("run/checkpoints", like=wsd(3e-4, 0, 8_000, 2_000))

    The decay should begin at a checkpoint and contain ten or more of them.

    Between the checkpoints after $s_{i-1}$ and $s_i$ updates, only the sum $\theta_{s_{i-1}} - \theta_{s_i}$ of the
    updates is known. It is multiplied by the ratio of the areas under both schedules,

    $$M_i = \sum_{t=s_{i-1}}^{s_i - 1} \mathrm{like}(t) \Big/ \sum_{t=s_{i-1}}^{s_i - 1} \mathrm{of}(t),$$

    which is the mean multiplier if the run's rate is constant. So the weights are $M_i - M_{i+1}$, where M is 1 before
    the first checkpoint, since the updates before it cannot be changed, and 0 after the last. With a checkpoint after
    every update these are the weights of `average_of`.

    **Arguments:**

    - `checkpoints`: a folder of Orbax checkpoints named by their numbers of updates, as `CheckpointManager` writes
      it, or a mapping from numbers of updates to trees of parameters or to the folder of each.
    - `like`: the rates to imitate, a schedule. Or `weights`: a number for each checkpoint, in order, which sum to 1.
    - `of`: the rates of the run, a schedule or a number. By default the highest value of `like` up to each step,
      which keeps its warm-up and leaves out its decay.
    - `updates`: the number of updates of the last checkpoint to use, by default the latest.
    - `subtree`: where in a checkpoint the parameters are, such as "params" or "state/params" (begin with the name of
      the item if a checkpoint has several). Nothing else is read.

    Checkpoints are read one by one, and only those with a weight. Memory holds at most two copies of the parameters,
    the sum and the current checkpoint, and one more array.

    **Returns:** a tree like the parameters (of dicts and lists if read from a folder), of NumPy arrays with their
    dtypes. Sums are computed in float32 or wider. Leaves that are not floating-point, such as a count or a random key,
    come from the latest checkpoint with a weight.

    **Raises:** `ValueError` unless exactly one of `like` and `weights` is given; if another argument is not as above;
    if there is no checkpoint, or one cannot be read or has no such `subtree`; or if their trees, shapes or dtypes
    differ. `ImportError` if a folder is given and Orbax is not installed.

    Source: WSM, arXiv:2507.17634.
    """
    read = reader(checkpoints, subtree)
    return merged(read, weights_of_each(checkpoints, like=like, weights=weights, of=of, updates=updates))


# The weights -------------------------------------------------------------------------------------------


def weights_of_each(
    checkpoints: Checkpoints, *, like: Any = None, weights: Any = None, of: Any = None, updates: int | None = None
) -> dict[int, float]:
    """The weight of each checkpoint by its updates, in order. Arguments and errors are those of `merge`."""
    if (like is None) == (weights is None):
        got = "none" if like is None else "both"
        raise ValueError(f"merge: one of `like` and `weights` must be given, got {got}")
    places = _up_to(_places(checkpoints), updates)
    if weights is not None:
        return dict(zip(places, _summing_to_1(weights, len(places), of), strict=True))
    found = weights_like("merge", "like", built_as(Nested(), "merge", "like", like), of, np.array(places))
    return dict(zip(places, np.where(np.abs(found) > NEGLIGIBLE, found, 0.0).tolist(), strict=True))


def _up_to(places: list[int], updates: int | None) -> list[int]:
    if updates is None:
        return places
    if updates not in places:
        listed = shortened(", ".join(map(str, places)), 200)
        raise ValueError(f"merge: `updates` must be the updates of a checkpoint, one of {listed}, got {shown(updates)}")
    return places[: places.index(updates) + 1]


def _summing_to_1(weights: Any, count: int, of: Any) -> list[float]:
    if of is not None:
        raise ValueError(f"merge: `of` must be None if `weights` are given, got {shown(of)}")
    try:
        found = [float(weight) for weight in weights]
    except (TypeError, ValueError):
        raise ValueError(f"merge: `weights` must be a list of numbers, got {shown(weights)}") from None
    if len(found) != count:
        raise ValueError(f"merge: `weights` must have one number for each of the {count} checkpoints, got {len(found)}")
    if not abs(sum(found) - 1) < 1e-6:
        raise ValueError(f"merge: `weights` must sum to 1, got {sum(found):.9g}")
    return found


# The weighted sum --------------------------------------------------------------------------------------


def merged(read: Read, weights: Mapping[int, float]) -> Any:
    """The weighted sum of the checkpoints, in their dtypes."""
    like, sums = None, list[Any]()
    for place, weight in weights.items():
        if weight:
            # Keep no reference to a checkpoint while the next one is read, to save memory.
            like, sums = _added(read(place), weight, place, like, sums)
    return jax.tree.map(_narrowed, like, jax.tree.unflatten(jax.tree.structure(like), sums))


def _added(tree: Any, weight: float, place: int, like: Any, sums: list[Any]) -> tuple[Any, list[Any]]:
    """Adds one checkpoint: returns the shapes and dtypes of its leaves, and the sums of the leaves so far."""
    like = jax.tree.map(_described, tree) if like is None else like
    if what := mismatch(tree, like, _misfit):
        raise ValueError(f"merge: `checkpoints` must be of the same parameters, got {what} after {place} updates")
    leaves = jax.tree.leaves(tree)
    return like, [_plus(total, leaf, weight) for total, leaf in zip(sums or [None] * len(leaves), leaves, strict=True)]


def _plus(total: Any, leaf: Any, weight: float) -> Any:
    if not _is_averaged(leaf):
        return leaf
    dtype = np.asarray(leaf).dtype
    wide = dtype if jnp.finfo(dtype).bits >= 32 else np.dtype(np.float32)
    term = np.multiply(leaf, wide.type(weight), dtype=wide)
    return term if total is None else np.add(total, term, out=np.asarray(total))


def _is_averaged(leaf: Any) -> bool:
    return isinstance(leaf, float) or jnp.issubdtype(getattr(leaf, "dtype", int), jnp.inexact)


def _narrowed(like: Any, total: Any) -> Any:
    return np.asarray(total).astype(like.dtype, copy=False) if _is_averaged(like) else total


def _described(leaf: Any) -> Any:
    if isinstance(leaf, float):
        return jax.ShapeDtypeStruct((), np.float64)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") else leaf


def _misfit(leaf: Any, like: Any) -> tuple[str, str] | None:
    found, wanted = ((getattr(each, "shape", ()), getattr(each, "dtype", "")) for each in (_described(leaf), like))
    if found == wanted:
        return None
    return (f"shape {found[0]}", f"{wanted[0]}") if found[0] != wanted[0] else (f"{found[1]}", f"{wanted[1]}")


# Reading and writing -----------------------------------------------------------------------------------


def _places(checkpoints: Checkpoints) -> list[int]:
    """The updates of all checkpoints, ascending."""
    if isinstance(checkpoints, Mapping):
        places = [built_as(INDEX, "merge", "updates of a checkpoint", updates) for updates in checkpoints]
    else:
        places = [*_folders(checkpoints)]
    if not places:
        raise ValueError(f"merge: `checkpoints` must be one checkpoint or more, got none in {shown(checkpoints)}")
    return sorted(places)


def _folders(checkpoints: Any) -> dict[int, Path]:
    """The folder of each checkpoint by its updates: "8000", or "ckpt_8000" with a prefix."""
    if not isinstance(checkpoints, str | os.PathLike) or not Path(checkpoints).is_dir():
        expected = "a folder of checkpoints, or a mapping from updates to them"
        raise ValueError(f"merge: `checkpoints` must be {expected}, got {shown(checkpoints)}")
    named = {path: re.fullmatch(r"(?:.+_)?(\d+)", path.name) for path in sorted(Path(checkpoints).iterdir())}
    return {int(name[1]): path for path, name in named.items() if name and path.is_dir()}


def reader(checkpoints: Checkpoints, subtree: str) -> Read:
    """A function from updates to the parameters of that checkpoint."""
    path = [name for name in subtree.split("/") if name]
    if not isinstance(checkpoints, Mapping):
        folders = _folders(checkpoints)
        return lambda updates: _restored(folders[updates], path)

    def read(updates: int) -> Any:
        held = checkpoints[updates]
        return _restored(Path(held), path) if isinstance(held, str | os.PathLike) else _within(held, path, updates)

    return read


def _restored(folder: Path, path: list[str]) -> Any:
    """The parameters of the checkpoint in a folder; nothing else is read."""
    ocp, epath = _orbax()
    item, path = _item(folder, path)
    try:
        handler = ocp.PyTreeCheckpointHandler()
        tree = handler.metadata(epath.Path(item.absolute())).tree
    except Exception as error:  # Orbax raises many types of exception
        raise ValueError(_unreadable(folder, error)) from None
    wanted = {id(leaf) for leaf in jax.tree.leaves(_within(tree, path, folder))}
    mask = jax.tree.map(lambda leaf: 0 if id(leaf) in wanted else ocp.PLACEHOLDER, tree)
    how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), mask)
    try:
        restored = handler.restore(epath.Path(item.absolute()), args=ocp.args.PyTreeRestore(mask, restore_args=how))
    except Exception as error:
        raise ValueError(_unreadable(folder, error)) from None
    return _within(restored, path, folder)


def _item(folder: Path, path: list[str]) -> tuple[Path, list[str]]:
    """The folder of the item that holds the arrays of a checkpoint, and the path inside this item."""
    items = {each.parent.name: each.parent for each in [*folder.glob("_METADATA"), *folder.glob("*/_METADATA")]}
    if len(items) < 2:
        return next(iter(items.values()), folder), path
    if not path or path[0] not in items:
        raise ValueError(_elsewhere(path, folder, items))
    return items[path[0]], path[1:]


def _within(tree: Any, path: list[str], where: object) -> Any:
    """The subtree at a path."""
    for name in path:
        children = _children(tree)
        if name not in children:
            raise ValueError(_elsewhere(path, where, children))
        tree = children[name]
    return tree


def _children(tree: Any) -> dict[str, Any]:
    if isinstance(tree, Mapping):
        return {str(name): child for name, child in tree.items()}
    if hasattr(tree, "_fields"):
        return dict(zip(tree._fields, tree, strict=True))
    return {str(i): child for i, child in enumerate(tree)} if isinstance(tree, list | tuple) else {}


def _elsewhere(path: list[str], where: object, children: Mapping[str, Any]) -> str:
    holds = shortened(", ".join(sorted(children)), 200) or "nothing below"
    return (
        f"merge: `subtree` must be the path of the parameters in every checkpoint, got {'/'.join(path)!r}; {where} has "
        f"{holds}"
    )


def _unreadable(folder: Path, error: Exception) -> str:
    return f"merge: {folder} cannot be read as an Orbax checkpoint ({shortened(str(error).partition(chr(10))[0], 200)})"


def write(tree: Any, folder: Path) -> None:
    """Writes an Orbax checkpoint of a tree."""
    ocp, _ = _orbax()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), tree)


def _orbax() -> tuple[Any, Any]:
    try:
        import orbax.checkpoint as ocp
        from etils import epath
    except ImportError:
        raise ImportError("merge: folders of checkpoints need Orbax: pip install orbax-checkpoint") from None
    return ocp, epath
