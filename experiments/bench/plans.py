"""The comparison with hardly any data, since what an update costs does not depend on how much there is."""

from collections.abc import Sequence

import numpy as np
from flax import linen as nn

from experiments.engine.plan import Plan
from experiments.studies.published import published
from experiments.studies.study import Arm
from experiments.tasks.task import Dataset


def little(model: nn.Module, batch_size: int, steps: int = 100_000, arms: Sequence[Arm] = ()) -> Plan:
    """One seed of `arms`, by default of the 13 published ones, on images of the size of CIFAR-10."""
    images, labels = np.zeros((16, 32, 32, 3), np.uint8), np.zeros(16, np.int32)
    data = Dataset(images, labels, images, labels)
    return Plan("", model, data, (0,), batch_size, arms=arms or published(1e-3, steps), steps=steps)
