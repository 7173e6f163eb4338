"""What a task is: a data set, a model and the settings that suit them; or a quadratic, on which all follows exactly."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from experiments.errors import UserError
from theory import Quadratic


class Dataset(NamedTuple):
    """Images (count, height, width, channels) of uint8 and labels (count,) of int32."""

    train_images: np.ndarray
    train_labels: np.ndarray
    valid_images: np.ndarray
    valid_labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all tasks declare; every number is what an option of the same name is without it.

    `about`: what the help says of it; `steps`: updates.
    """

    name: str
    about: str
    learning_rate: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class Sampled(Task):
    """One that is trained on batches of data.

    `load`: the data, `title`: what results call them, both for the folder or file of `--data`, if there is one;
    `model`: images in [0, 1] and whether they are evaluated -> logits.
    """

    title: Callable[[Path | None], str]
    load: Callable[[Path | None], Dataset]
    model: nn.Module
    batch_size: int
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Exact(Task):
    """One on which the expected losses of arms are computed: nothing is drawn, so there are no batches and no seeds.

    `title`: what results call it; `problem`: made when it is asked for, since it needs a device.
    """

    title: str
    problem: Callable[[], Quadratic]


class DataError(UserError):
    """Data that cannot be used; the message says what to do."""


def imported(module: str, package: str, why: str) -> Any:
    """**Raises:** `DataError` if the package is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(f"{why}, which must be installed: pip install {package}") from None
