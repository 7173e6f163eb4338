"""What a command owes the terminal, or the pipe, that it writes to."""

import io
import os
import sys
from collections.abc import Callable


def exit_status(command: Callable[[], int]) -> int:
    """What `command` returns. Characters that the terminal lacks are replaced, and where the reader of a pipe has gone,
    as `head` goes, the command ends without a word; with the exit status 1, as Python's documentation advises."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        try:
            return command()
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more when it ends, and would complain.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        return 1
