"""Edits: change a filter inside the very call that uses it, and see what the model then does.

An edit takes a block of weights, after the normalizer, and its index grids, and returns new weights. `attend` and
`attention_filter` take one as ``edit``; `jattn.apply_with_edits` puts them into the attention layers of a model.

An edit of this module may be limited to some heads: a list of head indices, or a float array of how much of each head
is edited, 0 none and 1 all: ``[N]``, or what broadcasts to ``[*batch, N, T, 1]``. An array may be traced, has a
gradient, and may differ from call to call without compiling anew.

Rows and keys are those of the call. Where a model decodes token by token these are the tokens of the call and the slots
of the cache, not positions of the text: there, edit by heads, or by keys alone.
"""

import abc
import dataclasses
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float

from jattn.rules.checks import as_own
from jattn.rules.functions import check_takes
from jattn.rules.grids import Grid, static
from jattn.rules.mask import Mask, MaskLike, as_keys
from jattn.rules.overlay import Overlay
from jattn.rules.rule import Rule, rule, write, write_call

Heads = Sequence[int] | Float[Array, "..."] | None
"""Which heads are edited; see the top of this file. None is all of them."""


class Edit(Rule):
    """Changes the weights of one block of whole rows. Subclasses are frozen dataclasses registered as pytrees."""

    wing = "edits"

    @abc.abstractmethod
    def __call__(self, weights: Float[Array, "... R S"], grid: Grid) -> Float[Array, "... R S"]:
        """Returns the new weights."""


EditLike = Edit | Callable[[Array, Grid], Any]
"""An `Edit`, or any function of (weights ``[..., R, S]``, `Grid`) that returns weights of the same shape."""


def knock_out(heads: Heads = None) -> Edit:
    """Sets all weights to zero, so that the heads say nothing.

    Example: the second of two heads is silent.
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, edits
      >>> zeros = jnp.zeros((2, 2, 4))
      >>> attention_filter(zeros, zeros, edit=edits.knock_out([1])).weights().tolist()
      [[[0.5, 0.5], [0.5, 0.5]], [[0.0, 0.0], [0.0, 0.0]]]

    Source: Michel et al. 2019, "Are sixteen heads really better than one?", section 2.3, whose gates ``ξ`` are one
    minus the array of heads.
    """
    return _limited(KnockOut(), heads)


def forbid(keys: MaskLike, heads: Heads = None) -> Edit:
    """Takes the weight on a set of keys away, and scales the rest of each row to the sum that the row had.

    For a softmax that is what a mask does. A row with no weight elsewhere gets zeros.

    Args:
      keys: True = forbidden; a mask object, or an array that broadcasts to ``[*batch, N, T, S]``, such as an oracle.
      heads: which heads are edited.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, edits
      >>> zeros = jnp.zeros((3, 1, 4))
      >>> attention_filter(zeros, zeros, edit=edits.forbid(jnp.array([True, False, False]))).weights()[0, 0].tolist()
      [0.0, 0.5, 0.5]
    """
    return _limited(Forbid(as_keys("forbid: keys", "booleans", keys)), heads)


def force(weights: Float[Array, "..."] | MaskLike, heads: Heads = None) -> Edit:
    """Puts other weights in place.

    Args:
      weights: a float array that broadcasts to ``[*batch, N, T, S]``; or a set of keys, as booleans or a mask object,
        that share each row's weight alike (of an empty set: nothing).
      heads: which heads are edited.

    Example: every query looks at the first key.
      >>> import jax.numpy as jnp
      >>> from jattn import attention_filter, edits, masks
      >>> zeros = jnp.zeros((2, 1, 4))
      >>> attention_filter(zeros, zeros, edit=edits.force(masks.prefix(1))).weights().tolist()
      [[[1.0, 0.0], [1.0, 0.0]]]
    """
    if _is_float_array(weights):
        return _limited(Force(as_own(weights)), heads)
    return _limited(ForceAlike(as_keys("force: weights", "a float array, booleans", weights)), heads)


def swap(filter: Any, heads: Heads = None) -> Edit:
    """Puts the weights of another filter in place, computed block by block as they are needed.

    With a filter captured from another input this is activation patching: what would the model say, had it attended
    here as it did there?

    Args:
      filter: an `AttentionFilter` of the same shape.
      heads: which heads are edited.

    Source: Vig et al. 2020, "Investigating gender bias in language models using causal mediation analysis", section 3.
    """
    if not hasattr(filter, "evaluate"):
        raise TypeError(f"swap: expected an AttentionFilter, got {type(filter).__name__}")
    return _limited(Swap(filter), heads)


def in_turn(*edits: EditLike) -> Edit:
    """Makes one edit of several: each gets the weights that the one before it returned."""
    return InTurn(tuple(as_edit(edit) for edit in edits))


def as_edit(edit: EditLike) -> Edit:
    """Returns an `Edit` for an edit or a function of (weights, grid); refuses anything else."""
    if isinstance(edit, Edit):
        return edit
    check_takes("edit", Edit, edit, "weights", "grid")
    return FromFunction(edit)


def _limited(edit: Edit, heads: Heads) -> Edit:
    if heads is None:
        return edit
    if _is_float_array(heads):
        return Limited(edit, as_own(heads), None)
    known = isinstance(heads, jax.Array | np.ndarray) and not isinstance(heads, Tracer)
    indices = np.asarray(heads).tolist() if known else heads
    if not isinstance(indices, Sequence) or not all(
        isinstance(head, numbers.Integral) and not isinstance(head, bool) for head in indices
    ):
        raise TypeError(f"heads: expected a list of head indices, or a float array of one per head, got {heads!r}")
    return Limited(edit, None, tuple(int(head) for head in indices))


def _is_float_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | np.floating) and jnp.issubdtype(x.dtype, jnp.floating)


def _fit_keys(name: str, keys: Mask, shape: tuple[int, ...]) -> Mask:
    try:
        return keys.fit(shape)
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).removeprefix('mask: ')}") from None


@rule()
class FromFunction(Edit):
    function: Callable[[Array, Grid], Any] = static()

    def __repr__(self) -> str:
        return write(self.function)

    def __call__(self, weights: Array, grid: Grid) -> Array:
        return self.function(weights, grid)


@rule()
class Limited(Edit):
    edit: Edit
    share: Float[Array, "..."] | Overlay | None
    heads: tuple[int, ...] | None = static()

    def __repr__(self) -> str:
        heads = self.share if self.heads is None else list(self.heads)
        assert self.edit.factory is not None
        return write_call(self.edit.factory, {**self.edit.arguments(), "heads": heads})

    def __call__(self, weights: Array, grid: Grid) -> Array:
        edited = self.edit(weights, grid)
        if self.share is None:
            return jnp.where(jnp.isin(grid.head, jnp.array(self.heads, int)), edited, weights)
        share = grid.part(self.share).astype(weights.dtype)
        # No part of a non-finite weight is zero; of a finite one it is, and still has a derivative.
        weights = jnp.where((share == 1) & ~jnp.isfinite(weights), 0, weights)
        edited = jnp.where((share == 0) & ~jnp.isfinite(edited), 0, edited)
        return (1 - share) * weights + share * edited

    def fit(self, shape: tuple[int, ...]) -> Self:
        num_heads, share = shape[-3], self.share
        if share is None:
            wrong = [head for head in self.heads or () if not -num_heads <= head < num_heads]
            if wrong:
                raise ValueError(f"heads: head index {wrong[0]} is out of range for {num_heads} heads")
            heads = tuple(head % num_heads for head in self.heads or ())
            return dataclasses.replace(self, edit=self.edit.fit(shape), heads=heads)
        if isinstance(share, Array) and share.ndim == 1:
            if share.shape[0] not in (1, num_heads):
                raise ValueError(f"heads: expected a number for each of {num_heads} heads, got {share.shape[0]}")
            share = share[:, None, None]
        share = Overlay.of("heads", share, (*shape[:-1], 1))
        return dataclasses.replace(self, edit=self.edit.fit(shape), share=share)


@rule(knock_out)
class KnockOut(Edit):
    def arguments(self) -> Mapping[str, Any]:
        return {"heads": None}

    def __call__(self, weights: Array, grid: Grid) -> Array:
        return jnp.zeros_like(weights)


@rule(forbid)
class Forbid(Edit):
    keys: Mask

    def arguments(self) -> Mapping[str, Any]:
        return {"keys": self.keys, "heads": None}

    def __call__(self, weights: Array, grid: Grid) -> Array:
        rest = jnp.where(self.keys.evaluate(grid), 0, weights)
        # The largest weight cancels; without it a small sum would overflow when its derivative divides by the square.
        largest = lax.stop_gradient(jnp.max(jnp.abs(rest), axis=-1, keepdims=True, initial=0))
        rest = rest / jnp.where(largest == 0, 1, largest)
        before, after = (jnp.sum(x, axis=-1, keepdims=True) for x in (weights, rest))
        return rest * jnp.where(after == 0, 0, before / jnp.where(after == 0, 1, after))

    def fit(self, shape: tuple[int, ...]) -> Self:
        return dataclasses.replace(self, keys=_fit_keys("forbid: keys", self.keys, shape))


@rule(force)
class Force(Edit):
    weights: Float[Array, "..."] | Overlay

    def arguments(self) -> Mapping[str, Any]:
        return {"weights": self.weights, "heads": None}

    def __call__(self, weights: Array, grid: Grid) -> Array:
        return jnp.broadcast_to(grid.part(self.weights).astype(weights.dtype), weights.shape)

    def fit(self, shape: tuple[int, ...]) -> Self:
        return dataclasses.replace(self, weights=Overlay.of("force: weights", self.weights, shape))


@rule(force)
class ForceAlike(Edit):
    keys: Mask

    def arguments(self) -> Mapping[str, Any]:
        return {"weights": self.keys, "heads": None}

    def __call__(self, weights: Array, grid: Grid) -> Array:
        chosen = jnp.broadcast_to(self.keys.evaluate(grid), weights.shape).astype(weights.dtype)
        count = jnp.sum(chosen, axis=-1, keepdims=True)
        return chosen / jnp.where(count == 0, 1, count)

    def fit(self, shape: tuple[int, ...]) -> Self:
        return dataclasses.replace(self, keys=_fit_keys("force: weights", self.keys, shape))


@rule(swap)
class Swap(Edit):
    filter: Any

    def arguments(self) -> Mapping[str, Any]:
        return {"filter": self.filter, "heads": None}

    def __call__(self, weights: Array, grid: Grid) -> Array:
        return self.filter.evaluate(grid)

    def fit(self, shape: tuple[int, ...]) -> Self:
        if self.filter.shape != shape:
            raise ValueError(f"swap: expected a filter of shape {shape}, got {self.filter.shape}")
        return self


@rule()
class InTurn(Edit):
    edits: tuple[Edit, ...]

    def __repr__(self) -> str:
        return f"in_turn({', '.join(map(repr, self.edits))})"

    def __call__(self, weights: Array, grid: Grid) -> Array:
        for edit in self.edits:
            weights = edit(weights, grid)
        return weights

    def fit(self, shape: tuple[int, ...]) -> Self:
        return dataclasses.replace(self, edits=tuple(edit.fit(shape) for edit in self.edits))
