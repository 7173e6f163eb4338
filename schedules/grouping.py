"""Evaluates many schedules that differ only in their numbers as one, so that they are compiled once."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from schedules.numerics import FEW

S = TypeVar("S", bound=Callable[[Any], Array])  # pytrees that are called with a step


def folded(combine: Any, schedules: Sequence[S], step: Array) -> Array:
    """`combine` (such as `jnp.add`) over the values of all schedules; of many, those alike are compiled as one."""
    many = len(schedules) > 32
    groups = [pieces for _, pieces in alike(schedules)] if many else [[each] for each in schedules]
    return functools.reduce(combine, (_folded_alike(combine, pieces, step) for pieces in groups))


def _folded_alike(combine: Any, pieces: Sequence[S], step: Array) -> Array:
    if len(pieces) == 1:
        return pieces[0](step)
    return combine.reduce(jax.vmap(lambda piece: piece(step), axis_size=len(pieces))(stacked(pieces)))


def stacked(alike: Sequence[S]) -> S:
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *alike)


def picked(which: Array, alike: Sequence[Any]) -> Any:
    """`alike[which]` of numbers, or of pytrees that differ only in their numbers."""
    if len(alike) == 1:
        return alike[0]
    if len(alike) > FEW:
        return jax.tree.map(lambda leaves: leaves[which], stacked(alike))
    return jax.tree.map(lambda *leaves: jax.lax.select_n(which, *_of_one_type(leaves)), *alike)


def _of_one_type(leaves: Sequence[Any]) -> list[Array]:
    dtype = jnp.result_type(*leaves)
    return [jnp.asarray(leaf, dtype) for leaf in leaves]


def alike(pieces: Sequence[S]) -> list[tuple[list[int], list[S]]]:
    """Groups of `pieces` that differ only in their numbers, each with the places of its members in the sequence."""
    groups: dict[object, tuple[list[int], list[S]]] = {}
    for place, piece in enumerate(pieces):
        leaves, structure = jax.tree.flatten(piece)
        places, members = groups.setdefault((structure, tuple(map(np.shape, leaves))), ([], []))
        places.append(place)
        members.append(piece)
    return list(groups.values())
