"""Sweeps as they are asked for on the command line: ``--sweep KEY VALUE ...``."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jattn.command.options import config_of, read_arguments, tell_left_out
from jattn.training.config import Config
from jattn.training.reading import HOW_WRITTEN, ConfigError, find_key, kind_of, parse_value, shown
from jattn.training.sweeps import Sweep, make_sweep

MOST_UNASKED = 100
"""Runs of a sweep that are made without being asked for with ``--yes``."""

EXAMPLE = "--sweep model.num-heads 1 2 4"


def sweep_from_arguments(arguments: Sequence[str], program: str = "train.py") -> Sweep | None:
    """Reads a config file, options, ``--sweep KEY VALUE ...`` and ``--jobs N``; returns None where nothing is swept.

    Raises:
      ConfigError: for what `jattn.command.options.config_from_arguments` refuses, in any of the combinations; for keys
        that are unknown, swept twice, given as an option as well, or make no other run; for values that are equal.
      SystemExit: as there.
    """
    options, asked = _split(arguments)
    if not asked:
        return None
    options, jobs = _split_jobs(options)
    options, sure = [option for option in options if option != "--yes"], "--yes" in options
    named = options[:1] if options and not options[0].startswith("-") else []
    config = config_of(named[0], options[1:]) if named else Config
    swept: dict[tuple[str, str], list[Any]] = {}
    for word, *texts in asked:
        if "=" in word:
            key, _, values = word.partition("=")
            line = _with_spaces(key, [values, *texts])
            raise ConfigError(f"--sweep {shown(word)}: expected a key, a space and its values: {line}")
        table, key = _find_new_key(word, swept, options, config)
        if not texts:
            raise ConfigError(f"--sweep {word}: expected values, for example {EXAMPLE}, got none")
        one = kind_of(table, key, config) in (int, float, bool)
        if commas := [text for text in texts if one and "," in text]:
            line = _with_spaces(word, texts)
            raise ConfigError(f"--sweep {word}: expected values with spaces between: {line}, got {shown(commas[0])}")
        swept[table, key] = [parse_value(table, key, text, config) for text in texts]
    runs = math.prod(map(len, swept.values()))
    if runs > MOST_UNASKED and not sure:
        raise ConfigError(f"--sweep: expected at most {MOST_UNASKED} runs, got {runs:,}; --yes makes them all")
    given = read_arguments(options, program)
    folder = given.values.get("run", {}).get("folder") or str(Path("runs") / f"{given.name}_sweep")
    sweep = make_sweep(given, swept, Path(folder))
    tell_left_out(given.file, sweep.left_out)
    return dataclasses.replace(sweep, jobs=jobs)


def _with_spaces(key: str, texts: Sequence[str]) -> str:
    """Writes the option whose values had commas between as it is to be typed; an example where there are no values."""
    values = " ".join(texts).replace("[", " ").replace("]", " ").replace(",", " ").split()
    return shown(" ".join(["--sweep", key, *values])) if values else EXAMPLE


def _split(arguments: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Splits what follows each --sweep, up to the next option, from all other arguments."""
    options, asked, target = [], [], None
    for argument in arguments:
        if argument == "--sweep":
            target = []
            asked.append(target)
        elif argument.startswith("--") or argument == "-h":
            target = None
            options.append(argument)
        else:
            (options if target is None else target).append(argument)
    if [] in asked:
        raise ConfigError(f"--sweep: expected a key and its values, for example {EXAMPLE}, got nothing")
    return options, asked


def _split_jobs(options: list[str]) -> tuple[list[str], int]:
    """Takes ``--jobs N`` out of the options; returns the others, and the number."""
    rest, jobs = [], 1
    words = iter(options)
    for word in words:
        if word.partition("=")[0] != "--jobs":
            rest.append(word)
            continue
        number = word.partition("=")[2] if "=" in word else next(words, "nothing")
        if not (number.isascii() and number.isdecimal() and 1 <= int(number) <= 1000):
            raise ConfigError(f"--jobs: expected how many runs to do at once, from 1 to 1000, got {shown(number)}")
        jobs = int(number)
    return rest, jobs


def _find_new_key(
    word: str, swept: Mapping[tuple[str, str], Any], options: Sequence[str], config: type[Config]
) -> tuple[str, str]:
    table, key = find_key(word, "--sweep", config)
    path = f"{table}.{key}"
    if path in HOW_WRITTEN:
        raise ConfigError(f"--sweep {word}: expected a key that makes another run, got one of {', '.join(HOW_WRITTEN)}")
    if (table, key) in swept:
        raise ConfigError(
            f"--sweep {word}: expected each key once, got it twice; name all its values after one --sweep"
        )
    for option in options:
        name = option.split("=")[0].removeprefix("--").replace("-", "_")
        if option.startswith("--") and name in (path, f"{table}.no_{key}"):
            raise ConfigError(f"--sweep {word}: expected the key to be swept or given, got {option} as well")
    return table, key
