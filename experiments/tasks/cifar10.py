"""CIFAR-10, at the published size and at a size for two CPU cores. Files are read without ever loading a pickle."""

import io
import itertools
import tarfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import reason
from experiments.files import read_arrays, read_bytes
from experiments.tasks.task import DataError, Dataset, Sampled, imported
from experiments.tasks.vision_transformer import TinyViT

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
VALID_FILES = ("test_batch.bin",)
RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes of 32 x 32
MOST = 100_000 * RECORD  # bytes of one file, which has 10,000 images in the published data set


def cifar10(path: Path | None = None, url: str = URL, sha256: str = SHA256) -> Dataset:
    """CIFAR-10 from its binary version, in a folder or downloaded once to the user's cache, or from a packed JPEG copy.

    **Raises:** `DataError` if a file is missing, truncated or not of CIFAR-10.
    """
    if path is None:
        files = _from_archive(_download(url, sha256))
    else:
        files = _from_jpegs(path) if is_jpeg_copy(path) else _from_directory(path)
    sizes = {name: len(content) for name, content in files.items()}
    if len(set(sizes.values())) > 1 or min(sizes.values()) == 0 or max(sizes.values()) % RECORD:
        found = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        raise DataError(
            f"the CIFAR-10 files must all have the same size, a multiple of {RECORD:,} bytes, got {found} bytes: "
            "a copy is truncated or is not the binary version; fetch it again"
        )
    return Dataset(*_records(files, TRAIN_FILES), *_records(files, VALID_FILES))


def _from_directory(directory: Path) -> dict[str, bytes]:
    folder = directory / FOLDER if (directory / FOLDER).is_dir() else directory
    try:
        return {name: read_bytes(folder / name, MOST) for name in TRAIN_FILES + VALID_FILES}
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}): --data must be the folder that holds "
            f"{FOLDER}/data_batch_1.bin to test_batch.bin, from {URL}"
        ) from None


def is_jpeg_copy(path: Path | None) -> bool:
    """Whether `path` is a file of packed JPEG images, whose pixels differ slightly from the data set."""
    return path is not None and path.suffix == ".npz"


def _from_jpegs(path: Path) -> dict[str, bytes]:
    """The files of the binary version, made from images that are packed as arrays.

    `header + payload[offsets[i]:offsets[i + 1]]` is the i-th JPEG file. The last sixth is the validation set."""
    pillow = imported("PIL.Image", "pillow", f"the images of {path} are read by Pillow")
    try:
        packed = read_arrays(path)
        header, payload = packed["header"].tobytes(), packed["payload"].tobytes()
        offsets, labels = packed["offsets"].tolist(), packed["labels"].astype(np.uint8)
        files = (header + payload[begin:end] for begin, end in itertools.pairwise(offsets))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is refused as it is
            images = np.stack([_pixels(pillow, file) for file in files])
        records = np.column_stack([labels, images.transpose(0, 3, 1, 2).reshape(len(images), -1)])
    except Exception as error:  # of no kind of its own: a damaged or foreign file can do anything to what reads it
        raise DataError(
            f"{path} cannot be read as a packed JPEG copy of CIFAR-10 ({reason(error)}): fetch it again"
        ) from None
    names = TRAIN_FILES + VALID_FILES
    return {name: part.tobytes() for name, part in zip(names, np.array_split(records, len(names)), strict=True)}


def _pixels(pillow: Any, file: bytes) -> np.ndarray:
    image = pillow.open(io.BytesIO(file), formats=["JPEG"])  # which decodes nothing yet
    if (*image.size, image.mode) != (32, 32, "RGB"):
        raise ValueError(f"an image is {image.width} x {image.height} {image.mode}, not 32 x 32 RGB")
    return np.asarray(image)


def _download(url: str, sha256: str) -> Path:
    pooch = imported("pooch", "pooch", "without --data CIFAR-10 is downloaded by pooch")
    cache = pooch.os_cache("pure-schedules")
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", path=cache, progressbar=True))
    except ValueError:
        problem = "the SHA-256 of the download differs, so it is incomplete or altered"
    except OSError as error:
        # Errors of requests are OSErrors without strerror, and pooch wraps errors of permission.
        problem = getattr(error.__cause__ or error, "strerror", None) or type(error).__name__
    raise DataError(
        f"CIFAR-10 could not be downloaded from {url} to {cache} ({problem}): try again, or download it yourself, "
        "unpack it and pass its folder with --data"
    )


def _from_archive(archive: Path) -> dict[str, bytes]:
    # Read only the expected members, into memory, and never write other contents of an archive to the disk.
    try:
        with tarfile.open(archive) as tar:
            members = {name: tar.extractfile(f"{FOLDER}/{name}") for name in TRAIN_FILES + VALID_FILES}
            return {name: member.read() for name, member in members.items() if member}
    except (OSError, KeyError, tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(
            f"{archive} cannot be read as the binary version of CIFAR-10 ({reason(error)}): delete it and try again"
        ) from None


def _records(files: dict[str, bytes], names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    records = np.concatenate([np.frombuffer(files[name], np.uint8).reshape(-1, RECORD) for name in names])
    labels = records[:, 0].astype(np.int32)
    if labels.max() > 9:
        raise DataError(f"a CIFAR-10 label must be from 0 to 9, got {labels.max()}: this is not the binary version")
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy(), labels


def _title(more: str = "") -> Callable[[Path | None], str]:
    return lambda data: f"CIFAR-10{' (JPEG copy)' * is_jpeg_copy(data)}{more}"


# A size for two CPU cores: a smaller network and batch, and a fifth of the run.
SMALL = Sampled(
    name="cifar10-small",
    about="takes half an hour per seed on two CPU cores",
    title=_title(", small"),
    load=cifar10,
    model=TinyViT(features=64, layers=2, heads=4, dropout=0.1),
    learning_rate=1e-3,
    batch_size=64,
    steps=20_000,
    seeds=5,
)

# The published setting: Adam 1e-3, batch 128, 100,000 updates.
PUBLISHED = Sampled(
    name="cifar10",
    about="is the published experiment and needs an accelerator",
    title=_title(),
    load=cifar10,
    model=TinyViT(),
    learning_rate=1e-3,
    batch_size=128,
    steps=100_000,
    seeds=1,
)
