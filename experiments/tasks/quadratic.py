"""A noisy quadratic in a hundred directions, on which the expected loss of every arm is computed exactly.

- Curvatures 1 / i²: without noise, the loss falls about as the inverse square root of the sum of the rates. Losses of
  language models fall by such a power law too: the fitted exponent of the largest model of arXiv:2503.12811 is 0.43.
- Noise with variance h, as in gradients of single examples near the optimum of a model that can fit them, where their
  covariance is the Hessian.
- The same distance from the minimum in all directions, chosen so that losses are in percent of the loss at the start.
- 10,000 updates, the inverse of the lowest curvature, so that something is left to learn in the flattest directions.
- The peak rate is the best constant rate in powers of 2, by the rule of the published experiment.

We first tried the spectrum of arXiv:1907.04164, 1 / i, and knew the results when we chose this one; they are in
docs/experiments.md. We looked at four variants of directions and noise of this spectrum; this is the first.
"""

import numpy as np

from experiments.tasks.task import Exact
from theory import Quadratic, quadratic


def problem() -> Quadratic:
    h = np.arange(1, 101) ** -2.0
    unit = np.sqrt(2 * 100 / h.sum())  # the distance with which the loss at the start is 100
    return quadratic(h, noise=unit * np.sqrt(h), start=unit)


QUADRATIC = Exact(
    name="quadratic",
    about="is a noisy quadratic, whose expected losses are computed exactly in seconds",
    title="Noisy quadratic, losses in % of the first",
    problem=problem,
    learning_rate=1 / 32,
    steps=10_000,
)
