"""A noisy quadratic in a hundred directions, on which the expected loss of every arm is exact.

- Curvatures 1 / i²: without noise the loss falls about as the inverse root of the sum of the rates. Losses of language
  models fall by such a power law too: the exponent is fitted as 0.43 for the largest model of arXiv:2503.12811.
- Noise of variance h: gradients of single examples have it near the optimum of a model that can fit them, where their
  covariance is the Hessian.
- The same distance from the minimum in all directions, one that makes losses percents of that at the start.
- 10,000 updates: the inverse of the lowest curvature. In the flattest directions something is left to learn.
- The peak rate is the best constant rate in powers of 2, by the rule of the published experiment.

The spectrum of arXiv:1907.04164, 1 / i, was tried first. docs/experiments.md says what the arms do on it, which was
known when this one was chosen. Of this one, four variants of directions and noise were looked at; it is the first.
"""

import numpy as np

from experiments.tasks.task import Exact
from theory import Quadratic, quadratic


def problem() -> Quadratic:
    h = np.arange(1, 101) ** -2.0
    unit = np.sqrt(2 * 100 / h.sum())  # of distances: the loss at the start is 100
    return quadratic(h, noise=unit * np.sqrt(h), start=unit)


QUADRATIC = Exact(
    name="quadratic",
    about="is a noisy quadratic, whose expected losses are computed exactly in seconds",
    title="Noisy quadratic, losses in % of the first",
    problem=problem,
    learning_rate=1 / 32,
    steps=10_000,
)
