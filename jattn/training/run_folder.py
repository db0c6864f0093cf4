"""The folder of a run: who may write there, its config, and its rows of metrics."""

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

import tomli_w

from jattn.drawing.files import replacing
from jattn.training.config import Config
from jattn.training.reading import ConfigError, check, differences, read_toml

CONFIG, METRICS, LOCK, OWN = "config.toml", "metrics.jsonl", "lock", "own.json"


class RunFolderError(RuntimeError):
    """A run folder that cannot be used as asked; its text is meant for the person who asked."""


class RunFolder:
    """Holds a run folder for this process alone, for as long as it is open.

    Args:
      config: of the run; ``config.run.folder`` is made where missing. If the folder holds a run of the same config,
        that run goes on; ``config.run.overwrite`` deletes it first.
      own: what stands in place of the config's task and model, in words; kept with the config.

    Raises:
      RunFolderError: if another process holds the folder, if it holds a run of a different config (naming the keys), or
        of another task or model, or files that are no run.
    """

    def __init__(self, config: Config, own: Mapping[str, str] = MappingProxyType({})) -> None:
        self.path = Path(config.run.folder)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _refuse_strangers(self.path)
            self._lock = self._take_lock()
        except FileExistsError:
            raise RunFolderError(f"run.folder: expected a folder, got a file: {self.path}") from None
        except OSError as error:
            raise RunFolderError(
                f"run.folder: expected a folder that can be written, got {self.path}: {error.strerror}"
            ) from None
        try:
            there = read_config(self.path) if (self.path / CONFIG).exists() else None
            if there is not None and not config.run.overwrite:
                _refuse_another_config(self.path, config, there)
                refuse_other_parts(self.path, own)
            else:
                self._empty()
                if own:
                    with replacing(self.path / OWN) as file:
                        file.write(json.dumps(dict(own), indent=2).encode("utf-8"))
                with replacing(self.path / CONFIG) as file:
                    file.write(tomli_w.dumps(config.model_dump()).encode("utf-8"))
        except BaseException:
            self._lock.close()
            raise

    def read_metrics(self) -> list[dict[str, Any]]:
        """Reads all rows of metrics; a last line that a crash cut short is left out."""
        return read_metrics(self.path)

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Drops what an interrupted run wrote beyond `step`, where it resumes; returns the rows that stay."""
        rows = [row for row in self.read_metrics() if row["step"] <= step]
        with replacing(self.path / METRICS) as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode("utf-8"))
        for snapshot in (self.path / "filters").glob("step_*.npz"):
            number = snapshot.stem.removeprefix("step_")
            if number.isdecimal() and int(number) > step:
                snapshot.unlink()
        return rows

    def append(self, row: dict[str, Any]) -> None:
        """Adds one row of metrics."""
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Lets other processes have the folder."""
        self._lock.close()

    def _take_lock(self) -> TextIO:
        lock = (self.path / LOCK).open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise RunFolderError(f"{self.path}: another process (pid {owner}) is writing to this run folder") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def _empty(self) -> None:
        # The config goes last: as long as it stands, the folder is known as that of a run.
        for entry in sorted(self.path.iterdir(), key=lambda entry: entry.name == CONFIG):
            if entry.name == LOCK:
                continue
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def check_folder(config: Config) -> None:
    """Raises what `RunFolder` would raise of what the folder holds, and writes nothing.

    Raises:
      RunFolderError: if it is a file, or holds a run of a different config or files that are no run.
    """
    path = Path(config.run.folder)
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"run.folder: expected a folder, got a file: {path}")
    if path.exists():
        _refuse_strangers(path)
    if (path / CONFIG).exists():
        there = read_config(path)
        if not config.run.overwrite:
            _refuse_another_config(path, config, there)


def read_config(path: Path) -> Config:
    """Reads the config of the run in a folder.

    Raises:
      RunFolderError: if there is none, or it cannot be read.
    """
    try:
        values = read_toml(path / CONFIG)
        if values.keys() != Config.model_fields.keys():
            raise ConfigError(f"{path / CONFIG}: expected the whole config of a run")
        return check(values, str(path / CONFIG))
    except ConfigError as error:
        raise RunFolderError(f"{path}: expected the folder of a run; {error}") from None


def refuse_other_parts(path: Path, own: Mapping[str, str]) -> None:
    """Raises `RunFolderError` unless the run in a folder has these parts in place of its config's task and model."""
    there = json.loads((path / OWN).read_text("utf-8")) if (path / OWN).exists() else {}
    for name in sorted(own.keys() | there.keys()):
        if own.get(name) != there.get(name):
            ours, theirs = (x.get(name, "that of the config") for x in (own, there))
            raise RunFolderError(
                f"{path} holds a run of another {name} (asked for | there):\n  {ours} | {theirs}\n"
                "give the same, or choose another run.folder, or run.overwrite to delete that run"
            )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads all rows of metrics of the run in a folder; a last line that a crash cut short is left out.

    Raises:
      RunFolderError: if a line before the last is no row, naming it.
    """
    file = path / METRICS
    lines = file.read_bytes().splitlines() if file.exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            int(row["step"])
            rows.append(row)
        except (ValueError, TypeError, KeyError):
            if number < len(lines):
                got = line[:60].decode("utf-8", "replace")
                raise RunFolderError(
                    f"{file}, line {number}: expected a JSON object with a step, got {got!r}"
                ) from None
    return rows


def _refuse_strangers(path: Path) -> None:
    if (path / CONFIG).exists():
        return
    # A process that died while it wrote the first config leaves its temporary file.
    ours = (LOCK, OWN, f".{CONFIG}.", f".{OWN}.")
    strangers = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(ours))
    if strangers:
        raise RunFolderError(f"{path}: expected an empty folder or that of a run, got one with {strangers[0]!r} in it")


def _refuse_another_config(path: Path, config: Config, there: Config) -> None:
    differing = differences(config, there)
    if differing:
        raise RunFolderError(
            f"{path} holds a run of a different config (asked for | there):\n  "
            + "\n  ".join(differing)
            + "\nchoose another --run.folder, or --run.overwrite to delete that run"
        )
