"""Adam, AdamW and RAdam. `_update` follows the papers line by line."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from optim.checks import (
    Floating,
    FractionLike,
    From4,
    Inside,
    NotNegativeLike,
    require_like,
    require_params,
    require_real,
    require_state,
)
from optim.numerics import (
    at,
    complement,
    direction,
    is_zero,
    lerp,
    like,
    limit,
    limited,
    one_minus_power,
    squared,
    zeros,
)
from optim.rules import Mask, decay_mask
from schedules import Precise, Schedule, ScheduleLike, Value, as_schedule, schedule
from schedules.arguments import checked
from schedules.numerics import pair

__all__ = ["adam", "adamw", "radam", "rectification", "AdamState"]

# fmt: off
# x / (e^x - 1) = 1 - x / 2 + sum of BERNOULLI[k] x^(2 k + 2)
BERNOULLI = (
    1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000, 1 / 74724249600,
    -3617 / 10670622842880000,
)
# 1 / -log(1 - a) = 1 / a - 1 / 2 - sum of GREGORY[k] a^(k + 1)
GREGORY = (
    1 / 12, 1 / 24, 19 / 720, 3 / 160, 863 / 60480, 275 / 24192, 33953 / 3628800, 8183 / 1036800,
    3250433 / 479001600, 4671 / 788480,
)
# fmt: on


class AdamState(NamedTuple):
    count: Array  # type: ignore[assignment]  # updates applied; int32, shape ()
    mu: Any  # m, the running mean of the gradients; the shapes of the parameters; None if b1 is the number 0
    nu: Any  # v, the running mean of their squares; the shapes of the parameters, float32 or wider
    used: dict[str, Array]  # the hyperparameters of the last update


class _Hyperparameters(NamedTuple):
    """A pytree of schedules: an argument of the jitted update, so that changing a number compiles nothing."""

    learning_rate: Schedule
    a1: Schedule  # 1 - b1
    a2: Schedule  # 1 - b2
    eps: Schedule
    weight_decay: Schedule
    eps_root: Schedule | None  # None if it is the number 0
    rectify: Schedule | None  # the factor of RAdam


@checked
def adam(
    learning_rate: ScheduleLike,
    b1: FractionLike = 0.9,
    b2: FractionLike = 0.999,
    eps: NotNegativeLike = 1e-8,
    mu_dtype: Floating = None,
    nesterov: bool = False,
    eps_root: NotNegativeLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1).

    With t = 1 at the first update (schedules are read at step t - 1):

    $$m \leftarrow b_1 m + (1 - b_1)\, g, \qquad v \leftarrow b_2 v + (1 - b_2)\, g^2, \qquad
      \Delta = -\,\mathrm{lr}\, \frac{m / (1 - b_1^t)}{\sqrt{v / (1 - b_2^t)} + \mathrm{eps}}$$

    Every hyperparameter is a number or a schedule. The values of a schedule are not checked: a b1 or b2 that reaches 1
    gives NaN. A negative rate ascends. With a scheduled b1 or b2, the bias correction uses the current value, as in
    PyTorch and optax. Moments are stored in float32 or wider (except `mu_dtype`). Updates have the dtypes of the
    parameters, or of the gradients if `update` gets no parameters. If b1 is the number 0, no first moment is stored.

    **Arguments:**

    - `mu_dtype`: the dtype in which m is stored, for example bfloat16. There is no such option for v: in bfloat16 it
      would stop changing, since (1 - b2) g² is too small to change its last digit.
    - `nesterov`: use NAdam (Dozat, *Incorporating Nesterov momentum into Adam*, 2016, without its schedule of b1, as in
      optax), which replaces $m / (1 - b_1^t)$ by $b_1 m / (1 - b_1^{t + 1}) + (1 - b_1)\, g / (1 - b_1^t)$.
    - `eps_root`: added to $v / (1 - b_2^t)$ inside the root, as in optax.

    A finite gradient always gives a finite update, and any other gives NaN: see docs/optimizers.md,
    "Infinite and NaN gradients".

    **Raises:** `ValueError` if b1 or b2 is a number outside [0, 1), eps or eps_root is a negative number, an argument
    is neither a number nor a schedule, nesterov is not a bool, mu_dtype is not a real floating-point dtype, or a
    parameter is not real and floating-point.
    """
    return named_adam("adam", learning_rate, b1, b2, eps, 0.0, None, mu_dtype, nesterov, eps_root)


@checked
def adamw(
    learning_rate: ScheduleLike,
    b1: FractionLike = 0.9,
    b2: FractionLike = 0.999,
    eps: NotNegativeLike = 1e-8,
    weight_decay: NotNegativeLike = 0.01,
    mask: Mask | None = None,
    mu_dtype: Floating = None,
    nesterov: bool = False,
    eps_root: NotNegativeLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101, as in PyTorch and optax).

    $$\Delta = \Delta_{\mathrm{Adam}} - \mathrm{lr} \cdot \mathrm{weight\_decay} \cdot p$$

    **Arguments:** those of `adam`, and

    - `weight_decay`: a number or a schedule, multiplied by the rate.
    - `mask`: which parameters decay. A tree of booleans like the parameters, true where weights decay, or a function
      from parameters to such a tree: `not_matching(r"bias$")` exempts biases. One boolean may stand for a whole
      subtree, but not for all parameters. (Under `optax.inject_hyperparams` pass static_args="mask", since it takes
      functions for schedules.)

    **Raises:** as `adam`; `ValueError` if weight_decay is a negative number, if `mask` is not such a tree or function
    or (at `init`) does not fit the parameters, or if `update` is called without `params`.
    """
    return named_adam("adamw", learning_rate, b1, b2, eps, weight_decay, mask, mu_dtype, nesterov, eps_root)


def named_adam(
    name: str,
    learning_rate: ScheduleLike,
    b1: ScheduleLike,
    b2: ScheduleLike,
    eps: ScheduleLike,
    weight_decay: ScheduleLike,
    mask: Mask | None = None,
    mu_dtype: Floating = None,
    nesterov: bool = False,
    eps_root: ScheduleLike = 0.0,
    rectify: Schedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam and its relatives, from checked arguments. `name`: how errors begin; `rectify`: the factor of RAdam."""
    numbers = map(as_schedule, (learning_rate, complement(b1), complement(b2), eps, weight_decay))
    within = None if is_zero(eps_root) else as_schedule(eps_root)
    hyperparameters = _Hyperparameters(*numbers, within, rectify)  # type: ignore[call-arg]
    decays = decay_mask(name, mask)

    def init(params: Any) -> AdamState:
        require_real(name, params)
        if decays and not is_zero(weight_decay):
            decays(params)  # raises now, and not at the first update, if the mask does not fit
        mu = None if is_zero(b1) else zeros(params, mu_dtype)
        return AdamState(jnp.zeros((), jnp.int32), mu, zeros(params), _used(at(hyperparameters, 0)))

    def update(grads: Any, state: AdamState, params: Any = None, **extra_args: Any) -> tuple[Any, AdamState]:
        del extra_args
        require_state(name, AdamState, state, mu=not is_zero(b1))
        require_like(name, {"nu": state.nu, "mu": state.mu}, params, grads=grads)
        decayed = None if is_zero(weight_decay) else _decayed(decays, require_params(name, params))
        updates, state = _update(hyperparameters, grads, state, decayed, nesterov)
        return like(updates, grads, params), state

    return optax.GradientTransformationExtraArgs(init, update)


def _decayed(decays: Callable[[Any], Any] | None, params: Any) -> Any:
    """The parameters that decay, with None for the others."""
    return params if decays is None else jax.tree.map(lambda use, p: p if use else None, decays(params), params)


def _used(values: Any) -> dict[str, Array]:
    lr, a1, a2, eps, decay, eps_root, _ = values
    used = {"learning_rate": lr, "b1": 1 - a1, "b2": 1 - a2, "eps": eps, "weight_decay": decay}
    return used if eps_root is None else used | {"eps_root": eps_root}


@functools.partial(jax.jit, inline=True, static_argnames="nesterov")
def _update(
    hyperparameters: _Hyperparameters, grads: Any, state: AdamState, decayed: Any, nesterov: bool
) -> tuple[Any, AdamState]:
    values = at(hyperparameters, state.count)
    lr, a1, a2, eps, decay, eps_root, rectify = values
    if rectify is not None:
        lr = lr * jnp.where(rectify > 0, rectify, 1.0)
        values = values._replace(learning_rate=lr)
    t = optax.safe_increment(state.count)
    unbias1, unbias2 = 1 / one_minus_power(a1, t), 1 / one_minus_power(a2, t)
    mu, nu = moments(state.mu, state.nu, grads, a1, a2)
    shown = _nesterov(mu, nu, grads, a1, t) if nesterov else mu

    def step(m: Array, v: Array, p: Array | None) -> Array:
        along = direction(m, v, unbias1, unbias2, eps, eps_root)
        if rectify is not None:
            along = jnp.where(rectify > 0, along, m * unbias1.astype(v.dtype))
        update = -lr.astype(v.dtype) * along
        # Multiply by the rate first: a rate of 0 decays nothing, even if decay times p overflows.
        return update if p is None else update - (lr * decay).astype(v.dtype) * p.astype(v.dtype)

    updates = _map_with_holes(step, grads, shown, nu, decayed)
    stored = None if state.mu is None else jax.tree.map(lambda m, old: m.astype(old.dtype), mu, state.mu)
    return updates, AdamState(t, stored, nu, _used(values))


def moments(mu: Any, nu: Any, grads: Any, a1: Array, a2: Array) -> tuple[Any, Any]:
    """The running means of the gradients and of their squares, both in the dtypes of `nu`; without `mu`, the gradients
    themselves."""
    most = jax.tree.map(limit, nu, nu if mu is None else mu)
    squares = jax.tree.map(lambda v, g, most: lerp(v, squared(g, v, most), a2), nu, grads, most)
    grads = jax.tree.map(limited, grads, nu, most)
    return grads if mu is None else jax.tree.map(lambda m, g: lerp(m.astype(g.dtype), g, a1), mu, grads), squares


def _nesterov(mu: Any, nu: Any, grads: Any, a1: Array, t: Array) -> Any:
    """What NAdam uses instead of m, before Adam's bias correction: b1 m (1 - b1^t) / (1 - b1^(t + 1)) + (1 - b1) g."""
    ratio = one_minus_power(a1, t) / one_minus_power(a1, optax.safe_increment(t))

    def ahead(m: Array, v: Array, g: Array) -> Array:
        return lerp(m * ratio.astype(m.dtype), limited(g, v, limit(v, m)), a1)

    return jax.tree.map(ahead, mu, nu, grads)


def _map_with_holes(step: Callable[..., Array], whole: Any, *trees: Any) -> Any:
    """`jax.tree.map(step, *trees)`, where the last tree or parts of it may be None."""
    *full, holed = trees
    structure: Any = jax.tree.structure(whole)
    holes = [None] * structure.num_leaves if holed is None else structure.flatten_up_to(holed)
    return jax.tree.unflatten(
        structure, [step(*leaves) for leaves in zip(*map(jax.tree.leaves, full), holes, strict=True)]
    )


@schedule
def rectification(step: Array, b2: Precise, threshold: Value = 5.0, undefined: Value = 0.0) -> Array:
    r"""The factor by which RAdam shortens the first steps of Adam; `undefined` at first, while rho_t is too small.

    $$r_t = \sqrt{\frac{(\rho_t - 4)(\rho_t - 2)\, \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2)\, \rho_t}}
        \ \text{ if } \rho_t > \mathrm{threshold}, \text{ else undefined}, \qquad
      \rho_\infty = \frac{2}{1 - b_2} - 1, \quad \rho_t = \rho_\infty - \frac{2 t\, b_2^t}{1 - b_2^t}$$

    with t = 1 at step 0. For b2 = 0.999 the two terms of rho_t are near 2,000 at first and their
    difference is near 4, so it is computed from a series in which nothing cancels.

    Source: RAdam, arXiv:1908.03265, where the threshold is 4; PyTorch and optax use 5.
    """
    (hi, lo), t = pair(b2), step.astype(float) + 1
    a = (1 - hi) - lo
    rate = -jnp.log1p(-a)
    x = rate * t
    # 1 - x / (e^x - 1), and rho_inf - 2 / rate, as series where they would cancel.
    near = x / 2 - x**2 * jnp.polyval(jnp.asarray(BERNOULLI[::-1], float), jnp.minimum(x, 1.0) ** 2)
    grown = jnp.where(x < 1, near, 1 - jnp.minimum(x, 40.0) / jnp.expm1(jnp.clip(x, 1.0, 40.0)))
    series = 2 * a * jnp.polyval(jnp.asarray(GREGORY[::-1], float), a)
    offset = jnp.where(a < 0.1, series, 2 / a - 1 - 2 / rate)
    last, rho = 2 / a - 1, offset + 2 / rate * grown
    square = (rho - 4) / (last - 4) * ((rho - 2) / (last - 2)) * (last / rho)
    defined = (rho > threshold) & (square > 0)
    return jnp.where(defined, jnp.sqrt(jnp.where(defined, square, 1.0)), undefined)


@checked
def radam(
    learning_rate: ScheduleLike,
    b1: FractionLike = 0.9,
    b2: Inside = 0.999,
    eps: NotNegativeLike = 1e-8,
    threshold: From4 = 5.0,
    mu_dtype: Floating = None,
) -> optax.GradientTransformationExtraArgs:
    r"""RAdam (arXiv:1908.03265): Adam without a warm-up, since `rectification` shortens its first steps.

    $$\Delta = -\,\mathrm{lr}\; r_t\, \frac{\hat m}{\sqrt{\hat v} + \mathrm{eps}} \ \text{ if } r_t > 0,
      \qquad \Delta = -\,\mathrm{lr}\; \hat m \ \text{ otherwise}$$

    **Arguments:** those of `adam`, except that b2 must be a number; `threshold`: as in `rectification`.

    **Raises:** as `adam`; `ValueError` if b2 is 0 or `threshold` is below 4.
    """
    rectify = rectification(b2, threshold)
    return named_adam("radam", learning_rate, b1, b2, eps, 0.0, None, mu_dtype, rectify=rectify)
