"""Laws of loss curves: formulas for the loss from all learning rates so far."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from typing_extensions import TypeAliasType

from schedules.arguments import checked
from schedules.kinds import Kind, require
from schedules.numerics import MAX_STEPS
from theory.rate_changes import Changes, every_change, grouped
from theory.rates import Rates, rates_of, require_usual

__all__ = ["LossLaw", "MultiPower", "Annealing"]

TO_PREDICT = 0.03  # the width within which changes of the rate are grouped


class OfUpdates(Kind):
    """A number of updates, or an array of them."""

    expected = f"a number of updates from 1 to {MAX_STEPS}, or an array of them"

    def build(self, value: Any) -> np.ndarray:
        require(value, not isinstance(value, jax.core.Tracer))
        updates = np.asarray(value)
        require(value, updates.size > 0 and updates.ndim < 2 and np.issubdtype(updates.dtype, np.integer))
        require(value, updates.min() >= 1 and updates.max() <= MAX_STEPS)
        return updates.astype(np.int64)


Updates = TypeAliasType("Updates", Annotated[int | Sequence[int] | np.ndarray | Array, OfUpdates()])


@dataclasses.dataclass(frozen=True)
class LossLaw:
    """The base class of the laws. All parameters are positive numbers; a law is a pytree of them.

    A law is linear in the parameters that `linear` names. A few curves hardly determine the exponents that `shrunk`
    names.
    """

    linear: ClassVar[tuple[str, ...]]
    shrunk: ClassVar[tuple[str, ...]] = ()

    def loss(self, changes: Changes) -> Array:
        """The loss at each point, from the changes of the rate before it."""
        raise NotImplementedError

    @classmethod
    def starts(cls, area: float, updates: int) -> list[Self]:
        """Laws to start a fit from, for a run with `area` as the sum of its rates.

        `fit` replaces their linear parameters.
        """
        raise NotImplementedError

    @checked
    def predict(self, lr: Rates, steps: Updates) -> Array:
        """The loss after `steps` updates at the rates of `lr`.

        It is accurate to 1e-6. It has first derivatives (`jax.grad`), but no second ones, with respect to the numbers
        of a schedule, an array of rates and the law. Under tracing, the time for each of `steps` is proportional to
        that number of updates.

        If you choose a schedule by it, keep the warm-up and the peak of the fitted curves. The laws do not know at
        which rate training diverges. And the first rate does not count as a rise from 0, so that without a warm-up a
        higher first rate, and the drop from it, cost nothing.

        **Arguments:** `lr`: a schedule, or an array with the rate of each update; `steps`: a number of updates, 1 or
        more, or an array of them.

        **Returns:** an array of the default dtype with the shape of `steps`, computed in float64.

        **Raises:** `ValueError` if `lr` or `steps` is not as above, or if an array `lr` is shorter than the largest of
        `steps`.
        """
        dtype = jnp.result_type(float)
        with jax.enable_x64(True):
            return losses_after(self, lr, np.asarray(steps)).astype(dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MultiPower(LossLaw):
    r"""The multi-power law of loss curves.

    $$L(t) = L_0 + A\, S(t)^{-\alpha}
      - B \sum_{k=1}^{t} (\eta_{k-1} - \eta_k) \Big(1 - \big(1 + C\, \eta_k^{-\gamma} S_k(t)\big)^{-\beta}\Big)$$

    $S(t)$ is the sum of all rates so far, and $S_k(t)$ the sum of the rates from update k on; both include the latest
    rate. Each drop of the rate lowers the loss, by more the longer training goes on after it. The rises of a warm-up
    count as negative drops, so parameters that were fitted to runs with a warm-up describe runs with a warm-up.

    Units: $L_0$ and $A S^{-\alpha}$ are losses; $B$ is a loss divided by a rate. With all rates multiplied by s, the
    same losses result from $A s^{\alpha}$, $B / s$ and $C s^{\gamma - 1}$.

    Source: Luo et al., *A multi-power law for loss curve prediction across learning rate schedules*, arXiv:2503.12811.
    """

    L0: float
    A: float
    alpha: float
    B: float
    C: float
    beta: float
    gamma: float

    linear: ClassVar = ("L0", "A", "B")
    shrunk: ClassVar = ("beta", "gamma")

    def loss(self, changes: Changes) -> Array:
        growth = self.C * changes.rate**-self.gamma * changes.area_since
        gained = -jnp.expm1(-self.beta * jnp.log1p(growth))
        return self.L0 + self.A * changes.area**-self.alpha - self.B * jnp.sum(changes.drop * gained, axis=-1)

    @classmethod
    def starts(cls, area: float, updates: int) -> list[Self]:
        # After this share of the run, a drop has made 1 - 1 / sqrt(2) of its final gain.
        shares = (1e-3, 1e-2, 1e-1)
        return [cls(1.0, 1.0, 0.5, 1.0, (area / updates) ** 0.5 / (share * area), 0.5, 0.5) for share in shares]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Annealing(LossLaw):
    r"""The law of loss curves with annealing.

    $$L(t) = L_0 + A\, S(t)^{-\alpha} - C \sum_{i=1}^{t} \sum_{k=1}^{i} (\eta_{k-1} - \eta_k)\, \lambda^{i-k},
      \qquad \lambda = e^{-1 / \mathrm{window}}$$

    $S(t)$ is the sum of all rates so far. A drop of the rate makes most of its gain within about `window` updates. The
    rises of a warm-up count as negative drops; the authors assume that the rate is at its peak from the first update.

    Units: $L_0$ and $A S^{-\alpha}$ are losses; $C$ is a loss divided by a rate and a number of updates; `window` is a
    number of updates.

    Source: Tissue et al., *Scaling law with learning rate annealing*, arXiv:2408.11029.
    """

    L0: float
    A: float
    alpha: float
    C: float
    window: float

    linear: ClassVar = ("L0", "A", "C")

    def loss(self, changes: Changes) -> Array:
        gained = jnp.expm1(-changes.updates_since / self.window) / jnp.expm1(-1 / self.window)
        return self.L0 + self.A * changes.area**-self.alpha - self.C * jnp.sum(changes.drop * gained, axis=-1)

    @classmethod
    def starts(cls, area: float, updates: int) -> list[Self]:
        return [cls(1.0, 1.0, 0.5, 1.0, share * updates) for share in (1e-2, 3e-2, 1e-1)]


def losses_after(law: LossLaw, lr: Any, steps: np.ndarray) -> Array:
    """The losses that a law predicts after each of `steps` updates."""
    rates = read_rates("predict", lr, int(steps.max()))
    if isinstance(rates, jax.core.Tracer):
        return jax.lax.map(lambda t: law.loss(every_change(rates, t)), jnp.ravel(steps)).reshape(steps.shape)
    return _loss(law, grouped(np.asarray(rates), np.ravel(steps), TO_PREDICT)).reshape(steps.shape)


@jax.jit
def _loss(law: LossLaw, changes: Changes) -> Array:
    return law.loss(changes)


def read_rates(owner: str, lr: Any, steps: int) -> Array:
    """The rates of the first `steps` updates, in the default dtype: float64 in an `enable_x64` context.

    **Raises:** `ValueError` if there are too few rates, or if one is negative or not finite.
    """
    if isinstance(lr, Array) and len(lr) < steps:
        raise ValueError(f"{owner}: `steps` must be at most {len(lr)}, the number of rates in `lr`, got {steps}")
    rates = rates_of(owner, lr[:steps] if isinstance(lr, Array) else lr, steps).astype(float)
    require_usual(owner, "lr", rates, sometimes_positive=False)
    return rates
