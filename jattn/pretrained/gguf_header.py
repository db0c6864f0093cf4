"""A look at the counts in the header of a GGUF file, before a reader believes them."""

import struct
from pathlib import Path

import numpy as np

WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""How many bytes each type of number has."""

STRING, ARRAY = 8, 9

MOST_DEPTH = 8
"""How many arrays may be inside one another."""


def check_header(path: Path) -> None:
    """Refuses counts that are more than the file has bytes for; a reader would go on for so many.

    Raises:
      ValueError: if a count is too large, or a type is unknown.
    """
    data = np.memmap(path, np.uint8, "r")
    if data[:4].tobytes() != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    walk = _Walk(data, 4)
    if walk.number("<I") not in (2, 3):
        raise ValueError("expected version 2 or 3, lowest byte first, got another")
    tensors, settings = walk.number("<Q"), walk.number("<Q")
    walk.room(tensors, 24)
    walk.room(settings, 13)
    for _ in range(settings):
        walk.skip(walk.number("<Q"))
        walk.value(walk.number("<I"))


class _Walk:
    """A place in a file that moves over one value after the other."""

    def __init__(self, data: np.ndarray, at: int) -> None:
        self.data, self.at = data, at

    def number(self, kind: str) -> int:
        first, size = self.at, struct.calcsize(kind)
        self.skip(size)
        return int(struct.unpack(kind, self.data[first : first + size].tobytes())[0])

    def room(self, count: int, size: int) -> None:
        """Refuses so many things of at least so many bytes where fewer are left."""
        if count * size > self.data.size - self.at:
            raise ValueError(f"expected at most {self.data.size - self.at:,} further bytes, got a count of {count:,}")

    def skip(self, count: int) -> None:
        self.room(count, 1)
        self.at += count

    def value(self, kind: int, depth: int = 0) -> None:
        if kind in WIDTHS:
            self.skip(WIDTHS[kind])
        elif kind == STRING:
            self.skip(self.number("<Q"))
        elif kind == ARRAY and depth < MOST_DEPTH:
            inner, count = self.number("<I"), self.number("<Q")
            if inner in WIDTHS:
                self.room(count, WIDTHS[inner])
                self.at += count * WIDTHS[inner]
                return
            self.room(count, 8)
            for _ in range(count):
                self.value(inner, depth + 1)
        else:
            raise ValueError(f"expected a known type of value, got {kind}")
