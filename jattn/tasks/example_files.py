"""Files of examples: JSON lines or NumPy archives, read into arrays; each mistake is one line that says where it is.

Glossary of shapes: ``N`` examples, ``S`` tokens of the longest source, ``L`` of the longest target.
"""

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from numpy.lib.npyio import NpzFile

from jattn.drawing.files import UNREADABLE

LONGEST = 4096
"""The most tokens of a source or a target."""

RESERVED = ("<pad>", "<sep>", "<bos>")
"""What layouts call their own tokens."""

KEYS = ("source", "target", "oracle")
ARRAYS = ("source", "target", "source_lengths", "target_lengths", "oracle")


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Examples as arrays; places beyond the lengths are zero.

    Attributes:
      symbols: the vocabulary: numbers in their order, then other texts in theirs.
      source, source_lengths, target, target_lengths: tokens, and how many of them are real.
      oracle: ``[n, i, j]`` says whether source place ``j`` holds target token ``i``; None where the file has none.
      places: says where each example stands in the file, for messages.
    """

    symbols: tuple[str, ...]
    source: Int[np.ndarray, "N S"]
    source_lengths: Int[np.ndarray, " N"]
    target: Int[np.ndarray, "N L"]
    target_lengths: Int[np.ndarray, " N"]
    oracle: Bool[np.ndarray, "N L S"] | None
    places: Sequence[str]


def read_examples(path: Path, data: bytes) -> Examples:
    """Reads the examples of a file: of JSON lines if its name ends in ``.jsonl``, of arrays if in ``.npz``.

    Raises:
      ValueError: at the first thing that is wrong, with the file and where in it.
    """
    if path.suffix not in (".jsonl", ".npz"):
        raise ValueError(f"file: expected a name that ends in .jsonl or .npz, got {path.name!r}")
    if not data.strip():
        raise ValueError(f"file: {path.name}: expected examples, got an empty file")
    return _read_lines(path.name, data) if path.suffix == ".jsonl" else _read_arrays(path.name, data)


def _read_lines(name: str, data: bytes) -> Examples:
    sources, targets, oracles, places = [], [], [], []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{name}, line {number}"
        row = _object(place, line)
        source, target = (_tokens(place, side, row[side]) for side in ("source", "target"))
        sources.append(source)
        targets.append(target)
        oracles.append(_oracle(place, row.get("oracle"), len(source), len(target)))
        places.append(place)
        if (oracles[-1] is None) != (oracles[0] is None):
            without = places[0] if oracles[0] is None else place
            raise ValueError(f"file: {place}: expected an oracle in every line or in none, got none in {without}")
    return _in_arrays(sources, targets, oracles, places)


def _object(place: str, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ValueError(f"file: {place}: expected a JSON object, got {line[:40].decode('utf-8', 'replace')!r}")
    if not {"source", "target"} <= row.keys() <= set(KEYS):
        got = ", ".join(map(repr, row)) or "none"
        raise ValueError(f"file: {place}: expected the keys source, target and perhaps oracle, got {got}")
    return row


def _tokens(place: str, side: str, found: Any) -> list[str]:
    """Reads a source or a target: a string, split at blanks, or a list of strings and whole numbers."""
    tokens = found.split() if isinstance(found, str) else found
    if not isinstance(tokens, list):
        raise ValueError(f"file: {place}: expected {side} to be a string or a list of tokens, got {found!r:.40}")
    for token in tokens:
        if type(token) not in (str, int) or len(str(token).split()) != 1 or str(token) != str(token).strip():
            raise ValueError(f"file: {place}: expected tokens of {side} to be words or numbers, got {token!r:.40}")
        if token in RESERVED:
            raise ValueError(f"file: {place}: expected tokens of {side} other than {token}, which layouts use")
    if not 1 <= len(tokens) <= LONGEST:
        raise ValueError(f"file: {place}: expected 1 to {LONGEST} tokens of {side}, got {len(tokens)}")
    return [str(token) for token in tokens]


def _oracle(place: str, found: Any, sources: int, targets: int) -> list[list[int]] | None:
    """Reads the places of the source that hold each token of the target: a number, a list of them, or null."""
    if found is None:
        return None
    if not isinstance(found, list) or len(found) != targets:
        got = len(found) if isinstance(found, list) else repr(found)[:40]
        raise ValueError(f"file: {place}: expected an oracle for each of the {targets} target tokens, got {got}")
    rows = [[] if row is None else row if isinstance(row, list) else [row] for row in found]
    for column in (column for row in rows for column in row):
        if type(column) is not int or not 0 <= column < sources:
            raise ValueError(f"file: {place}: expected oracle positions from 0 to {sources - 1}, got {column!r:.40}")
    return rows


def _in_arrays(
    sources: list[list[str]], targets: list[list[str]], oracles: list[list[list[int]] | None], places: list[str]
) -> Examples:
    symbols = _in_order({token for tokens in (*sources, *targets) for token in tokens})
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    (source, source_lengths), (target, target_lengths) = (_padded(side, numbers) for side in (sources, targets))
    oracle = None
    if oracles[0] is not None:
        oracle = np.zeros((*target.shape, source.shape[1]), bool)
        for example, rows in enumerate(oracles):
            for row, columns in enumerate(rows or ()):
                oracle[example, row, columns] = True
    return Examples(symbols, source, source_lengths, target, target_lengths, oracle, places)


def _in_order(tokens: set[str]) -> tuple[str, ...]:
    """Sorts tokens: whole numbers by their value, then all others as texts."""

    def order(token: str) -> tuple[bool, int, str]:
        is_number = token.removeprefix("-").isdecimal() and token.isascii() and len(token) < 20
        return (not is_number, int(token) if is_number else 0, token)

    return tuple(sorted(tokens, key=order))


def _padded(side: list[list[str]], numbers: dict[str, int]) -> tuple[Int[np.ndarray, "N S"], Int[np.ndarray, " N"]]:
    lengths = np.array([len(tokens) for tokens in side], np.int32)
    padded = np.zeros((len(side), lengths.max()), np.int32)
    for row, tokens in zip(padded, side, strict=True):
        row[: len(tokens)] = [numbers[token] for token in tokens]
    return padded, lengths


def _read_arrays(name: str, data: bytes) -> Examples:
    try:
        archive = np.load(io.BytesIO(data), allow_pickle=False)
        # NumPy returns an array of a file that is no archive, and bytes of an entry that is no array.
        if not isinstance(archive, NpzFile):
            raise ValueError
        arrays = {key: archive[key] for key in archive.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError
    except UNREADABLE:
        raise ValueError(f"file: {name}: expected an archive of NumPy arrays without objects, got none") from None
    if not {"source", "target"} <= arrays.keys() <= set(ARRAYS):
        got = ", ".join(arrays) or "none"
        raise ValueError(f"file: {name}: expected the arrays {', '.join(ARRAYS)}, the last three optional, got {got}")
    count = len(arrays["source"]) if arrays["source"].ndim else 0
    for side in ("source", "target"):
        _check_array(name, side, arrays[side], "iuU", (count, None))
        if not (count and 1 <= arrays[side].shape[1] <= LONGEST):
            shape = arrays[side].shape
            raise ValueError(f"file: {name}: expected {side} of shape [N, 1 to {LONGEST}], got {[*shape]}")
        room = arrays[side].shape[1]
        lengths = arrays.setdefault(f"{side}_lengths", np.full(count, room))
        _check_array(name, f"{side}_lengths", lengths, "iu", (count,))
        if wrong := np.flatnonzero((lengths < 1) | (lengths > room)).tolist():
            got = f"{lengths[wrong[0]]} at {wrong[0]}"
            raise ValueError(f"file: {name}: expected {side}_lengths from 1 to {room}, got {got}")
    return _from_arrays(name, arrays)


def _check_array(name: str, key: str, array: np.ndarray, kinds: str, shape: tuple[int | None, ...]) -> None:
    sizes = tuple(there if size is None else size for size, there in zip(shape, array.shape, strict=False))
    if sizes != array.shape or len(sizes) != len(shape) or array.dtype.kind not in kinds:
        what = {"iuU": "whole numbers or texts", "iu": "whole numbers", "b": "bool"}[kinds]
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        got = f"{array.dtype}, shape {[*array.shape]}"
        raise ValueError(f"file: {name}: expected {key} of {what}, shape [{wanted}], got {got}")


def _from_arrays(name: str, arrays: dict[str, np.ndarray]) -> Examples:
    count, room = arrays["source"].shape
    sides = []
    for side in ("source", "target"):
        rows = zip(arrays[side].tolist(), arrays[f"{side}_lengths"].tolist(), strict=True)
        sides.append([_tokens(f"{name}, {side}[{i}]", side, row[:length]) for i, (row, length) in enumerate(rows)])
    source, target = sides
    found = _in_arrays(source, target, [None] * count, [f"{name}, example {i}" for i in range(count)])
    if "oracle" not in arrays:
        return found
    oracle = arrays["oracle"]
    _check_array(name, "oracle", oracle, "b", (count, arrays["target"].shape[1], room))
    real = np.arange(room) < found.source_lengths[:, None, None]
    real = real & (np.arange(oracle.shape[1]) < found.target_lengths[:, None])[..., None]
    if beyond := np.argwhere(oracle & ~real).tolist():
        raise ValueError(f"file: {name}: expected an oracle within the lengths, got True at {beyond[0]}")
    return dataclasses.replace(found, oracle=oracle[:, : found.target.shape[1], : found.source.shape[1]])
