"""The header of a GGUF file: its settings, and where its tensors lie.

The package ``gguf`` makes several arrays of every token, which takes a third of the memory of a small model's weights,
and believes every count; so the header is read here, and ``gguf`` knows the types of numbers.
"""

import dataclasses
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from jattn.pretrained.tensors import reader

NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
"""The types of numbers among the settings."""

STRING, ARRAY = 8, 9

MOST_DEPTH = 8
"""How many arrays may be inside one another."""

MOST_AXES = 4


@dataclasses.dataclass(frozen=True)
class RawTensor:
    """A tensor as it lies in the file.

    Args:
      shape: rows first.
      kind: its ``gguf.GGMLQuantizationType``.
      data: the bytes of each row, ``[rows, bytes]``; of a vector one row.
    """

    shape: tuple[int, ...]
    kind: Any
    data: np.ndarray


def read_header(path: Path) -> tuple[dict[str, Any], dict[str, RawTensor]]:
    """Reads the settings and the places of the tensors; the file is mapped into memory.

    Raises:
      ValueError: if a count is more than the file has bytes for, a type is unknown, or a name comes twice.
    """
    data = np.memmap(path, np.uint8, "r")
    if data[:4].tobytes() != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    walk = _Walk(data, 4)
    if walk.number("<u4") not in (2, 3):
        raise ValueError("expected version 2 or 3, lowest byte first, got another")
    count, settings = walk.number("<u8"), walk.number("<u8")
    walk.room(count, 24)
    walk.room(settings, 13)
    metadata: dict[str, Any] = {}
    for _ in range(settings):
        _add(metadata, walk.text(), walk.value(walk.number("<u4")))
    places: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(count):
        _add(places, walk.text(), (walk.shape(), walk.number("<u4"), walk.number("<u8")))
    step = metadata.get("general.alignment", 32)
    if type(step) is not int or step < 1:
        raise ValueError(f"expected general.alignment to be a positive int, got {step!r}")
    begin = -(-walk.at // step) * step
    return metadata, {name: _raw(data, begin, *place) for name, place in places.items()}


def _add(found: dict[str, Any], name: str, value: Any) -> None:
    if name in found:
        raise ValueError(f"expected {name} once, got it twice")
    found[name] = value


def _raw(data: np.ndarray, begin: int, shape: tuple[int, ...], kind: int, offset: int) -> RawTensor:
    gguf = reader("gguf")
    found = gguf.GGMLQuantizationType(kind)
    block, size = gguf.GGML_QUANT_SIZES[found]
    if shape[-1] % block:
        raise ValueError(f"expected rows of a multiple of {block} numbers, got {shape[-1]}")
    rows, row_bytes = math.prod(shape[:-1]), shape[-1] // block * size
    first, last = begin + offset, begin + offset + rows * row_bytes
    if last > data.size:
        raise ValueError(f"expected {last:,} bytes for a tensor of shape {shape}, got {data.size:,}")
    return RawTensor(shape, found, data[first:last].reshape(rows, row_bytes))


class _Walk:
    """A place in a file that moves over one value after the other."""

    def __init__(self, data: np.ndarray, at: int) -> None:
        self.data, self.at = data, at

    def room(self, count: int, size: int) -> None:
        """Refuses so many things of at least so many bytes where fewer are left."""
        if count * size > self.data.size - self.at:
            raise ValueError(f"expected at most {self.data.size - self.at:,} further bytes, got a count of {count:,}")

    def bytes(self, count: int) -> bytes:
        self.room(count, 1)
        self.at += count
        return self.data[self.at - count : self.at].tobytes()

    def number(self, kind: str) -> Any:
        return self.numbers(kind, 1)[0]

    def numbers(self, kind: str, count: int) -> list[Any]:
        size = np.dtype(kind).itemsize
        self.room(count, size)
        return np.frombuffer(self.bytes(count * size), kind).tolist()

    def text(self) -> str:
        self.room(1, 8)
        (size,) = struct.unpack("<Q", self.bytes(8))
        return self.bytes(size).decode("utf-8")

    def shape(self) -> tuple[int, ...]:
        axes = self.number("<u4")
        if not 1 <= axes <= MOST_AXES:
            raise ValueError(f"expected a tensor of 1 to {MOST_AXES} axes, got {axes}")
        sizes = self.numbers("<u8", axes)
        if 0 in sizes:
            raise ValueError(f"expected a tensor with numbers, got axes {sizes}")
        return tuple(reversed(sizes))

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY or depth >= MOST_DEPTH:
            raise ValueError(f"expected a known type of value, got {kind}")
        inner, count = self.number("<u4"), self.number("<u8")
        if inner in NUMBERS:
            return self.numbers(NUMBERS[inner], count)
        self.room(count, 8)
        return [self.value(inner, depth + 1) for _ in range(count)]
