"""Filters of NNX modules seen and edited: the functions of `jattn` that take a linen module and its variables.

Each of them works on a copy, which `nnx.split` and `nnx.merge` make: the module's own caches and random streams stay as
they are.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

from flax import nnx
from jaxtyping import Array, Float, Int

from jattn.decode import generation
from jattn.decode.protocol import as_inspectable
from jattn.filters.by_layer import FiltersByLayer
from jattn.filters.filter import AttentionFilter
from jattn.filters.names import in_order
from jattn.nnx.multi_head import Filter, MultiHeadAttention
from jattn.rules.edits import Edit, EditLike, in_turn
from jattn.rules.mask import MaskLike
from jattn.rules.trees import as_pytree
from jattn.study import interventions
from jattn.study.interventions import Judgement, KnockOut, Loss

ROOT = "attention"
"""What a module is called that is an attention layer itself."""


def capture_filters(model: nnx.Module, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, AttentionFilter]]:
    """Calls an NNX module and returns, besides its output, the filter of every attention in it.

    Inside a program of one's own, ``nnx.capture(model, jattn.nnx.Filter)(x)`` is the same with a state of filters.

    Args:
      model: any NNX module that contains `jattn.nnx.MultiHeadAttention` layers.
      *args, **kwargs: what the module is called with.

    Returns:
      The module's output and the filters by path, as `jattn.capture_filters` returns them.

    Raises:
      ValueError: if there is no filter to capture.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jattn.nnx
      >>> layer = jattn.nnx.MultiHeadAttention(num_heads=2, in_features=8, rngs=nnx.Rngs(0))
      >>> output, filters = jattn.nnx.capture_filters(layer, jnp.ones((5, 8)))
      >>> filters
      {'attention': AttentionFilter(shape=(2, 5, 5), dtype=float32)}
    """
    inspected, state = _split(model)
    output, filters = inspected.capture(state, *args, **kwargs)
    if not filters:
        raise ValueError(f"capture_filters: {type(model).__name__} called no jattn.nnx.MultiHeadAttention")
    return output, filters


def apply_with_edits(model: nnx.Module, *args: Any, edits: Mapping[str, EditLike], **kwargs: Any) -> Any:
    """Calls an NNX module while the filters of some attention layers are edited; see `jattn.apply_with_edits`.

    Example: without its only head.
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jattn.nnx
      >>> model = jattn.nnx.Encoder(vocabulary=10, rngs=nnx.Rngs(0))
      >>> edits = {"block_0/attention": jattn.edits.knock_out([0])}
      >>> jattn.nnx.apply_with_edits(model, jnp.zeros((2, 16), int), edits=edits).shape
      (2, 16, 10)
    """
    return interventions.apply_with_edits(*_split(model), *args, edits=edits, **kwargs)


def judge(
    model: nnx.Module, batch: Any, *, loss: Loss | None = None, edits: Mapping[str, EditLike] | None = None
) -> Judgement:
    """Judges an NNX module's answers to a batch, with its filters as they are or edited; see `jattn.judge`."""
    return interventions.judge(*_split(model), batch, loss=loss, edits=edits)


def knock_out(
    model: nnx.Module,
    batch: Any,
    *,
    loss: Loss | None = None,
    keys: MaskLike | None = None,
    layers: Iterable[str] | None = None,
) -> KnockOut:
    """Knocks out one head of an NNX module after the other, and all together; see `jattn.knock_out`."""
    return interventions.knock_out(*_split(model), batch, loss=loss, keys=keys, layers=layers)


def generate(
    model: nnx.Module, prompt: Int[Array, "*batch P"], *, max_new_tokens: int, **options: Any
) -> Int[Array, "*batch max_new_tokens"]:
    """Continues prompts with an NNX module's own predictions; see `jattn.generate` for the options.

    Args:
      model: `jattn.nnx.Decoder`, or a module like it: ``model.empty_cache(batch, slots)`` makes a cache, and
        ``model(tokens, lengths, cache=cache)`` returns logits ``[*batch, T, C]`` and the cache afterwards.
      prompt: the tokens to continue.
      max_new_tokens: how many tokens follow at most.
      **options: as in `jattn.generate`.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jattn.nnx import Decoder, generate
      >>> generate(Decoder(vocabulary=10, rngs=nnx.Rngs(0)), jnp.array([[1, 2, 3]]), max_new_tokens=5).shape
      (1, 5)
    """
    _check_decodable(model)
    return generation.generate(*_split(model), prompt, max_new_tokens=max_new_tokens, **options)


def generate_with_filters(
    model: nnx.Module, prompt: Int[Array, "*batch P"], *, max_new_tokens: int, **options: Any
) -> tuple[Int[Array, "*batch max_new_tokens"], dict[str, Float[Array, "*batch N max_new_tokens S"]]]:
    """Continues prompts as `generate` does, and returns where the module looked when it drew each token.

    Args:
      model, prompt, max_new_tokens, **options: as in `generate`.

    Returns:
      The new tokens, and by the name of each layer the rows, as `jattn.generate_with_filters` returns them.

    Raises:
      TypeError: if the module cannot make a cache.
      ValueError: if it has no attention whose filters can be captured.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jattn.nnx import Decoder, capture_filters, generate_with_filters
      >>> model, prompt = Decoder(vocabulary=10, num_heads=2, rngs=nnx.Rngs(0)), jnp.array([1, 2, 3])
      >>> tokens, rows = generate_with_filters(model, prompt, max_new_tokens=2)
      >>> rows["block_0/attention"].shape
      (2, 2, 4)
      >>> _, filters = capture_filters(model, jnp.append(prompt, tokens[:1]))
      >>> bool(jnp.allclose(rows["block_0/attention"], filters["block_0/attention"][:, 2:], atol=1e-6))
      True
    """
    _check_decodable(model)
    return generation.generate_with_filters(*_split(model), prompt, max_new_tokens=max_new_tokens, **options)


def _check_decodable(model: nnx.Module) -> None:
    if not hasattr(model, "empty_cache"):
        raise TypeError(f"model: expected a module with empty_cache, as jattn.nnx.Decoder, got {type(model).__name__}")


class _Empty(NamedTuple):
    """The cache that a model is still to make, once it is whole."""

    batch: tuple[int, ...]
    slots: int


@as_pytree
@dataclasses.dataclass(frozen=True)
class _Edited:
    """The variables of a module, and edits of its filters by the names of the layers."""

    state: Any
    edits: Mapping[str, Edit]


class Inspected:
    """An NNX module that is made whole at each call, as a model whose filters can be seen and edited."""

    LOST_EDIT: ClassVar[str] = "is called under a transformation that keeps edits from it"

    def whole(self, variables: Any) -> Any:
        """Makes the module of its variables."""
        raise NotImplementedError

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls the module made of its variables."""
        model = self._edited(variables)
        return model(*args, **_with_cache(model, kwargs))

    def empty_cache(self, batch: tuple[int, ...], slots: int) -> _Empty:
        """Asks for a cache, which `apply` makes."""
        return _Empty(batch, slots)

    def capture(self, variables: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, AttentionFilter]]:
        """Captures the filters of a call; later calls of the same layer are ``"path#1"``, ``"path#2"``."""
        model = self._edited(variables)
        output, captured = nnx.capture(model, Filter)(*args, **_with_cache(model, kwargs))
        filters = {}
        for path, variable in nnx.to_flat_state(captured):
            name = _name(path[:-1])
            for call, filter in enumerate(variable.get_value()):
                filters[f"{name}#{call}" if call else name] = filter
        return output, FiltersByLayer(in_order(filters))

    def with_edits(self, variables: Any, edits: Mapping[str, Edit]) -> _Edited:
        """Returns the variables with edits."""
        return _Edited(variables, dict(edits))

    def _edited(self, variables: Any) -> Any:
        edited = variables if isinstance(variables, _Edited) else _Edited(variables, {})
        model = self.whole(edited.state)
        for path, layer in nnx.iter_modules(model):
            edit = edited.edits.get(_name(path))
            if isinstance(layer, MultiHeadAttention) and edit is not None:
                layer.edit = nnx.data(edit if layer.edit is None else in_turn(layer.edit, edit))
        return model


def _with_cache(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Makes the cache that options of a call ask for."""
    cache = options.get("cache")
    if cache is None:
        return {name: value for name, value in options.items() if name != "cache"}
    return options | {"cache": model.empty_cache(*cache) if isinstance(cache, _Empty) else cache}


@dataclasses.dataclass(frozen=True)
class NNXModel(Inspected):
    """What `nnx.split` leaves of a module beside its state, which are the variables."""

    graphdef: nnx.GraphDef

    def whole(self, variables: Any) -> Any:
        """Makes a copy of the module."""
        return nnx.merge(self.graphdef, variables, copy=True)


@as_inspectable.register(nnx.Module)
def _whole(model: nnx.Module) -> Any:
    raise TypeError(
        f"module: expected a linen module and its variables, got the NNX module {type(model).__name__}; the functions "
        "of jattn.nnx take it"
    )


def _split(model: nnx.Module) -> tuple[NNXModel, Any]:
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model: expected an NNX module, got {type(model).__name__}")
    graphdef, state = nnx.split(model)
    return NNXModel(graphdef), state


def _name(path: Iterable[Any]) -> str:
    return "/".join(map(str, path)) or ROOT
