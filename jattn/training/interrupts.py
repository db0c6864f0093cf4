"""SIGINT, SIGTERM and SIGHUP: say what will happen, save, then stop.

Python runs a signal's handler between two steps of the main thread, which may be inside a compiler for a minute. A
thread of its own is woken at once, answers, and ends the process where a second signal finds the main thread there.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import NoReturn

PATIENCE = 0.15
"""Seconds that the main thread has to act on a signal before it is said what it waits for."""


def resumes() -> str:
    """Says what a run does that is asked for again."""
    return "the same command resumes"


class Stopped(BaseException):
    """Raised to end a run after a signal; `status` is the exit status that the signal asks for."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.status = number, 128 + number


class Interrupts:
    """Remembers a signal until the run can save; outside of `waiting` a signal ends the run at once.

    A second signal does not wait either.

    Args:
      outlook: says what the same command will do, for a process that ends without a word of the main thread.
    """

    def __init__(self, outlook: Callable[[], str] = resumes) -> None:
        self._received: int | None = None
        self._may_wait, self._may_end, self._held_back = False, False, False
        self._ending = threading.Event()
        self.outlook = outlook
        self._answered = 0
        self.shared = False
        """Whether all processes of the run act on the signal."""
        self.saved_by: int | None = None
        """The step at whose end a signal that waits is acted on."""

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        waits = self._may_wait and self._received is None
        # Kept even where it is raised: a callback of the garbage collector swallows what is raised in it.
        self._received = number
        if self._held_back:
            return
        if not waits and not self._may_end:
            self._ending.set()
            raise Stopped(number)

    def answer(self, number: int) -> None:
        """Says what a signal will do; is called in a thread of its own, and ends the process at a second signal."""
        self._answered += 1
        if self._may_end:
            self._end_process(number)
        elif self._answered == 1 and self._may_wait:
            by = "" if self.saved_by is None else f" (saved by step {self.saved_by})"
            say(f"stopping after this chunk{by}; again to stop at once")
        elif not self._ending.wait(PATIENCE) or self._answered > 2:
            if self._answered == 1:
                say("stopping as soon as what is compiled or computed now is done; again to stop at once")
            else:
                self._end_process(number)

    def _end_process(self, number: int) -> None:
        end_process(self.farewell(number), 128 + number)

    def farewell(self, number: int) -> str:
        """Says which signal ended the run, and what the same command will do."""
        return f"stopped by {signal.Signals(number).name}; {self.outlook()}"

    @property
    def received(self) -> bool:
        """Whether a signal waits for the run to save."""
        return self._received is not None

    @property
    def number(self) -> int:
        """The number of that signal; 0 where there is none."""
        return self._received or 0

    def share(self, number: int) -> None:
        """Acts on a signal that another process of the run got, as if it had come here."""
        self._received = self._received or number or None
        self.shared = self.shared or number > 0

    @contextmanager
    def nothing_begun(self) -> Iterator[None]:
        """Lets a signal end the process as it is: what is raised inside of an import may be printed or lost there."""
        self._may_end = True
        try:
            yield
        finally:
            self._may_end = False
        if self._received is not None:
            raise Stopped(self._received)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Lets signals wait for a moment in which nothing may be lost; raises `Stopped` at the end if one came."""
        self._held_back = True
        try:
            yield
        finally:
            self._held_back = False
        if self._received is not None:
            self._ending.set()
            raise Stopped(self._received)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Lets a signal wait while there is something to save; raises `Stopped` at the end if one came."""
        self._may_wait = True
        try:
            yield
        finally:
            self._may_wait = False
        if self._received is not None:
            self._ending.set()
            raise Stopped(self._received)


def end_process(text: str, status: int) -> NoReturn:
    """Ends this process at once, with a last line."""
    with contextlib.suppress(OSError):
        # A bar hides the cursor.
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), b"\n\x1b[?25h")
        os.write(2, f"{text}\n".encode())
    os._exit(status)


def say(text: str) -> None:
    """Says something to a person who may have left."""
    with contextlib.suppress(OSError, ValueError):
        print(f"{text}\n", end="", file=sys.stderr, flush=True)


@contextmanager
def handled(waiting: Interrupts) -> Iterator[Interrupts]:
    """Handles SIGINT, SIGTERM and, where it is not ignored as under `nohup`, SIGHUP for the time of a run."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    with answering(waiting.answer, numbers), _silent_where_lost():
        before = {number: signal.signal(number, waiting.receive) for number in numbers}
        try:
            yield waiting
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _silent_where_lost() -> Iterator[None]:
    """Prints no traceback of a `Stopped` that Python cannot raise further; `Interrupts` remembers the signal."""
    before = sys.unraisablehook

    def say_others(lost: "sys.UnraisableHookArgs") -> None:
        if not isinstance(lost.exc_value, Stopped):
            before(lost)

    sys.unraisablehook = say_others
    try:
        yield
    finally:
        # Whoever has set another meanwhile hands on to this one.
        if sys.unraisablehook is say_others:
            sys.unraisablehook = before


def interrupts() -> AbstractContextManager[Interrupts]:
    """Handles signals for the time of a run with `Interrupts` of its own."""
    return handled(Interrupts())


@contextmanager
def answering(answer: Callable[[int], None], numbers: Sequence[int]) -> Iterator[None]:
    """Runs a thread that is woken by every signal as it comes, and answers those of `numbers`.

    Args:
      answer: is called with the number of a signal, wherever the main thread is.
      numbers: of signals that have a handler; Python is not told of the others.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)

    def answer_each() -> None:
        while (byte := os.read(read_end, 1)) not in (b"", b"\0"):
            if byte[0] in numbers:
                answer(byte[0])

    thread = threading.Thread(target=answer_each, name="signals", daemon=True)
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(write_end, b"\0")
        thread.join()
        os.close(read_end)
        os.close(write_end)
