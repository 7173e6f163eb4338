"""Handwritten digits, small enough for two CPU cores, and noisy enough to show the effect of averaging."""

from pathlib import Path

import numpy as np

from experiments.tasks.task import DataError, Dataset, Sampled, imported
from experiments.tasks.vision_transformer import TinyViT


def digits(data: Path | None = None) -> Dataset:
    """The 1,797 handwritten 8x8 digits that come with scikit-learn. A fixed fifth of them is the validation set.

    **Raises:** `DataError` if scikit-learn is not installed, or other data are given.
    """
    if data:
        raise DataError(f"--data is for the task cifar10: digits come with scikit-learn, got {data}")
    datasets = imported("sklearn.datasets", "scikit-learn", "the digits come with scikit-learn")
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order].astype(np.int32)
    valid = len(labels) // 5
    return Dataset(images[valid:], labels[valid:], images[:valid], labels[:valid])


DIGITS = Sampled(
    name="digits",
    about="comes with scikit-learn",
    title=lambda data: "8x8 digits",
    load=digits,
    model=TinyViT(patch_size=2, features=16, layers=1, heads=4, dropout=0.05),
    learning_rate=1.4e-2,
    batch_size=24,
    steps=2_400,
    seeds=3,
)
