"""The lock of a run folder: one process at a time writes there, whichever host it is on."""

import contextlib
import errno
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

BEAT = 10.0
"""Seconds between two signs of life of the process that holds a lock."""

DEAD = 6 * BEAT
"""Seconds without a sign of life after which the process of another host is taken for dead."""


class Locked(RuntimeError):
    """A lock that cannot be had; its text says why, and what to do."""


class Lock:
    """Holds a lock for as long as it is open.

    On one host the system lets go of the lock of a process that died. Other hosts may not see that lock: for them the
    file names host and process, and is touched every ten seconds.

    Args:
      path: of the file; made where missing.
      needed: False goes on without a lock, whoever else may write.

    Raises:
      Locked: if another process holds it, or the file system has no locks.
      OSError: if the file cannot be written.
    """

    def __init__(self, path: Path, needed: bool = True) -> None:
        if path.is_dir():
            raise Locked(f"{path}: expected a file, got a folder")
        self._file = path.open("a+")
        try:
            if needed:
                self._take(path)
            self._file.truncate(0)
            self._file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
            self._file.flush()
        except BaseException:
            self._file.close()
            raise
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def close(self) -> None:
        """Lets other processes have it."""
        self._closed.set()
        self._heart.join()
        # No process holds a lock without a name in it. What ends here may be a failure of this very file system.
        with contextlib.suppress(OSError):
            self._file.truncate(0)
        self._file.close()

    def _take(self, path: Path) -> None:
        owner = self._owner()
        named = f"process {owner.get('pid', 'unknown')} of host {owner.get('host', 'unknown')}"
        reason = "this system has no file locks"
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                reason = None
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise Locked(f"{path.parent}: another process, {named}, is writing to this run folder") from None
            reason = f"this file system has no file locks ({os.strerror(error.errno or 0)})"
        if reason is not None:
            raise Locked(
                f"{path.parent}: {reason}; where no other process writes to this run folder, --run.no-lock goes on "
                "without"
            )
        silent = self._now() - os.fstat(self._file.fileno()).st_mtime
        if owner.get("host", socket.gethostname()) != socket.gethostname() and silent < DEAD:
            raise Locked(
                f"{path.parent}: {named} wrote to this run folder {max(0, round(silent))} s ago; if it is dead, the "
                f"folder is free {round(DEAD)} s after its last sign of life"
            )

    def _owner(self) -> dict[str, Any]:
        self._file.seek(0)
        try:
            owner = json.loads(self._file.read())
        except ValueError:
            return {}
        return owner if isinstance(owner, dict) else {}

    def _now(self) -> float:
        """The time of the file system, which may be another host's."""
        probe = Path(f"{self._file.name}.{os.getpid()}")
        try:
            probe.touch()
            return probe.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            probe.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._closed.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self._file.fileno())
