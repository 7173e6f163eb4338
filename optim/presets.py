"""Schedule-free optimizers and their relatives: gradients are taken between the raw and the averaged parameters."""

from typing import Literal

import optax

from optim.adaptive import named_adam, rectification
from optim.averaging import Coefficient, average
from optim.checks import Base, FractionLike, Inside, NotNegativeLike, ShareLike, UpTo4
from optim.coefficients import polyak, weighted
from optim.momentum import sgd
from optim.numerics import complement, is_zero
from optim.rules import Mask, decay_mask
from schedules import Schedule, ScheduleLike, advance, as_schedule, linear
from schedules.arguments import checked
from schedules.kinds import Index, Positive

__all__ = ["schedule_free", "schedule_free_sgd", "schedule_free_adamw", "schedule_free_radam", "gpa", "warmed"]


@checked
def schedule_free(
    base: Base,
    coefficient: Coefficient | None = None,
    beta: ShareLike = 0.9,
    decay_at: Literal["y", "z"] = "y",
    lean: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Schedule-free optimization (Defazio et al., *The Road Less Scheduled*, arXiv:2405.15682) with any base.

    $$z \leftarrow z + \mathrm{base}(\nabla f(y)), \qquad x \leftarrow (1 - c_t)\, x + c_t\, z, \qquad
      y \leftarrow (1 - \beta)\, z + \beta\, x$$

    Your training loop holds y, the parameters where gradients are taken. Evaluate, save and deploy x, the average:
    `eval_params(opt_state, params)`.

    **Arguments:** `base`: a transformation without momentum, such as `adam(lr, b1=0)`, since beta replaces it;
    `coefficient`: by default `polyak()`, as in the paper's theory; or `weighted(lr)`, as in its code, or `ema(decay)`;
    `beta`: a number or a schedule; `decay_at` and `lean`: as in `average`.

    **Raises:** `ValueError` if beta is a number outside [0, 1]; and as `average`.
    """
    return average(base, polyak() if coefficient is None else coefficient, beta, decay_at, lean)


@checked
def schedule_free_sgd(
    learning_rate: NotNegativeLike = 1.0,
    beta: ShareLike = 0.9,
    warmup_steps: Index = 0,
    weight_decay: NotNegativeLike = 0.0,
    mask: Mask | None = None,
    r: UpTo4 = 0.0,
    weight_lr_power: UpTo4 = 2.0,
    lean: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free SGD, equal to its authors' release: rate with warm-up (t + 1) / warmup_steps, L2 decay at y.

    Use a rate that is 10 to 50 times that of SGD. `mask` is true where weights decay, as in `adamw`. `r` and
    `weight_lr_power`: as in `weighted`.

    Source: github.com/facebookresearch/schedule_free, `SGDScheduleFree`; arXiv:2405.15682.

    **Raises:** `ValueError` if a number is out of its range, such as a negative rate; and as `average`.
    """
    name = "schedule_free_sgd"
    lr = warmed(learning_rate, warmup_steps)
    mask = decay_mask(name, mask)
    base = sgd(lr) if is_zero(weight_decay) else optax.chain(optax.add_decayed_weights(weight_decay, mask), sgd(lr))
    return average(base, weighted(lr, r, weight_lr_power), beta, lean=lean)


@checked
def schedule_free_adamw(
    learning_rate: NotNegativeLike = 0.0025,
    beta: ShareLike = 0.9,
    b2: FractionLike = 0.999,
    eps: NotNegativeLike = 1e-8,
    warmup_steps: Index = 0,
    weight_decay: NotNegativeLike = 0.0,
    mask: Mask | None = None,
    decay_at: Literal["y", "z"] = "y",
    inner_momentum: FractionLike = 0.0,
    r: UpTo4 = 0.0,
    weight_lr_power: UpTo4 = 2.0,
    scale: Positive = 1.0,
    lean: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free AdamW, equal to its authors' release since version 1.3.

    Use a rate that is 1 to 10 times that of AdamW. `inner_momentum` is b1 of the base optimizer; the usual value, if it
    is used, is 0.9. `mask` is true where weights decay, as in `adamw`. `scale`: 1, or C (1 - beta) for the refinement
    of arXiv:2507.09846, with the C of that paper. `r` and `weight_lr_power`: as in `weighted`.

    Source: github.com/facebookresearch/schedule_free, `AdamWScheduleFree`; arXiv:2405.15682.

    **Raises:** `ValueError` if a number is out of its range, such as a negative rate; and as `average`.
    """
    name = "schedule_free_adamw"
    lr = warmed(learning_rate, warmup_steps)
    base = named_adam(name, lr, inner_momentum, b2, eps, weight_decay, mask)
    return average(base, weighted(lr, r, weight_lr_power, scale), beta, decay_at, lean)


@checked
def schedule_free_radam(
    learning_rate: NotNegativeLike = 0.0025,
    beta: ShareLike = 0.9,
    b2: Inside = 0.999,
    eps: NotNegativeLike = 1e-8,
    weight_decay: NotNegativeLike = 0.0,
    mask: Mask | None = None,
    silent: bool = True,
    r: UpTo4 = 0.0,
    weight_lr_power: UpTo4 = 2.0,
    lean: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free RAdam, which needs no warm-up: its rate is multiplied by `rectification(b2, 4.0)`.

    In the first few updates, where this factor is not defined, nothing moves (`silent=True`), or z takes steps of SGD
    (`silent=False`). `mask` is true where weights decay, as in `adamw`. `r` and `weight_lr_power`: as in `weighted`.

    Source: github.com/facebookresearch/schedule_free, `RAdamScheduleFree`.

    **Raises:** `ValueError` if a number is out of its range, such as a negative rate; and as `average`.
    """
    name = "schedule_free_radam"
    rate = as_schedule(learning_rate)
    rectified = rate * rectification(b2, 4.0, 0.0 if silent else 1.0)
    lr, rectify = (rectified, None) if silent else (rate, rectification(b2, 4.0))
    base = named_adam(name, lr, 0.0, b2, eps, weight_decay, mask, rectify=rectify)
    return average(base, weighted(rectified, r, weight_lr_power), beta, lean=lean)


@checked
def gpa(
    base: Base, mu_x: FractionLike = 0.9967, mu_y: ShareLike = 0.7, lean: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""Generalized primal averaging (arXiv:2512.17131): x is an exponential average, gradients are taken at y.

    $$z \leftarrow z + \mathrm{base}(\nabla f(y)), \qquad x \leftarrow \mu_x\, x + (1 - \mu_x)\, z, \qquad
      y \leftarrow \mu_y\, x + (1 - \mu_y)\, z$$

    Use the base with its usual schedule; its weight decay acts on z. Special cases:

    - mu_x = 0: the base itself.
    - mu_x = m and mu_y = 1, with the rate lr / (1 - m): heavy-ball momentum m, where x is the iterate.
    - mu_x = mu_y = m, with the same rate: Nesterov momentum, where y is the iterate.
    - mu_x = 0.9^(1/H): takes the place of DiLoCo with H local steps.

    **Raises:** `ValueError` if mu_x is a number outside [0, 1), or mu_y outside [0, 1].
    """
    return average(base, as_schedule(complement(mu_x)), mu_y, decay_at="z", lean=lean)


@checked
def warmed(learning_rate: ScheduleLike, warmup_steps: Index) -> Schedule:
    """The rate times (t + 1) / warmup_steps until this is 1: the warm-up of the schedule-free reference code.

    **Raises:** `ValueError` unless the rate is a number or a schedule and `warmup_steps` a whole number, 0 or more.
    """
    rate = as_schedule(learning_rate)
    return rate if is_zero(warmup_steps) else rate * advance(linear(0.0, 1.0, warmup_steps), 1)
