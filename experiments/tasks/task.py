"""Declares what a task is: a data set, a model and suitable settings; or a quadratic with exact expected losses."""

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
    """What all tasks declare. Numbers are the defaults of the options with the same name.

    `about`: its description in --help; `steps`: the number of updates.
    """

    name: str
    about: str
    learning_rate: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class Sampled(Task):
    """A task that is trained on batches of data.

    `load` and `title`: functions from the folder or file of `--data`, or None, to the data and to their name in
    results; `model`: maps images in [0, 1], and whether to evaluate without dropout, to logits.
    """

    title: Callable[[Path | None], str]
    load: Callable[[Path | None], Dataset]
    model: nn.Module
    batch_size: int
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Exact(Task):
    """A task on which the expected losses of arms are computed, without sampling, batches or seeds.

    `title`: its name in results; `problem`: a function that makes it, called only when needed, since it needs a device.
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
