"""Writes files completely or not at all, and reads files that may hold anything."""

import errno
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import reason

MOST_BYTES = 2**32  # of the arrays in one file: far more than any run or data set has


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, and replaces `path` by it once it is complete on the disk.

    **Raises:** `OSError` that names `path`.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def require_writable(folder: Path) -> None:
    """Makes the folder, unless it exists.

    **Raises:** `OSError` if no file can be written to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def read_bytes(path: Path, most: int) -> bytes:
    """**Raises:** `OSError` if the file cannot be read or has more than `most` bytes."""
    require_regular(path)
    if path.stat().st_size > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return path.read_bytes()


def require_regular(path: Path) -> None:
    """**Raises:** `OSError` for a pipe or a device: reading it could wait or go on forever."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_json(path: Path) -> Any:
    """**Raises:** `OSError` or `ValueError`, and nothing else, whatever the file holds."""
    return parsed_json(read_bytes(path, most=2**26))


def parsed_json(text: str | bytes) -> Any:
    """**Raises:** `ValueError`."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, without ever loading a pickle.

    **Raises:** `OSError` or `ValueError`, and nothing else, whatever the file holds.
    """
    require_regular(path)
    try:
        with zipfile.ZipFile(path) as file:
            claimed = sum(member.file_size for member in file.infolist())
            if claimed > MOST_BYTES:
                raise ValueError(f"it claims to hold {claimed:,} bytes, more than {MOST_BYTES:,}")
            return {member.filename.removesuffix(".npy"): _read_array(file, member) for member in file.infolist()}
    except OSError:
        raise
    except Exception as error:  # of no kind of its own: a damaged or foreign file can do anything to what reads it
        raise ValueError(reason(error)) from None


def _read_array(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with file.open(member) as content:
        array = np.lib.format.read_array(content, allow_pickle=False)
    if array.size > member.file_size:  # of values that take no bytes, so that there may be any number
        raise ValueError(f"{member.filename} claims to hold {array.size:,} values")
    return array
