"""`attend`: attention for any score, mask, bias and normalizer, at any length, in memory linear in length.

Glossary of shapes: ``T`` query length, ``S`` key length, ``N`` query heads, ``K`` key/value heads (``N`` is a multiple
of ``K``), ``H`` head dim, ``V`` value dim.
"""

import dataclasses
import functools
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jattn.engine.averages import average_by_softmax
from jattn.engine.compiling import closes_over_tracers, compiled
from jattn.engine.dropout import as_dropout
from jattn.engine.kernels import KERNELS, choose_kernel
from jattn.engine.plans import (
    DENSE_WEIGHTS,
    FEW_ROWS,
    Plan,
    Strip,
    blocked_plan,
    check_block_size,
    dense_plan,
    entries_plan,
    walks_heads,
)
from jattn.engine.rows import MARKS, RowProgram, clean, mark_values, marked_scores, row_program, taint
from jattn.engine.streams import walk_entries
from jattn.engine.walk import Prepare, Side, map_blocks, take_apart
from jattn.rules.biases import BiasLike
from jattn.rules.checks import ArrayOrShape, check_float
from jattn.rules.edits import EditLike
from jattn.rules.grids import Grid, Place, fixed_sizes, whole_grid
from jattn.rules.mask import MaskLike
from jattn.rules.meshes import check_sequence
from jattn.rules.normalizers import NormalizerLike, forbid, softmax
from jattn.rules.products import average, swap_heads
from jattn.rules.ranks import any_rank
from jattn.rules.scores import ScoreLike, scaled_dot

IMPLEMENTATIONS = ("dense", "blocked", *KERNELS)


def attend(
    query: Float[Array, "*batch T N H"],
    key: Float[Array, "*batch S K H"],
    value: Float[Array, "*batch S K V"],
    *,
    score: ScoreLike = scaled_dot(),
    bias: BiasLike | None = None,
    mask: MaskLike | None = None,
    normalizer: NormalizerLike = softmax(),
    edit: EditLike | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: PRNGKeyArray | None = None,
    broadcast_dropout: bool = False,
    implementation: str | None = None,
    block_size: int | None = None,
    precision: Any = None,
) -> Float[Array, "*batch T N V"]:
    """Attends: averages the values of the keys that each query may see, weighted by how well they match.

    ::

        sᵢⱼ = score(qᵢ, kⱼ) + biasᵢⱼ       wᵢ = normalizer(sᵢ, maskᵢ)       outᵢ = Σⱼ wᵢⱼ vⱼ

    The filter ``w`` is computed in blocks of whole rows, and computed again in the backward pass, so nothing of size
    ``T x S`` is ever stored. `attention_filter` describes exactly the ``w`` of the same call.

    Args:
      query: what asks. Leading batch axes are any number, the same for all three.
      key: what is matched. Each key head serves ``N / K`` query heads, and a batch axis of size 1 all entries.
      value: what is averaged; its dim may differ from the head dim.
      score: how a query and a key are compared; an object of `jattn.scores`, or a function.
      bias: floats added to the scores; an array that broadcasts to ``[*batch, N, T, S]``, of `jattn.biases`, or a
        function of indices as `biases.from_function` takes it. Minus infinity gives a key weight 0, which a NaN in its
        value outlives: 0 times NaN is NaN. What must not be seen at all is for a mask to say.
      mask: True = may attend; an array that broadcasts to ``[*batch, N, T, S]``, of `jattn.masks`, or a function of
        indices. A query that may attend to nothing gets output zero and gradient zero. With a mask, NaN or inf in a key
        or value, and a score beyond the range of its dtype, reach only the queries that may attend there (their output
        is NaN).
      normalizer: how a row of scores becomes a row of weights.
      edit: a function of a block of weights and its `Grid` that returns new weights.
      dropout_rate: the chance of each weight to be dropped; the others are scaled by ``1/(1 - rate)``. Which ones drop
        depends on `dropout_rng` alone, not on how the call is computed.
      dropout_rng: needed where `dropout_rate` is above zero.
      broadcast_dropout: whether all heads and batch entries drop the same weights, which draws less.
      implementation: ``"dense"`` (one block), ``"blocked"``, a fused kernel (``"cudnn"`` on NVIDIA GPUs, ``"splash"``
        on TPUs), or None to choose; the result is the same up to rounding. A kernel has reverse-mode first
        derivatives only, and keeps NaN and inf from a query only where no query may see them; if that is too little,
        name one of the first two. `explain_implementation` says which one is chosen.
      block_size: how many query rows a block holds; the default suits the device.
      precision: as in `jax.lax.dot_general`.

    Returns:
      The averaged values, in the dtype of `value`. Scores, weights and sums are float32 or wider within.

    Raises:
      ValueError: if shapes do not fit one another, or an option is unknown or out of range.
      TypeError: if an argument has the wrong type or dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn import attend, masks
      >>> query = key = jnp.zeros((3, 1, 2))
      >>> value = jnp.array([0.0, 2.0, 4.0]).reshape(3, 1, 1)
      >>> attend(query, key, value, mask=masks.causal()).ravel().tolist()
      [0.0, 1.0, 2.0]

    Source: Vaswani et al. 2017, section 3.2; Rabe and Staats 2021, "Self-attention does not need O(n²) memory".
    """
    shape = filter_shape(query, key)
    check_value(key, value)
    dropout = as_dropout(dropout_rate, dropout_rng, broadcast_dropout)
    program = row_program(score, bias, mask, normalizer, edit, precision, shape, dropout)
    key, value = repeat_batch(query, key, value)
    kernel = choose_kernel(implementation, query, key, value, program, dropout_rate, block_size)
    if kernel is not None:
        return any_rank(KERNELS[kernel])(query, key, value, program)
    plan = choose_plan(shape, program, implementation, block_size, narrow=True, by_entries=True)
    return compiled(average_by_rows, plan=plan)(query, key, value, program)


def average_by_rows(query: Array, key: Array, value: Array, program: RowProgram, plan: Plan) -> Array:
    """Attends by the row program; returns the output alone."""
    return attend_by_rows(query, key, value, program, plan)[0]


def attend_by_rows(
    query: Float[Array, "*batch T N H"],
    key: Float[Array, "*batch S K H"],
    value: Float[Array, "*batch S K V"],
    program: RowProgram,
    plan: Plan,
) -> tuple[Float[Array, "*batch T N V"], Float[Array, "*batch T N"]]:
    """Attends by the row program; returns the output and the log-normalizer of `attend_heads_first`."""
    if plan.entries is not None:
        return _attend_by_entries(query, key, value, program, plan.entries)
    query, key, value = (swap_heads(x) for x in (query, key, value))
    out, log_normalizer = attend_heads_first(query, key, value, program, plan)
    return swap_heads(out), jnp.swapaxes(log_normalizer, -2, -1)


def _attend_by_entries(
    query: Array, key: Array, value: Array, program: RowProgram, at_once: int
) -> tuple[Array, Array]:
    """Attends for some whole batch entries at a time."""
    laid, program_of = take_apart(program)
    shape = filter_shape(query, key)
    prepare = _preparation(query, program)

    def some(arrays: tuple[Array, Array, Array, list[Array]], first: Array) -> tuple[Array, Array]:
        query, key, value = (swap_heads(x) for x in arrays[:3])
        grid = dataclasses.replace(whole_grid(shape), first_entry=first, num_entries=at_once)
        sides = prepare({"query": query}, {"key": key, "value": value})
        out, log_normalizer = _attend_block(program_of(arrays[3]), grid, *sides)
        return swap_heads(out).astype(value.dtype), jnp.swapaxes(log_normalizer, -2, -1)

    return walk_entries(some, (query, key, value, laid), shape[0], at_once)


def attend_heads_first(
    query: Float[Array, "*batch N T H"],
    key: Float[Array, "*batch K S H"],
    value: Float[Array, "*batch K S V"],
    program: RowProgram,
    plan: Plan,
    place: Place | None = None,
) -> tuple[Float[Array, "*batch N T V"], Float[Array, "*batch N T"]]:
    """Attends with heads before positions; `place` says where queries and keys of one device lie in the whole.

    Returns:
      The output in the dtype of `value`. And for a softmax, without edit and dropout, the natural logarithm of what
      each row was divided by, ``ln Σ exp(s)``, in float32 or wider, and minus infinity for a row without keys; else
      zeros.
    """
    few = place is None and plan.whole and has_few_rows(query) and program.mask is not None and walks_heads()
    few = few and program.score.shows_nonfinite and program.dropout is None
    if few and not closes_over_tracers(jax.tree.structure(program)):
        return _attend_few(plan, program, query, key, value)
    return _attend_any(plan, program, query, key, value, place)


def _attend_any(
    plan: Plan, program: RowProgram, query: Array, key: Array, value: Array, place: Place | None = None
) -> tuple[Array, Array]:
    out, log_normalizer = attend_part(plan, program, query, key, value, place)
    return out.astype(value.dtype), log_normalizer


def attend_part(
    plan: Plan, program: RowProgram, query: Array, key: Array, value: Array, place: Place | None = None
) -> tuple[Array, Array]:
    """Attends as `attend_heads_first` does; the output is float32 or wider, to be merged with that of other keys."""
    shape = (*query.shape[:-1], key.shape[-2])
    sides = {"query": query}, {"key": key, "value": value}
    by_data = _ByMask(plan.strips[0]) if place is None and plan.narrowed else None
    return map_blocks(_attend_block, program, *sides, shape, plan, _preparation(query, program), place, by_data)


def _preparation(query: Array, program: RowProgram) -> Prepare:
    # A CPU has no half-precision arithmetic to gain from, and the products of its gradients convert as they go. Only a
    # step of decoding would take longer to widen what it reads than to compute with it.
    widen = walks_heads() and not has_few_rows(query)
    # A function with a derivative of its own must not close over what is being traced, and so neither may a rule in it.
    shows = program.shows_nonfinite and not closes_over_tracers(jax.tree.structure(program))
    return functools.partial(prepare_sides, widen, program.mask is not None, shows)


def prepare_sides(
    widen: bool, masked: bool, shows: bool, query_side: dict[str, Array], key_side: dict[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Makes queries, keys and values ready for blocks: widened to float32, and cleaned of NaN and inf for a mask.

    Where the scores show which queries and keys are not finite, only values are cleaned.
    """
    if widen:
        query_side, key_side = jax.tree.map(
            lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), (query_side, key_side)
        )
    if masked and shows:
        return query_side, mark_values(key_side)
    return clean(query_side, key_side) if masked else (query_side, key_side)


@dataclasses.dataclass(frozen=True)
class _ByMask:
    """What a mask says about a block of a strip."""

    strip: Strip

    def span(self, program: RowProgram, grid: Grid) -> tuple[Array, Array]:
        assert program.mask is not None
        assert self.strip.spans is not None
        if program.mask.depends_on_data:
            return program.mask.span(grid)
        block = jnp.sum(jnp.array(self.strip.first_rows[1:], jnp.int32) <= jnp.min(grid.query))
        begin, end = jnp.array(self.strip.spans, jnp.int32)[block]
        return begin, end

    def free(self, program: RowProgram, grid: Grid, query_side: Side, key_side: Side) -> Array | None:
        assert program.mask is not None
        allowed = program.mask.allows_all(grid)
        if allowed is None:
            return None
        # Scores that a float cannot hold are NaN under a mask only; values are finite where nothing is marked.
        query, key = query_side["query"], key_side["key"]
        reach = sum(jnp.max(jnp.abs(x), initial=0).astype(jnp.float32) for x in (query, key))
        fine = [reach * reach * query.shape[-1] < jnp.finfo(jnp.float32).max]
        fine += [jnp.all(side[name] == 0) for side in (query_side, key_side) for name in MARKS if name in side]
        return functools.reduce(jnp.logical_and, fine, allowed)

    def without_mask(self, program: RowProgram, query_side: Side, key_side: Side) -> tuple[RowProgram, Side, Side]:
        # Marks that are zero are not added to scores, but let no gradient through a row that a bias makes NaN.
        query_side, key_side = (
            {name: side[name] for name in side if name != "broken"} for side in (query_side, key_side)
        )
        return dataclasses.replace(program, mask=None), query_side, key_side


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attend_few(plan: Plan, program: RowProgram, query: Array, key: Array, value: Array) -> tuple[Array, Array]:
    """Attends from few queries to many keys, which a step of decoding should read no more than once.

    What is not finite shows in the scores or in the output; only then are the inputs cleaned, which reads them again.
    """
    grid = whole_grid((*query.shape[:-1], key.shape[-2]))
    scores, _ = program.scores(query, key, grid)
    query_side, key_side = {"query": query}, {"key": key, "value": value}
    out, log_normalizer = _attend_block(program, grid, query_side, key_side)
    fine = jnp.all(jnp.isfinite(scores)) & jnp.all(jnp.isfinite(out))
    return lax.cond(
        fine,
        lambda: (out.astype(value.dtype), log_normalizer),
        lambda: _attend_any(plan, program, query, key, value),
    )


@_attend_few.defjvp
@any_rank
def _attend_few_jvp(plan: Plan, primals: Any, tangents: Any) -> Any:
    return jax.jvp(functools.partial(_attend_any, plan), primals, tangents)


def filter_shape(
    query: Float[ArrayOrShape, "*batch T N H"], key: Float[ArrayOrShape, "*batch S K H"]
) -> tuple[int, ...]:
    """Returns the shape ``(*batch, N, T, S)`` of the filter of a query and a key, or says why they do not fit."""
    for name, array, axes in (("query", query, "[*batch, T, N, H]"), ("key", key, "[*batch, S, K, H]")):
        check_float(name, array)
        if array.ndim < 3:
            raise ValueError(f"{name}: expected at least 3 axes {axes}, got shape {array.shape}")
        check_sequence(name, array)
    batches = query.shape[:-3], key.shape[:-3]
    if query.ndim != key.ndim or any(ours not in (1, whole) for whole, ours in zip(*batches, strict=True)):
        raise ValueError(
            f"key: expected the batch shape of query, {batches[0]}, or axes of size 1 in it, got {batches[1]}"
        )
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"key: expected the head dim of query, {query.shape[-1]}, got {key.shape[-1]}")
    num_heads, num_kv_heads = query.shape[-2], key.shape[-2]
    if num_kv_heads == 0 or num_heads == 0 or num_heads % num_kv_heads:
        raise ValueError(f"key: expected a number of heads that divides the {num_heads} of query, got {num_kv_heads}")
    return (*query.shape[:-3], num_heads, query.shape[-3], key.shape[-3])


def repeat_batch(query: Array, *arrays: Array) -> tuple[Array, ...]:
    """Repeats what has a batch axis of size 1, keys or values, for each batch entry of the query."""
    return tuple(jnp.broadcast_to(array, (*query.shape[:-3], *array.shape[-3:])) for array in arrays)


def choose_plan(
    shape: tuple[int, ...],
    program: RowProgram,
    implementation: str | None,
    block_size: int | None,
    whole_rows: bool = False,
    narrow: bool = False,
    by_entries: bool = False,
) -> Plan:
    """Chooses how a filter of shape ``(*batch, N, T, S)`` is computed.

    With `narrow` blocks may leave out keys when they run, which `attend_part` knows how to, and with `by_entries` they
    may be of some batch entries, which `attend_by_rows` does.
    """
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation: expected one of {', '.join(IMPLEMENTATIONS)} or None, got {implementation!r}"
        )
    check_block_size(block_size)
    if implementation == "dense" and block_size is not None:
        raise ValueError(f"block_size: implementation 'dense' has one block, got block_size {block_size}")
    fixed = fixed_sizes(shape)
    mask = None if whole_rows or program.needs_whole_rows else program.mask
    if by_entries and implementation is None and block_size is None and walks_heads() and fixed == shape:
        plan = entries_plan(shape, mask)
        if plan is not None:
            return plan
    small = math.prod(fixed) <= DENSE_WEIGHTS and block_size is None
    if implementation == "dense" or (implementation is None and small):
        return dense_plan(shape)
    if fixed[-2:] != shape[-2:]:
        raise ValueError(
            "block_size, implementation: expected None or 'dense' where lengths are symbolic, because blocks are "
            f"planned for given lengths, got {block_size!r}, {implementation!r}"
        )
    return blocked_plan(fixed, mask, block_size, walks_heads() and fixed == shape, narrow)


def has_few_rows(query: Float[Array, "*batch N T H"]) -> bool:
    """Says whether there are as few queries as in a step of decoding; a symbolic number is many."""
    return isinstance(query.shape[-2], int) and query.shape[-2] <= FEW_ROWS


def check_value(key: ArrayOrShape, value: ArrayOrShape) -> None:
    """Raises an error unless a value belongs to the key: floats, and the same shape except for the last axis."""
    check_float("value", value)
    if value.ndim != key.ndim or value.shape[:-1] != key.shape[:-1]:
        expected = ", ".join(map(str, key.shape[:-1]))
        raise ValueError(
            f"value: expected shape [{expected}, V], alike key in all but the last axis, got {value.shape}"
        )


def _attend_block(
    program: RowProgram, grid: Grid, query_side: Side, key_side: Side
) -> tuple[Float[Array, "... R V"], Float[Array, "... R"]]:
    query, key, value = query_side["query"], key_side["key"], key_side["value"]
    if program.is_plain_softmax:
        mark = key_side.get("mark")
        if mark is None or program.mask is None:
            scores, allowed = program.scores(query, key, grid)
        else:
            scores, allowed = marked_scores(program, query, key, mark, grid), program.mask.evaluate(grid)
        sink = program.normalizer.sink_score(grid, scores.dtype)
        sink = None if sink is None else jnp.broadcast_to(sink, (*scores.shape[:-1], 1))
        out, log_normalizer = average_by_softmax(
            forbid(scores, allowed), value, sink, program.precision, mark is not None
        )
    else:
        weights, allowed = program.weights(query, key, grid)
        out = average(weights, value, program.precision)
        log_normalizer = jnp.zeros(out.shape[:-1], out.dtype)
    chex.assert_shape(out, (*query.shape[:-1], value.shape[-1]))
    chex.assert_shape(log_normalizer, query.shape[:-1])
    if allowed is None or "broken" not in query_side:
        return out, log_normalizer
    broken = query_side["broken"], key_side["broken"]
    return taint(out, allowed, *broken), taint(log_normalizer[..., None], allowed, *broken)[..., 0]
