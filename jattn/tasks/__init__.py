"""Toy tasks with known answers: samplers, vocabularies and oracles, and the layouts that put them before a model."""

from collections.abc import Callable

from jattn.tasks.aligned import copy, reverse
from jattn.tasks.batches import make_batch
from jattn.tasks.layouts import LAYOUTS, Batch, Layout
from jattn.tasks.sequences import Sequence, Task

TASKS: dict[str, Callable[[int], Task]] = {"copy": copy, "reverse": reverse}
"""Every task by name; a function of the number of symbols."""

__all__ = ["LAYOUTS", "TASKS", "Batch", "Layout", "Sequence", "Task", "copy", "make_batch", "reverse"]
