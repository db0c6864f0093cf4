"""The mask of a cache: each query sees the slots whose positions are not later than its own, within the window."""

import dataclasses

from jaxtyping import Array, Bool, Int

from jattn.rules.grids import Grid, static
from jattn.rules.mask import Mask
from jattn.rules.overlay import Overlay
from jattn.rules.rule import rule


@rule()
class CacheMask(Mask):
    query_positions: Int[Array, "*batch 1 T 1"] | Overlay
    key_positions: Int[Array, "*batch 1 1 S"] | Overlay
    window: int | None = static()

    def evaluate(self, grid: Grid) -> Bool[Array, "..."]:
        query, key = grid.part(self.query_positions), grid.part(self.key_positions)
        allowed = (key >= 0) & (key <= query)
        return allowed if self.window is None else allowed & (key > query - self.window)

    def fit(self, shape: tuple[int, ...]) -> Mask:
        query, key = self.query_positions, self.key_positions
        if isinstance(query, Overlay) or isinstance(key, Overlay):
            return self
        batch, num_queries, num_keys = shape[:-3], shape[-2], shape[-1]
        if (query.shape, key.shape) != ((*batch, 1, num_queries, 1), (*batch, 1, 1, num_keys)):
            raise ValueError(
                f"mask: expected a cache mask of the batch {batch}, {num_queries} queries and {num_keys} slots, "
                f"got {query.shape[:-3]}, {query.shape[-2]} and {key.shape[-1]}"
            )
        return dataclasses.replace(self, query_positions=Overlay(query), key_positions=Overlay(key))
