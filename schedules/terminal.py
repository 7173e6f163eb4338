"""What a command owes the terminal, or the pipe, that it writes to."""

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any


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
