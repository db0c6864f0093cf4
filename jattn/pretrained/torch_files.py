"""Tensors of files that ``torch.save`` wrote, without torch and without running what they ask for.

Such a file is a pickle, and a pickle names functions to call. Here it can name those that tensors need and nothing
else, and gets stand-ins of them. Both layouts are read: the zip archive, and the five pickles in a row of before 2020.
"""

import collections
import io
import math
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from jattn.pretrained.tensors import Tensor, whole

MAGIC = 0x1950A86A20F9469CFC6C
"""What the older layout begins with."""

MOST_STEPS, MOST_BYTES = 5_000_000, 2**26
"""How long a pickle of tensors may be, without their numbers."""

STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


def read_torch(path: Path) -> dict[str, Tensor]:
    """Lists the tensors of a state dict in a file, which is mapped into memory.

    Raises:
      ValueError: if the file is damaged, holds something else than tensors by name, or asks to call anything.
    """
    with whole(path, "torch"):
        data = np.memmap(path, np.uint8, "r")
        with path.open("rb") as file:
            found = _read_zip(file, data) if data[:4].tobytes() == b"PK\x03\x04" else _read_pickles(file, data)
        if not isinstance(found, dict):
            raise ValueError(f"expected tensors by name, got {type(found).__name__}")
        # Training loops save the weights under such a name, with numbers beside them.
        found = found.get("state_dict", found)
        wrong = [name for name, tensor in found.items() if not isinstance(tensor, _Lazy)]
        if wrong:
            raise ValueError(f"expected tensors by name, got {type(found[wrong[0]]).__name__} for {wrong[0]!r}")
        lost = [name for name, tensor in found.items() if tensor.storage.data is None]
        if lost:
            raise ValueError(f"expected the numbers of {lost[0]!r}, got none")
        return {str(name): lazy.tensor(path.name) for name, lazy in found.items()}


class _Sealed:
    """An object whose state a pickle cannot change after its checks."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise ValueError("expected tensors and storages as they were made, got one with another state")


class _Storage(_Sealed):
    """Where the numbers of some tensors lie; `data` is known once the file has said where."""

    __slots__ = ("count", "data", "dtype")

    def __init__(self, dtype: np.dtype, count: int) -> None:
        self.dtype, self.count = dtype, count
        self.data: np.ndarray | None = None

    def place(self, data: np.ndarray) -> None:
        size = self.count * self.dtype.itemsize
        if data.size < size:
            raise ValueError(f"expected {size} bytes of a storage, got {data.size}")
        self.data = data[:size].view(self.dtype)


class _Lazy(_Sealed):
    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, tuple(shape), tuple(strides)
        steps = (*self.shape, *self.strides, offset)
        if not isinstance(storage, _Storage) or not all(isinstance(step, int) and step >= 0 for step in steps):
            raise ValueError("expected a tensor's storage, offset, shape and strides, got something else")
        self._check_bounds(storage.count)

    def tensor(self, file: str) -> Tensor:
        return Tensor(self.shape, self.storage.dtype.name, file, self._read)

    def _check_bounds(self, count: int) -> None:
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) and last >= count:
            raise ValueError(f"expected a tensor within its storage of {count} numbers, got one up to {last}")

    def _read(self) -> np.ndarray:
        assert self.storage.data is not None
        # A view with strides is not bounded by NumPy.
        self._check_bounds(self.storage.data.size)
        steps = [step * self.storage.dtype.itemsize for step in self.strides]
        data = self.storage.data[self.offset :]
        return np.lib.stride_tricks.as_strided(data, self.shape, steps, writeable=False)


class _Unpickler(pickle.Unpickler):
    """Knows the names that tensors need, each of them made anew for one file."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}
        self.known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor"): lambda *given: _Lazy(*given[:4]),
            ("torch._utils", "_rebuild_tensor_v2"): lambda *given: _Lazy(*given[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            **{("torch", name): name for name in STORAGES},
        }

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in self.known:
            raise ValueError(f"it asks to run {module}.{name}; only tensors are read and nothing is run")
        return self.known[module, name]

    def persistent_load(self, pid: Any, /) -> _Storage:
        kind, storage, key, _, count, *view = pid
        if kind != "storage" or storage not in STORAGES or not isinstance(count, int) or count < 0 or any(view):
            raise ValueError(f"expected a storage of numbers, got {pid!r}")
        return self.storages.setdefault(str(key), _Storage(STORAGES[storage], count))


def _unpickle(file: IO[bytes]) -> tuple[_Unpickler, Any]:
    """Reads one pickle, once its numbers are known to be of its size: a few bytes can ask for any amount of memory."""
    begin = file.tell()
    # What is in memory is not read beyond its end, however much a step asks for.
    body = io.BytesIO(file.read(MOST_BYTES))
    for count, (opcode, number, _) in enumerate(pickletools.genops(body)):
        # What is kept is numbered from zero on.
        if "PUT" in opcode.name and number is not None and number > count:
            raise ValueError(f"expected at most {count} things kept by now, got number {number}")
        if count > MOST_STEPS:
            raise ValueError(f"expected a pickle of at most {MOST_STEPS:,} steps, got more")
    body.seek(0)
    unpickler = _Unpickler(body)
    found = unpickler.load()
    file.seek(begin + body.tell())
    return unpickler, found


def _read_zip(file: IO[bytes], data: np.ndarray) -> Any:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"expected one data.pkl in the archive, got {len(pickles)}")
        folder = pickles[0].removesuffix("data.pkl")
        if archive.getinfo(pickles[0]).file_size > MOST_BYTES:
            raise ValueError(f"expected a data.pkl of at most {MOST_BYTES:,} bytes, got a larger one")
        unpickler, found = _unpickle(io.BytesIO(archive.read(pickles[0])))
        for key, storage in unpickler.storages.items():
            entry = archive.getinfo(f"{folder}data/{key}")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"expected storages as they are, got {entry.filename} compressed")
            header = data[entry.header_offset : entry.header_offset + 30].tobytes()
            names, extra = struct.unpack("<HH", header[26:30])
            begin = entry.header_offset + 30 + names + extra
            storage.place(data[begin : begin + entry.file_size])
    return found


def _read_pickles(file: IO[bytes], data: np.ndarray) -> Any:
    if _unpickle(file)[1] != MAGIC:
        raise ValueError("it begins as no file of torch does")
    _, machine = _unpickle(file), _unpickle(file)[1]
    if not machine["little_endian"]:
        raise ValueError("expected numbers with the lowest byte first, got the other order")
    unpickler, found = _unpickle(file)
    keys = _unpickle(file)[1]
    begin = file.tell()
    for key in keys:
        storage = unpickler.storages[key]
        count = int(data[begin : begin + 8].view("<i8")[0])
        if count != storage.count:
            raise ValueError(f"expected a storage of {storage.count} numbers, got {count}")
        begin += 8
        storage.place(data[begin:])
        begin += count * storage.dtype.itemsize
    return found
