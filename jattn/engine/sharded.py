"""Attention of a sequence that is split over the devices of a mesh: `jattn.sharded.attend`."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from jattn.engine.attention import attend as attend_on_one, check_value, filter_shape, repeat_batch
from jattn.engine.compiling import compiled
from jattn.engine.devices import Split, spec_of, without_explicit_axes
from jattn.engine.dropout import as_dropout
from jattn.engine.gathered import attend_gathered
from jattn.engine.implementations import Explanation
from jattn.engine.ring import attend_ring
from jattn.engine.rows import RowProgram, row_program
from jattn.engine.strategies import (
    STRATEGIES,
    check_mesh,
    choose_strategy,
    describe_gathered,
    describe_ring,
    find_mesh,
    key_bytes,
    plan_gathered,
    split_gathered,
    split_ring,
    why_not,
)
from jattn.rules.biases import BiasLike
from jattn.rules.checks import ArrayOrShape
from jattn.rules.edits import EditLike
from jattn.rules.mask import MaskLike
from jattn.rules.normalizers import NormalizerLike, softmax
from jattn.rules.scores import ScoreLike, scaled_dot


def attend(
    query: Float[Array, "*batch T N H"],
    key: Float[Array, "*batch S K H"],
    value: Float[Array, "*batch S K V"],
    *,
    axis: str,
    mesh: Mesh | AbstractMesh | None = None,
    strategy: str | None = None,
    score: ScoreLike = scaled_dot(),
    bias: BiasLike | None = None,
    mask: MaskLike | None = None,
    normalizer: NormalizerLike = softmax(),
    edit: EditLike | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: PRNGKeyArray | None = None,
    broadcast_dropout: bool = False,
    block_size: int | None = None,
    precision: Any = None,
) -> Float[Array, "*batch T N V"]:
    """Attends as `jattn.attend` does, with the sequence split over the devices of a mesh axis.

    Each device evaluates whole rows of its own queries, so the result is that of one device up to rounding, and the
    same weights are dropped. What differs is how its rows meet the keys and values of the others:

    - ``"gathered"``: every device gets all keys and values once, or those in reach of a mask that lets no row reach
      further than the neighbours of its device. Works for every call.
    - ``"ring"``: keys and values pass from device to device, and each row keeps a running log-sum-exp. No device holds
      more than its share of anything, forward and backward. For a softmax, with or without a sink, without edit and
      dropout; its derivatives are first and reverse-mode.

    Lengths need not divide: they are padded within. Under a causal mask some rows have less to do than others. Where it
    pays, rows are dealt out anew inside the call, striped if gathered and in a zigzag round a ring, and the output is
    dealt back.

    Args:
      query, key, value: as in `jattn.attend`. Batch and heads may be sharded over other axes of the mesh.
      axis: the mesh axis over which positions are split, or are to be split.
      mesh: the mesh; by default that of `jax.set_mesh`.
      strategy: one of the two, or None: gathered, unless the keys and values are more than `GATHERED_BYTES` and the
        ring can compute the call. `explain_implementation` says which.
      score, bias, mask, normalizer, edit, dropout_rate, dropout_rng, broadcast_dropout, block_size, precision: as in
        `jattn.attend`. An array with both queries and keys is split by queries when gathered.

    Returns:
      The averaged values, in the dtype of `value`, split over `axis` as the queries are.

    Raises:
      ValueError: what `jattn.attend` raises; if the mesh lacks the axis; or if a ring that was asked for cannot
        compute the call.
      TypeError: if an argument has the wrong type or dtype, or at forward-mode derivatives of a ring; under `jax.jit`
        JAX refuses these, at the end of the trace.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jattn import masks, sharded
      >>> mesh = jax.make_mesh((jax.device_count(),), ("sequence",), axis_types=(jax.sharding.AxisType.Auto,))
      >>> query = key = jnp.zeros((3, 1, 2))
      >>> value = jnp.array([0.0, 2.0, 4.0]).reshape(3, 1, 1)
      >>> sharded.attend(query, key, value, mesh=mesh, axis="sequence", mask=masks.causal()).ravel().tolist()
      [0.0, 1.0, 2.0]

    Source: for the ring Liu et al. 2023, "Ring attention with blockwise transformers for near-infinite context"; for
    stripes Brandon et al. 2023, "Striped attention: faster ring attention for causal transformers".
    """
    shape = filter_shape(*map(bare, (query, key)))
    check_value(key, value)
    dropout = as_dropout(dropout_rate, dropout_rng, broadcast_dropout)
    program = row_program(score, bias, mask, normalizer, edit, precision, shape, dropout)
    mesh = find_mesh(mesh, axis)
    check_mesh(mesh)
    key, value = repeat_batch(query, key, value)
    if 0 in shape[-2:]:
        options = {"dropout_rate": dropout_rate, "dropout_rng": dropout_rng, "broadcast_dropout": broadcast_dropout}
        rules = {"score": score, "bias": bias, "mask": mask, "normalizer": normalizer, "edit": edit}
        return attend_on_one(query, key, value, **rules, **options, block_size=block_size, precision=precision)
    chosen = choose_strategy(strategy, key, value, program)
    split = (split_gathered if chosen == "gathered" else split_ring)(mesh, axis, shape, program, block_size)
    with _refusing_forward_mode():
        return compiled(_attend, strategy=chosen, split=split, block_size=block_size)(query, key, value, program)


@contextlib.contextmanager
def _refusing_forward_mode() -> Iterator[None]:
    """Says in the caller's words what JAX says of derivatives of one's own."""
    try:
        yield
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise TypeError(
            "strategy: 'ring' has reverse-mode derivatives, got forward-mode as of jax.jvp; 'gathered' has both"
        ) from error


def _attend(
    query: Array, key: Array, value: Array, program: RowProgram, *, strategy: str, split: Split, block_size: int | None
) -> Array:
    shape = filter_shape(*map(bare, (query, key)))

    def call(query: Array, key: Array, value: Array, program: RowProgram) -> Array:
        if strategy == "ring":
            return attend_ring(query, key, value, program, split, block_size)
        plan = plan_gathered(split, shape, program, block_size)
        return attend_gathered(query, key, value, program, split, plan)

    def traced(*arguments: Any) -> Array:
        spec = spec_of(arguments[0], split.axis, query.ndim - 3)
        return without_explicit_axes(call, split.mesh, spec)(*arguments)

    # With axes that are left to the compiler, `jax.shard_map` has to be compiled.
    return jax.jit(traced)(query, key, value, program)


def bare(array: Any) -> Any:
    """Returns shape and dtype of an array, without its sharding; anything else as it is."""
    known = isinstance(array, jax.Array | np.ndarray | jax.ShapeDtypeStruct)
    return jax.ShapeDtypeStruct(array.shape, array.dtype) if known else array


def explain_implementation(
    query: Float[ArrayOrShape, "*batch T N H"],
    key: Float[ArrayOrShape, "*batch S K H"],
    value: Float[ArrayOrShape, "*batch S K V"],
    *,
    axis: str,
    mesh: Mesh | AbstractMesh | None = None,
    strategy: str | None = None,
    score: ScoreLike = scaled_dot(),
    bias: BiasLike | None = None,
    mask: MaskLike | None = None,
    normalizer: NormalizerLike = softmax(),
    edit: EditLike | None = None,
    dropout_rate: float = 0.0,
    dropout_rng: PRNGKeyArray | None = None,
    broadcast_dropout: bool = False,
    block_size: int | None = None,
    precision: Any = None,
) -> Explanation:
    """Explains which strategy `jattn.sharded.attend` takes for a call, and what each device computes and receives.

    It computes nothing, and the mesh may be a `jax.sharding.AbstractMesh` of devices that are not there. Work is that
    of one head. Bytes are those of the keys and values of the whole call, whose batch or heads other axes may split
    further; the backward pass receives them again, and as much for their gradients.

    Args:
      query: an array, or a `jax.ShapeDtypeStruct`.
      key: likewise.
      value: likewise.
      axis, mesh, strategy, score, bias, mask, normalizer, edit, dropout_rate, dropout_rng, broadcast_dropout,
        block_size, precision: as in `jattn.sharded.attend`.

    Raises:
      ValueError, TypeError: what `jattn.sharded.attend` raises for the same call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jattn import masks, sharded
      >>> mesh = jax.sharding.AbstractMesh((8,), ("sequence",))
      >>> tokens = jax.ShapeDtypeStruct((1, 65536, 8, 64), jnp.bfloat16)
      >>> print(sharded.explain_implementation(tokens, tokens, tokens, mesh=mesh, axis="sequence", mask=masks.causal()))
      gathered: each of 8 devices has 8192 of 65536 queries, striped in runs of 512, computes ...% of all scores
      and receives 117.4 MB of keys and values
        not ring: the keys and values have 134.2 MB, no more than the 1073.7 MB that are gathered
    """
    shape = filter_shape(*map(bare, (query, key)))
    check_value(key, value)
    dropout = as_dropout(dropout_rate, dropout_rng, broadcast_dropout)
    make = functools.partial(row_program, score, bias, mask, normalizer, edit, precision, shape)
    program = jax.eval_shape(make, dropout)
    mesh = find_mesh(mesh, axis)
    key, value = jax.eval_shape(repeat_batch, query, key, value)
    chosen = choose_strategy(strategy, key, value, program)
    describe = describe_gathered if chosen == "gathered" else describe_ring
    how = describe(mesh, axis, shape, program, block_size, key_bytes(key, value))
    (other,) = (name for name in STRATEGIES if name != chosen)
    return Explanation(chosen, {other: why_not(other, strategy, key_bytes(key, value), program)}, how)
