"""Schedule-free optimization: gradients between the live and the averaged parameters."""

import optax

from optim.averaging import average, polyak
from schedules import ScheduleLike


def schedule_free(
    base: optax.GradientTransformation, coefficient: ScheduleLike | None = None, beta: ScheduleLike = 0.9
) -> optax.GradientTransformationExtraArgs:
    r"""Schedule-free optimization (Defazio et al., *The Road Less Scheduled*, arXiv:2405.15682) with any base.

    $$z \leftarrow z + \mathrm{base}(\nabla f(y)), \qquad x \leftarrow (1 - c_t)\, x + c_t\, z, \qquad
      y \leftarrow (1 - \beta)\, z + \beta\, x$$

    The parameters the caller holds are y. Evaluate, save and deploy x, which is
    `eval_params(opt_state, params)`.

    **Arguments:** `base`: a transformation without momentum of its own, such as `adam(lr, b1=0)`, since
    beta takes its place; `coefficient`: `polyak()` unless given, as in the paper's theory, or `ema(decay)`;
    `beta`: a number or a schedule.
    """
    return average(base, polyak() if coefficient is None else coefficient, beta)
