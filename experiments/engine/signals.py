"""Stopping a run: after the current piece, at once, or at a certain time."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function: has Ctrl-C or SIGTERM asked for an orderly stop? A second Ctrl-C ends at once."""
    came: list[int] = []

    def note(number: int, _: object) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ended_by_a_second_interrupt() -> Iterator[None]:
    """Ends the process when Ctrl-C comes after Ctrl-C or SIGTERM, whatever the main thread is doing.

    The main thread runs Python's signal handlers only between two Python instructions: not while it compiles, or waits
    for a device or a disk. Where Python cannot raise, as during a garbage collection, it would print a
    KeyboardInterrupt and forget it; here this ends the process too. No more is lost than if the process were killed.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def listen() -> None:
        came = False
        while number := os.read(reader, 1):
            if came and number[0] == signal.SIGINT:
                os._exit(130)
            came = came or number[0] in (signal.SIGINT, signal.SIGTERM)

    def unraisable(raised: Any) -> None:
        if listener.is_alive() and issubclass(raised.exc_type, KeyboardInterrupt):
            os._exit(130)
        hook(raised)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        if sys.unraisablehook is unraisable:  # otherwise `without_noise` has replaced it, to stay silent
            sys.unraisablehook = hook
        os.close(writer)
        listener.join()
        os.close(reader)


def until(deadline: float) -> Callable[[], bool]:
    """A function that is True once `time.monotonic()` has reached `deadline`."""
    return lambda: time.monotonic() >= deadline
