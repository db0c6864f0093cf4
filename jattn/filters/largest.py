"""The largest numbers of each row, and where they are, without sorting the row."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

MOST_SEARCHED = 16
"""Up to this many are searched for one after the other on a CPU; sorting is faster for more."""
PIECE = 32
"""A long row is looked through in pieces of this many numbers."""


def largest(rows: Float[Array, "... W"], k: int) -> tuple[Float[Array, "... k"], Int[Array, "... k"]]:
    """Finds the `k` largest numbers of each row in descending order, of equals the first.

    Returns:
      The numbers and their indices, int32. A row with NaN gives NaN. Where a row has fewer than `k` numbers above minus
      infinity, the rest are minus infinity, with any index.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn.filters.largest import largest
      >>> numbers, indices = largest(jnp.array([3.0, 1.0, 4.0, 1.0, 5.0]), 2)
      >>> numbers.tolist(), indices.tolist()
      ([5.0, 4.0], [4, 2])
    """
    width = rows.shape[-1]
    if not isinstance(width, int):
        found, index = lax.top_k(rows, k)
        return found, index.astype(jnp.int32)
    if jax.default_backend() != "cpu" or k > MOST_SEARCHED:
        found, index = lax.top_k(_padded(rows, max(k, width)), k)
        return found, index.astype(jnp.int32)
    pieces = -(-width // PIECE)
    if pieces <= 2 * k:
        return _search(_padded(rows, max(k, width)), k)
    # The k largest lie in the k pieces whose own largest are the largest: few numbers to look through.
    rows = _padded(rows, pieces * PIECE).reshape(*rows.shape[:-1], pieces, PIECE)
    # Behind a barrier: XLA would make the largest of the pieces' largest in another pass over the rows.
    of_pieces = lax.optimization_barrier(jnp.max(rows, axis=-1))
    best = jnp.sort(_search(of_pieces, k)[1], axis=-1)
    candidates = jnp.take_along_axis(rows, best[..., None], axis=-2)
    found, index = _search(candidates.reshape(*best.shape[:-1], k * PIECE), k)
    return found, jnp.take_along_axis(best, index // PIECE, axis=-1) * PIECE + index % PIECE


def _padded(rows: Float[Array, "... W"], width: int) -> Float[Array, "... X"]:
    missing = [(0, 0)] * (rows.ndim - 1) + [(0, width - rows.shape[-1])]
    return rows if width == rows.shape[-1] else jnp.pad(rows, missing, constant_values=-jnp.inf)


def _search(rows: Float[Array, "... W"], k: int) -> tuple[Float[Array, "... k"], Int[Array, "... k"]]:
    """Takes the largest of each row away, `k` times."""
    column, width = lax.broadcasted_iota(jnp.int32, rows.shape, rows.ndim - 1), rows.shape[-1]

    def step(left: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        most = jnp.max(left, axis=-1, keepdims=True)
        # Two plain reductions; XLA on CPU takes far longer to reduce pairs, as argmax does. NaN equals nothing.
        first = jnp.min(jnp.where(left == most, column, width), axis=-1, keepdims=True)
        return jnp.where(column == first, -jnp.inf, left), (most[..., 0], jnp.minimum(first[..., 0], width - 1))

    _, (found, index) = lax.scan(step, rows, length=k)
    return jnp.moveaxis(found, 0, -1), jnp.moveaxis(index, 0, -1)
