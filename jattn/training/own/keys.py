"""The config with the keys that code of one's own, or an optimizer of optax, brings."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pydantic

from jattn.tasks.catalogue import CATALOGUE
from jattn.tasks.options import Entry, Option
from jattn.training.config import Config, ModelKeys, RunConfig, TaskKeys, TrainingKeys
from jattn.training.own.code import Code, OwnError, Places, is_own, load
from jattn.training.own.parts import RATE, OwnPart, logger_part, model_part, optimizer_part, schedule_part, task_part
from jattn.training.sections import Section, with_options
from jattn.training.tables import KINDS, LOGGERS, NORMALIZERS, OPTAX, OPTIMIZERS, SCHEDULES, SCORES

PARTS: dict[str, tuple[type[Section], Callable[[Code, type[Section]], OwnPart]]] = {
    "task.name": (TaskKeys, task_part),
    "model.kind": (ModelKeys, model_part),
    "training.optimizer": (TrainingKeys, optimizer_part),
    "training.schedule": (TrainingKeys, schedule_part),
}
"""The keys that may name code, with the section that each is in, and what reads what the code takes."""

LOGGER = "run.logger"
"""The key that may name code among others."""


def config_class(values: Mapping[str, Any], places: Places | None = None) -> type[Config]:
    """Returns the class that checks some values: `Config`, with the keys of what they name.

    Args:
      values: the nested values of a config.
      places: where files of code are looked for.

    Raises:
      OwnError: if code cannot be used; its text begins with the key that names it.

    Example:
      >>> from jattn.training.own.keys import config_class
      >>> kind = config_class({"training": {"optimizer": "lion"}})
      >>> kind.model_fields["training"].annotation.model_fields["b2"].annotation
      <class 'float'>
    """
    found: list[tuple[str, Code, bool]] = []
    for path in PARTS:
        table, _, key = path.partition(".")
        name = _named(values, table, key)
        try:
            if is_own(name):
                found.append((path, load(str(name), places), True))
            elif path == "training.optimizer" and isinstance(name, str) and name in OPTAX:
                found.append((path, _of_optax(name), False))
        except OwnError as error:
            raise OwnError(f"{path}: {error}") from error
    for name in filter(is_own, _loggers(values)):
        try:
            found.append((LOGGER, load(name, places), True))
        except OwnError as error:
            raise OwnError(f"{LOGGER}: {error}") from error
    return _make_class(tuple(found)) if found else Config


def files_of_code(values: Mapping[str, Any]) -> list[str]:
    """Lists the files and modules that a run of some values needs, as they name them; loggers are not among them."""
    named = (_named(values, table, key) for table, _, key in (path.partition(".") for path in PARTS))
    return [name.rpartition(":")[0] for name in named if is_own(name)]


def _loggers(values: Mapping[str, Any]) -> Sequence[Any]:
    named = _named(values, "run", "logger")
    return named if isinstance(named, list | tuple) else ()


def _named(values: Mapping[str, Any], table: str, key: str) -> Any:
    section = values.get(table)
    return section.get(key) if isinstance(section, Mapping) else None


@functools.cache
def _of_optax(name: str) -> Code:
    return dataclasses.replace(load(OPTAX[name]), name=name)


@functools.lru_cache(maxsize=64)
def _make_class(found: tuple[tuple[str, Code, bool], ...]) -> type[Config]:
    parts: dict[str, OwnPart] = {}
    for path, code, recorded in found:
        try:
            if path == LOGGER:
                parts[f"{LOGGER} {code.name}"] = logger_part(code)
                continue
            section, read = PARTS[path]
            parts[path] = dataclasses.replace(read(code, section), recorded=recorded)
        except OwnError as error:
            raise OwnError(f"{path}: {error}") from error
    fields: dict[str, Any] = {}
    if "task.name" in parts:
        fields["task"] = _section("TaskConfig", TaskKeys, {"name": CATALOGUE}, parts)
    if "model.kind" in parts:
        fields["model"] = _section("ModelConfig", ModelKeys, _model_tables(parts["model.kind"]), parts)
    if "training.optimizer" in parts or "training.schedule" in parts:
        optimizers = {name: Entry(entry.made_by, entry.options, RATE) for name, entry in OPTIMIZERS.items()}
        fields["training"] = _section(
            "TrainingConfig", TrainingKeys, {"optimizer": optimizers, "schedule": SCHEDULES}, parts
        )
    if loggers := tuple(code.name for path, code, _ in found if path == LOGGER):
        fields["run"] = _run_section(loggers)
    made = pydantic.create_model("Config", __base__=Config, __module__=Config.__module__, **fields)
    made.parts = parts
    return made


def _section(
    name: str, base: type[Section], tables: Mapping[str, Mapping[Any, Entry]], parts: Mapping[str, OwnPart]
) -> tuple[Any, Any]:
    """Makes the class of a section; options of others that have the name of one's own give way."""
    here = {key: part for path, part in parts.items() for key in [path.partition(".")[2]] if key in tables}
    taken = {key for part in here.values() for key in part.options}
    full: dict[str, Mapping[Any, Entry]] = {}
    for choosing, table in tables.items():
        full[choosing] = {value: _without(entry, taken) for value, entry in table.items()}
        if choosing in here:
            full[choosing] = {**full[choosing], here[choosing].code.name: here[choosing]}
    try:
        section = with_options(name, base, full)
    except ValueError as error:
        raise OwnError(f"{base.__name__.removesuffix('Keys').lower()}.{error}") from None
    named: dict[str, Any] = {
        choosing: (Literal[(*table, *(OPTAX if choosing == "optimizer" else ()))], base.model_fields[choosing])
        for choosing, table in full.items()
        if choosing in here
    }
    made: Any = pydantic.create_model(name, __base__=section, __doc__=base.__doc__, __module__=base.__module__, **named)
    made.tables = full
    return made, ...


def _run_section(loggers: tuple[str, ...]) -> tuple[Any, Any]:
    """Makes the class of the section whose key names loggers."""
    base: Any = RunConfig
    kind = tuple[Literal[(*LOGGERS, *loggers)], ...]
    named: dict[str, Any] = {"logger": (kind, base.model_fields["logger"])}
    return pydantic.create_model(
        "RunConfig", __base__=base, __doc__=base.__doc__, __module__=base.__module__, **named
    ), ...


def _without(entry: Entry, taken: set[str]) -> Entry:
    kept: dict[str, Option] = {key: option for key, option in entry.options.items() if key not in taken}
    return entry if len(kept) == len(entry.options) else dataclasses.replace(entry, options=kept)


def _model_tables(part: OwnPart) -> dict[str, Mapping[Any, Entry]]:
    """Returns the tables of a model: of the keys that every transformer has, those are used that it names."""
    keys = (*(key for key in ModelKeys.model_fields if key not in ("kind", "attention")), *KINDS["transformer"].uses)
    kinds = {
        **KINDS,
        "transformer": dataclasses.replace(KINDS["transformer"], uses=tuple(dict.fromkeys(keys))),
    }
    return {"kind": kinds, "score": SCORES, "normalizer": NORMALIZERS}
