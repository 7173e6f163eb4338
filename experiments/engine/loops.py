"""A loop over runs that computes what all of them share once, before it starts."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import JaxprEqn, Literal, Var


def one_by_one(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Like `jax.vmap`, but in a loop.

    What does not depend on the argument of `function`, such as a dropout mask, is computed once, as under `jax.vmap`.
    XLA would compute it in every round.
    """

    def mapped(many: Any) -> Any:
        one = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), many)
        return jax.lax.map(prepared(function, one), many)

    return mapped


def prepared(function: Callable[[Any], Any], one: Any) -> Callable[[Any], Any]:
    """`function`, with everything that does not depend on its argument, which is like `one`, already computed."""
    traced, result = jax.make_jaxpr(function, return_shape=True)(one)
    jaxpr = traced.jaxpr
    values: dict[Var, Any] = dict(zip(jaxpr.constvars, traced.consts, strict=True))
    shared, dependent, rest = set(values), set(jaxpr.invars), []
    for equation in jaxpr.eqns:
        inputs = {atom for atom in equation.invars if isinstance(atom, Var)}
        if inputs & dependent:
            dependent.update(equation.outvars)
            rest.append(equation)
            continue
        evaluate(equation, values)
        if inputs & shared:
            shared.update(equation.outvars)
        else:  # made of constants: an array of zeros is cheaper to make again than to read
            rest.append(equation)

    def finish(argument: Any) -> Any:
        mine = values | dict(zip(jaxpr.invars, jax.tree.leaves(argument), strict=True))
        for equation in rest:
            evaluate(equation, mine)
        return jax.tree.unflatten(jax.tree.structure(result), [read(atom, mine) for atom in jaxpr.outvars])

    return finish


def evaluate(equation: JaxprEqn, values: dict[Var, Any]) -> None:
    """Adds the results of an equation to the values of variables."""
    given = [read(atom, values) for atom in equation.invars]
    found = equation.primitive.bind(*given, **equation.primitive.get_bind_params(equation.params))
    values.update(zip(equation.outvars, found if equation.primitive.multiple_results else [found], strict=True))


def read(atom: Var | Literal, values: dict[Var, Any]) -> Any:
    return atom.val if isinstance(atom, Literal) else values[atom]
