r"""Optimizers, rates and masks for some of the parameters, selected by their paths.

The path of a parameter, such as "encoder/layer_0/kernel", consists of keys of dictionaries, fields of dataclasses
and named tuples, and indices of lists. (The `.value` of a Flax variable is left out.) A pattern is a regular
expression. It may match anywhere in the path, unless you anchor it with ^ or $: write r"layer_1/" and not r"layer_1",
which also matches layer_10.

    decayed = optax.adamw(1e-3, mask=not_matching(r"bias$", r"norm"))
    tuned = per_parameter([(r"^head/", adam(1e-3)), (r"^embed/", optax.set_to_zero())], default=adam(1e-5))
    layerwise = optax.chain(adam(1e-3), scale_by_path([(rf"layer_{k}/", 0.9 ** (11 - k)) for k in range(12)]))

Holes in the tree (None, `optax.MaskedNode`) are not parameters, and stay holes. A pattern that matches no parameter
raises an error, except in a tree with holes only.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.tree_util import GetAttrKey, keystr, tree_leaves_with_path

from optim.checks import is_hole, require_like, require_real, require_setting, require_state
from optim.numerics import at, widen
from schedules import Schedule, ScheduleLike
from schedules.arguments import built_as
from schedules.core import Nested
from schedules.sentences import shown

__all__ = ["per_parameter", "scale_by_path", "matching", "not_matching", "ScaleByPathState"]

# Masks ----------------------------------------------------------------------------------------------------


def matching(*patterns: str) -> Callable[[Any], Any]:
    """A mask that is true for the parameters that any of `patterns` matches.

        optax.masked(optimizer, matching(r"kernel$"))

    Without patterns it is true nowhere.

    **Returns:** a function from parameters to a tree of booleans like them.

    **Raises:** `ValueError` if a pattern is not a regular expression or, when the mask is made, matches no parameter.
    """
    return _mask("matching", patterns, True)


def not_matching(*patterns: str) -> Callable[[Any], Any]:
    """A mask that is true for the parameters that none of `patterns` matches, such as those with weight decay:

        optax.adamw(1e-3, mask=not_matching(r"bias$", r"norm"))

    Without patterns it is true everywhere.

    **Returns:** as `matching`.

    **Raises:** as `matching`, so a misspelt pattern does not go unnoticed.
    """
    return _mask("not_matching", patterns, False)


def _mask(function: str, patterns: Sequence[str], value: bool) -> Callable[[Any], Any]:
    _require_patterns(function, "patterns", patterns)

    def mask(params: Any) -> Any:
        paths = _paths(params)
        for pattern in patterns:
            if paths and not any(re.search(pattern, path) for path in paths):
                raise ValueError(
                    f"{function}: `patterns` must each match a parameter, got {pattern!r} for {_few(paths)}"
                )
        return _tree_like(params, [value == any(re.search(p, path) for p in patterns) for path in paths])

    return mask


Mask = Any | Callable[[Any], Any]


def decay_mask(optimizer: str, mask: Mask | None) -> Callable[[Any], Any] | None:
    """`mask` as a function from parameters to a tree of booleans like them.

    **Raises:** `ValueError`, which says where a mask must be true, if `mask` is not one or does not fit the parameters.
    """
    if not (mask is None or callable(mask)):
        _require_booleans(optimizer, mask)

    def whole(params: Any) -> Any:
        if not jax.tree.leaves(params):
            return params
        marks = mask(params) if callable(mask) else mask
        _require_booleans(optimizer, marks)
        if jax.tree_util.all_leaves([marks]) and not jax.tree_util.all_leaves([params]):
            # inject_hyperparams takes a function for a schedule and calls it with a step.
            advice = 'under optax.inject_hyperparams pass static_args="mask"'
            raise ValueError(_wrong_mask(optimizer, f"{marks} for all parameters; {advice}"))
        structure: Any = jax.tree.structure(params)
        return marks if jax.tree.structure(marks) == structure else _spread(optimizer, marks, params)

    return None if mask is None else whole


def _spread(optimizer: str, marks: Any, params: Any) -> Any:
    """The marks of all parameters, where one mark may stand for a whole subtree."""
    marked = dict(zip(_paths(marks), jax.tree.leaves(marks), strict=True))
    paths, places = _paths(params), set(_paths(params, is_hole))
    above_places = {above for place in places for above in _above(place)}
    for path in paths:
        if not any(above in marked for above in _above(path)):
            raise ValueError(_wrong_mask(optimizer, f"none for {path}"))
    for path in marked:
        if path not in above_places and places.isdisjoint(_above(path)):
            raise ValueError(_wrong_mask(optimizer, f"one for {path}, where there is no parameter"))
    return _tree_like(params, [next(marked[above] for above in _above(path) if above in marked) for path in paths])


def _above(path: str) -> list[str]:
    """A path and the paths of all subtrees that contain it."""
    return [path, *(path[:i] for i in range(len(path) - 1, 0, -1) if path[i] == "/"), ""]


def _require_booleans(optimizer: str, marks: Any) -> None:
    for mark in jax.tree.leaves(marks):
        if not _is_boolean(mark):
            raise ValueError(_wrong_mask(optimizer, shown(mark)))


def _is_boolean(mark: Any) -> bool:
    if isinstance(mark, np.ndarray | Array) and not isinstance(mark, jax.core.Tracer):
        return mark.shape == () and mark.dtype == bool
    return isinstance(mark, bool | np.bool_)


def _wrong_mask(optimizer: str, got: str) -> str:
    return (
        f"{optimizer}: `mask` must be a tree of booleans like the parameters, or a function from parameters to one, "
        f'true where weights decay, such as not_matching(r"bias$"), got {got}'
    )


# Transformations ------------------------------------------------------------------------------------------


def per_parameter(
    rules: Sequence[tuple[str, optax.GradientTransformation]], default: optax.GradientTransformation | None = None
) -> optax.GradientTransformationExtraArgs:
    """Uses a different optimizer for each group of parameters.

        per_parameter([(r"^embed/", optax.set_to_zero()), (r"^head/", adam(1e-3))], default=adam(cosine(1e-4, 0, 900)))

    **Arguments:** `rules`: a list of pairs of a pattern and a transformation. The first pair whose pattern matches a
    parameter applies to it. `default`: the transformation for parameters that no pattern matches.

    Each transformation gets only the parameters of its group, so a norm is the norm of the group. A group
    frozen by `optax.set_to_zero()` has no state. The state is that of `optax.partition`, with the patterns as
    labels.

    **Raises:** `ValueError` if a rule is not such a pair; at `init`, if a rule applies to no parameter or,
    without a `default`, no rule applies to a parameter.
    """
    patterns, transformations = _read("per_parameter", rules, "a transformation", optax.GradientTransformation)
    if not isinstance(default, optax.GradientTransformation | None):
        raise ValueError(f"per_parameter: `default` must be a transformation or None, got {default!r}")
    rest = "*"  # a label that no pattern can be, as it is no regular expression
    groups = dict(zip(patterns, transformations, strict=True)) | ({rest: default} if default else {})

    def labels(params: Any) -> Any:
        paths = _paths(params)
        _require_each_used("per_parameter", patterns, paths)
        found = _rule_of_each(patterns, paths)
        without = [path for path, rule in zip(paths, found, strict=True) if rule is None]
        if without and not default:
            raise ValueError(
                "per_parameter: `rules` must match every parameter unless `default` is given, got none for "
                f"{_few(without)}"
            )
        return _tree_like(params, [rest if rule is None else rule for rule in found])

    partitioned = optax.partition(groups, labels)

    def update(grads: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        require_state("per_parameter", optax.PartitionState, state)
        require_setting("per_parameter", "rules", sorted(state.inner_states), sorted(groups))
        require_like("per_parameter", {}, params, any_dtype=True, grads=grads)
        return partitioned.update(grads, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(partitioned.init, update)


class ScaleByPathState(NamedTuple):
    count: Array  # type: ignore[assignment]  # updates applied; int32, shape ()
    used: dict[str, Array]  # the multipliers of the last update by pattern; float32 (float64 under x64), shape ()


def scale_by_path(rules: Sequence[tuple[str, ScheduleLike]]) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies the updates of some parameters, and so the rate of the optimizer before it in a chain.

        optax.chain(adam(1e-3), scale_by_path([(r"^embed/", 0.0), (r"^head/", linear(0.0, 10.0, 500))]))

    $$\Delta_p \leftarrow m_p(t)\, \Delta_p$$

    **Arguments:** `rules`: a list of pairs of a pattern and a multiplier m, a number or a schedule (read at the number
    of updates already applied). The first pair whose pattern matches a parameter p applies to it. If none does, m is 1.

    Put it inside an average, since it changes the updates: `average(optax.chain(adam(lr), scale_by_path(rules)), c)`. A
    multiplier of 0 freezes parameters exactly: even a NaN becomes 0. It also multiplies the weight decay that an
    optimizer before it adds. Updates keep their shapes and dtypes. Multipliers are leaves of a pytree, so changing a
    number retraces nothing.

    **Raises:** `ValueError` if a rule is not such a pair; at `init`, if a rule applies to no parameter.
    """
    patterns, multipliers = _read("scale_by_path", rules, "a multiplier")
    built = [built_as(Nested(), "scale_by_path", "rules", multiplier) for multiplier in multipliers]
    schedules = dict(zip(patterns, built, strict=True))

    def init(params: Any) -> ScaleByPathState:
        _require_each_used("scale_by_path", patterns, _paths(params))
        return ScaleByPathState(jnp.zeros((), jnp.int32), at(schedules, 0))

    def update(
        updates: Any, state: ScaleByPathState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, ScaleByPathState]:
        del extra_args
        require_state("scale_by_path", ScaleByPathState, state)
        require_setting("scale_by_path", "rules", sorted(state.used), sorted(schedules))
        require_like("scale_by_path", {}, params, any_dtype=True, updates=updates)
        paths, leaves = _paths(updates), jax.tree.leaves(updates)
        _require_each_used("scale_by_path", patterns, paths)
        rules = _rule_of_each(patterns, paths)
        ruled = {path: u for path, u, rule in zip(paths, leaves, rules, strict=True) if rule is not None}
        require_real("scale_by_path", ruled, "updates")
        scaled, state = _scale(schedules, tuple(r for r in rules if r is not None), list(ruled.values()), state)
        return _tree_like(
            updates, [u if r is None else scaled.pop(0) for u, r in zip(leaves, rules, strict=True)]
        ), state

    return optax.GradientTransformationExtraArgs(init, update)


@functools.partial(jax.jit, static_argnums=1, inline=True)
def _scale(
    schedules: dict[str, Schedule], rules: tuple[str, ...], updates: list[Array], state: ScaleByPathState
) -> tuple[list[Array], ScaleByPathState]:
    multipliers = at(schedules, state.count)
    scaled = [
        _times(multipliers[rule], wide).astype(u.dtype)
        for rule, u, wide in zip(rules, updates, widen(updates), strict=True)
    ]
    return scaled, ScaleByPathState(optax.safe_increment(state.count), multipliers)


def _times(multiplier: Array, update: Array) -> Array:
    return jnp.where(multiplier == 0, jnp.zeros_like(update), multiplier.astype(update.dtype) * update)


# Paths and patterns ---------------------------------------------------------------------------------------


def _paths(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[str]:
    """The path of every leaf.

    A final `.value` is left out if it is the only child: `nnx.Optimizer` passes variables to `init`, but only their
    values to `update`.
    """
    paths = [path for path, _ in tree_leaves_with_path(tree, is_leaf)]
    below = Counter(path[:depth] for path in paths for depth in range(len(path)))

    def text(path: tuple[Any, ...]) -> str:
        is_variable = path[-1:] == (GetAttrKey("value"),) and below[path[:-1]] == 1
        return keystr(path[:-1] if is_variable else path, simple=True, separator="/")

    return [text(path) for path in paths]


def _tree_like(tree: Any, leaves: list[Any]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _rule_of_each(patterns: Sequence[str], paths: Sequence[str]) -> list[str | None]:
    """The first pattern that matches, or None, for every path."""
    return [next((pattern for pattern in patterns if re.search(pattern, path)), None) for path in paths]


def _require_each_used(function: str, patterns: Sequence[str], paths: list[str]) -> None:
    left = paths
    for pattern in patterns:
        if paths and not any(re.search(pattern, path) for path in left):
            raise ValueError(
                f"{function}: `rules` must each match a parameter that no rule before it does, got {pattern!r} for "
                f"{_few(paths)}"
            )
        left = [path for path in left if not re.search(pattern, path)]


def _read(function: str, rules: Any, noun: str, kind: type = object) -> tuple[list[str], list[Any]]:
    """The patterns of `rules`, and the second entries of the pairs."""
    for rule in rules if isinstance(rules, Sequence) else [rules]:
        if not (isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[1], kind)):
            raise ValueError(f"{function}: `rules` must be a list of pairs of a pattern and {noun}, got {shown(rule)}")
    patterns = [pattern for pattern, _ in rules]
    _require_patterns(function, "rules", patterns)
    return patterns, [what for _, what in rules]


def _require_patterns(function: str, argument: str, patterns: Sequence[Any]) -> None:
    for pattern in patterns:
        try:
            re.search(pattern, "")
        except (re.error, TypeError) as error:
            raise ValueError(
                f"{function}: `{argument}` must have regular expressions as patterns, got {pattern!r} ({error})"
            ) from None


def _few(paths: list[str]) -> str:
    """All paths, or the first three and how many more there are."""
    paths = [path or "a single array" for path in paths]
    return ", ".join(paths) if len(paths) <= 3 else f"{', '.join(paths[:3])} and {len(paths) - 3} more"
