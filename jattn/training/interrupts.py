"""SIGINT, SIGTERM and SIGHUP: save, then stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """Raised to end a run after a signal; `status` is the exit status that the signal asks for."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Interrupts:
    """Remembers a signal until the run can save; outside of `waiting` a signal ends the run at once.

    A second signal does not wait either.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._may_wait = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        waits = self._may_wait and self._received is None
        # Kept even where it is raised: a callback of the garbage collector swallows what is raised in it.
        self._received = number
        if not waits:
            raise Stopped(number)

    @property
    def received(self) -> bool:
        """Whether a signal waits for the run to save."""
        return self._received is not None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Lets a signal wait while there is something to save; raises `Stopped` at the end if one came."""
        self._may_wait = True
        try:
            yield
        finally:
            self._may_wait = False
        if self._received is not None:
            raise Stopped(self._received)


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Handles SIGINT, SIGTERM and, where it is not ignored as under `nohup`, SIGHUP for the time of a run."""
    waiting = Interrupts()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, waiting.receive) for number in numbers}
    try:
        yield waiting
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
