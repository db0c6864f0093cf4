"""What a model offers so that it can be generated from, seen into and edited, whatever library it is written in.

Below linen and NNX alike: `generate` takes any `Decodable`; captures, edits and knock-outs take any model for which
`as_inspectable` knows an `Inspectable`. The wing of a library registers how its modules become one.
"""

from collections.abc import Mapping
from functools import singledispatch
from typing import Any, ClassVar, Protocol, runtime_checkable

from jattn.filters.filter import AttentionFilter
from jattn.rules.edits import Edit


@runtime_checkable
class Decodable(Protocol):
    """A model that reads a few tokens at a time."""

    def empty_cache(self, batch: tuple[int, ...], slots: int) -> Any:
        """Makes a cache for batch entries of so many tokens each."""
        ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Called with tokens, lengths or None, and ``cache=``, returns logits and the cache afterwards."""
        ...


@runtime_checkable
class Inspectable(Protocol):
    """A model whose filters can be seen and edited."""

    LOST_EDIT: ClassVar[str]
    """Why an edit may not reach a layer, in words that follow the name of the layer."""

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns the model's output."""
        ...

    def capture(self, variables: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, AttentionFilter]]:
        """Returns the model's output, and the filter of every attention layer by its name, in their order."""
        ...

    def with_edits(self, variables: Any, edits: Mapping[str, Edit]) -> Any:
        """Returns variables with which `apply` and `capture` edit the filters of the layers named."""
        ...


@singledispatch
def as_inspectable(model: Any) -> Inspectable:
    """Returns a model as one whose filters can be seen and edited.

    Raises:
      TypeError: if it is no model of a library that is known here.
    """
    if isinstance(model, Inspectable):
        return model
    raise TypeError(f"module: expected a flax module with attention layers, got {type(model).__name__}")
