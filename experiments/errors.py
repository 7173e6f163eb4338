"""What a user can do something about."""

import os
import re
from pathlib import Path

from schedules.sentences import shown


class UserError(Exception):
    """Something that cannot be done as it was asked for; the message says why, and what to do."""


class UsageError(UserError):
    """A value on the command line that cannot be used."""


def require_printable(option: str, text: str, most: int) -> None:
    """**Raises:** `UsageError` for what a report and its figures could not show."""
    if not text.isprintable() or len(text) > most:
        raise UsageError(f"--{option} must be printable and of at most {most:,} characters, got {shown(text)}")


def reason(error: BaseException) -> str:
    """Why, in one short line: in the system's own words where it is the system that refused."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # TensorStore gives the system's number among pages of [details='in brackets'], in no fixed order.
    if refused := re.search(r"\[os_error_code='(\d+)'\]", str(error)):
        return os.strerror(int(refused[1]))
    said = re.split(r" \[\w+(?:\[\d+\])?=", str(error).partition("\n")[0])[0]
    known = isinstance(error, ValueError | OSError) and said
    return (said if known else f"{type(error).__name__}: {said}")[:300]


def reason_in(folder: Path, error: OSError) -> str:
    """`reason`, and which file of the folder it is about, if it is about one."""
    file = Path(error.filename) if isinstance(error.filename, str) else folder
    return reason(error) if file == folder else f"{file.name}: {reason(error)}"
