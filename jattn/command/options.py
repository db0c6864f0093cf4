"""From the arguments of the command to a checked `Config`, or one message that says what is wrong."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import pydantic
import tyro

from jattn.training.config import Config
from jattn.training.reading import (
    ConfigError,
    Given,
    check,
    in_folder,
    known_configs,
    merge,
    nearest_path,
    paths,
    read_toml,
    shown,
)

_DESCRIPTION = """Train a model on a toy task from a config file, and watch its attention filters become meaningful.

CONFIG is a TOML file (see configs/); options change single keys of it, for example
  python train.py configs/reverse.toml --model.num-heads 2

--sweep KEY VALUE ... makes a run of every value of a key, several of them a run of every combination:
  python train.py configs/reverse.toml --sweep model.num-heads 1 2 4 --sweep model.score scaled_dot cosine

Lists are written [16,32]. The run folders lie in run.folder, by default runs/, the config's name and _sweep, beside a
table (sweep.csv, sweep.md) and a figure (sweep.png). The same command again goes on where it stopped."""


def config_from_arguments(arguments: Sequence[str], program: str = "train.py") -> Config:
    """Reads the config file named first in `arguments` and applies the options that follow.

    Raises:
      ConfigError: naming the file or option, the key, what came, what is allowed and the nearest right name.
      SystemExit: status 0 after ``--help``, 2 after a message on an option that cannot be read.
    """
    given = read_arguments(arguments, program)
    config = given.check()
    return config if config.run.folder else in_folder(config, Path("runs") / given.name)


def read_arguments(arguments: Sequence[str], program: str = "train.py") -> Given:
    """Reads the config file named first in `arguments` and the options that follow; says which keys are left out.

    Raises: as `config_from_arguments`.
    """
    wants_help = any(argument in ("-h", "--help") for argument in arguments)
    if not arguments or not arguments[0] or arguments[0].startswith("-"):
        if not wants_help:
            raise ConfigError(f"expected a config file first: {program} CONFIG [OPTIONS]{known_configs()}")
        values, source, options = {}, "defaults", list(arguments)
    else:
        source, *options = arguments
        values = read_toml(Path(source))
    config = check(values, source, draft=True)
    if not options:
        return Given(values, source, source, values)
    changes = _read_options(config, options, f"{program} CONFIG")
    merged, left_out = merge(values, changes, "command line")
    tell_left_out(source, left_out)
    return Given(merged, "command line", source, values)


def tell_left_out(source: str, keys: Sequence[str]) -> None:
    """Says in a line which keys have no use after what was chosen."""
    if keys:
        print(f"{source}: left out, as nothing chosen uses it: {', '.join(keys)}", file=sys.stderr)


def _read_options(config: Config, options: list[str], program: str) -> dict[str, Any]:
    """Returns the nested values that the options give."""
    # tyro parses into plain dataclasses, so that every value is judged, and every mistake worded, by `check` alone.
    sections = {name: _plain(name, getattr(config, name)) for name in Config.model_fields}
    fields = [(name, type(section), dataclasses.field(default=section)) for name, section in sections.items()]
    options_type = dataclasses.make_dataclass("Options", fields, frozen=True)
    parsed, unknown = tyro.cli(
        options_type, args=options, prog=program, description=_DESCRIPTION, return_unknown_args=True
    )
    if unknown:
        raise ConfigError(_unknown_option(options, unknown[0], program))
    changes: dict[str, Any] = {}
    for word in (option.split("=")[0].removeprefix("--").replace("-", "_") for option in options):
        table, _, key = word.partition(".")
        key = key if word in paths() else key.removeprefix("no_")
        if f"{table}.{key}" in paths():
            changes.setdefault(table, {})[key] = getattr(getattr(parsed, table), key)
    return changes


def _unknown_option(options: list[str], unknown: str, program: str) -> str:
    before = options[options.index(unknown) - 1] if unknown in options[1:] else ""
    if not unknown.startswith("-") and before.removeprefix("--").replace("-", "_") in paths():
        return f"command line: {before} takes no value, got {shown(unknown)}"
    near = nearest_path(unknown.split("=")[0].lstrip("-"), "sweep")
    hint = f"did you mean --{near.replace('_', '-')}?" if near else f"see {program} --help"
    return f"command line: {shown(unknown)}: unknown option; {hint}"


def _plain(name: str, section: pydantic.BaseModel) -> Any:
    # A key that nothing chosen uses is None, as is one that the task decides.
    fields, values = [], {}
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        metavar = "INT" if value is None and field.annotation is int else None
        kind: Any = Optional[field.annotation] if value is None else field.annotation  # noqa: UP045
        fields.append((key, Annotated[kind, tyro.conf.arg(help=field.description, metavar=metavar)]))
        values[key] = value
    return dataclasses.make_dataclass(name.title(), fields, frozen=True)(**values)
