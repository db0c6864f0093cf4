"""The lock of a run folder: on file systems without locks, across hosts, and after a death."""

import errno
import json
import os
import socket
import time

import pytest

from jattn.training import lock as lock_module
from jattn.training.lock import Lock, Locked
from jattn.training.reading import check
from jattn.training.run_folder import RunFolder, RunFolderError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


def leave(path, age, **owner):
    """Leaves the lock of a process that showed its last sign of life so many seconds ago."""
    path.write_text(json.dumps(owner))
    os.utime(path, (time.time() - age,) * 2)


def test_it_names_host_and_process_while_it_is_held(path):
    lock = Lock(path)
    assert json.loads(path.read_text()) == {"host": socket.gethostname(), "pid": os.getpid()}
    with pytest.raises(Locked, match=rf"process {os.getpid()} of host {socket.gethostname()}, is writing"):
        Lock(path)
    lock.close()
    assert path.read_text() == ""
    Lock(path).close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO, errno.EBADF])
def test_a_file_system_without_locks_is_told_and_can_be_written_to_without(path, number, monkeypatch):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock_module.fcntl, "flock", refuse)
    with pytest.raises(Locked, match=r"this file system has no file locks \(.*\); .* --run\.no-lock") as told:
        Lock(path)
    assert "\n" not in str(told.value)
    with pytest.raises(RunFolderError, match=r"--run\.no-lock"):
        RunFolder(check({"run": {"folder": str(path.parent)}}, "test"))
    RunFolder(check({"run": {"folder": str(path.parent), "lock": False}}, "test")).close()
    RunFolder(check({"run": {"folder": str(path.parent), "lock": False}}, "test")).close()


def test_a_system_without_fcntl_is_told(path, monkeypatch):
    monkeypatch.setattr(lock_module, "fcntl", None)
    with pytest.raises(Locked, match=r"this system has no file locks; .* --run\.no-lock"):
        Lock(path)
    Lock(path, needed=False).close()


def test_another_host_is_seen_while_it_lives(path):
    leave(path, 5, host="elsewhere", pid=7)
    with pytest.raises(Locked, match=r"process 7 of host elsewhere wrote to this run folder [456] s ago"):
        Lock(path)
    assert json.loads(path.read_text())["pid"] == 7
    leave(path, lock_module.DEAD + 5, host="elsewhere", pid=7)
    Lock(path).close()


def test_a_dead_process_of_this_host_holds_nothing(path):
    leave(path, 1, host=socket.gethostname(), pid=7)
    Lock(path).close()


@pytest.mark.parametrize("text", ["", "123", "{", "[]", "\0\0", '{"host": "elsewhere"', '{"hos": "elsewhere"}'])
def test_what_is_no_owner_holds_nothing(path, text):
    path.write_text(text)
    Lock(path).close()


def test_it_shows_signs_of_life(path, monkeypatch):
    monkeypatch.setattr(lock_module, "BEAT", 0.01)
    lock = Lock(path)
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 20
    while path.stat().st_mtime == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lock.close()


def test_a_folder_in_its_place_is_told(path):
    path.mkdir()
    with pytest.raises(RunFolderError, match="lock: expected a file, got a folder"):
        RunFolder(check({"run": {"folder": str(path.parent)}}, "test"))
