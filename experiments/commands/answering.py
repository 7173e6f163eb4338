"""A command as a process: what it answers for what a user can do something about, and for Ctrl-C."""

import sys
from collections.abc import Callable

from experiments.engine.signals import ended_by_a_second_interrupt
from experiments.errors import UserError, reason
from schedules.sentences import shortened


def answered(prog: str, command: Callable[[], int]) -> int:
    """The exit status of `command`: what it returns; 2 and a sentence for what a user can do something about; 130 for
    Ctrl-C."""
    try:
        with ended_by_a_second_interrupt():
            return command()
    except BrokenPipeError:
        raise
    except UserError as error:
        told = str(error)
    except OSError as error:
        if error.filename is None:
            raise
        told = f"{error.filename} cannot be used ({reason(error)})"
    except KeyboardInterrupt:  # outside training, which stops in order
        return 130
    print(f"{prog}: {shortened(told, 2000)}", file=sys.stderr)
    return 2
