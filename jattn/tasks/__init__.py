"""Toy tasks with known answers: samplers, vocabularies and oracles, and the layouts that put them before a model."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jattn.tasks import catalogue

if TYPE_CHECKING:
    from jattn.tasks.aligned import (
        copy as copy,
        needle as needle,
        odds_first as odds_first,
        permute as permute,
        reverse as reverse,
        selective_copy as selective_copy,
        shift as shift,
        sort as sort,
    )
    from jattn.tasks.arithmetic import addition as addition, modular_addition as modular_addition
    from jattn.tasks.as_text import draw as draw
    from jattn.tasks.batches import make_batch as make_batch
    from jattn.tasks.counting import (
        balanced as balanced,
        dyck as dyck,
        histogram as histogram,
        majority as majority,
        most_frequent as most_frequent,
        parity as parity,
    )
    from jattn.tasks.inference import entailment as entailment
    from jattn.tasks.layouts import LAYOUTS as LAYOUTS, Batch as Batch, Layout as Layout
    from jattn.tasks.nested_lists import listops as listops
    from jattn.tasks.own_examples import examples as examples
    from jattn.tasks.own_text import text as text
    from jattn.tasks.recall import (
        associative_recall as associative_recall,
        induction as induction,
        mqar as mqar,
        variable_tracking as variable_tracking,
    )
    from jattn.tasks.sequences import Sequence as Sequence, Task as Task
    from jattn.tasks.shapes import captions as captions
    from jattn.tasks.summaries import summarisation as summarisation
    from jattn.tasks.whole_sentences import roles as roles, sentences as sentences
    from jattn.tasks.words import agreement as agreement, pronoun as pronoun, reading as reading

    FAMILIES: dict[str, tuple[Callable[..., Task], ...]]
    TASKS: dict[str, Callable[..., Task]]

_OTHERS = {
    "LAYOUTS": "layouts",
    "Batch": "layouts",
    "Layout": "layouts",
    "Sequence": "sequences",
    "Task": "sequences",
    "draw": "as_text",
    "make_batch": "batches",
}

__all__ = [*catalogue.CATALOGUE, *_OTHERS, "FAMILIES", "TASKS"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    # Late, because the names of tasks are needed before JAX is.
    if name in catalogue.CATALOGUE:
        value = catalogue.CATALOGUE[name].load()
    elif name in _OTHERS:
        value = getattr(importlib.import_module(f"{__name__}.{_OTHERS[name]}"), name)
    elif name == "TASKS":
        value = {task: made.load() for family in catalogue.FAMILIES.values() for task, made in family.items()}
    elif name == "FAMILIES":
        value = {family: tuple(made.load() for made in tasks.values()) for family, tasks in catalogue.FAMILIES.items()}
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
