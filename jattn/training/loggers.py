"""Loggers: what a run writes down, handed on to TensorBoard or Weights & Biases; `metrics.jsonl` stays the record.

A logger gets every row of metrics once, also where a run was cut off and takes some steps again: a file in the run
folder says which row each logger had last. These steps give the same numbers, so nothing is missing and nothing is
doubled. A logger that comes later gets what there is: the rows, and the snapshots in the folder.
"""

import importlib.util
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tomli_w

from jattn.drawing.images import cell_pixels, palette
from jattn.drawing.ink import LINEAR, ROOTED
from jattn.report.record import read_filters, steps_of_snapshots
from jattn.report.snapshots import Kept, Pooled
from jattn.training.config import Config
from jattn.training.own.code import Code
from jattn.training.own.parts import LOGGER_METHODS
from jattn.training.reading import ConfigError
from jattn.training.run_folder import RunFolderError
from jattn.training.tables import LOGGERS

STATE = "loggers.json"
"""The file that says what each logger had last."""

KINDS = ("train", "evaluation", "test")
"""The kinds of rows, in the order in which those of one step are written."""

NOTHING = {"step": -1, "kind": KINDS[0], "pictures": -1}
"""What is kept of a logger that has nothing yet: step and kind of its last row, and the step of its last pictures."""

SIDE = 160
"""About how many pixels wide and high the picture of a filter is."""


class Logger(Protocol):
    """What is written to; made from the run folder, the config, and what is kept of it from one process to the next.

    What is kept is a dict of JSON values.
    """

    def __init__(self, folder: Path, config: Config, state: dict[str, Any]) -> None: ...

    def log(self, step: int, numbers: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        """Writes numbers, and pictures as uint8 ``[height, width, 3]``, each by name."""

    def close(self) -> None:
        """Writes what is left."""


class TensorBoard:
    """Writes event files into ``tensorboard/`` of the run folder, with tensorboardX."""

    def __init__(self, folder: Path, config: Config, state: dict[str, Any]) -> None:
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

        # Two processes within a second need files of different names.
        self._writer = SummaryWriter(str(folder / "tensorboard"), filename_suffix=f".{uuid.uuid4().hex[:8]}")
        if state["step"] < 0:
            self._writer.add_text("config", f"```toml\n{tomli_w.dumps(config.model_dump())}```", 0)

    def log(self, step: int, numbers: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)
        for name, picture in pictures.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Writes a run of Weights & Biases into ``wandb/`` of the run folder; offline, unless WANDB_MODE says otherwise.

    Offline, W&B cannot go on with a run: each process writes a folder of its own, and ``wandb sync`` of one replaces
    what was sent before. So each process is given all that there is, and the last folder is whole.
    """

    def __init__(self, folder: Path, config: Config, state: dict[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        mode = os.environ.get("WANDB_MODE", "offline")
        if not mode == state.get("mode") == "online":
            state |= NOTHING
        state["mode"] = mode
        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "jattn"),
            name=folder.name,
            id=state.setdefault("id", uuid.uuid4().hex[:12]),
            resume="allow",
            dir=str(folder),
            config=config.model_dump(),
            mode=mode,  # pyright: ignore[reportArgumentType]
            settings=wandb.Settings(silent=True),
        )

    def log(self, step: int, numbers: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        images = {name: self._wandb.Image(picture) for name, picture in pictures.items()}
        self._run.log({**numbers, **images}, step=step)

    def close(self) -> None:
        self._run.finish()


def check_loggers(config: Config) -> None:
    """Raises a ConfigError, with the command that helps, if the library of a logger is not installed."""
    for name in (name for name in config.run.logger if name in LOGGERS):
        package = LOGGERS[name].package
        found = importlib.util.find_spec(package)
        # A folder of that name, such as W&B makes, is found as well; it has no origin.
        if found is None or found.origin is None:
            raise ConfigError(f"run.logger: {name!r} needs {package}, which is not there; pip install 'jattn[{name}]'")


class Loggers:
    """The loggers of a run.

    Args:
      config: of the run.
      folder: the run's.
      rows: what the run has written before; a logger is given those that come after the last that it had, and the
        snapshots in the folder likewise.

    Raises:
      RunFolderError: if the file that says what each has is not as it was written.
      ConfigError: if one of a person's own raises, or keeps what is not JSON; so do the methods.
    """

    def __init__(self, config: Config, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        self._path = folder / STATE
        known = _read_state(self._path)
        self._states = {name: NOTHING | known.get(name, {}) for name in config.run.logger}
        self._others = {name: state for name, state in known.items() if name not in self._states}
        self._loggers: dict[str, Logger] = {}
        self._opened = ExitStack()
        try:
            for name, state in self._states.items():
                self._loggers[name] = _made(name, folder, config, state)
                self._opened.callback(self._loggers[name].close)
            self._catch_up(folder, rows)
        except BaseException:
            # What came first is what is said.
            with suppress(Exception):
                self._opened.close()
            raise

    def _catch_up(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Hands on what was written before, by step, as Weights & Biases takes no earlier step after a later one."""
        behind = min((state["pictures"] for state in self._states.values()), default=math.inf)
        snapshots = [(step, -1, None) for step in steps_of_snapshots(folder) if step > behind]
        for step, _, row in sorted([*snapshots, *((*_order(row), row) for row in rows)], key=itemgetter(0, 1)):
            if row is not None:
                self.row(row)
                continue
            # A damaged snapshot is left out, as the report leaves it out.
            with suppress(OSError, ValueError):
                self.filters(step, read_filters(folder, step))

    def row(self, row: Mapping[str, Any]) -> None:
        """Hands on the next row of metrics to those that do not have it."""
        waiting = [name for name, state in self._states.items() if _order(state) < _order(row)]
        for name in waiting:
            self._loggers[name].log(row["step"], dict(numbers_of(row)), {})
            self._states[name] |= {"step": row["step"], "kind": row["kind"]}
            # The next one may fail.
            self._save()

    def filters(self, step: int, filters: Mapping[str, Kept]) -> None:
        """Hands on pictures of the filters of a snapshot to those that do not have them."""
        waiting = [name for name, state in self._states.items() if state["pictures"] < step]
        pictures = {f"filters/{name}": picture_of(layer) for name, layer in filters.items()} if waiting else {}
        for name in waiting:
            self._loggers[name].log(step, {}, pictures)
            self._states[name]["pictures"] = step
            self._save()

    def _save(self) -> None:
        # A process may be killed here, so it is there at once; the disk may write it later, which takes longest.
        temporary = self._path.with_name(f".{STATE}.{os.getpid()}")
        states = self._others | self._states
        texts = {name: _as_json(name, state, self._loggers.get(name)) for name, state in states.items()}
        temporary.write_text(f"{{{', '.join(f'{json.dumps(name)}: {text}' for name, text in texts.items())}}}", "utf-8")
        temporary.replace(self._path)

    def close(self) -> None:
        """Lets each write what is left, also where another one fails."""
        try:
            self._opened.close()
        finally:
            if self._states:
                self._save()


def _made(name: str, folder: Path, config: Config, state: dict[str, Any]) -> Any:
    """Makes a logger of a name; one of a person's own says what is wrong with it in one line."""
    if name in LOGGERS:
        return LOGGERS[name].load()(folder, config, state)
    code = config.parts[f"run.logger {name}"].code
    return _Own(code, folder, config, state)


class _Own:
    """A logger of a person's own; what it raises names its line."""

    def __init__(self, code: Code, folder: Path, config: Config, state: dict[str, Any]) -> None:
        self.code = code
        with self._naming():
            # A dict of its own, as the names in it are a person's.
            self._logger = code.made(folder, config, state.setdefault("own", {}))
        if not all(hasattr(self._logger, name) for name in LOGGER_METHODS):
            got = "None" if self._logger is None else type(self._logger).__name__
            expected = "a logger, with log(step, numbers, pictures) and close()"
            raise ConfigError(f"run.logger: {code.wrong(f'expected {expected}, got {got}')}")

    def log(self, step: int, numbers: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        with self._naming():
            self._logger.log(step, numbers, pictures)

    def close(self) -> None:
        with self._naming():
            self._logger.close()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise ConfigError(f"run.logger: {self.code.raised(error)}") from error


def _as_json(name: str, state: dict[str, Any], logger: Any) -> str:
    try:
        return json.dumps(state)
    except (TypeError, ValueError, RecursionError) as error:
        problem = f"expected JSON values in state, got: {error}"
        said = logger.code.wrong(problem) if isinstance(logger, _Own) else f"{name}: {problem}"
        raise ConfigError(f"run.logger: {said}") from None


def _order(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["step"], KINDS.index(row["kind"])


def _read_state(path: Path) -> dict[str, dict[str, Any]]:
    try:
        states = json.loads(path.read_bytes()) if path.exists() else {}
    except (ValueError, RecursionError):
        states = None
    if not isinstance(states, dict) or not all(_is_state(state) for state in states.values()):
        raise RunFolderError(
            f"{path}: expected JSON of what each logger had last, got another text; "
            "without the file, they get all rows again"
        )
    return states


def _is_state(state: Any) -> bool:
    if not isinstance(state, dict) or not NOTHING.keys() <= state.keys():
        return False
    return type(state["step"]) is type(state["pictures"]) is int and state["kind"] in KINDS


def numbers_of(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names each number of a row: what kind of row it is, then the keys that lead to it; others are left out.

    Example:
      >>> from jattn.training.loggers import numbers_of
      >>> row = {"kind": "train", "step": 5, "loss": 0.5, "filters": {"attention": {"mass": [0.25, None]}}}
      >>> dict(numbers_of(row))
      {'train/loss': 0.5, 'train/filters/attention/mass/head_0': 0.25}
    """
    for key, value in row.items():
        if key not in ("kind", "step", "replicates"):
            yield from _numbers(f"{row['kind']}/{key}", value)
    for seed in row.get("replicates", ()) if len(row.get("replicates", ())) > 1 else ():
        for key, value in seed.items():
            if key != "seed":
                yield from _numbers(f"{row['kind']}/seed_{seed['seed']}/{key}", value)


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _numbers(f"{name}/{key}", entry)
    elif isinstance(value, list | tuple):
        for head, entry in enumerate(value):
            if isinstance(entry, int | float):
                yield from _numbers(f"{name}/head_{head}", entry)
    elif isinstance(value, int | float) and math.isfinite(value):
        yield name, value


def picture_of(layer: Kept) -> np.ndarray:
    """Draws the filters of the first example of a layer, its heads from left to right: uint8 ``[height, width, 3]``."""
    cells, ink = (layer.map[0], ROOTED) if isinstance(layer, Pooled) else (layer[0], LINEAR)
    size = max(1, SIDE // max(cells.shape[-2:]))
    heads = [np.pad(cell_pixels(head.astype(np.float32), ink, (size, size)), ((0, 0), (0, 4))) for head in cells]
    colours = np.frombuffer(palette(), np.uint8).reshape(-1, 3)
    return colours[np.concatenate(heads, axis=1)[:, :-4]]
