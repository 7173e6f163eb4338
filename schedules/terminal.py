"""What a command owes the terminal, or the pipe, that it writes to."""

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any

from schedules.sentences import shortened


def answered(prog: str, command: Callable[[], None], done: str = "written") -> int:
    """The exit status of `command`: 0, or 2 and a sentence for what a user can do something about. `done`: what could
    not be done to a file that an error names."""
    try:
        command()
    except OSError as error:
        if error.filename is None:  # of the output
            raise
        told = f"{error.filename} cannot be {done} ({error.strerror})"
    except (ValueError, ImportError) as error:
        told = str(error)
    except RuntimeError as error:  # of JAX, which finds no device
        told = str(error).partition("\n")[0]
    else:
        return 0
    print(f"{prog}: {shortened(told, 2000)}", file=sys.stderr)
    return 2


def exit_status(command: Callable[[], int]) -> int:
    """What `command` returns. Characters that the terminal lacks are replaced, and where the reader of a pipe has gone,
    as `head` goes, the command ends without a word; with the exit status 1, as Python's documentation advises. So it is
    where the output is a file on a full disk, which is said."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        try:
            return command()
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except BrokenPipeError:
        _close(sys.stdout, sys.stderr)
        return 1
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO):
            raise
        _close(sys.stdout)
        print(f"standard output cannot be written ({error.strerror})", file=sys.stderr)
        return 1


def _close(*streams: Any) -> None:
    """Python flushes them once more when it ends, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())
