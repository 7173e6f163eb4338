"""Errors that a user can fix."""

import os
import re
from pathlib import Path

from schedules.sentences import shown


class UserError(Exception):
    """A command that cannot be carried out; the message says why, and what to do."""


class UsageError(UserError):
    """An invalid value on the command line."""


def require_printable(option: str, text: str, most: int) -> None:
    """**Raises:** `UsageError` for text that a report or a figure cannot show, or that is too long."""
    if not text.isprintable() or len(text) > most:
        raise UsageError(f"--{option} must be printable and of at most {most:,} characters, got {shown(text)}")


def reason(error: BaseException) -> str:
    """The reason for an error in one short line; for errors of the operating system, in its words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # TensorStore puts the system's error number somewhere in a long list of [details='in brackets'].
    if refused := re.search(r"\[os_error_code='(\d+)'\]", str(error)):
        return os.strerror(int(refused[1]))
    said = re.split(r" \[\w+(?:\[\d+\])?=", str(error).partition("\n")[0])[0]
    known = isinstance(error, ValueError | OSError) and said
    return (said if known else f"{type(error).__name__}: {said}")[:300]


def reason_in(folder: Path, error: OSError) -> str:
    """`reason`, after the name of the file in the folder, if the error is about one."""
    file = Path(error.filename) if isinstance(error.filename, str) else folder
    return reason(error) if file == folder else f"{file.name}: {reason(error)}"
