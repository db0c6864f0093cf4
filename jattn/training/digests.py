"""Digests: what belongs to a checkpoint, so that a damaged one is never taken for whole.

The digests of the checkpoint of a step are a file beside its folder, written last: a line of JSON, and the SHA-256 of
that line. The JSON has the step, its score, the history (how many bytes of `metrics.jsonl` come before it, and their
SHA-256), and the SHA-256 of every file of the checkpoint.
"""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

from jattn.drawing.files import replacing


@dataclasses.dataclass(frozen=True)
class History:
    """The rows that belong to a checkpoint: their size in bytes, and their SHA-256."""

    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Digests:
    """What is known of a whole checkpoint besides its arrays."""

    step: int
    score: float | None
    history: History
    files: dict[str, str]


class Damaged(ValueError):
    """A checkpoint that is not as it was written; its text names the file and what is wrong."""


def history_of(rows: bytes) -> History:
    """Returns the history that some rows of metrics are."""
    return History(len(rows), hashlib.sha256(rows).hexdigest())


def digests_of(checkpoint: Path, step: int, score: float, history: History) -> Digests:
    """Returns the digests of a checkpoint that is on the disk."""
    files = {name: _sha256(checkpoint / name) for name in _files(checkpoint)}
    return Digests(step, score if math.isfinite(score) else None, history, files)


def write_digests(path: Path, digests: Digests) -> None:
    """Writes digests; once they are there, the checkpoint is whole."""
    line = json.dumps(dataclasses.asdict(digests)).encode()
    with replacing(path) as file:
        file.write(line + b"\n" + hashlib.sha256(line).hexdigest().encode() + b"\n")


def read_digests(path: Path, step: int) -> Digests:
    """Reads the digests of the checkpoint of a step.

    Raises:
      Damaged: if they are missing, or not as they were written, or of another step.
    """
    if not path.is_file():
        raise Damaged(f"{path.name} is missing")
    line, _, rest = path.read_bytes().partition(b"\n")
    if rest != hashlib.sha256(line).hexdigest().encode() + b"\n":
        raise Damaged(f"{path.name} has changed")
    known: dict[str, Any] = json.loads(line)
    if known["step"] != step:
        raise Damaged(f"{path.name} is that of step {known['step']}")
    return Digests(**{**known, "history": History(**known["history"])})


def check_files(checkpoint: Path, digests: Digests) -> None:
    """Raises `Damaged` unless a checkpoint has the files that it was written with, and what was written in them."""
    there = _files(checkpoint)
    for name in sorted(digests.files.keys() | there):
        if name not in there:
            raise Damaged(f"{checkpoint.name}/{name} is missing")
        if name not in digests.files:
            raise Damaged(f"{checkpoint.name}/{name} was not there when it was written")
        if _sha256(checkpoint / name) != digests.files[name]:
            raise Damaged(f"{checkpoint.name}/{name} has changed")


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
