"""What a config may say of a thing that it can name: its options, their ranges and what they mean.

Whatever a config can choose (a task, a score, an optimizer) is an `Entry` of a table, a mapping by name. Tables import
no JAX: a mistake in a name, a key or a range is reported before anything slow is imported.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Option:
    """A key that some entries of a table have.

    Attributes:
      default: its value where nothing is said.
      help: what it means.
      least, most: the range of a number, ends included.
      above, below: the range of a number, ends left out.
      choices: all that a text may be.
      kind: the type of its values, ranges included; None where default and choices say it.
      required: whether it has no default.
      argument: its name where it is made, if that is another.
    """

    default: Any
    help: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    kind: Any = None
    required: bool = False
    argument: str = ""

    def by_default(self, default: Any) -> "Option":
        """Returns the same option with another default."""
        return dataclasses.replace(self, default=default)


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one name in a table stands for.

    Attributes:
      made_by: the function that makes it, as ``"module:name"``; empty where the name says all.
      options: the keys that it brings, by name; the function takes them, with or without ``num_`` before their name.
      uses: the keys that are there anyway and that only some entries use, this one among them.
    """

    made_by: str = ""
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)
    uses: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys that the entry uses and others may not."""
        return (*self.options, *self.uses)

    def load(self) -> Any:
        """Imports the function that makes it."""
        module, _, name = self.made_by.partition(":")
        return getattr(importlib.import_module(module), name)


def entry(made_by: str = "", *uses: str, **options: Option) -> Entry:
    """Writes an `Entry` in one line."""
    return Entry(made_by, options, uses)
