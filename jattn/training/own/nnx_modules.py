"""Own models that are NNX modules; NNX itself is imported only where there is one, as not every flax can import it."""

from collections.abc import Mapping
from typing import Any

from jattn.training.own.parts import OwnPart
from jattn.training.own.signatures import is_nnx


def makes_nnx(part: OwnPart) -> bool:
    """Says whether what a config names makes NNX modules: it is such a class, or a function that takes ``rngs``."""
    return is_nnx(part.code.made) or "rngs" in part.parameters


def make_functional(part: OwnPart, options: Mapping[str, Any]) -> Any:
    """Makes the functional form of the NNX module that some code makes; nothing is computed.

    Raises:
      OwnError: if the code raises, naming the line, or makes something else.
    """
    from flax import nnx

    from jattn.nnx.functional import Functional

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return part.make(nnx.Module, **options, rngs=rngs)

    if "rngs" not in part.parameters:
        raise part.code.wrong("expected it to take rngs, from which an NNX module draws its parameters")
    return Functional(make, type(nnx.eval_shape(lambda: make(nnx.Rngs(0)))))


def as_functional(model: Any) -> tuple[Any, str]:
    """Returns an NNX module in its functional form, and in words."""
    from jattn.nnx.functional import functional, words_of

    return functional(model), words_of(model)
