"""Overlays: arrays of a user's, laid over a filter, so that the part of any block can be cut out."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from jattn.rules.trees import as_pytree


@as_pytree
@dataclasses.dataclass(frozen=True)
class Overlay:
    """An array laid over a filter: ``[*batch, N, T, S]``, each axis of full size or 1.

    An array that belongs to a rule has three states. A user gives it as an array that *broadcasts* to the filter, in
    whatever shape. The rule's `fit` checks that and makes an overlay, with as many axes as the filter has
    (`Overlay.of`, `Overlay.per_batch`). Whoever walks the filter block by block then replaces every overlay of the row
    program by one that is *cut* to the head and the rows of the block, so that gradients are put together block by
    block, too. In each of the states `Grid.part` returns the block's part, which is all that a rule has to ask for.

    Args:
      array: the array, with all axes of the filter.
      cut: whether heads and rows of the block have been cut out already.
    """

    array: Shaped[Array, "..."]
    cut: bool = dataclasses.field(default=False, metadata={"static": True})

    @classmethod
    def of(cls, name: str, array: "Array | Overlay", shape: tuple[int, ...]) -> "Overlay":
        """Lays an array over a filter of shape ``(*batch, N, T, S)``; see `fit_array`."""
        return array if isinstance(array, Overlay) else cls(fit_array(name, array, shape))

    @classmethod
    def per_batch(cls, name: str, array: "Int[Array, '*batch'] | Overlay", shape: tuple[int, ...]) -> "Overlay":
        """Lays a scalar or an array ``[*batch]`` over a filter of shape ``(*batch, N, T, S)``.

        Raises:
          ValueError: if it is neither.
        """
        if isinstance(array, Overlay):
            return array
        batch = shape[:-3]
        if array.ndim and array.shape != batch:
            raise ValueError(f"{name} must be a scalar or have the batch shape {batch}, got {array.shape}")
        return cls(jnp.broadcast_to(array, batch).reshape(*batch, 1, 1, 1))

    @property
    def as_written(self) -> Array:
        """What is printed."""
        return self.array


def fit_array(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    """Gives an array that broadcasts to a filter of shape ``(*batch, N, T, S)`` as many axes as the filter.

    With all of them there, a new leading axis (of a scan, say) is a batch axis of the array as it is of the filter.

    Raises:
      ValueError: if the array does not broadcast.
    """
    sizes = zip(array.shape[::-1], shape[::-1], strict=False)
    if array.ndim > len(shape) or any(size not in (1, whole) for size, whole in sizes):
        raise ValueError(f"{name}: expected a shape that broadcasts to [*batch, N, T, S] = {shape}, got {array.shape}")
    return array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
