"""The row program: what attention does for one query.

    query row --score--> scores --bias, mask--> scores --normalizer--> weights --edit, dropout--> a row of the filter

`attend` multiplies the weights with the values; `AttentionFilter` stops before that. Both map this one program over the
blocks of a filter, so they cannot disagree. Shapes inside: ``[*batch, N, rows, H]``, heads before rows.
"""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jattn.engine.dropout import Dropout
from jattn.engine.plans import walks_heads
from jattn.rules.biases import Bias, BiasLike, as_bias
from jattn.rules.checks import check_precision
from jattn.rules.edits import Edit, EditLike, as_edit
from jattn.rules.functions import as_floats
from jattn.rules.grids import Grid, static
from jattn.rules.mask import Mask, MaskLike, as_mask
from jattn.rules.meshes import varying_as
from jattn.rules.normalizers import Normalizer, NormalizerLike, as_normalizer
from jattn.rules.ranks import any_rank
from jattn.rules.scores import Score, ScoreLike, as_score
from jattn.rules.trees import as_pytree


@as_pytree
@dataclasses.dataclass(frozen=True)
class RowProgram:
    """Everything that decides a row of the filter, except the query and the keys."""

    score: Score
    bias: Bias | None
    mask: Mask | None
    normalizer: Normalizer
    edit: Edit | None = None
    precision: Any = static(default=None)
    dropout: Dropout | None = None

    @property
    def needs_whole_rows(self) -> bool:
        """Whether weights may depend on forbidden keys, so that these may not be left out of a block."""
        return self.edit is not None or self.normalizer.needs_whole_rows

    @property
    def is_plain_softmax(self) -> bool:
        """Whether the weights are ``exp(s - log Σ exp(s))`` and nothing is done to them."""
        return self.normalizer.is_softmax and self.edit is None and self.dropout is None

    @property
    def shows_nonfinite(self) -> bool:
        """Whether NaN in the scores of a row is all it takes for NaN in its output, and shows what is not finite."""
        return self.is_plain_softmax and self.score.shows_nonfinite

    def scores(
        self,
        query: Float[Array, "... R H"],
        key: Float[Array, "... S H"],
        grid: Grid,
        mark: Float[Array, "... S"] | None = None,
    ) -> tuple[Float[Array, "... R S"], Bool[Array, "..."] | None]:
        """Computes a block of scores with the bias added, and the mask of the block.

        With a mask, what products of queries and keys cannot hold is NaN. A mark is zero or NaN for each key, and is
        added.
        """
        key = key if self.score.takes_groups else repeat_heads(key, query, axis=-3)
        scores = self.score.evaluate(query, key, grid, self.precision)
        if self.mask is not None and self.score.shows_nonfinite:
            scores = scores + scores * 0
        if mark is not None:
            scores = scores + repeat_heads(mark, query[..., 0], axis=-2)[..., None, :].astype(scores.dtype)
        if self.bias is not None:
            scores = scores + self.bias.evaluate(grid).astype(scores.dtype)
        chex.assert_shape(scores, (*query.shape[:-1], key.shape[-2]))
        return scores, None if self.mask is None else self.mask.evaluate(grid)

    def weights(
        self, query: Float[Array, "... R H"], key: Float[Array, "... S H"], grid: Grid
    ) -> tuple[Float[Array, "... R S"], Bool[Array, "..."] | None]:
        """Computes a block of weights, and the mask of the block."""
        scores, allowed = self.scores(query, key, grid)
        weights = self.normalizer.evaluate(scores, allowed, grid)
        if self.edit is not None:
            weights = as_floats("edit", self.edit(weights, grid), weights.shape).astype(weights.dtype)
        weights = weights if self.dropout is None else self.dropout.apply(weights, grid)
        chex.assert_equal_shape((weights, scores))
        return weights, allowed


def row_program(
    score: ScoreLike,
    bias: BiasLike | None,
    mask: MaskLike | None,
    normalizer: NormalizerLike,
    edit: EditLike | None,
    precision: Any,
    shape: tuple[int, ...],
    dropout: Dropout | None = None,
) -> RowProgram:
    """Makes the row program of a call whose filter has shape ``(*batch, N, T, S)``, or says which part does not fit."""
    check_precision(precision)
    return RowProgram(
        score=as_score(score).fit(shape),
        bias=None if bias is None else as_bias(bias).fit(shape),
        mask=None if mask is None else as_mask(mask).fit(shape),
        normalizer=as_normalizer(normalizer).fit(shape),
        edit=None if edit is None else as_edit(edit).fit(shape),
        precision=precision,
        dropout=dropout,
    )


def repeat_heads(of_keys: Array, of_queries: Array, axis: int) -> Array:
    """Repeats what belongs to a key head for each query head that it serves; the axis of heads counts from the end."""
    if of_queries.ndim < -axis or of_queries.shape[axis] == of_keys.shape[axis]:
        return of_keys
    axis, group = of_keys.ndim + axis, of_queries.shape[axis] // of_keys.shape[axis]
    # Not jnp.repeat, which cannot split a sharded axis.
    copies = jnp.concatenate([jnp.expand_dims(of_keys, axis + 1)] * group, axis + 1)
    return copies.reshape(*of_keys.shape[:axis], of_keys.shape[axis] * group, *of_keys.shape[axis + 1 :])


def finite(x: Float[Array, "... L H"]) -> tuple[Float[Array, "... L H"], Bool[Array, "... L"]]:
    """Replaces NaN and inf by zero, and says which vectors held any.

    Zero times NaN is NaN, so a weight of zero alone does not keep a forbidden value out of a matrix product.
    """
    # Zero times a non-finite value is NaN, and a sum of floats takes XLA on CPU half the time of asking for all.
    broken = jnp.sum(lax.stop_gradient(x) * 0, axis=-1) != 0
    return jnp.where(jnp.isfinite(x), x, 0), broken


def mark_values(key_side: dict[str, Array]) -> dict[str, Array]:
    """Makes values finite, and adds under the name ``mark`` NaN for a value that was not, and zero for any other."""
    value = key_side["value"]
    # A product reads the values once, in the order in which they came; small factors keep sums from overflowing.
    as_given = value if value.ndim < 3 else jnp.swapaxes(value, -3, -2)
    small = jnp.full(value.shape[-1:], 2.0**-14, value.dtype)
    dtype = value.dtype if value.dtype.itemsize >= 4 else jnp.float32
    sums = jnp.einsum("...h,h->...", as_given, small, precision=lax.Precision.HIGHEST, preferred_element_type=dtype)
    mark = lax.stop_gradient((sums if value.ndim < 3 else jnp.swapaxes(sums, -2, -1)) * 0)
    return key_side | {"value": jnp.where(jnp.isfinite(value), value, 0), "mark": mark}


@jax.custom_jvp
def marked_scores(
    program: RowProgram,
    query: Float[Array, "... R H"],
    key: Float[Array, "... S H"],
    mark: Float[Array, "... S"],
    grid: Grid,
) -> Float[Array, "... R S"]:
    """Computes scores that are NaN where a query or key is not finite, or a mark is NaN.

    Their derivative is that of queries and keys `finite`: what is forbidden leaves no trace in it.
    """
    return program.scores(query, key, grid, mark)[0]


@marked_scores.defjvp
@any_rank
def _marked_scores_jvp(primals: Any, tangents: Any) -> Any:
    def scores(program: RowProgram, query: Array, key: Array, grid: Grid) -> Array:
        return program.scores(query, key, grid)[0]

    (program, query, key, _, grid), (of_program, of_query, of_key, _, of_grid) = primals, tangents
    query, key = (jnp.where(jnp.isfinite(x), x, 0) for x in (query, key))
    tangent = jax.jvp(scores, (program, query, key, grid), (of_program, of_query, of_key, of_grid))[1]
    return marked_scores(*primals), tangent


MARKS = ("broken", "mark")
"""The names under which sides say what in them was not finite."""


def clean(query_side: dict[str, Array], key_side: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Makes queries, keys and values `finite`, and adds under the name ``broken`` which of them were not."""
    queries = {name: finite(x) for name, x in query_side.items()}
    keys = {name: finite(x) for name, x in key_side.items()}
    broken_query = functools.reduce(jnp.logical_or, (broken for _, broken in queries.values()))
    broken_key = functools.reduce(jnp.logical_or, (broken for _, broken in keys.values()))
    return (
        {name: x for name, (x, _) in queries.items()} | {"broken": broken_query},
        {name: x for name, (x, _) in keys.items()} | {"broken": broken_key},
    )


def taint(
    rows: Float[Array, "... R X"],
    allowed: Bool[Array, "..."],
    broken_query: Bool[Array, "... R"],
    broken_key: Bool[Array, "... W"],
) -> Float[Array, "... R X"]:
    """Sets to NaN the rows whose query is not finite, or that may attend to a key or value that is not.

    The rows were computed from `clean` inputs: so what a query may see stays visible in its result, and what it
    may not see leaves no trace, forward or backward.
    """

    which = sees_broken(rows.shape[:-1], allowed, broken_query, broken_key)
    return jnp.where(which[..., None], jnp.nan, rows)


def sees_broken(
    shape: tuple[int, ...],
    allowed: Bool[Array, "..."],
    broken_query: Bool[Array, "... R"],
    broken_key: Bool[Array, "... W"],
) -> Bool[Array, "... R"]:
    """Says of each row of the given shape whether its query, or some key that it may attend to, is not finite."""

    def tainted() -> Array:
        of_keys = repeat_heads(broken_key, broken_query, axis=-2)
        sees = allowed & (broken_query[..., :, None] | of_keys[..., None, :])
        return jnp.broadcast_to(jnp.any(sees, axis=-1), shape)

    if walks_heads():
        # On one CPU device: look again only where something is broken. On several it would be a question to all.
        broken = jnp.any(broken_query) | jnp.any(broken_key)
        return lax.cond(broken, tainted, lambda: varying_as(jnp.zeros(shape, bool), broken, allowed))
    return tainted()
