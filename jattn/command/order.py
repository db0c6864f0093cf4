"""What is said where the config is not the first word of the command: the line to type."""

import itertools
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from jattn.command.options import unknown_option
from jattn.training.config import Config
from jattn.training.meant import CONFIG_FIRST, NO_KEYS, meant_by
from jattn.training.reading import ConfigError, kind_of, paths, shown
from jattn.training.shipped import find_config

SWITCHES = ("--yes", "--help", "-h")
OF_SWEEPS = ("--sweep", "--jobs", *SWITCHES)


def check_order(arguments: Sequence[str], program: str) -> None:
    """Refuses options before the config, two configs, and a name with spaces that came as several words.

    Raises:
      ConfigError: with the line to type; or for the first option that is unknown, with what is said to it.
    """
    if arguments and not arguments[0].startswith("-"):
        _check_one(arguments, program)
        return
    free = list(_no_values(arguments))
    place = next((place for place in reversed(free) if _is_config(arguments[place])), None)
    if place is None:
        return
    words = [_in_order(word, program) for word in (*arguments[:place], *arguments[place + 1 :])]
    line = shlex.join([*program.split(), arguments[place], *filter(None, words)])
    raise ConfigError(f"command line: expected the config first: {line}")


def _check_one(arguments: Sequence[str], program: str) -> None:
    """Refuses words after the first that name another config, or belong to the name of the first."""
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    if len(words) > 1 and _is_config(words[0]) and _is_config(words[1]):
        raise ConfigError(f"command line: expected one config, got {shown(words[0])} and {shown(words[1])}")
    for number in range(2, len(words) + 1):
        name = " ".join(words[:number])
        if not _is_config(words[0]) and _is_config(name):
            line = shlex.join([*program.split(), name, *arguments[number:]])
            raise ConfigError(f"command line: expected a name with spaces in quotes: {line}")


def _is_config(word: str) -> bool:
    """Says whether a word names a config; one that no file can have as a name does not."""
    try:
        return find_config(Path(word)).is_file()
    except (OSError, ValueError):
        return False


def _no_values(arguments: Sequence[str]) -> Iterator[int]:
    """Yields the places of the words that are neither an option nor the one value of an option."""
    takes_value = False
    for place, word in enumerate(arguments):
        if word.startswith("-"):
            takes_value = "=" not in word and not _is_switch(word)
        elif takes_value:
            takes_value = False
        else:
            yield place


def _is_switch(option: str) -> bool:
    """Says whether a config may follow an option: one that needs no value, or that is no key, such as ``--config``."""
    path = option.lstrip("-").replace("-", "_")
    table, _, key = path.partition(".")
    positive = f"{table}.{key.removeprefix('no_')}"
    return (
        option in SWITCHES
        or meant_by(path, []) in NO_KEYS
        or (positive in paths() and kind_of(table, key.removeprefix("no_")) is bool)
    )


def _in_order(word: str, program: str) -> str:
    """Writes an option by its right name; one that says that the config follows is left out."""
    option, equals, value = word.partition("=")
    path = option.lstrip("-").replace("-", "_")
    if not word.startswith("-") or word[1:2].isdigit() or option in OF_SWEEPS or path in paths():
        return word
    table, _, key = path.partition(".")
    if key.startswith("no_") and f"{table}.{key[3:]}" in paths():
        return word
    meant = meant_by(path, paths())
    if meant == CONFIG_FIRST:
        return ""
    if meant is None or meant in NO_KEYS:
        raise ConfigError(unknown_option(word, f"{program} CONFIG", Config))
    return f"--{meant.replace('_', '-')}{equals}{value}"
