"""From a config file, or nested values, to a checked `Config`, or one message that says what is wrong."""

import dataclasses
import datetime
import difflib
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pydantic

from jattn.drawing.plain import fitted, in_plain
from jattn.training.config import DRAFT, Config
from jattn.training.meant import hint, meant_by, toml_hint, value_hint
from jattn.training.own.code import OwnError, Places
from jattn.training.own.keys import config_class
from jattn.training.shipped import configs_folder, find_config

HOW_WRITTEN = (
    *("run.folder", "run.overwrite", "run.cache", "run.debug", "run.lock", "run.logger", "run.profile"),
    *("run.distributed", "mesh.data", "mesh.sequence", "mesh.shard_parameters"),
)
"""The keys that say where and how a run is written, and on what it is computed: with others it is the same run."""


LARGEST = 1_000_000
"""Bytes that a config file may have."""


class ConfigError(ValueError):
    """A mistake in a config file or on the command line; its text is meant for the person who made it."""


@dataclasses.dataclass(frozen=True)
class Given:
    """What a config file and the options after it say; names and ranges are checked, and not yet what fits together.

    Attributes:
      values: the nested values of a config.
      source: where they came from, for messages.
      file: the config file.
      in_file: what the file alone says.
    """

    values: dict[str, Any]
    source: str
    file: str
    in_file: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of the config file, without its ending."""
        return Path(self.file).stem

    @property
    def places(self) -> Places:
        """Where code that the config names is looked for: beside the file."""
        return places_beside(Path(self.file))

    def check(self) -> Config:
        """Makes the config, as `check` does; where the file alone is wrong, its mistake is reported."""
        try:
            return check(self.values, self.source, places=self.places)
        except ConfigError:
            check(self.in_file, self.file, places=self.places)
            raise


def in_folder(config: Config, folder: Path) -> Config:
    """Returns the config with another run folder."""
    return config.model_copy(update={"run": config.run.model_copy(update={"folder": str(folder)})})


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file that is meant to hold a config: one of a person's own, or one that comes with jattn.

    Raises:
      ConfigError: if there is no such file, or it is a folder, not UTF-8, empty or not TOML.
    """
    try:
        found = find_config(path)
        if (found / "config.toml").is_file():
            raise ConfigError(
                f"{path}: expected a config file, got the folder of a run; its config is {path / 'config.toml'}"
            )
        if found.is_dir():
            inside = sorted(map(str, path.glob("*.toml")))
            raise ConfigError(
                fitted(f"{path}: expected a config file, got a folder; it holds ", inside or ["no .toml file"])
            )
        if found.stat().st_size > LARGEST:
            raise ConfigError(f"{path}: expected a config of at most {LARGEST:,} bytes, got {found.stat().st_size:,}")
        text = found.read_bytes().decode("utf-8")
    except FileNotFoundError:
        folders = [path.parent, *([configs_folder()] if path.parent in (Path(), Path("configs")) else [])]
        names = {other.stem: other.name for folder in folders for other in folder.glob("*.toml")}
        near = difflib.get_close_matches(path.name.removesuffix(".toml"), names, n=1)
        guesses = [Path("configs") / path.name, *(path.parent / names[name] for name in near)]
        guess = next((str(guess) for guess in guesses if find_config(guess).exists()), None)
        hint = f"; did you mean {guess}?" if guess else known_configs()
        raise ConfigError(f"{path}: no such file{hint}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x} at {error.start}"
        ) from None
    except ConfigError:
        raise
    except (OSError, ValueError) as error:  # a name with a null in it is a ValueError
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{shown(str(path))}: expected a readable config file, got: {reason}") from None
    try:
        values = tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: expected TOML, got: {error}{toml_hint(text, str(error), path.suffix)}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists nested as deep
        raise ConfigError(f"{path}: expected TOML of a config, got a number too long or lists too deep") from None
    if not values:
        raise ConfigError(f"{path}: expected at least one of the tables {_tables()}, got an empty config")
    return _with_file_beside(values, found.parent)


def _with_file_beside(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the values with the files that a task reads found beside the config, else left as they are."""
    task = values.get("task")
    if not isinstance(task, dict):
        return values
    named = {key: task[key] for key in ("file", "tokenizer") if isinstance(task.get(key), str) and task[key]}
    found = {key: os.path.abspath(folder / name) for key, name in named.items() if (folder / name).is_file()}
    return values | {"task": task | found} if found else values


def places_beside(file: Path) -> Places:
    """Returns where code that a config file names is looked for: in the folder of the file."""
    return Places((file.parent,))


def class_of(values: dict[str, Any], source: str, places: Places | None = None) -> type[Config]:
    """Returns the class that checks some values, with the keys of code that they name.

    Raises:
      ConfigError: if that code cannot be used; `source` says where the values came from.
    """
    try:
        return config_class(values, places)
    except OwnError as error:
        raise ConfigError(f"{source}: {error}") from error


def check(values: dict[str, Any], source: str, draft: bool = False, places: Places | None = None) -> Config:
    """Makes a `Config` of nested values, filling in defaults.

    A draft is checked for names and ranges alone: its keys need not be used, nor fit together, and JAX is not needed
    unless code is named.

    Args:
      values: the nested values.
      source: where they came from, for messages.
      draft: whether it is one.
      places: where files of code that the values name are looked for; by default in the working folder.

    Raises:
      ConfigError: in a line that explains the first mistake, unknown keys before others, and names the keys of the
        others where there is room.
    """
    kind = class_of(values, source, places)
    values = {
        table: {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in entries.items()
            if value is not None
        }
        if isinstance(entries, dict)
        else entries
        for table, entries in values.items()
    }
    try:
        return kind.model_validate(values, context=DRAFT if draft else None)
    except pydantic.ValidationError as error:
        raise ConfigError(_in_a_line(source, error, kind)) from None


def merge(
    values: dict[str, Any], changes: dict[str, Any], source: str, places: Places | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Puts values of single keys in place of, or beside, those that are there.

    What was there, was used, and is not used any more after the changes is left out: the width of feed-forward layers
    where a recurrent model was chosen in place of a transformer.

    Args:
      values: the nested values that are there.
      changes: the nested values that come on top.
      source: where the changes came from, for messages.
      places: as for `check`.

    Returns:
      The nested values, and the keys left out, as ``table.key``.

    Raises:
      ConfigError: for a wrong name or a value out of range.
    """
    merged = {table: values.get(table, {}) | changes.get(table, {}) for table in values | changes}
    old, new = class_of(values, source, places), class_of(merged, source, places)
    # A key that only the code before had.
    gone = [
        (table, key)
        for table, entries in values.items()
        for key in entries
        if f"{table}.{key}" in paths(old) and f"{table}.{key}" not in paths(new) and key not in changes.get(table, {})
    ]
    for table, key in gone:
        del merged[table][key]
    before, after = (check(each, source, draft=True, places=places).unused_keys() for each in (values, merged))
    left_out = gone + [
        (table, key)
        for table, unused in after.items()
        for key in unused
        if key in values.get(table, {})
        and key not in changes.get(table, {})
        and key not in before[table]
        and (table, key) not in gone
    ]
    kept = {
        table: {key: value for key, value in entries.items() if (table, key) not in left_out}
        for table, entries in merged.items()
    }
    return kept, [f"{table}.{key}" for table, key in left_out]


def differences(config: Config, other: Config) -> list[str]:
    """Lists the keys in which two configs differ, ``key: this | other``.

    Where and how a run is written is left out, and where the file of its task is, if both have the same SHA-256.
    """
    ours, theirs = config.model_dump(), other.model_dump()
    same_file = ours["task"].get("sha256") and ours["task"].get("sha256") == theirs["task"].get("sha256")
    left_out = {*HOW_WRITTEN, "task.file", "task.tokenizer"} if same_file else HOW_WRITTEN
    return [
        f"{table}.{key}: {ours[table].get(key)!r} | {theirs[table].get(key)!r}"
        for table in ours
        for key in dict.fromkeys([*get_section(table, type(config)).model_fields, *theirs[table]])
        if f"{table}.{key}" not in left_out and ours[table].get(key) != theirs[table].get(key)
    ]


def find_key(word: str, source: str, config: type[Config] = Config) -> tuple[str, str]:
    """Returns the table and the key of a class of configs that ``table.key`` names, written with - or with _.

    Raises:
      ConfigError: if there is none, naming the nearest; `source` says where the word came from.
    """
    table, _, key = word.replace("-", "_").partition(".")
    if f"{table}.{key}" not in paths(config):
        meant = meant_by(word, paths(config))
        said = hint(meant) if meant else "expected a table and a key of it, for example model.num_heads"
        raise ConfigError(f"{source}: {shown(word)}: unknown key; {said}")
    return table, key


def parse_value(table: str, key: str, text: str, config: type[Config] = Config) -> Any:
    """Reads a value as it stands in a config file, strings without quotes; what cannot be read stays text for `check`.

    Example:
      >>> from jattn.training.reading import parse_value
      >>> parse_value("training", "steps", "500"), parse_value("training", "learning_rate", "1e-3")
      (500, 0.001)
      >>> parse_value("model", "score", "cosine"), parse_value("evaluation", "test_lengths", "[16,32]")
      ('cosine', [16, 32])
    """
    kind = kind_of(table, key, config)
    if kind is str:
        return text
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == text), text)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    # What TOML would skip, digits that it does not know, and what only Python takes for a number are no value.
    if not text.isascii() or not text.isprintable() or "#" in text or text != text.strip():
        return text
    try:
        if kind is float:
            return float(text)
        read = tomllib.loads(f"value = {text}")
        return read["value"] if len(read) == 1 else text
    except (ValueError, RecursionError):  # no number; no TOML; a number of thousands of digits, or lists nested as deep
        return text


def kind_of(table: str, key: str, config: type[Config] = Config) -> Any:
    """Returns the type of the values of a key."""
    return get_section(table, config).model_fields[key].annotation


def paths(config: type[Config] = Config) -> list[str]:
    """Lists all keys of a class of configs, as ``table.key``."""
    return [f"{name}.{key}" for name in config.model_fields for key in get_section(name, config).model_fields]


def _in_a_line(source: str, error: pydantic.ValidationError, config: type[Config]) -> str:
    # A wrong value may follow from a key that is misspelt.
    first, *others = sorted(map(dict, error.errors()), key=lambda mistake: mistake["type"] != "extra_forbidden")
    line = f"{source}: {_explain(first, config)}"
    return (
        fitted(f"{line}{' Also' if line.endswith('?') else '; also'} wrong: ", [_path(mistake) for mistake in others])
        if others
        else line
    )


def _path(mistake: dict[str, Any]) -> str:
    return shown(".".join(map(str, mistake["loc"])))


def _explain(mistake: dict[str, Any], config: type[Config]) -> str:
    *parents, key = (*map(str, mistake["loc"]),) or ("",)
    path, got = shown(".".join([*parents, key])), _as_toml(mistake["input"])
    if mistake["type"] == "extra_forbidden":
        tables = [*Config.model_fields]
        meant = meant_by(".".join([*parents, key]), paths(config) if parents else [*tables, *paths(config)])
        allowed = list(get_section(parents[0], config).model_fields) if parents else tables
        return f"{path}: unknown key; {hint(meant) if meant else f'expected one of {_some(allowed)}'}"
    if mistake["type"] == "value_error":
        return str(mistake["ctx"]["error"])
    expected: str = _EXPECTED.get(mistake["type"]) or mistake["msg"].removeprefix("Input should be ")
    if mistake["type"] in ("model_type", "model_attributes_type"):
        expected = f"a table [{path}]"
    for words, word in _LIMITS.items():
        expected = expected.replace(words, word)
    asked = ""
    if mistake["type"] == "literal_error":
        names = mistake["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        asked = value_hint(mistake["input"], names) if isinstance(mistake["input"], str) else ""
        expected = str(expected) if len(str(expected)) <= 160 else f"one of {_some([repr(name) for name in names])}"
    return f"{path}: expected {expected}, got {got}{asked}"


_LIMITS = {
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "more than",
}

_EXPECTED = {
    "bool_type": "true or false",
    "tuple_type": "a list",
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a string",
}


def _as_toml(value: Any) -> str:
    """Writes a value as it stands in a config file, shortened."""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        # Lists came in as tuples.
        value = list(value) if isinstance(value, tuple) else value
        return shown(str(value) if isinstance(value, datetime.date | datetime.time) else repr(value))
    except RecursionError:
        return "tables in tables without end"


def shown(text: str) -> str:
    text = in_plain(text).replace("\n", "\\n")
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _some(names: Sequence[str]) -> str:
    """Lists names, of many the first five and the last."""
    return ", ".join(names if len(", ".join(names)) <= 160 else [*names[:5], "...", names[-1]])


def get_section(name: str, config: type[Config] = Config) -> type[pydantic.BaseModel]:
    """Returns the model of one table of a class of configs."""
    annotation = config.model_fields[name].annotation
    return annotation if isinstance(annotation, type) else get_args(annotation)[0]


def _tables() -> str:
    return ", ".join(f"[{name}]" for name in Config.model_fields)


def known_configs() -> str:
    own = sorted(str(path) for path in Path("configs").glob("*.toml"))
    names = own or sorted(f"configs/{path.name}" for path in configs_folder().glob("*.toml"))
    return f"; there are {_some(names)}" if names else ""
