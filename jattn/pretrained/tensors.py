"""The tensors of a file, by name, none of them read yet; and of several files."""

import contextlib
import dataclasses
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FLOATS = ("float64", "float32", "float16", "bfloat16")
"""What weights may be; others are refused."""


MOST_JSON = 2**25
"""How many bytes a file beside the weights may have that is read whole."""


POINTER = b"version https://git-lfs.github.com"
"""How a file begins that stands for a large one in a clone without it."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a file.

    Args:
      shape: as the file says.
      dtype: the name of what `read` returns the numbers as.
      file: the name of the file, for messages.
      read: returns the numbers.
      read_rows: returns the rows from the first to the one before the last; None where a file is not read so.
    """

    shape: tuple[int, ...]
    dtype: str
    file: str
    read: Callable[[], np.ndarray]
    read_rows: Callable[[int, int], np.ndarray] | None = None

    def numbers(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """Returns the numbers, or some rows of them.

        Raises:
          ValueError: if they cannot be read; says which tensor of which file it is.
        """
        try:
            return self.read() if rows is None or self.read_rows is None else self.read_rows(*rows)
        except (ValueError, IndexError, NotImplementedError) as error:
            raise ValueError(f"{self.file}: expected {name} to be read whole, got: {error}") from error


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a model's files hold.

    Args:
      tensors: by name.
      config: what the model is, in the words of ``config.json``.
      files: all that has been read.
      vocabulary: the metadata of a GGUF file, which has its tokens; or the folder with the files of a tokenizer.
      config_file: the name of the file that the config is from, for messages.
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    files: tuple[Path, ...]
    vocabulary: Mapping[str, Any] | Path
    config_file: str = "config.json"


def reader(package: str) -> Any:
    """Imports a package that reads files, or says how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"pretrained: expected the package {package.partition('.')[0]!r}, which is not installed; "
            "the extra 'pretrained' of jattn has it"
        ) from error


@contextlib.contextmanager
def whole(path: Path, kind: str) -> Iterator[None]:
    """Says of which file it is that what its reader stumbles over."""
    try:
        yield
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:  # Readers raise what they like: struct.error, IndexError, their own.
        reason = " ".join(str(error).split()) or type(error).__name__
        if _is_pointer(path):
            reason = "it is a pointer of Git LFS, and `git lfs pull` fetches what it points to"
        raise ValueError(f"{path.name}: expected a whole {kind} file, got one that cannot be read: {reason}") from error


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object."""
    with whole(path, "JSON"):
        if path.stat().st_size > MOST_JSON:
            raise ValueError(f"expected at most {MOST_JSON:,} bytes, got {path.stat().st_size:,}")
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path.name}: expected a JSON object, got {type(found).__name__}")
    return found


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Lists the tensors of a ``.safetensors`` file, which is mapped into memory."""
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    with whole(path, "safetensors"):
        file = reader("safetensors").safe_open(path, "numpy")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        return {
            name: Tensor(
                tuple(one.get_shape()),
                names.get(str(one.get_dtype()), str(one.get_dtype())),
                path.name,
                lambda name=name: file.get_tensor(name),
                # NumPy by itself has no bfloat16 to return a part as.
                (lambda first, end, one=one: one[first:end]) if str(one.get_dtype()) != "BF16" else None,
            )
            for name, one in slices.items()
        }


def joined(parts: Mapping[Path, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Joins the tensors of several files, none of which may have one of another's."""
    found: dict[str, Tensor] = {}
    for path, tensors in parts.items():
        for name, tensor in tensors.items():
            if name in found:
                raise ValueError(f"{name}: expected in one file, got it in {found[name].file} and in {path.name}")
            found[name] = tensor
    return found
