"""Where a model's files may be: a folder, a single file, or a wheel or zip that holds either."""

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from jattn.pretrained.families import Config
from jattn.pretrained.gguf_files import read_gguf
from jattn.pretrained.tensors import MOST_JSON, Checkpoint, Tensor, joined, read_json, read_safetensors, whole
from jattn.pretrained.torch_files import read_torch

WEIGHTS = ("model*.safetensors", "*.safetensors", "pytorch_model*.bin", "*.gguf")
"""What files of weights are called, in the order in which they are preferred."""

MOST_GROWTH = 20
"""How many times larger than the archive its files may be."""

BESIDE = ("*.json", "*.txt")
"""What files beside the weights may be read: the config, and those of the tokenizer."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Checkpoint]:
    """Opens the files of a model; what they hold can be read until the context ends.

    Raises:
      FileNotFoundError: if there is no such path.
      ValueError: if it holds no model, or several, or a damaged file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected the folder or a file of a model, got no such path")
    if path.is_dir():
        yield _read_folder(path, path)
    elif path.suffix in (".whl", ".zip"):
        with tempfile.TemporaryDirectory(prefix="jattn-") as scratch:
            folder = _unpack(path, Path(scratch))
            yield _read_folder(folder, path)
    elif path.suffix == ".gguf":
        yield read_gguf(path)
    elif path.suffix in (".safetensors", ".bin"):
        yield _read_files([path], path.parent)
    else:
        raise ValueError(f"{path.name}: expected a folder, .safetensors, .gguf, .bin, .whl or .zip, got another kind")


def _read_folder(folder: Path, source: Path) -> Checkpoint:
    for pattern in WEIGHTS:
        files = sorted(file for file in folder.glob(pattern) if file.is_file())
        if files and pattern == "*.gguf":
            if len(files) > 1:
                raise ValueError(f"{source}: expected one GGUF file, got {', '.join(file.name for file in files)}")
            return read_gguf(files[0])
        if files:
            return _read_files(files, folder)
    raise ValueError(f"{source}: expected a model's weights ({', '.join(WEIGHTS)}), got a folder without")


def _read_files(files: list[Path], folder: Path) -> Checkpoint:
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(
            f"{files[0].name}: expected a config.json beside it, which says what the numbers are; got none"
        )
    read = read_torch if files[0].suffix == ".bin" else read_safetensors
    parts = {file: read(file) for file in files}
    indices = [path for path in folder.glob("*.index.json") if path.name.startswith(files[0].name.split("-")[0])]
    indices = indices if len(files) > 1 or "-of-" in files[0].name else []
    for index in indices:
        _check_index(index, {file.name: tensors for file, tensors in parts.items()})
    return Checkpoint(joined(parts), read_json(config), (config, *files, *indices), folder)


def _check_index(index: Path, parts: dict[str, dict[str, Tensor]]) -> None:
    places = Config(read_json(index), index.name).section("weight_map")
    for name, file in places.values.items():
        if not isinstance(file, str):
            raise places.error(name, "the name of a file", file)
        if file not in parts:
            raise ValueError(f"{index.name}: expected the file {file} with {name}, got none")
        if name not in parts[file]:
            raise ValueError(f"{index.name}: expected {name} in {file}, got a file without")


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Refuses an archive that is far larger unpacked: weights hardly shrink, and a disk should not be filled."""
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > size * MOST_GROWTH + MOST_JSON:
        raise ValueError(f"expected at most {MOST_GROWTH} times its {size:,} bytes unpacked, got {unpacked:,}")


def _unpack(path: Path, scratch: Path) -> Path:
    """Unpacks the folder of an archive that holds weights; a compressed file cannot be mapped into memory."""
    with whole(path, "zip"), zipfile.ZipFile(path) as archive:
        _check_sizes(archive, path.stat().st_size)
        names = [PurePosixPath(entry.filename) for entry in archive.infolist() if not entry.is_dir()]
        folders = sorted({name.parent for name in names if any(name.match(pattern) for pattern in WEIGHTS)})
        if len(folders) != 1:
            found = ", ".join(map(str, folders)) or "none"
            raise ValueError(f"expected one folder with a model's weights, got {found}")
        for name in names:
            wanted = any(name.match(pattern) for pattern in (*WEIGHTS, *BESIDE))
            if name.parent == folders[0] and wanted:
                with archive.open(str(name)) as source, (scratch / name.name).open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    return scratch
