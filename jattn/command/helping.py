"""Help: every option that a config has a use for, with its type, its range, its value there and its meaning."""

from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jattn.command.listing import config_lines
from jattn.drawing.plain import in_width
from jattn.training.config import Config
from jattn.training.reading import get_section

TRAIN = """Trains a model on a toy task, and shows its attention filters becoming meaningful.

  {program} CONFIG [--TABLE.KEY VALUE ...]
  {program} reverse
  {program} reverse --model.num-heads 2 --run.folder runs/two_heads
  {program} reverse --sweep model.num-heads 1 2 4 --jobs 2
  {program} CONFIG --help        shows every option of that config, with its value there

CONFIG is a TOML file of your own, or one of these, which come with jattn:
"""

AFTER = """
Options change single keys of the config. Lists are written 8,12 or 8 12; true and false may be left out:
--run.overwrite, --run.no-cache. Another choice brings its own options: CONFIG --model.positions learned --help.

  CONFIG --sweep model.num-heads 1 2 4 --sweep model.score scaled_dot cosine

--sweep KEY VALUE ... makes a run of every value of a key, several of them a run of every combination; more than 100
runs are made with --yes, and --jobs N does N at once. sweep.html in their folder shows all of them. The same command
again goes on where it stopped.
"""

READ_ON = "README.md and docs/ of the source, docs/training.md on runs and docs/tasks.md on tasks"


def help_of_train(program: str) -> str:
    """Writes what the command does, the configs there are, and where to read on."""
    lines = [
        *TRAIN.format(program=program).split("\n")[:-1],
        *config_lines(),
        *AFTER.split("\n"),
        f"Read on: {READ_ON}.",
    ]
    return "\n".join(in_width(lines))


def help_of_config(config: Config, program: str, name: str) -> str:
    """Writes the options that a config has a use for, table by table."""
    lines = [
        f"{program} {name} [--TABLE.KEY VALUE ...]: the options of {name}, and what they are without a word of yours."
    ]
    unused = config.unused_keys()
    for table in Config.model_fields:
        section = get_section(table, type(config))
        lines += ["", f"[{table}] {(section.__doc__ or '').split(chr(10))[0]}"]
        for key, field in section.model_fields.items():
            if key not in unused.get(table, {}):
                value = getattr(getattr(config, table), key)
                lines += [f"  --{table}.{key.replace('_', '-')} {kind_words(field)}", f"      now {value_words(value)}"]
                lines += [f"      {field.description}"]
    return "\n".join(in_width([*lines, *AFTER.split("\n")[:-1]]))


def kind_words(field: Any) -> str:
    """Writes which values a key takes: its choices, or its type and range."""
    kind = field.annotation
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is Union:
        return "|".join(kind_words(FieldInfo(annotation=part)) for part in get_args(kind))
    if get_origin(kind) is tuple:
        parts = ("..." if part is ... else kind_words(FieldInfo.from_annotation(part)) for part in get_args(kind))
        return " ".join(parts)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"{{{', '.join(kind.model_fields)}}}"
    name = {bool: "true|false", int: "INTEGER", float: "NUMBER", str: "TEXT"}[kind]
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    limits = [(words[way], getattr(limit, way)) for limit in field.metadata for way in words if hasattr(limit, way)]
    return " ".join([name, ", ".join(f"{word} {limit:,}" for word, limit in limits)]).strip()


def value_words(value: Any) -> str:
    """Writes a value as it is given on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)
