"""`ShardedFilter`: the filter of a sequence that is split over the devices of a mesh."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jattn.engine.attention import filter_shape, repeat_batch
from jattn.engine.dealing import Dealing
from jattn.engine.devices import Split, map_devices, spec_of, without_explicit_axes
from jattn.engine.dropout import as_dropout
from jattn.engine.halos import find_halo
from jattn.engine.plans import check_block_size
from jattn.engine.rows import RowProgram, row_program
from jattn.engine.sharded import bare
from jattn.engine.strategies import check_mesh, find_mesh, plan_gathered
from jattn.filters.blocks import Fold, HeadFold
from jattn.filters.filter import AttentionFilter
from jattn.filters.passes import ask_blocks
from jattn.rules import edits
from jattn.rules.biases import BiasLike
from jattn.rules.checks import as_own
from jattn.rules.edits import EditLike
from jattn.rules.grids import Grid, static
from jattn.rules.mask import MaskLike, as_mask
from jattn.rules.meshes import gathered
from jattn.rules.normalizers import NormalizerLike, softmax
from jattn.rules.scores import ScoreLike, scaled_dot
from jattn.rules.trees import as_pytree


def attention_filter(
    query: Float[Array, "*batch T N H"],
    key: Float[Array, "*batch S K H"],
    *,
    axis: str,
    mesh: Mesh | AbstractMesh | None = None,
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
) -> "ShardedFilter":
    """Describes the filter that `jattn.sharded.attend` uses with the same arguments; computes nothing yet.

    Args:
      axis, mesh: as in `jattn.sharded.attend`.
      query, key, score, bias, mask, normalizer, edit, dropout_rate, dropout_rng, broadcast_dropout, block_size,
        precision: as in `jattn.attention_filter`.

    Returns:
      A `ShardedFilter` of shape ``[*batch, N, T, S]``.

    Raises:
      ValueError: if shapes do not fit one another, or the mesh lacks the axis.
      TypeError: if an argument has the wrong type or dtype.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jattn import masks, sharded
      >>> mesh = jax.make_mesh((jax.device_count(),), ("sequence",), axis_types=(jax.sharding.AxisType.Auto,))
      >>> zeros = jnp.zeros((4, 1, 2))
      >>> filter = sharded.attention_filter(zeros, zeros, mesh=mesh, axis="sequence", mask=masks.causal())
      >>> [round(weight, 2) for weight in filter.summarize("received")["received"][0].tolist()]
      [2.08, 1.08, 0.58, 0.25]
    """
    shape = filter_shape(*map(bare, (query, key)))
    dropout = as_dropout(dropout_rate, dropout_rng, broadcast_dropout)
    program = row_program(score, bias, mask, normalizer, edit, precision, shape, dropout)
    check_block_size(block_size)
    mesh = find_mesh(mesh, axis)
    check_mesh(mesh)
    split = Split(mesh, axis, *(Dealing(length, mesh.shape[axis]) for length in shape[-2:]))
    query, key = as_own(query), as_own(key)
    return ShardedFilter(query, repeat_batch(query, key)[0], program, block_size, split=split)


def sweep_devices(
    filter: "ShardedFilter", folds: dict[str, Fold], streams: Int[Array, " M"] | None = None
) -> dict[str, Any]:
    """Asks all folds of each block of a filter: every device those of its own rows.

    Results for rows stay where the rows are. Those for heads are summed over the devices, or, where a fold combines
    them in another way, combined from one of each.
    """
    of_heads = {name: fold for name, fold in folds.items() if isinstance(fold, HeadFold)}
    of_rows = {name: fold for name, fold in folds.items() if name not in of_heads}
    ragged = filter.split.queries.padded != filter.split.queries.length
    asked = [of_rows, of_heads] if ragged and of_rows and of_heads else [folds]
    found: dict[str, Any] = {}
    for some in asked:
        found |= _sweep(filter, some, streams)
    return {name: found[name] for name in folds}


def _sweep(filter: "ShardedFilter", folds: dict[str, Fold], streams: Int[Array, " M"] | None) -> dict[str, Any]:
    split, shape, dim = filter.split, filter.shape, len(filter.shape) - 2 if streams is None else 1
    of_heads = {name: fold for name, fold in folds.items() if isinstance(fold, HeadFold)}
    summed = {name for name, fold in of_heads.items() if type(fold).combine is HeadFold.combine}
    whole_rows = any(fold.whole_rows for fold in folds.values())
    plan = plan_gathered(split, shape, filter.program, filter.block_size, whole_rows)
    plan = plan.once() if of_heads else plan
    halo = find_halo(plan, split, filter.program)

    def part(device: Int[Array, ""], query: Array, keys: tuple[Array, ...], fitted: Any) -> dict[str, Any]:
        program, fitted = fitted
        program = _without_padding(program, split, shape, device) if of_heads else program
        (key,), here, place, blocks = keys, split.part_shape(shape), split.place(shape, device), plan
        if halo is not None:
            key, here, blocks = halo.add(key, key.ndim - 3, split.axis), (*here[:-1], halo.length), halo.plan
            place = dataclasses.replace(place, first_key=halo.first_key(device))
        sides = {"query": jnp.swapaxes(query, -3, -2)}, {"key": jnp.swapaxes(key, -3, -2)}
        rows, totals = ask_blocks(program, fitted, *sides, here, blocks, streams, place)
        return rows | {
            name: jax.tree.map(lambda x, name=name: lax.psum(x, split.axis) if name in summed else x[None], total)
            for name, total in totals.items()
        }

    def call(query: Array, key: Array, program: Any) -> dict[str, Any]:
        rows = PartitionSpec(*[None] * dim, split.axis)
        specs = {
            n: (PartitionSpec() if n in summed else PartitionSpec(split.axis)) if n in of_heads else rows for n in folds
        }
        found = map_devices(part, split, query, (key,), program, specs, whole_keys=halo is None)
        for name in folds:
            if name not in of_heads:
                found[name] = jax.tree.map(lambda x: lax.slice_in_dim(x, 0, shape[-2], axis=dim), found[name])
                continue
            fold, total = of_heads[name], found[name]
            if name not in summed:
                parts = [jax.tree.map(lambda x, i=i: x[i], total) for i in range(split.devices)]
                total = functools.reduce(fold.combine, parts)
            found[name] = fold.finish(total, shape)
        return found

    *batch, _, heads, _ = spec_of(filter.query, split.axis, filter.query.ndim - 3)
    leading = (*batch, heads) if streams is None else (None,)
    out = {name: PartitionSpec(*leading, *([] if name in of_heads else [split.axis])) for name in folds}
    return jax.jit(without_explicit_axes(call, split.mesh, out))(filter.query, filter.key, (filter.program, folds))


def _without_padding(program: RowProgram, split: Split, shape: tuple[int, ...], device: Int[Array, ""]) -> RowProgram:
    """Lets rows of padding have no weights, and no keys that are counted."""
    dealing, part = split.queries, split.part_shape(shape)
    if dealing.padded == dealing.length:
        return program
    real = (device * dealing.rows_each + jnp.arange(dealing.rows_each) < dealing.length)[:, None]
    mask = as_mask(real).fit(part)
    empty = edits.knock_out(jnp.broadcast_to(1.0 - real, (*[1] * (len(part) - 2), dealing.rows_each, 1))).fit(part)
    return dataclasses.replace(
        program,
        mask=mask if program.mask is None else program.mask & mask,
        edit=empty if program.edit is None else edits.in_turn(program.edit, empty),
    )


@as_pytree
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class ShardedFilter(AttentionFilter):
    """The weights of a `jattn.sharded.attend` call: an `AttentionFilter` of queries and keys that devices share.

    `summarize`, `fold` and the questions of `jattn.folds` are asked on each device of the rows that are there: keys are
    gathered once or, where the mask lets no row reach further than the neighbours of its device, as a window does, only
    those in reach are sent. What is found of rows stays with them, and what is found of heads is summed over the
    devices. All else, `rows` and ``filter[...]`` among it, the compiler computes from wherever queries and keys are.
    """

    split: Split = static(kw_only=True)

    _sweep = staticmethod(sweep_devices)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(*batch, N, T, S)``."""
        return filter_shape(*map(bare, (self.query, self.key)))

    def gathered(self) -> AttentionFilter:
        """Returns the filter for the compiler to split: what has an explicit sharding is gathered."""
        query, key = gathered((self.query, self.key))
        fields = {name: getattr(self, name) for name in ("block_size", "limit_gb", "relates")}
        return AttentionFilter(query, key, self.program, **fields)

    def __getitem__(self, index: Any) -> Float[Array, "..."]:
        return self.gathered()[index]

    def apply(self, x: Float[Array, "*batch S K V"]) -> Float[Array, "*batch T N V"]:
        """Multiplies the filter with any values; as `AttentionFilter.apply`."""
        return self.gathered().apply(x)

    def apply_transposed(self, y: Float[Array, "*batch T N V"]) -> Float[Array, "*batch S N V"]:
        """Multiplies the transposed filter with something per query; as `AttentionFilter.apply_transposed`."""
        return self.gathered().apply_transposed(y)

    def evaluate(self, grid: Grid) -> Float[Array, "... R S"]:
        """Computes the block of whole rows that lies on a grid."""
        return self.gathered().evaluate(grid)

    def _some_rows(self, name: str, indices: Any, keys: slice, scores: bool = False) -> Array:
        return self.gathered()._some_rows(name, indices, keys, scores)
