"""Meshes: arrays of a program that runs under explicit shardings, or within `jax.shard_map`."""

from typing import Any, TypeVar

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array

Arrays = TypeVar("Arrays")
"""A pytree of arrays."""


def varying_as(array: Array, *others: Array) -> Array:
    """Lets an array that begins a loop or a branch vary over the devices of a `jax.shard_map` as others do."""
    axes = frozenset[str]().union(*(varying_axes(jax.typeof(other)) for other in others))
    missing = tuple(sorted(axes - varying_axes(jax.typeof(array))))
    return lax.pcast(array, missing, to="varying") if missing else array


def varying_axes(kind: Any) -> frozenset[str]:
    """Returns the axes of a `jax.shard_map` over which an array of a type, as `jax.typeof` gives it, varies."""
    return frozenset() if kind.manual_axis_type is None else kind.manual_axis_type.varying


def may_split() -> bool:
    """Whether the compiler may split arrays: under `jax.set_mesh`, but for what `jax.shard_map` has split by hand."""
    mesh = jax.sharding.get_abstract_mesh()
    return any(mesh.shape[name] > 1 for name in mesh.axis_names if name not in mesh.manual_axes)


def check_sequence(name: str, array: Any) -> None:
    """Raises `ValueError` if positions, the third axis from behind, have an explicit sharding."""
    sharding = (
        getattr(array, "sharding", None) if isinstance(array, jax.ShapeDtypeStruct) else jax.typeof(array).sharding
    )
    if not isinstance(sharding, NamedSharding) or AxisType.Explicit not in sharding.mesh.axis_types:
        return
    spec = (*sharding.spec, *[None] * (array.ndim - len(sharding.spec)))
    if spec[-3] is not None:
        raise ValueError(
            f"{name}: expected every device to have all positions, got axis {array.ndim - 3} sharded over "
            f"{spec[-3]!r}; jax.sharding.reshard({name}, jax.P{(*spec[:-3], None, *spec[-2:])}) gathers them"
        )


def gathered(arrays: Arrays) -> Arrays:
    """Lets every device have the whole of arrays with an explicit sharding, so that any part can be picked.

    Other arrays are left as they are: there the compiler sees to it.
    """

    def gather(x: Array) -> Array:
        sharding = getattr(jax.typeof(x), "sharding", None)
        if sharding is None or AxisType.Explicit not in sharding.mesh.axis_types:
            return x
        return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec()))

    return jax.tree.map(gather, arrays)
