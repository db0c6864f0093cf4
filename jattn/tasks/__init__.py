"""Toy tasks with known answers: samplers, vocabularies and oracles, and the layouts that put them before a model."""

from collections.abc import Callable

from jattn.tasks.aligned import copy, needle, odds_first, permute, reverse, selective_copy, shift, sort
from jattn.tasks.arithmetic import addition, modular_addition
from jattn.tasks.as_text import draw
from jattn.tasks.batches import make_batch
from jattn.tasks.counting import balanced, dyck, histogram, majority, most_frequent, parity
from jattn.tasks.inference import entailment
from jattn.tasks.layouts import LAYOUTS, Batch, Layout
from jattn.tasks.nested_lists import listops
from jattn.tasks.recall import associative_recall, induction, mqar, variable_tracking
from jattn.tasks.sequences import Sequence, Task
from jattn.tasks.shapes import captions
from jattn.tasks.summaries import summarisation
from jattn.tasks.whole_sentences import roles, sentences
from jattn.tasks.words import agreement, pronoun, reading

FAMILIES: dict[str, tuple[Callable[..., Task], ...]] = {
    "aligned": (copy, reverse, shift, odds_first, sort, permute, selective_copy, needle),
    "recall": (associative_recall, mqar, induction, variable_tracking),
    "counting": (histogram, most_frequent, majority, parity, dyck, balanced),
    "arithmetic": (addition, modular_addition, listops),
    "words": (pronoun, agreement, reading, entailment, summarisation, roles, sentences),
    "pictures": (captions,),
}
"""Every task by family."""

TASKS: dict[str, Callable[..., Task]] = {make.__name__: make for family in FAMILIES.values() for make in family}
"""Every task by name; a function of its options, each with a default."""

__all__ = [
    "FAMILIES",
    "LAYOUTS",
    "TASKS",
    "Batch",
    "Layout",
    "Sequence",
    "Task",
    "addition",
    "agreement",
    "associative_recall",
    "balanced",
    "captions",
    "copy",
    "draw",
    "dyck",
    "entailment",
    "histogram",
    "induction",
    "listops",
    "majority",
    "make_batch",
    "modular_addition",
    "most_frequent",
    "mqar",
    "needle",
    "odds_first",
    "parity",
    "permute",
    "pronoun",
    "reading",
    "reverse",
    "roles",
    "selective_copy",
    "sentences",
    "shift",
    "sort",
    "summarisation",
    "variable_tracking",
]
