"""Files that are either old or new, never half written."""

import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

UNREADABLE = (
    EOFError,
    ValueError,
    OSError,
    RuntimeError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy and zipfile raise of a file that is damaged, as where a bit says that it is encrypted."""


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Gives an `OSError` of its body the name of the file, where writes have none and replacing has another."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yields a binary file that takes the place of `path` once it is written whole.

    The bytes go to a temporary file in the same folder, reach the disk, and then take the name `path` in one
    step. If the body raises, or the process dies, what `path` held before is untouched.

    Args:
      path: the file to write; its folder is made if missing.

    Yields:
      The file to write to.

    Raises:
      OSError: the folder cannot be written to, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with named(path):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
