"""Reading an optimizer's state, wherever it sits in a chain."""

from typing import Any

import jax
from jax.tree_util import tree_leaves_with_path, tree_map_with_path

from optim.averaging import AverageState


def eval_params(opt_state: Any, params: Any) -> Any:
    """The parameters to evaluate, save and deploy: the average where `opt_state` holds one, else `params`.

    Finds the average through `optax.chain`, `MultiSteps`, `masked`, `nnx.Optimizer` and anything else that
    is a pytree, so an evaluation loop need not know which optimizer it was given. Parameters that the
    average does not cover (masked ones) are those of `params`.

    **Returns:** a tree like `params`, with its dtypes.

    **Raises:** `ValueError` if two averages cover one parameter, or one covers what `params` does not hold.
    """
    # By path and not by structure: masks leave holes, and Flax wraps state and parameters differently.
    averages = [s.x for s in jax.tree.leaves(opt_state, is_leaf=_is_average) if _is_average(s)]
    leaves = [leaf for x in averages for leaf in tree_leaves_with_path(x)]
    averaged = dict(leaves)
    if len(averaged) != len(leaves):
        raise ValueError("eval_params: `opt_state` must hold one average of each parameter, got several")
    unknown = averaged.keys() - {path for path, _ in tree_leaves_with_path(params)}
    if unknown:
        name = jax.tree_util.keystr(min(unknown, key=str))
        raise ValueError(f"eval_params: `params` must be the parameters of `opt_state`, which averages {name} as well")
    return tree_map_with_path(lambda path, p: averaged[path].astype(p.dtype) if path in averaged else p, params)


def _is_average(node: Any) -> bool:
    return isinstance(node, AverageState)
