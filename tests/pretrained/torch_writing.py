"""Files as ``torch.save`` writes them, made without torch: a pickle that names torch's functions, and storages."""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile
from contextlib import contextmanager

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage", "bfloat16": "BFloat16Storage"}


@contextmanager
def torch_names():
    """Makes names of torch that a pickle can hold, while it is written."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def rebuild(*_):
        raise NotImplementedError

    rebuild.__module__, rebuild.__qualname__, rebuild.__name__ = "torch._utils", *["_rebuild_tensor_v2"] * 2
    utils._rebuild_tensor_v2 = rebuild
    for kind in KINDS.values():
        setattr(torch, kind, type(kind, (), {"__module__": "torch"}))
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        yield torch, rebuild
    finally:
        for name, module in before.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})


class Storage:
    def __init__(self, key, array):
        self.key, self.array = key, array


class Saved:
    """A tensor on its way into a pickle."""

    def __init__(self, rebuild, storage):
        self.rebuild, self.storage = rebuild, storage

    def __reduce__(self):
        shape = self.storage.array.shape
        strides = tuple(step // self.storage.array.itemsize for step in self.storage.array.strides)
        return self.rebuild, (self.storage, 0, shape, strides, False, collections.OrderedDict())


def _pickled(value, torch, legacy):
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, Storage):
                return None
            kind = getattr(torch, KINDS[obj.array.dtype.name])
            return ("storage", kind, obj.key, "cpu", obj.array.size, *([None] if legacy else []))

    file = io.BytesIO()
    Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def save_torch(tensors, path, legacy=False, more=None):
    """Writes a state dict; `more` are entries that are no tensors."""
    with torch_names() as (torch, rebuild):
        storages = [Storage(str(place), np.ascontiguousarray(array)) for place, array in enumerate(tensors.values())]
        state = collections.OrderedDict(
            (name, Saved(rebuild, storage)) for name, storage in zip(tensors, storages, strict=True)
        )
        state |= more or {}
        body = _pickled(state, torch, legacy)
    if legacy:
        machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
        head = b"".join(pickle.dumps(part, protocol=2) for part in (MAGIC, 1001, machine))
        keys = pickle.dumps([storage.key for storage in storages], protocol=2)
        numbers = (struct.pack("<q", storage.array.size) + storage.array.tobytes() for storage in storages)
        path.write_bytes(head + body + keys + b"".join(numbers))
        return
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", body)
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())
