"""From the arguments of the command to a checked `Config`, or one message that says what is wrong."""

import itertools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_origin

from jattn.command.helping import help_of_config, help_of_train
from jattn.training.config import Config
from jattn.training.meant import NO_KEYS, hint, meant_by
from jattn.training.own.keys import LOGGER, PARTS
from jattn.training.reading import (
    ConfigError,
    Given,
    check,
    class_of,
    in_folder,
    kind_of,
    known_configs,
    merge,
    parse_value,
    paths,
    places_beside,
    read_toml,
    shown,
)


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
        if wants_help:
            _show(help_of_train(program))
        named = len(arguments) > 1 and meant_by(arguments[0].lstrip("-"), []) in NO_KEYS
        known = f", as in: {program} {_config_in(arguments[1])}" if named else known_configs()
        raise ConfigError(f"expected a config file first: {program} CONFIG [OPTIONS]{known}")
    source, *options = (argument for argument in arguments if argument not in ("-h", "--help"))
    values, places = read_toml(Path(source)), places_beside(Path(source))
    check(values, source, draft=True, places=places)
    if wants_help:
        changes = _read_options(options, program, config_of(source, options))
        given = merge(values, changes, "command line", places)[0] if options else values
        config = Given(given, "command line" if options else source, source, values).check()
        folder = config.run.folder or str(Path("runs") / Path(source).stem)
        _show(help_of_config(in_folder(config, Path(folder)), program, source))
    if not options:
        return Given(values, source, source, values)
    changes = _read_options(options, f"{program} CONFIG", config_of(source, options))
    merged, left_out = merge(values, changes, "command line", places)
    tell_left_out(source, left_out)
    return Given(merged, "command line", source, values)


def _config_in(word: str) -> str:
    """Names the config of a run where a word names its folder."""
    file = os.path.join(word, "config.toml")
    return shown(file if os.path.isfile(file) else word)


def config_of(source: str, options: Sequence[str]) -> type[Config]:
    """Returns the class of configs that a config file and the options after it ask for, with the keys of code in them.

    Raises:
      ConfigError: if code cannot be used that they name.
    """
    values = read_toml(Path(source))
    for option, texts in _split([*itertools.dropwhile(lambda word: not word.startswith("--"), options)], ""):
        table, _, key = option.removeprefix("--").partition(".")
        path, there = f"{table}.{key}", values.get(table, {})
        if (path == LOGGER or (path in PARTS and len(texts) == 1)) and isinstance(there, dict):
            values = values | {table: {**there, key: texts if path == LOGGER else texts[0]}}
    return class_of(values, "command line" if options else source, places_beside(Path(source)))


def tell_left_out(source: str, keys: Sequence[str]) -> None:
    """Says in a line which keys have no use after what was chosen."""
    if keys:
        print(f"{source}: left out, as nothing chosen uses it: {', '.join(keys)}", file=sys.stderr)


def _show(text: str) -> NoReturn:
    """Prints help, and ends the process."""
    print(text)
    raise SystemExit(0)


def _read_options(options: Sequence[str], program: str, config: type[Config]) -> dict[str, Any]:
    """Returns the nested values that the options give; they are checked as those of a file are, by `check`."""
    changes: dict[str, Any] = {}
    for option, texts in _split(options, program):
        table, key, says_no = _find_option(option, program, config)
        if key in changes.setdefault(table, {}):
            raise ConfigError(f"command line: {shown(option)}: expected each option once, got it twice")
        changes[table][key] = False if says_no and not texts else _read_value(table, key, option, texts, config)
        if says_no and texts:
            raise ConfigError(f"command line: {shown(option)} takes no value, got {shown(texts[0])}")
    return changes


def _split(options: Sequence[str], program: str) -> list[tuple[str, list[str]]]:
    """Splits options from the values that follow each of them."""
    found: list[tuple[str, list[str]]] = []
    for word in options:
        if word.startswith("--"):
            option, equals, text = word.partition("=")
            found.append((option, [text] if equals else []))
        elif found and (not word.startswith("-") or _is_number(word)):
            found[-1][1].append(word)
        else:
            raise ConfigError(unknown_option(word, program, Config))
    return found


def _is_number(word: str) -> bool:
    """Says whether a word that begins with a minus goes on like a number."""
    return word[1:2].isdigit() or word[1:2] == "."


def _find_option(option: str, program: str, config: type[Config]) -> tuple[str, str, bool]:
    """Returns the table and the key of an option, and whether it says no, as ``--run.no-cache`` does."""
    table, _, key = option.removeprefix("--").replace("-", "_").partition(".")
    says_no = f"{table}.{key}" not in paths(config) and key.startswith("no_")
    key = key.removeprefix("no_") if says_no else key
    if f"{table}.{key}" not in paths(config) or (says_no and kind_of(table, key, config) is not bool):
        raise ConfigError(unknown_option(option, program, config))
    return table, key, says_no


def _read_value(table: str, key: str, option: str, texts: list[str], config: type[Config]) -> Any:
    kind = kind_of(table, key, config)
    if kind is bool and not texts:
        return True
    if get_origin(kind) is tuple:
        return _read_list(table, key, texts, config)
    if not texts:
        raise ConfigError(f"command line: {shown(option)}: expected a value, got nothing")
    if len(texts) > 1:
        raise ConfigError(f"command line: {shown(option)}: expected one value, got {shown(' '.join(texts))}")
    return parse_value(table, key, texts[0], config)


def _read_list(table: str, key: str, texts: list[str], config: type[Config]) -> Any:
    """Reads a list, written 8 12, 8,12 or [8,12], with spaces or without."""
    whole = " ".join(texts)
    if whole.startswith("["):
        return parse_value(table, key, whole, config)
    if all(part.strip() for part in whole.rstrip(",").split(",")):
        texts = whole.replace(",", " ").split()
    return tuple(parse_value(table, key, text, config) for text in texts)


def unknown_option(unknown: str, program: str, config: type[Config]) -> str:
    """Says that an option is unknown, and what was meant by it."""
    keys = paths(config)
    meant = meant_by(unknown.split("=")[0].lstrip("-"), [*keys, "sweep"])
    said = hint(meant, "--") if meant else f"see {program} --help"
    is_switch = meant in keys and kind_of(*meant.split(".", 1), config=config) is bool
    if is_switch and re.match("--([a-z]+[.])?no[-_]", unknown):
        said = said.replace(".", ".no-", 1)
    return f"command line: {shown(unknown)}: unknown option; {said}"
