"""The data sets: arrays read without ever loading a pickle."""

import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
VALID_FILES = ("test_batch.bin",)
RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes of 32 x 32


class Dataset(NamedTuple):
    """Images (count, height, width, channels) of uint8 and labels (count,) of int32."""

    train_images: np.ndarray
    train_labels: np.ndarray
    valid_images: np.ndarray
    valid_labels: np.ndarray


class DataError(Exception):
    """Data that cannot be used; the message says what to do."""


def digits() -> Dataset:
    """The 1,797 handwritten 8x8 digits that come with scikit-learn; one in five, always the same, validates."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order].astype(np.int32)
    valid = len(labels) // 5
    return Dataset(images[valid:], labels[valid:], images[:valid], labels[:valid])


def cifar10(directory: Path | None = None, url: str = URL, sha256: str = SHA256) -> Dataset:
    """CIFAR-10 from its binary version, in `directory` or downloaded once to the user's cache.

    **Raises:** `DataError` if a file is missing, truncated or not what it should be.
    """
    files = _from_directory(directory) if directory else _from_archive(_download(url, sha256))
    sizes = {name: len(content) for name, content in files.items()}
    if len(set(sizes.values())) > 1 or min(sizes.values()) == 0 or max(sizes.values()) % RECORD:
        found = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        raise DataError(
            f"the CIFAR-10 files must all be of one size, a multiple of {RECORD:,} bytes, but have (in bytes) {found}: "
            "a copy is truncated or is not the binary version; fetch it again"
        )
    return Dataset(*_records(files, TRAIN_FILES), *_records(files, VALID_FILES))


def _from_directory(directory: Path) -> dict[str, bytes]:
    folder = directory / FOLDER if (directory / FOLDER).is_dir() else directory
    try:
        return {name: (folder / name).read_bytes() for name in TRAIN_FILES + VALID_FILES}
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}): --data must be the folder that holds "
            f"{FOLDER}/data_batch_1.bin to test_batch.bin, from {URL}"
        ) from None


def _download(url: str, sha256: str) -> Path:
    import pooch

    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", path=pooch.os_cache("pure-schedules"), progressbar=True))
    except ValueError:
        problem = "what came is not the data set: its SHA-256 differs, as after an interrupted or altered download"
    except OSError as error:  # requests' errors are OSErrors
        problem = f"{type(error).__name__}"
    raise DataError(
        f"CIFAR-10 could not be downloaded from {url} ({problem}): try again, or fetch it otherwise, unpack it and "
        "pass its folder with --data"
    )


def _from_archive(archive: Path) -> dict[str, bytes]:
    # Only the expected members are read, into memory: whatever else an archive holds is never written.
    try:
        with tarfile.open(archive) as tar:
            members = {name: tar.extractfile(f"{FOLDER}/{name}") for name in TRAIN_FILES + VALID_FILES}
            return {name: member.read() for name, member in members.items() if member}
    except (KeyError, tarfile.TarError, EOFError):
        raise DataError(f"{archive} is not the binary version of CIFAR-10: delete it and try again") from None


def _records(files: dict[str, bytes], names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    records = np.concatenate([np.frombuffer(files[name], np.uint8).reshape(-1, RECORD) for name in names])
    labels = records[:, 0].astype(np.int32)
    if labels.max() > 9:
        raise DataError(f"a CIFAR-10 label must be from 0 to 9, got {labels.max()}: this is not the binary version")
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy(), labels
