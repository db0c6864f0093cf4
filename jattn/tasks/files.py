"""What tasks that read a file share: its bytes, its digest, and which part of it is held out."""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int

Read = TypeVar("Read")

SPLIT_SEED = 0
"""Decides which examples are held out: no seed of a run, so that all runs hold out the same."""


def read_file(file: str, sha256: str, what: str, read: Callable[[Path, bytes], Read]) -> tuple[Read, str]:
    """Reads a file of a person's own; one that has not changed since is read once in a process.

    Args:
      file: its path; one that is relative begins at the working folder.
      sha256: the digest that it must have, in hexadecimal; empty where it may be any.
      what: what it should hold, for messages.
      read: makes what is wanted of the path and the bytes.

    Returns:
      What `read` makes, and the SHA-256 of the file in hexadecimal.

    Raises:
      ValueError: if there is no such file, or it cannot be read, or has another digest; or as `read` does. The text
        begins with the argument that is wrong.
    """
    if not file:
        raise ValueError(f"file: expected {what}, got nothing")
    if "\0" in file:
        raise ValueError(f"file: expected {what}, got {file!r}: no path has a NUL in it")
    path = Path(file)
    try:
        state = path.stat()
        if path.is_dir():
            raise ValueError(f"file: expected {what}, got a folder: {file}")
        found, digest = _read(path, (state.st_mtime_ns, state.st_size, state.st_ino), read)
    except OSError as error:
        raise ValueError(f"file: expected {what}, got {file!r}: {error.strerror}") from None
    if sha256 and sha256 != digest:
        raise ValueError(f"file: {file} has changed: expected the SHA-256 {sha256}, got {digest}")
    return found, digest


@functools.lru_cache(maxsize=4)
def _read(path: Path, state: tuple[int, ...], read: Callable[[Path, bytes], Read]) -> tuple[Read, str]:
    data = path.read_bytes()
    return read(path, data), hashlib.sha256(data).hexdigest()


def check_share(test_share: float) -> None:
    """Raises a ValueError unless the share of a file that is held out is one."""
    if not 0 <= test_share < 1:
        raise ValueError(f"test_share: expected a share of at least 0, less than 1, got {test_share}")


def held_out(groups: Int[np.ndarray, " N"], test_share: float) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Splits examples in two: ``round(test_share g)`` of `g` groups are held out, always the same ones.

    Args:
      groups: the group of each example, ``0 .. g - 1``; a group is not split.
      test_share: the share of the groups to hold out, more than 0.

    Returns:
      The indices of the examples to train on, and of those held out.

    Raises:
      ValueError: if a side of the split is empty.
    """
    number = int(groups.max()) + 1
    count = round(test_share * number)
    if not 0 < count < number:
        raise ValueError(
            f"test_share: expected 0, or a share with 1 to {number - 1} of the {number} different sources, "
            f"got {test_share} with {count}"
        )
    # NumPy keeps the draws of this generator the same in every version.
    chosen = np.zeros(number, bool)
    chosen[np.random.RandomState(SPLIT_SEED).permutation(number)[:count]] = True
    return np.flatnonzero(~chosen[groups]), np.flatnonzero(chosen[groups])
