"""The virtual matrix itself: what a filter is made of, and what sweeps over it, cells and pictures need to know."""

import dataclasses
import numbers
from typing import Any, Self

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jattn.engine.attention import filter_shape
from jattn.engine.rows import RowProgram
from jattn.rules.grids import static
from jattn.rules.normalizers import softmax
from jattn.rules.scores import as_score

LIMIT_GB = 2.0
"""The most gigabytes, of 10⁹ bytes, that a filter makes into one array before it is told to."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class VirtualMatrix:
    """Keeps query, key and the program that makes weights of them: memory linear in length; see `AttentionFilter`."""

    query: Float[Array, "*batch T N H"]
    key: Float[Array, "*batch S K H"]
    program: RowProgram
    block_size: int | None = static(default=None)
    limit_gb: float = static(default=LIMIT_GB)
    relates: tuple[str, str] | None = static(default=None)
    """The sequences that queries and keys come from, where the layer that made the filter says so."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(*batch, N, T, S)``."""
        return filter_shape(self.query, self.key)

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        """The dtype of the weights: float32, or wider where the query or key is."""
        return jnp.promote_types(jnp.result_type(self.query, self.key), jnp.float32)

    def with_limit(self, limit_gb: float) -> Self:
        """Returns the same filter, ready to make arrays of up to so many gigabytes (10⁹ bytes) when asked to."""
        if not isinstance(limit_gb, numbers.Real) or isinstance(limit_gb, bool) or not limit_gb > 0:
            raise ValueError(f"limit_gb: expected a number above 0, got {limit_gb!r}")
        return dataclasses.replace(self, limit_gb=float(limit_gb))

    def without_dropout(self) -> Self:
        """Returns the filter before any weights are dropped."""
        return dataclasses.replace(self, program=dataclasses.replace(self.program, dropout=None))

    def uniform(self) -> Self:
        """Returns the filter that looks at every key it may look at alike: the chance level of this one."""
        program = RowProgram(as_score(_no_preference), None, self.program.mask, softmax())
        return dataclasses.replace(self, program=program)


def _no_preference(query: Float[Array, "... R H"], key: Float[Array, "... S H"]) -> Float[Array, "... R S"]:
    # Behind the barrier, for XLA would compute all that follows from zeros while it compiles.
    return lax.optimization_barrier(jnp.zeros((*query.shape[:-1], key.shape[-2]), jnp.float32))
