"""The fold of `portraits`: how much weight lies on each of some sets of keys, and how much would by chance."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Int

from jattn.filters.blocks import FilterBlock, HeadFold
from jattn.filters.row_folds import EffectiveKeys
from jattn.rules.mask import Mask
from jattn.rules.trees import as_pytree

EVENNESS = "evenness"
"""What the fold calls the measure that needs no set."""


@as_pytree
@dataclasses.dataclass(frozen=True)
class PatternMeans(HeadFold):
    """Asks for the means over the judged queries of each head, and of all batch entries; `head_portraits` says which.

    Attributes:
      sets: by name.
      real: holds the queries that may be judged; None for all.
    """

    sets: dict[str, Mask]
    real: Mask | None

    def evaluate(self, block: FilterBlock) -> dict[str, dict[str, Array]]:
        weights, grid = block.weights, block.grid
        visible = jnp.ones(weights.shape[-2:], bool) if block.allowed is None else block.allowed
        visible = visible if self.real is None else visible & self.real.evaluate(grid)
        num_visible = _count(jnp.broadcast_to(visible, jnp.broadcast_shapes(visible.shape, weights.shape[-2:])))
        per_key, total = 1 / jnp.maximum(num_visible, 1).astype(weights.dtype), block.row_sums

        def sums(judged: Array, mass: Array, chance: Array) -> dict[str, Array]:
            judged = jnp.broadcast_to(judged, total.shape)
            return {
                "queries": jnp.sum(judged, axis=-1, dtype=jnp.int32),
                "mass": jnp.sum(jnp.where(judged, mass, 0), axis=-1),
                "chance": jnp.sum(jnp.where(judged, chance, 0), axis=-1),
            }

        result = {}
        for name, keys in self.sets.items():
            chosen = keys.evaluate(grid)
            count = _count(chosen & visible)
            mass = jnp.sum(jnp.where(chosen, weights, 0), axis=-1) / jnp.maximum(total, 1)
            result[name] = sums((count > 0) & (count < num_visible), mass, count.astype(per_key.dtype) * per_key)
        even = jnp.minimum(total, 1) * EffectiveKeys().evaluate(block) * per_key
        return result | {EVENNESS: sums(num_visible > 1, even, even)}

    def finish(self, total: dict[str, dict[str, Array]], shape: tuple[int, ...]) -> dict[str, dict[str, Array]]:
        batch = tuple(range(len(shape) - 3))

        def means(sums: dict[str, Array]) -> dict[str, Array]:
            sums = {what: jnp.sum(x, axis=batch) for what, x in sums.items()}
            queries = sums["queries"].astype(sums["mass"].dtype)
            queries = jnp.where(queries == 0, jnp.nan, queries)
            return sums | {what: sums[what] / queries for what in ("mass", "chance")}

        return {name: means(sums) for name, sums in total.items()}


def _count(keys: Array) -> Int[Array, "... R"]:
    return jnp.sum(keys, axis=-1, dtype=jnp.int32)
