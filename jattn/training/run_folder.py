"""The folder of a run: who may write there, its config, and its rows of metrics."""

import itertools
import json
import shutil
from collections.abc import Callable, Mapping
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli_w

from jattn.drawing.files import named, replacing
from jattn.drawing.plain import fitted
from jattn.report.rows import METRICS, read_row, read_rows, write_row
from jattn.training.config import Config
from jattn.training.digests import History, history_of
from jattn.training.lock import Lock, Locked
from jattn.training.own.code import is_own
from jattn.training.own.keys import files_of_code
from jattn.training.own.record import COPIES, RECORD, ChangedCode, places_of_code, record_code
from jattn.training.processes import from_first
from jattn.training.reading import ConfigError, check, differences, read_toml
from jattn.training.training_on import goes_on, only_longer, why_not

CONFIG, LOCK, OWN, FORMAT = "config.toml", "lock", "own.json", "format"

VERSION = "1"
"""The format of run folders, which a file in each of them names."""


class RunFolderError(RuntimeError):
    """A run folder that cannot be used as asked; its text is meant for the person who asked."""


class RunFolder:
    """Holds a run folder for this process alone, for as long as it is open.

    Args:
      config: of the run; ``config.run.folder`` is made where missing. If the folder holds a run of the same config,
        that run goes on, with more steps as well where its schedule does not depend on them; ``config.run.overwrite``
        deletes it first.
      own: what stands in place of the config's task and model, in words; kept with the config.

    Raises:
      RunFolderError: if another process holds the folder, or no lock can be had; if it holds a run of a different
        config (naming the keys), of another task or model, with code that has changed since, or of another format, or
        files that are no run.
    """

    def __init__(self, config: Config, own: Mapping[str, str] = MappingProxyType({})) -> None:
        self.path = Path(config.run.folder)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _refuse_strangers(self.path)
            self._lock = Lock(self.path / LOCK, needed=config.run.lock)
        except Locked as error:
            raise RunFolderError(str(error)) from None
        except FileExistsError:
            raise RunFolderError(f"run.folder: expected a folder, got a file: {self.path}") from None
        except OSError as error:
            raise RunFolderError(
                f"run.folder: expected a folder that can be written, got {self.path}: {error.strerror}"
            ) from None
        try:
            there = _there(self.path, config)
            if there is not None and not config.run.overwrite:
                _refuse_another_config(self.path, config, there)
                refuse_other_parts(self.path, own)
                self._remove_temporary()
                # The file of the task may have moved.
                if goes_on(config, there) or config.task.reads():
                    self._write_config(config)
            else:
                self._empty()
                record_code(self.path, config.code_of_run)
                texts = {OWN: json.dumps(dict(own), indent=2)} if own else {}
                for name, text in (texts | {FORMAT: VERSION}).items():
                    with replacing(self.path / name) as file:
                        file.write(text.encode("utf-8"))
                self._write_config(config)
        except BaseException:
            self._lock.close()
            raise

    def _write_config(self, config: Config) -> None:
        with replacing(self.path / CONFIG) as file:
            file.write(tomli_w.dumps(config.model_dump()).encode("utf-8"))

    def history(self) -> History:
        """Returns what a checkpoint keeps of the rows that were written so far."""
        return history_of(self._rows())

    def rewind(self, step: int, history: History | None, say: Callable[[str], None]) -> list[dict[str, Any]]:
        """Drops what an interrupted run wrote beyond the checkpoint where it resumes; returns the rows that stay.

        Args:
          step: of the checkpoint; -1 to begin anew.
          history: the rows that belong to it.
          say: is told if they are not there any more as they were written; the file is then kept aside.
        """
        rows = self._rows()
        kept = rows[: 0 if history is None else history.size]
        if history is not None and history_of(kept) != history:
            names = (self.path / f"metrics_damaged_{number}.jsonl" for number in itertools.count(1))
            aside = next(path for path in names if not path.exists())
            aside.write_bytes(rows)
            say(
                f"{METRICS}: the rows before step {step} are not as they were written; what can be read of them stays, "
                f"the file is kept as {aside.name}"
            )
            stay = {line: row for line in rows.split(b"\n")[:-1] if (row := _row_up_to(step, line)) is not None}
            kept = b"".join(line + b"\n" for line in sorted(stay, key=lambda line: stay[line]["step"]))
        with replacing(self.path / METRICS) as file:
            file.write(kept)
        for snapshot in (self.path / "filters").glob("step_*.npz"):
            number = snapshot.stem.removeprefix("step_")
            if number.isdecimal() and int(number) > step:
                snapshot.unlink()
        return [read_row(line) for line in kept.split(b"\n")[:-1]]

    def append(self, row: dict[str, Any]) -> None:
        """Adds one row of metrics."""
        path = self.path / METRICS
        with named(path), path.open("a") as file:
            file.write(write_row(row))

    def _rows(self) -> bytes:
        path = self.path / METRICS
        return path.read_bytes() if path.is_file() else b""

    def close(self) -> None:
        """Lets other processes have the folder."""
        self._lock.close()

    def _remove_temporary(self) -> None:
        """Removes what a process left that died while it wrote a file."""
        for folder in (self.path, *(self.path / name for name in ("checkpoints", "code", "figures", "filters"))):
            for path in (*folder.glob(".*.*"), *folder.glob(f"{LOCK}.*")):
                if path.suffix[1:].isdecimal():
                    path.unlink()

    def _empty(self) -> None:
        # The config goes last: as long as it stands, the folder is known as that of a run.
        for entry in sorted(self.path.iterdir(), key=lambda entry: entry.name == CONFIG):
            if entry.name == LOCK:
                continue
            with named(entry):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


class FolderOfAnother(RunFolder):
    """A run folder that another process of the same run holds: nothing is read or written."""

    def __init__(self, config: Config) -> None:
        self.path = Path(config.run.folder)

    def history(self) -> History:
        return history_of(b"")

    def append(self, row: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def open_folder(config: Config, own: Mapping[str, str] = MappingProxyType({})) -> RunFolder:
    """Holds a run folder as `RunFolder` does, in the first process of a run; if it cannot, all raise what it raises."""
    held: list[RunFolder] = []
    from_first(lambda: held.append(RunFolder(config, own)))
    return held[0] if held else FolderOfAnother(config)


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
    there = _there(path, config)
    if there is not None and not config.run.overwrite:
        _refuse_another_config(path, config, there)


def _there(path: Path, config: Config) -> Config | None:
    """Reads the config of the run that a folder holds, if any; one to be deleted may have another format, or code."""
    if config.run.overwrite and (path / CONFIG).exists() and (path / RECORD).exists():
        return config
    known = config.places.known
    return read_config(path, config.run.overwrite, known, draft=True) if (path / CONFIG).exists() else None


def read_config(
    path: Path, any_format: bool = False, known: Mapping[str, str] = MappingProxyType({}), draft: bool = False
) -> Config:
    """Reads the config of the run in a folder, and imports the code that the run needs.

    A file that its task reads may have moved: one of its name in the working folder, or beside the run folder, does
    as well, if it has the same SHA-256. Loggers of a person's own and ``[mesh]`` are left out, as the same run goes on
    with others.

    Args:
      path: the folder.
      any_format: whether another format will do.
      known: where code is, by its name in the config, if it is not where it was.
      draft: whether to do without the file that its task may read.

    Raises:
      RunFolderError: if there is none, it cannot be read, its code has changed, or the folder has another format.
    """
    found = (path / FORMAT).read_text("utf-8", "replace") if (path / FORMAT).is_file() else "none"
    if found != VERSION and not any_format and (path / CONFIG).exists():
        raise RunFolderError(f"{path}: expected a run folder of format {VERSION}, got {found[:20]!r} in {FORMAT}")
    try:
        values = read_toml(path / CONFIG)
        # A run of before there was [mesh] has its devices in [run].
        missing = [name for name in Config.model_fields if name not in values and name != "mesh"]
        if missing:
            raise ConfigError(f"{path / CONFIG}: expected the whole config of a run, got one without [{missing[0]}]")
        values = _with_moved_files(_without_surroundings(values), path)
        # A run that is to be deleted may have lost its record.
        places = places_of_code(path, known, () if any_format else files_of_code(values))
        return check(values, str(path / CONFIG), draft, places=places)
    except ChangedCode as error:
        raise RunFolderError(str(error)) from None
    except ConfigError as error:
        raise RunFolderError(f"{path}: expected the folder of a run; {error}") from None


def _without_surroundings(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values without the code of loggers and without devices: a run is read back where neither is there."""
    run = values["run"]
    if isinstance(run, dict):
        run = {key: value for key, value in run.items() if key != "devices"}
        if isinstance(run.get("logger"), list):
            run["logger"] = [name for name in run["logger"] if not is_own(name)]
    return values | {"run": run, "mesh": {}}


def _with_moved_files(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the values with the files that the task reads found elsewhere, where they are not where they were."""
    task = values["task"]
    if not isinstance(task, dict):
        return values
    named = {key: task[key] for key in ("file", "tokenizer") if isinstance(task.get(key), str) and task[key]}
    found = {key: _moved(file, path) for key, file in named.items() if "\0" not in file and not Path(file).exists()}
    return values | {"task": task | found}


def _moved(file: str, path: Path) -> str:
    places = (folder / Path(file).name for folder in (Path(), path.absolute().parent))
    return next((str(place.absolute()) for place in places if place.is_file()), file)


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
      RunFolderError: if another line is no row, naming it.
    """
    try:
        return read_rows(path / METRICS)
    except ValueError as error:
        raise RunFolderError(str(error)) from None


def _row_up_to(step: int, line: bytes) -> dict[str, Any] | None:
    try:
        row = read_row(line)
    except ValueError:
        return None
    # A test is done again, as what it says cannot be checked.
    return row if row["step"] <= step and row["kind"] != "test" else None


def _refuse_strangers(path: Path) -> None:
    if (path / CONFIG).exists():
        return
    # A process that died while it wrote the first config leaves its temporary file.
    ours = (LOCK, OWN, FORMAT, RECORD, COPIES, *(f".{name}." for name in (CONFIG, OWN, FORMAT, RECORD)))
    strangers = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(ours))
    if strangers:
        got = f"got one without {CONFIG} and with {strangers[0]!r} in it"
        raise RunFolderError(f"{path}: expected an empty folder or that of a run, {got}")


def _refuse_another_config(path: Path, config: Config, there: Config) -> None:
    differing = differences(config, there)
    if [line.partition(":")[0] for line in differing] == ["task.sha256"]:
        (file, digest), (_, before) = (itemgetter("file", "sha256")(one.task.model_dump()) for one in (config, there))
        raise RunFolderError(
            f"{path}: expected {file} as it was when the run began, with the SHA-256 {before}, "
            f"got {digest}; choose another --run.folder, or --run.overwrite to delete that run"
        )
    if differing and not goes_on(config, there):
        reason = f"; {why_not(config, there)}" if only_longer(config, there) else ""
        advice = "choose another --run.folder, or --run.overwrite to delete that run"
        before = f"{path} holds a run of a different config (asked for | there): "
        raise RunFolderError(fitted(before, differing, f"{reason}; {advice}"))
