"""Exit statuses and error messages of the commands."""

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any

from schedules.sentences import shortened


def answered(prog: str, command: Callable[[], None], done: str = "written") -> int:
    """Runs `command` and returns its exit status: 0, or 2 after printing the message of an error that the user can fix.

    `done`: "written" or "read", for the message about a file: "FILE cannot be written".
    """
    try:
        command()
    except OSError as error:
        if error.filename is None:  # an error of the output: see `exit_status`
            raise
        told = f"{error.filename} cannot be {done} ({error.strerror})"
    except (ValueError, ImportError) as error:
        told = str(error)
    except RuntimeError as error:  # raised by JAX if it finds no device
        told = str(error).partition("\n")[0]
    else:
        return 0
    print(f"{prog}: {shortened(told, 2000)}", file=sys.stderr)
    return 2


def exit_status(command: Callable[[], int]) -> int:
    """Runs `command` and returns its exit status.

    Characters that the terminal cannot show are replaced. If the reader of a pipe is gone (such as `head`), it ends
    silently with the exit status 1, as Python's documentation advises. If the disk is full, it prints a message and
    returns 1.
    """
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
    """Redirects streams to nowhere, since Python flushes them again at exit and would print an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())
