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


SIGINT_WORDS = "stopped by SIGINT"


def end_at_ctrl_c() -> None:
    """Lets Ctrl-C end the process with one line, until something else handles it; does nothing where it is ignored.

    What Python would raise instead may come up inside of an import, be lost there, or be printed with a traceback.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_at_ctrl_c() -> None:
    """Lets Ctrl-C raise a KeyboardInterrupt again, for what must not be left half done."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: object) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{SIGINT_WORDS}\n".encode())
    os._exit(128 + number)


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
        print(SIGINT_WORDS, file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read what is printed has seen enough. What is left in the buffer must not be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
