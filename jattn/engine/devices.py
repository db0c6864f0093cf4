"""Devices: runs the parts of a call on the devices of one mesh axis, each with its own queries and keys.

Only the axis of the sequence is split by hand. Batch, heads and whatever else is sharded over the other axes of the
mesh stays so, as the compiler keeps it: indices of heads and batch entries are those of the whole call.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jattn.engine.dealing import Dealing
from jattn.engine.rows import RowProgram
from jattn.rules.grids import Place
from jattn.rules.overlay import Overlay


@dataclasses.dataclass(frozen=True)
class Split:
    """How a call is split over the devices of a mesh axis.

    Args:
      mesh: the mesh; its axes other than `axis` are left to the compiler.
      axis: the name of the axis.
      queries, keys: who has which of them.
    """

    mesh: Mesh | AbstractMesh
    axis: str
    queries: Dealing
    keys: Dealing

    @property
    def devices(self) -> int:
        """How many devices share the sequence."""
        return self.queries.devices

    @property
    def alone(self) -> bool:
        """Whether no other axis of the mesh has more than one device."""
        return math.prod(self.mesh.shape.values()) == self.devices

    def part_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the part of a filter ``(*batch, N, T, S)`` with the rows of one device."""
        return (*shape[:-2], self.queries.rows_each, shape[-1])

    def place(self, shape: tuple[int, ...], device: Int[Array, ""]) -> Place:
        """Says where the rows of a device lie in a filter of shape ``(*batch, N, T, S)``."""
        ragged = self.queries.padded != self.queries.length
        return Place(self.queries.rows(device), shape, device, run=1 if ragged else self.queries.run)


Part = Callable[[Int[Array, ""], Array, tuple[Array, ...], RowProgram], Any]
"""Takes the index of a device, its queries, its part of what belongs to keys, and a program cut to its rows."""


def map_devices(
    part: Part,
    split: Split,
    query: Float[Array, "*batch T N H"],
    keys: tuple[Float[Array, "*batch S K H"], ...],
    program: Any,
    out_specs: Any,
    whole_keys: bool = False,
) -> Any:
    """Calls a function on each device with its part of the queries, of keys and values, and of arrays over the filter.

    Queries come laid out as `split` says, keys as they lie. Both are padded, with copies of the last of them, to as
    many as the devices can share. What has half precision comes as float32 on a CPU.

    With `whole_keys` every device gets all keys, without padding. That is for the compiler to do: inside of
    `jax.shard_map` it would gather batch and heads, too, where other axes split them.
    """
    query, keys, program = jax.tree.map(_wide_on_cpu, (query, keys, program))
    axis, dealing, before = split.axis, split.queries, query.ndim - 3
    leaves, structure = jax.tree.flatten(program, is_leaf=_is_overlay)
    arrays = [_pad(leaf.array, leaf.array.ndim - 2, dealing) if _has_rows(leaf, dealing) else leaf for leaf in leaves]
    specs = [
        PartitionSpec(*_over(axis, leaf.array.ndim - 2)) if _has_rows(leaf, dealing) else PartitionSpec()
        for leaf in leaves
    ]

    def on_device(index: Array, query: Array, keys: tuple[Array, ...], arrays: list[Any]) -> Any:
        device = index[0]
        here = [
            Overlay(dealing.deal(x, x.ndim - 2, axis, device)) if _has_rows(leaf, dealing) else x
            for leaf, x in zip(leaves, arrays, strict=True)
        ]
        return part(device, dealing.deal(query, before, axis, device), keys, jax.tree.unflatten(structure, here))

    sequence = PartitionSpec(*_over(axis, before))
    mesh = jax.sharding.get_abstract_mesh()
    mesh = mesh if mesh.axis_names else split.mesh
    on_devices = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(PartitionSpec(axis), sequence, PartitionSpec() if whole_keys else sequence, specs),
        out_specs=out_specs,
        axis_names={axis},
    )
    if not whole_keys:
        keys = tuple(_pad(x, before, split.keys) for x in keys)
    elif split.keys.padded == split.keys.length:
        # So that their gradients, which are summed over the devices, are split as keys are.
        free = PartitionSpec.UNCONSTRAINED
        spec = PartitionSpec(*[free] * before, axis, free, free)
        keys = jax.lax.with_sharding_constraint(keys, NamedSharding(mesh, spec))
    return on_devices(jnp.arange(split.devices, dtype=jnp.int32), _pad(query, before, dealing), keys, arrays)


def without_explicit_axes(
    function: Callable[..., Any], mesh: Mesh | AbstractMesh, out_specs: Any
) -> Callable[..., Any]:
    """Lets a function see arrays without the shardings of explicit axes, which its results get back."""
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    explicit = tuple(str(name) for name, kind in kinds if kind == AxisType.Explicit)
    if not explicit:
        return function
    out = jax.tree.map(lambda spec: NamedSharding(mesh, spec), out_specs)
    return jax.sharding.auto_axes(function, axes=explicit, out_sharding=out)


def spec_of(array: Array, axis: str, dim: int) -> PartitionSpec:
    """Returns the explicit sharding of an array, with `axis` in the place of one of its axes."""
    spec = getattr(jax.typeof(array).sharding, "spec", ())
    spec = [*spec, *[None] * (array.ndim - len(spec))]
    return PartitionSpec(*spec[:dim], axis, *spec[dim + 1 :])


def _wide_on_cpu(x: Array) -> Array:
    """Makes half precision single: XLA on CPU aborts where it would sum gradients of half precision over devices."""
    half = jax.default_backend() == "cpu" and jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    return x.astype(jnp.float32) if half else x


def _over(axis: str, dim: int) -> tuple[str | None, ...]:
    return (*[None] * dim, axis)


def _is_overlay(leaf: Any) -> bool:
    return isinstance(leaf, Overlay)


def _has_rows(leaf: Any, dealing: Dealing) -> bool:
    return isinstance(leaf, Overlay) and leaf.array.shape[-2] == dealing.length != 1


def _pad(x: Array, dim: int, dealing: Dealing) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[dim] = (0, dealing.padded - dealing.length)
    return jnp.pad(x, widths, mode="edge") if dealing.padded != dealing.length else x
