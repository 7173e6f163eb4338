"""Schedule-free optimization: gradients between the live and the averaged parameters. And its relatives."""

from typing import Literal

import optax

from optim.adam import named_adam, rectification
from optim.averaging import Coefficient, average
from optim.checks import FLAG, FRACTION, INSIDE, NOT_NEGATIVE, POWER, SHARE, as_named, checked, checked_or_schedules
from optim.coefficients import Weights, polyak, weighted
from optim.numerics import is_zero
from optim.rules import Mask, decay_mask
from optim.sgd import sgd
from schedules import Schedule, ScheduleLike, advance, as_schedule, linear
from schedules.kinds import INDEX, POSITIVE


def schedule_free(
    base: optax.GradientTransformation,
    coefficient: Coefficient | Weights | None = None,
    beta: ScheduleLike = 0.9,
    decay_at: Literal["y", "z"] = "y",
    lean: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Schedule-free optimization (Defazio et al., *The Road Less Scheduled*, arXiv:2405.15682) with any base.

    $$z \leftarrow z + \mathrm{base}(\nabla f(y)), \qquad x \leftarrow (1 - c_t)\, x + c_t\, z, \qquad
      y \leftarrow (1 - \beta)\, z + \beta\, x$$

    The parameters the caller holds are y. Evaluate, save and deploy x, which is
    `eval_params(opt_state, params)`.

    **Arguments:** `base`: a transformation without momentum of its own, such as `adam(lr, b1=0)`, since
    beta takes its place; `coefficient`: `polyak()` unless given, as in the paper's theory, or `ema(decay)`, or
    `weighted(lr)` as in its code; `beta`: a number or a schedule; `decay_at` and `lean` as of `average`.

    **Raises:** `ValueError` if beta is a number outside [0, 1]; and as `average`.
    """
    checked_or_schedules("schedule_free", SHARE, beta=beta)
    return average(base, polyak() if coefficient is None else coefficient, beta, decay_at, lean)


def schedule_free_sgd(
    learning_rate: ScheduleLike = 1.0,
    beta: ScheduleLike = 0.9,
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
    mask: Mask | None = None,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    lean: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free SGD as its authors release it: warm-up (t + 1) / warmup_steps for step and weight, L2 decay at y.

    The rate wants to be 10 to 50 times that of SGD. `mask` is true where weights decay, as of `adamw`.

    Source: github.com/facebookresearch/schedule_free, `SGDScheduleFree`; arXiv:2405.15682.

    **Raises:** `ValueError` if a number is out of its range, such as a negative rate; and as `average`.
    """
    name = "schedule_free_sgd"
    _require(name, learning_rate, beta, r, weight_lr_power, lean)
    checked(name, INDEX, warmup_steps=warmup_steps)
    checked_or_schedules(name, NOT_NEGATIVE, weight_decay=weight_decay)
    lr = warmed(learning_rate, warmup_steps)
    mask = decay_mask(name, mask)
    base = sgd(lr) if is_zero(weight_decay) else optax.chain(optax.add_decayed_weights(weight_decay, mask), sgd(lr))
    return average(base, weighted(lr, r, weight_lr_power), beta, lean=lean)


def schedule_free_adamw(
    learning_rate: ScheduleLike = 0.0025,
    beta: ScheduleLike = 0.9,
    b2: ScheduleLike = 0.999,
    eps: ScheduleLike = 1e-8,
    warmup_steps: int = 0,
    weight_decay: ScheduleLike = 0.0,
    mask: Mask | None = None,
    decay_at: Literal["y", "z"] = "y",
    inner_momentum: ScheduleLike = 0.0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    scale: float = 1.0,
    lean: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free AdamW as its authors release it since version 1.3.

    The rate wants to be 1 to 10 times that of AdamW. `inner_momentum` is a first moment inside the base, 0.9 where
    used; `mask` is true where weights decay, as of `adamw`; `scale` other than 1 is the refinement of
    arXiv:2507.09846, C (1 - beta).

    Source: github.com/facebookresearch/schedule_free, `AdamWScheduleFree`; arXiv:2405.15682.

    **Raises:** `ValueError` if a number is out of its range, such as a negative rate; and as `average`.
    """
    name = "schedule_free_adamw"
    _require(name, learning_rate, beta, r, weight_lr_power, lean)
    checked(name, INDEX, warmup_steps=warmup_steps)
    checked(name, POSITIVE, scale=scale)
    checked_or_schedules(name, FRACTION, inner_momentum=inner_momentum)
    lr = warmed(learning_rate, warmup_steps)
    base = named_adam(name, lr, inner_momentum, b2, eps, weight_decay, mask)
    return average(base, weighted(lr, r, weight_lr_power, scale), beta, decay_at, lean)


def schedule_free_radam(
    learning_rate: ScheduleLike = 0.0025,
    beta: ScheduleLike = 0.9,
    b2: float = 0.999,
    eps: ScheduleLike = 1e-8,
    weight_decay: ScheduleLike = 0.0,
    mask: Mask | None = None,
    silent: bool = True,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    lean: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free RAdam, which needs no warm-up: its rate is multiplied by `rectification(b2, 4.0)`.

    While that is not defined nothing moves (`silent`), or z takes steps of plain SGD. `mask` is true where weights
    decay, as of `adamw`.

    Source: github.com/facebookresearch/schedule_free, `RAdamScheduleFree`.

    **Raises:** `ValueError` if a number is out of its range, such as a negative rate; and as `average`.
    """
    name = "schedule_free_radam"
    _require(name, learning_rate, beta, r, weight_lr_power, lean)
    checked(name, INSIDE, b2=b2)
    checked(name, FLAG, silent=silent)
    rate = as_named(name, "learning_rate", learning_rate)
    rectified = rate * rectification(b2, 4.0, 0.0 if silent else 1.0)
    lr, rectify = (rectified, None) if silent else (rate, rectification(b2, 4.0))
    base = named_adam(name, lr, 0.0, b2, eps, weight_decay, mask, rectify=rectify)
    return average(base, weighted(rectified, r, weight_lr_power), beta, lean=lean)


def gpa(
    base: optax.GradientTransformation, mu_x: ScheduleLike = 0.9967, mu_y: ScheduleLike = 0.7, lean: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""Generalized primal averaging (arXiv:2512.17131): an exponential x, gradients at mu_y x + (1 - mu_y) z.

    $$z \leftarrow z + \mathrm{base}(\nabla f(y)), \qquad x \leftarrow \mu_x\, x + (1 - \mu_x)\, z, \qquad
      y \leftarrow \mu_y\, x + (1 - \mu_y)\, z$$

    The base keeps its schedule and decays z. Settings: mu_x = 0 is the base itself; mu_x = m, mu_y = 1 with the rate
    lr / (1 - m) is heavy-ball momentum m, with x its iterate; mu_x = mu_y = m with the same rate is Nesterov's, with y.
    mu_x = 0.9^(1/H) does the work of H local steps of DiLoCo.

    **Raises:** `ValueError` if mu_x is a number outside [0, 1), or mu_y outside [0, 1].
    """
    (momentum,) = checked_or_schedules("gpa", FRACTION, mu_x=mu_x)
    checked_or_schedules("gpa", SHARE, mu_y=mu_y)
    return average(base, as_schedule(1 - momentum), mu_y, decay_at="z", lean=lean)


def warmed(learning_rate: ScheduleLike, warmup_steps: int) -> Schedule:
    """The rate times (t + 1) / warmup_steps: the warm-up of the schedule-free reference, whose first step counts.

    **Raises:** `ValueError` unless the rate is a number or a schedule and `warmup_steps` a whole number, 0 or more.
    """
    rate = as_named("warmed", "learning_rate", learning_rate)
    (warmup_steps,) = checked("warmed", INDEX, warmup_steps=warmup_steps)
    return rate if is_zero(warmup_steps) else rate * advance(linear(0.0, 1.0, warmup_steps), 1)


def _require(
    name: str, learning_rate: ScheduleLike, beta: ScheduleLike, r: float, weight_lr_power: float, lean: bool
) -> None:
    """That the numbers which all presets have are in range, by the name of the preset and not of what it is made of."""
    checked_or_schedules(name, NOT_NEGATIVE, learning_rate=learning_rate)
    checked_or_schedules(name, SHARE, beta=beta)
    checked(name, POWER, r=r, weight_lr_power=weight_lr_power)
    checked(name, FLAG, lean=lean)
