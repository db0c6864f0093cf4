"""Several processes of one run: how they find one another, agree, and end.

All of it is JAX's: `jax.distributed` finds the others and notices which are alive, and the key-value store of its
coordinator, which Orbax uses as well, carries what one process has to tell the others. Each function does what it says
in a run of one process, too. Imports JAX late.
"""

import atexit
import contextlib
import ctypes
import functools
import itertools
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from jattn.training.config import Config
from jattn.training.distributed import Processes
from jattn.training.interrupts import Interrupts, end_process, say
from jattn.training.reading import ConfigError

SILENT = 30
"""Seconds without a sign of life after which a process is taken for dead."""

FOREVER = 7 * 24 * 3600 * 1000
"""Milliseconds to wait for a process that is alive."""

GRACE = 5.0
"""Seconds that the first process, which is the coordinator, stays after the others know that they are to end."""

TOGETHER, LATE = 5, 120
"""Seconds that a process which ends waits for others that may end as well, and for others that will."""

PART = 2**20
"""Bytes that go into one entry of the store."""

ENDED = "jattn/ended"

_messages = itertools.count()
_joined: "_Joined | None" = None


def join(asked: str | Processes, outlook: Callable[[], str]) -> None:
    """Waits for the other processes of a run, and watches them until `leave`.

    Args:
      asked: as of ``run.distributed``.
      outlook: says what the same command will do, for the last line of a process that ends because another did.

    Raises:
      ConfigError: if there is no cluster to be found, or JAX cannot begin.
    """
    import jax

    global _joined
    if _joined is not None:
        return
    for name, value in (
        # Its handler of SIGTERM would take the place of the run's.
        ("jax_enable_preemption_service", False),
        # Without it, the death of a process aborts the others before they can say anything.
        ("jax_enable_recoverability", True),
        # Programs that overlap would send over Gloo in an order of their own.
        ("jax_cpu_enable_async_dispatch", False),
    ):
        jax.config.update(name, value)
    options: dict[str, Any] = {}
    if isinstance(asked, Processes):
        options = {"num_processes": asked.processes, "process_id": asked.index}
        options |= {"coordinator_address": asked.coordinator}
    wait = asked.wait if isinstance(asked, Processes) else 300
    with _time_limit(asked, wait):
        try:
            # The limit of JAX ends the process without a word, so it is the later one.
            limits: dict[str, Any] = {"initialization_timeout": wait + 60, "heartbeat_timeout_seconds": SILENT}
            jax.distributed.initialize(**options, **limits)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            if not isinstance(asked, Processes):
                reason = (
                    f"no cluster was found of those that JAX knows (Slurm, Kubernetes, TPU pods, Open MPI): {reason}; "
                    "give {coordinator, processes, index}"
                )
            raise ConfigError(f"run.distributed: {reason}") from None
    _joined = _Joined(outlook)


@contextlib.contextmanager
def _time_limit(asked: str | Processes, wait: int) -> Iterator[None]:
    """Ends the process with a message where the others do not come; JAX would abort it."""
    done = threading.Event()

    def watch() -> None:
        if not done.wait(wait):
            end_process(f"run.distributed: {_who_is_missing(asked)} within {wait} s", 2)

    thread = threading.Thread(target=watch, name="time limit", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


def _who_is_missing(asked: str | Processes) -> str:
    if not isinstance(asked, Processes):
        return "not all processes of the cluster came"
    if asked.index > 0:
        try:
            socket.create_connection(asked.address, timeout=2).close()
        except OSError as error:
            reason = error.strerror or str(error)
            return f"the process with index 0 did not answer at the coordinator {asked.coordinator} ({reason})"
    return f"expected {asked.processes} processes at the coordinator {asked.coordinator}, not all of them came"


def joined() -> bool:
    """Whether this process has joined others."""
    return _joined is not None


def asked_number() -> int:
    """Returns how many processes there are, before JAX has seen a device."""
    return _state().num_processes if _joined else 1


def is_first() -> bool:
    """Whether this process is the one that writes metrics, figures and the page."""
    import jax

    return jax.process_index() == 0


def check_joined(config: Config) -> None:
    """Raises a ConfigError if a config asks for several processes, and JAX was not told of them."""
    import jax

    # A process that fails in this run is not to wait for the others.
    atexit.unregister(leave)
    if config.run.joins and not jax.distributed.is_initialized():
        raise ConfigError(
            "run.distributed: expected configure_jax of jattn.training.runs to be called before JAX sees a device"
        )


def from_first(function: Callable[[], Any]) -> Any:
    """Calls a function in the first process alone; what it returns or raises, all return or raise."""
    import jax

    if jax.process_count() == 1:
        return function()
    key = f"jattn/message_{next(_messages)}"
    if not is_first():
        found, raised = _receive(key)
        if raised is not None:
            raise raised
        return found
    try:
        found = function()
    except Exception as error:
        _send(key, (None, error))
        raise
    _send(key, (found, None))
    return found


def wait_for_first() -> None:
    """Waits until the first process has come as far as this one, so that what it wrote is there."""
    from_first(lambda: None)


def wait_for_all() -> None:
    """Waits until every process has come as far as this one, for as long as all of them are alive."""
    import jax

    if jax.process_count() > 1:
        _client().wait_at_barrier("jattn/together", FOREVER)


def together(program: Any) -> Callable[..., Any]:
    """Lets no process run a function under `jax.jit` for the first time before all of them have compiled it.

    What runs first may connect them: Gloo fails where one comes to that more than 30 seconds later than another.
    """
    import jax

    if jax.process_count() == 1:
        return program
    calls = itertools.count()

    @functools.wraps(program)
    def call(*arguments: Any) -> Any:
        if next(calls) == 0:
            program.lower(*arguments).compile()
            wait_for_all()
        return program(*arguments)

    return call


def agreed(signals: Interrupts) -> bool:
    """Says whether any process got a signal, which then is one for all of them."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        signals.share(int(np.max(multihost_utils.process_allgather(np.int32(signals.number)))))
    return signals.received


def leave() -> None:
    """Lets go of the other processes, once all have come to their end."""
    global _joined
    if _joined is not None:
        _client().wait_at_barrier("jattn/done", FOREVER)
        joined, _joined = _joined, None
        joined.close()


def leave_at_exit() -> None:
    """Lets the end of this program wait for the other processes, whose run has come to its end as well."""
    if _joined is not None:
        atexit.unregister(leave)
        atexit.register(leave)


def end(why: str, status: int, together: bool = False) -> None:
    """Ends this process, after it has said why, and the others; returns in a run of one process.

    Where the interpreter ends in the usual way, JAX waits for the other processes.

    Args:
      why: in words, for the others.
      status: of the process; with 0 nothing is done.
      together: whether the others are about to end by themselves, as after a signal that was `agreed`.
    """
    if _joined is None or status == 0:
        return
    _joined.over.set()
    sys.stdout.flush()
    try:
        # What all of them meet, such as a config that does not fit, none has to be told.
        _client().wait_at_barrier("jattn/end", 1000 * (LATE if together else TOGETHER))
    except Exception:
        with contextlib.suppress(Exception):
            _client().key_value_set(ENDED, f"process {_state().process_id} ended: {why}", allow_overwrite=True)
    _last_of_all()
    os._exit(status)


def end_without(reason: str) -> None:
    """Ends this process because another one is gone; returns in a run of one process."""
    if _joined is not None and not _joined.over.is_set():
        _joined.over.set()
        say(f"{reason}; {_joined.outlook()}")
        _last_of_all()
        os._exit(1)


def is_of_runtime(error: Exception) -> bool:
    """Whether JAX's runtime raised it, as where what processes compute together fails; some of it is a ValueError."""
    from jax.errors import JaxRuntimeError

    of_status = type(error) is ValueError and re.match(r"[A-Z]+(_[A-Z]+)*: ", str(error)) is not None
    return isinstance(error, JaxRuntimeError) or of_status


def _last_of_all() -> None:
    """Lets the process with the coordinator stay a while: JAX aborts those that lose it."""
    if _state().process_id == 0:
        time.sleep(GRACE)


class _Joined:
    """Threads that watch the other processes, and end this one where another has ended."""

    def __init__(self, outlook: Callable[[], str]) -> None:
        self.outlook, self.over = outlook, threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, args=(look,), name="watch", daemon=True)
            for look in (self._listen, self._count)
        ]
        for thread in self._threads:
            thread.start()
        if os.name == "posix" and _state().process_id > 0:
            # Where the coordinator is gone, JAX logs it and aborts the others: this is their last line.
            self._aborted = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._abort)
            ctypes.CDLL(None).signal(signal.SIGABRT, self._aborted)

    def _abort(self, number: int) -> None:
        end_without("this process was aborted, perhaps as process 0 ended")
        os._exit(1)

    def _watch(self, look: Callable[[], str | None]) -> None:
        while not self.over.wait(0.5):
            try:
                found = look()
            except Exception as error:
                found = f"process 0 ended or cannot be reached ({str(error).partition(chr(10))[0]})"
            if found is not None:
                end_without(found)

    def _listen(self) -> str | None:
        """Returns what a process says that ends."""
        from jax.errors import JaxRuntimeError

        try:
            return _client().blocking_key_value_get(ENDED, 1000)
        except JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" in str(error):
                return None
            raise

    def _count(self) -> str | None:
        """Returns which processes are not alive."""
        everyone = range(_state().num_processes)
        dead = sorted({*everyone} - {*_client().get_live_nodes([*everyone])})
        return f"process {', '.join(map(str, dead))} ended without a word" if dead else None

    def close(self) -> None:
        """Stops watching; the process with the coordinator goes last."""
        import jax

        self.over.set()
        if _state().process_id == 0:
            last = time.monotonic() + SILENT
            with contextlib.suppress(Exception):
                while len(_client().get_live_nodes([*range(_state().num_processes)])) > 1 and time.monotonic() < last:
                    time.sleep(0.1)
        jax.distributed.shutdown()


def _send(key: str, message: Any) -> None:
    text = pickle.dumps(message)
    for part, start in enumerate(range(0, len(text), PART)):
        _client().key_value_set_bytes(f"{key}/{part}", text[start : start + PART])
    _client().key_value_set_bytes(f"{key}/size", str(len(text)).encode())


def _receive(key: str) -> Any:
    size = int(_client().blocking_key_value_get_bytes(f"{key}/size", FOREVER))
    parts = (_client().blocking_key_value_get_bytes(f"{key}/{part}", FOREVER) for part in range(-(-size // PART)))
    return pickle.loads(b"".join(parts))


def _state() -> Any:
    from jax._src import distributed

    return distributed.global_state


def _client() -> Any:
    return _state().client
