"""A console that may lack characters, and a pipe whose reader may leave."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what the body prints on the standard output."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        yield


def on_console(answer: Callable[[], int]) -> int:
    """Calls what prints an answer and returns an exit status; ends quietly on Ctrl-C or where nobody reads on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A console without a character shows its escape.
            stream.reconfigure(errors="backslashreplace")
    try:
        status = answer()
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read what is printed has seen enough. What is left in the buffer must not be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
