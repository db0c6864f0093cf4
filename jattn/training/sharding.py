"""How a run lies on its devices: the mesh, and which arrays are split over it.

Examples are always split, with ``mesh.sequence`` their positions as well. Parameters and the optimizer's state
are on every device, or with ``mesh.shard_parameters`` split over ``data``; XLA then gathers what a layer needs where it
needs it.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jattn.training.config import Config
from jattn.training.reading import ConfigError

SEQUENCE = "sequence"
"""The mesh axis over which positions are split."""


def make_mesh(config: Config) -> Mesh:
    """Makes a mesh over the devices of all processes of a run.

    Its axis is ``data``; where sequences are split, there is ``sequence`` as well, whose devices are neighbours.

    Raises:
      ConfigError: if there are fewer devices than asked for, some process would have none of them, or they do not
        divide the batch sizes.
    """
    devices, processes, sequence = jax.devices(), jax.process_count(), config.mesh.sequence
    data = _data_devices(config, len(devices), processes)
    for name, size in (("training", config.training.batch_size), ("evaluation", config.evaluation.batch_size)):
        if size % data:
            says = "" if processes > 1 else "; mesh.data = 1 takes one device"
            of = "devices" if sequence == 1 else "devices of mesh.data"
            raise ConfigError(f"{name}.batch_size: expected a multiple of the {data} {of}, got {size}{says}")
    devices = np.array(devices[: data * sequence])
    if sequence == 1:
        return Mesh(devices, ("data",), axis_types=(AxisType.Auto,))
    return Mesh(devices.reshape(data, sequence), ("data", SEQUENCE), axis_types=(AxisType.Auto,) * 2)


def _data_devices(config: Config, devices: int, processes: int) -> int:
    """Returns how many devices share the examples, or says what does not fit those that there are."""
    data, sequence = config.mesh.data, config.mesh.sequence
    there = f"{devices} devices of the {processes} processes" if processes > 1 else f"{devices} devices there are"
    if sequence > devices or (data == -1 and devices % sequence):
        raise ConfigError(f"mesh.sequence: expected a divisor of the {there}, got {sequence}")
    whole = devices // sequence
    with_sequence = "" if sequence == 1 else f" over mesh.sequence {sequence}"
    if processes > 1 and data not in (-1, whole):
        raise ConfigError(f"mesh.data: expected the {there}{with_sequence}, or -1, got {data}")
    if data > whole:
        raise ConfigError(f"mesh.data: expected at most the {there}{with_sequence}, or -1, got {data}")
    return whole if data == -1 else data


def spread(mesh: Mesh, arrays: Any) -> Any:
    """Splits arrays ``[B, ...]``: examples over ``data``, and the positions of those with ``[B, T, ...]``."""

    def constrain(x: Array) -> Array:
        spec = PartitionSpec("data", SEQUENCE) if x.ndim > 1 else PartitionSpec("data")
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return jax.tree.map(constrain, arrays)


def split_of(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """Returns how an array is split over ``data``: along its longest axis that the devices divide, the first of equals.

    An array without such an axis is on every device.

    Example:
      >>> from jattn.training.sharding import split_of
      >>> split_of((32, 64), 8), split_of((64, 64), 8), split_of((10,), 8)
      (P(None, 'data'), P('data',), P())
    """
    lengths = [length if length % devices == 0 else 0 for length in shape]
    if not any(lengths):
        return PartitionSpec()
    return PartitionSpec(*([None] * lengths.index(max(lengths))), "data")


def replicated(mesh: Mesh) -> NamedSharding:
    """Says that every device has all of an array."""
    return NamedSharding(mesh, PartitionSpec())


def shardings(mesh: Mesh, arrays: Any, split: bool) -> Any:
    """Returns how each array of a pytree lies on the mesh: split by `split_of`, or on every device."""
    return jax.tree.map(
        lambda x: NamedSharding(mesh, split_of(x.shape, mesh.shape["data"])) if split else replicated(mesh), arrays
    )
