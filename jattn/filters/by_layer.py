"""Filters by layer: a dict that a notebook shows."""

import html
from collections.abc import Iterable
from typing import Any

import jax

from jattn.filters.filter import AttentionFilter

SHOWN = 8
"""The most layers of which a notebook draws heads unasked; the others are named."""


@jax.tree_util.register_pytree_with_keys_class
class FiltersByLayer(dict[str, AttentionFilter]):
    """A dict of filters by the name of their layer, in which a notebook shows the heads of each.

    It equals, prints and pickles as the plain dict does, and ``|`` and ``copy`` give a plain one. As a pytree it is a
    node of its own, which keeps the order of its layers: its structure is not that of a plain dict.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jattn
      >>> from jattn.filters.by_layer import FiltersByLayer
      >>> filter = jattn.attention_filter(jnp.zeros((3, 1, 4)), jnp.zeros((3, 1, 4)))
      >>> filters = FiltersByLayer({"block_2/attention": filter, "block_10/attention": filter})
      >>> list(jax.jit(lambda filters: filters)(filters))
      ['block_2/attention', 'block_10/attention']
      >>> filters._repr_html_().count("<img")
      2
    """

    def _repr_html_(self) -> str:
        style = "margin: 4px 0; font-family: system-ui, sans-serif; font-size: 13px"
        shown = [
            f'<details open style="{style}"><summary style="cursor: pointer; font-weight: 600">'
            f"{html.escape(str(name))}</summary>{_as_html(value)}</details>"
            for name, value in [*self.items()][:SHOWN]
        ]
        others = [str(name) for name in [*self][SHOWN:]]
        if others:
            words = f"{len(others)} more, from {others[0]} to {others[-1]}: each is shown alone, by its name."
            shown.append(f'<div style="{style}">{html.escape(words)}</div>')
        return f"<div>{''.join(shown)}</div>" if shown else "<code>{}</code>"

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        """Gives the filters with their names, in order."""
        return [(jax.tree_util.DictKey(name), value) for name, value in self.items()], (*self,)

    def tree_flatten(self) -> tuple[list[Any], tuple[str, ...]]:
        """Gives the filters, in order."""
        return [*self.values()], (*self,)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], values: Iterable[Any]) -> "FiltersByLayer":
        """Puts filters, or what stands for them, under their names again."""
        return cls(zip(names, values, strict=True))


def _as_html(value: Any) -> str:
    # What takes the place of a filter in a pytree may be anything.
    show = getattr(value, "_repr_html_", None)
    return f"<code>{html.escape(repr(value))}</code>" if show is None else show()
