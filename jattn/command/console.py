"""A console that may lack characters, and a pipe whose reader may leave."""

import atexit
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from jattn.training.interrupts import answering, end_process


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what the body prints on the standard output."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        yield


SIGINT_WORDS = "stopped by SIGINT"

_ending, _watching = threading.RLock(), contextlib.ExitStack()


def end_at_ctrl_c() -> None:
    """Lets Ctrl-C end the process with one line, until something else handles it; does nothing where it is ignored.

    What Python would raise instead may come up inside of an import, be lost there, or be printed with a traceback, and
    waits for the end of what is compiled.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
        _watching.enter_context(answering(_end, [signal.SIGINT]))
        # Later, while Python takes itself down, no thread can be waited for.
        atexit.register(_watching.close)


def raise_at_ctrl_c() -> None:
    """Lets Ctrl-C raise a KeyboardInterrupt again, for what must not be left half done."""
    if signal.getsignal(signal.SIGINT) is _end:
        _watching.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: object = None) -> None:
    # The handler and the thread may both come here; one of them ends the process.
    with _ending:
        end_process(SIGINT_WORDS, 128 + number)


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
