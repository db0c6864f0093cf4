"""Sections of a config whose keys depend on what is chosen in them: a key is used, or refused with the reason.

Some keys of a section choose an entry of a table (`jattn.tasks.options`). An entry brings options of its own, and says
which of the other keys it uses. What no chosen entry uses cannot be given, and is not written down.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pydantic
from pydantic import Field

from jattn.tasks.options import Entry, Option

Tables = Mapping[str, Mapping[Any, Entry]]
"""The table from which each choosing key of a section chooses, outermost choice first."""


class Section(pydantic.BaseModel):
    """One table of a config."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    tables: ClassVar[Tables] = {}

    @pydantic.model_serializer(mode="wrap")
    def _only_what_is_used(self, serialize: Any) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if value is not None}

    def given(self) -> dict[str, Any]:
        """Returns what was given, in the order of the keys."""
        return {key: getattr(self, key) for key in type(self).model_fields if key in self.model_fields_set}

    def chosen(self, choosing: str) -> Any:
        """Returns the entry that a key of this section chooses."""
        return self.tables[choosing][getattr(self, choosing)]

    def missing(self) -> dict[str, Any]:
        """Returns the options without a default that are not given, each with what is chosen and needs it."""
        named = [choosing for choosing in self.tables if getattr(self, choosing, None) is not None]
        chosen = {getattr(self, choosing): self.chosen(choosing) for choosing in named}
        return {
            key: value
            for value, entry in chosen.items()
            for key, option in entry.options.items()
            if option.required and getattr(self, key) is None
        }

    def unused(self, **besides: Any) -> dict[str, str]:
        """Returns the keys that nothing chosen uses, each with the reason.

        Args:
          **besides: values of choosing keys that are not in this section.
        """
        reasons: dict[str, str] = {}
        used: set[str] = set()
        for choosing, table in self.tables.items():
            if choosing in reasons:
                why = f"it is for {choosing}; {reasons[choosing]}"
                because = {key: why for entry in table.values() for key in entry.keys}
                reasons = because | reasons
                continue
            value = besides[choosing] if choosing in besides else getattr(self, choosing)
            used.update(table[value].keys)
            for key in dict.fromkeys(key for entry in table.values() for key in entry.keys):
                users = [name for name, entry in table.items() if key in entry.keys]
                if value not in users:
                    reasons[key] = f"{choosing} {_shown(value)} does not use it, only {_joined(users)}"
        return {key: reason for key, reason in reasons.items() if key not in used}

    def resolved(self, unused: Mapping[str, str], **besides: Any) -> Any:
        """Returns the section with the options that are used filled in, and what is unused left out.

        What is filled in does not count as given: another choice, made later, brings its own.
        """
        options = {}
        for choosing, table in self.tables.items():
            if choosing not in unused:
                chosen = table[besides[choosing] if choosing in besides else getattr(self, choosing)]
                options |= {key: option.default for key, option in chosen.options.items()}
        section = self.model_copy()
        vars(section).update(options | self.given() | dict.fromkeys(unused, None))
        return section


def with_options(name: str, base: type[Section], tables: Tables) -> Any:
    """Returns a section with a key for every option of its tables besides those of its own.

    Raises:
      ValueError: if two entries have options of one name that mean something else.
    """
    options: dict[str, list[tuple[Any, Option]]] = {}
    for table in tables.values():
        for user, entry in table.items():
            for key, option in entry.options.items():
                options.setdefault(key, []).append((user, option))
    fields: dict[str, Any] = {}
    for key, users in options.items():
        first = users[0][1]
        if any(option.by_default(first.default) != first for _, option in users):
            several = ", ".join(str(user) for user, _ in users)
            raise ValueError(f"{key}: expected one meaning, got several, of {several}")
        # A key that most have needs no list of those.
        prefix = f"{', '.join(str(user) for user, _ in users)}: " if len(users) <= 3 else ""
        kind: Any = first.kind or (Literal[first.choices] if first.choices else type(first.default))
        limits: dict[str, Any] = {"ge": first.least, "le": first.most, "gt": first.above, "lt": first.below}
        limits = {name: limit for name, limit in limits.items() if limit is not None}
        fields[key] = (kind, Field(default=None, description=prefix + first.help, **limits))
    section = pydantic.create_model(name, __base__=base, __doc__=base.__doc__, __module__=base.__module__, **fields)
    section.tables = tables
    return section


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _joined(values: list[Any]) -> str:
    *before, last = map(_shown, values)
    return f"{', '.join(before)} and {last} do" if before else f"{last} does"
