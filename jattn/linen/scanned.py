"""Layers that flax's ``scan`` runs as one: their filters one by one, and an edit for each of them.

A module with such layers says so by an attribute ``scanned_layers``, how many there are by the name of the module that
is scanned: ``{"layer": 30}``. Filters and edits then have the names of single layers, ``"layer_7/attention"``. Its scan
needs ``variable_axes={"filters": 0, "edits": 0}``.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jattn.filters.filter import AttentionFilter
from jattn.rules.edits import Edit
from jattn.rules.grids import Grid
from jattn.rules.rule import rule


@rule()
class ByLayer(Edit):
    """One of several edits, or none: what the ``which``-th of scanned layers does with its filter."""

    which: Int[Array, ""]
    edits: tuple[Edit, ...]

    def __call__(self, weights: Float[Array, "... R S"], grid: Grid) -> Float[Array, "... R S"]:
        # A branch is an edit; the first leaves all as it is.
        branches = [lambda weights, edit=edit: edit(weights, grid).astype(weights.dtype) for edit in self.edits]
        return lax.switch(self.which, [lambda weights: weights, *branches], weights)

    def fit(self, shape: tuple[int, ...]) -> "ByLayer":
        """Fits each of the edits to the shape of a filter."""
        return ByLayer(self.which, tuple(edit.fit(shape) for edit in self.edits))


def one_by_one(filters: Mapping[str, AttentionFilter], scanned: Mapping[str, int]) -> dict[str, AttentionFilter]:
    """Takes the stacked filters of scanned layers apart: ``"layer/attention"`` becomes ``"layer_0/attention"`` ...

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jattn
      >>> from jattn.linen.scanned import one_by_one
      >>> stacked = jax.vmap(jattn.attention_filter)(jnp.zeros((2, 5, 1, 4)), jnp.zeros((2, 5, 1, 4)))
      >>> one_by_one({"layer/attention": stacked}, {"layer": 2})
      {'layer_0/attention': AttentionFilter(shape=(1, 5, 5), dtype=float32),
       'layer_1/attention': AttentionFilter(shape=(1, 5, 5), dtype=float32)}
    """
    alone = {}
    for name, filter in filters.items():
        top, _, rest = name.partition("/")
        if top not in scanned:
            alone[name] = filter
        for layer in range(scanned.get(top, 0)):
            alone[f"{top}_{layer}/{rest}"] = jax.tree.map(lambda x, layer=layer: x[layer], filter)
    return alone


def stacked(edits: Mapping[str, Edit], scanned: Mapping[str, int]) -> dict[str, Edit]:
    """Joins the edits of scanned layers: those of one structure are one edit with stacked arrays.

    Names that are of no scanned layer stay as they are.
    """
    joined: dict[str, Edit] = {}
    of_place: dict[str, dict[int, Edit]] = {}
    for name, edit in edits.items():
        found = re.fullmatch(r"(\w+)_(\d+)/(.+)", name)
        if found is None or int(found[2]) >= scanned.get(found[1], 0):
            joined[name] = edit
        else:
            of_place.setdefault(f"{found[1]}/{found[3]}", {})[int(found[2])] = edit
    for place, by_layer in of_place.items():
        joined[place] = _stack(by_layer, scanned[place.partition("/")[0]])
    return joined


def _stack(by_layer: Mapping[int, Edit], layers: int) -> ByLayer:
    kinds: dict[Any, dict[int, list[Array]]] = {}
    for layer, edit in by_layer.items():
        leaves, structure = jax.tree.flatten(edit)
        leaves = [jnp.asarray(leaf) for leaf in leaves]
        kind = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        kinds.setdefault(kind, {})[layer] = leaves
    which, edits = [0] * layers, []
    for index, ((structure, _), of_kind) in enumerate(kinds.items(), start=1):
        blank = [jnp.zeros_like(leaf) for leaf in next(iter(of_kind.values()))]
        for layer in of_kind:
            which[layer] = index
        rows = zip(*(of_kind.get(layer, blank) for layer in range(layers)), strict=True)
        edits.append(jax.tree.unflatten(structure, [jnp.stack(row) for row in rows]))
    return ByLayer(jnp.array(which, jnp.int32), tuple(edits))
