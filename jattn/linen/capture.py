"""Captures of the filters of linen modules, and edits of them; what `jattn.decode.protocol` asks of a model."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from flax import linen as nn
from flax.core.scope import union_filters

from jattn.decode.protocol import Inspectable, as_inspectable
from jattn.filters.by_layer import FiltersByLayer
from jattn.filters.filter import AttentionFilter
from jattn.filters.names import in_order
from jattn.linen.multi_head import COLLECTION, EDITS
from jattn.linen.scanned import one_by_one, stacked
from jattn.rules.edits import Edit

ROOT = "attention"
"""What a module is called that is an attention layer itself."""


def capture_filters(
    module: nn.Module,
    variables: Mapping[str, Any],
    *args: Any,
    mutable: Any = False,
    allow_none: bool = False,
    **kwargs: Any,
) -> tuple[Any, dict[str, AttentionFilter]]:
    """Applies a flax module and returns, besides its output, the filter of every attention in it.

    Args:
      module: any linen module that contains `jattn.MultiHeadAttention` layers.
      variables: its variables.
      *args, **kwargs: what ``module.apply`` takes further.
      allow_none: whether a module without any attention of jattn's may be given; its filters are ``{}``.
      mutable: as ``module.apply`` takes it: collections that the call may change, such as a ``cache``.

    Returns:
      The module's output, with what has changed if `mutable` is given, and the filters by path
      (``"block_0/attention"``), with numbers in their order, in a dict that a notebook shows
      (`jattn.filters.by_layer.FiltersByLayer`). A layer that was called more than once has its later calls under
      ``"path#1"``, ``"path#2"``. A filter describes the weights
      that the call used, dropout included; `AttentionFilter.without_dropout` leaves it out. Only queries, keys and what
      else makes the weights are kept, memory linear in length. Under flax's ``scan`` over layers (with
      ``variable_axes={"filters": 0}``) the filters of all layers are one, stacked along a first axis; of a module that
      says which its scanned layers are (`jattn.linen.scanned`), each layer has its own.

    Raises:
      ValueError: if there is no filter to capture.
      TypeError: if it is no linen module.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jattn
      >>> layer, x = jattn.MultiHeadAttention(num_heads=2), jnp.ones((5, 8))
      >>> variables = layer.init(jax.random.key(0), x)
      >>> output, filters = jattn.capture_filters(layer, variables, x)
      >>> filters
      {'attention': AttentionFilter(shape=(2, 5, 5), dtype=float32)}
    """
    if isinstance(module, Inspectable):
        # Such as the NNX module of a run, in its functional form.
        return module.capture(variables, *args, **kwargs)
    if not hasattr(module, "apply"):
        raise TypeError(
            f"module: expected a linen module, got {type(module).__name__}; jattn.nnx.capture_filters takes NNX modules"
        )
    # Filters that an earlier call left among the variables would come first.
    variables = {name: collection for name, collection in variables.items() if name != COLLECTION}
    output, changed = module.apply(variables, *args, mutable=union_filters(mutable, COLLECTION), **kwargs)
    others = {name: collection for name, collection in changed.items() if name != COLLECTION}
    filters: dict[str, AttentionFilter] = {}
    entries, _ = jax.tree_util.tree_flatten_with_path(
        changed.get(COLLECTION, {}), is_leaf=lambda node: isinstance(node, AttentionFilter)
    )
    for path, entry in entries:
        *names, call = (getattr(part, "key", getattr(part, "idx", None)) for part in path)
        name = "/".join(map(str, names[:-1])) or ROOT
        filters[name if call == 0 else f"{name}#{call}"] = entry
    if not filters and not allow_none:
        raise ValueError(
            f"capture_filters: {type(module).__name__} has no attention of jattn's, or has it under a transformation "
            f"that keeps filters to itself: flax's scan over layers needs variable_axes={{{COLLECTION!r}: 0}}"
        )
    filters = FiltersByLayer(in_order(one_by_one(filters, getattr(module, "scanned_layers", {}))))
    return output if mutable is False else (output, others), filters


@as_inspectable.register(nn.Module)
@dataclasses.dataclass(frozen=True)
class LinenModel:
    """A linen module as a model whose filters can be seen and edited."""

    module: nn.Module

    LOST_EDIT: ClassVar[str] = (
        f"does not read the collection {EDITS!r}; expected flax's scan to pass it on, with "
        f"variable_broadcast={EDITS!r}, or variable_axes={{{EDITS!r}: 0}} for an edit of stacked arrays"
    )

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Applies the module."""
        return self.module.apply(variables, *args, **kwargs)

    def capture(self, variables: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, AttentionFilter]]:
        """Captures the filters; see `capture_filters`."""
        return capture_filters(self.module, variables, *args, allow_none=True, **kwargs)

    def with_edits(self, variables: Any, edits: Mapping[str, Edit]) -> dict[str, Any]:
        """Returns the variables with edits in a collection that attention layers read."""
        tree: dict[str, Any] = {}
        for name, edit in stacked(edits, getattr(self.module, "scanned_layers", {})).items():
            place = tree
            for part in () if name == ROOT and name not in variables.get("params", {}) else name.split("/"):
                place = place.setdefault(part, {})
            place["edit"] = edit
        return {**variables, EDITS: tree}
