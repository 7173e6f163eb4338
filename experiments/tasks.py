"""What is trained: a data set, a model and the settings that suit them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments.data import DataError, Dataset, cifar10, digits
from experiments.model import TinyViT


@dataclass(frozen=True)
class Task:
    """Defaults for one data set; lengths are in updates. `title` says with `{copy}` where data are a lossy copy."""

    title: str
    load: Callable[[Path | None], Dataset]
    model: TinyViT
    learning_rate: float
    batch_size: int
    steps: int
    seeds: int


def _digits(directory: Path | None) -> Dataset:
    if directory:
        raise DataError(f"--data is for the task cifar10: digits come with scikit-learn, got {directory}")
    return digits()


TASKS = {
    # Small enough for two CPU cores, noisy enough that what the noise averages out to can be seen.
    "digits": Task(
        "8x8 digits",
        _digits,
        TinyViT(patch_size=2, features=16, layers=1, heads=4, dropout=0.05),
        learning_rate=1.4e-2,
        batch_size=24,
        steps=2_400,
        seeds=3,
    ),
    # The published experiment at a size that two CPU cores carry: a smaller network and batch, a fifth of the run.
    "cifar10-small": Task(
        "CIFAR-10{copy}, small",
        cifar10,
        TinyViT(features=64, layers=2, heads=4, dropout=0.1),
        learning_rate=1e-3,
        batch_size=64,
        steps=20_000,
        seeds=5,
    ),
    # The published setting: Adam 1e-3, batch 128, 100,000 updates.
    "cifar10": Task("CIFAR-10{copy}", cifar10, TinyViT(), learning_rate=1e-3, batch_size=128, steps=100_000, seeds=1),
}

EVALUATIONS = 20  # of the validation set, evenly over the run: among them its quarters and its tenths


def evaluations(steps: int) -> int:
    """Fewer for a short run, which is not to be spent on validation."""
    return EVALUATIONS if steps >= 25 * EVALUATIONS else 4
