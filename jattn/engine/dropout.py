"""Dropout of weights: which ones drop is a pure function of where they lie in the filter."""

import dataclasses
import math
import numbers

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jattn.rules.grids import Grid, static
from jattn.rules.trees import as_pytree


@as_pytree
@dataclasses.dataclass(frozen=True)
class Dropout:
    """Drops weights, each with the chance `rate`, and scales the others by ``1/(1 - rate)``.

    Which ones drop is a pure function of rng, batch entry, head, query and key, whatever the block; or, where it is
    broadcast, of rng, query and key.
    """

    rng: PRNGKeyArray
    rate: float = static()
    broadcast: bool = static(default=False)

    def apply(self, weights: Float[Array, "... R S"], grid: Grid) -> Float[Array, "... R S"]:
        """Drops weights of one block."""
        heads = math.prod(grid.shape[:-2])
        # Where calls were stacked (by a scan over layers, say), each brought an rng, and counted its own heads.
        rngs = self.rng.reshape(-1)
        of_each = max(1, heads // rngs.shape[0])

        def row(stream: Array, index: Array) -> Array:
            head = 0 if self.broadcast else stream % of_each
            rng_of_head = jax.random.fold_in(rngs[stream // of_each], head)
            rng_of_row = jax.random.fold_in(rng_of_head, index)
            return grid.take_keys(jax.random.bernoulli(rng_of_row, 1 - self.rate, grid.shape[-1:]))

        streams = grid.streams
        alike = max(1, min(of_each, streams.shape[0])) if self.broadcast else 1
        kept = jax.vmap(lambda stream: jax.vmap(lambda index: row(stream, index))(grid.rows))(streams[::alike])
        kept = jnp.broadcast_to(kept[:, None], (kept.shape[0], alike, *kept.shape[1:]))
        return jnp.where(kept.reshape(weights.shape), weights / (1 - self.rate), 0)


def as_dropout(rate: float, rng: PRNGKeyArray | None, broadcast: bool) -> Dropout | None:
    """Makes what drops weights of the chance and the rng of a call, or None where nothing is dropped."""
    if not isinstance(rate, numbers.Real) or isinstance(rate, bool) or not 0 <= rate < 1:
        raise ValueError(f"dropout_rate: expected a number in [0, 1), got {rate!r}")
    if not isinstance(broadcast, bool):
        raise TypeError(f"broadcast_dropout: expected a bool, got {broadcast!r}")
    if rate > 0 and rng is None:
        raise ValueError(f"dropout_rng: needed for dropout_rate {rate}, got None")
    if rng is None:
        return None
    dtype, shape = getattr(rng, "dtype", None), getattr(rng, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not ((typed and shape == ()) or (dtype == jnp.uint32 and shape is not None and len(shape) == 1)):
        got = type(rng).__name__ if dtype is None else f"shape {shape}, dtype {dtype}"
        raise TypeError(f"dropout_rng: expected one key, as jax.random.key makes it, got {got}")
    return Dropout(_counted(rng if typed else jax.random.wrap_key_data(rng)), rate, broadcast) if rate > 0 else None


def _counted(rng: PRNGKeyArray) -> PRNGKeyArray:
    """Returns a threefry key of a key of whatever kind: others draw other bits in a batch than one by one."""
    if str(jax.random.key_impl(rng)) == "threefry2x32":
        return rng
    words = jax.random.key_data(rng)
    pairs = jnp.pad(words, (0, words.size % 2)).reshape(-1, 2)
    return jax.random.wrap_key_data(lax.reduce_xor(pairs, (0,)), impl="threefry2x32")
