"""How a run lies on its devices: the mesh, and which arrays are split over it.

Examples are always split. Parameters and the optimizer's state are on every device, or with ``mesh.shard_parameters``
split as well; XLA then gathers what a layer needs where it needs it.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jattn.training.config import Config
from jattn.training.reading import ConfigError


def make_mesh(config: Config) -> Mesh:
    """Makes a mesh with one axis, ``data``, over the devices of all processes of a run.

    Raises:
      ConfigError: if there are fewer devices than asked for, some process would have none of them, or they do not
        divide the batch sizes.
    """
    devices, processes, data = jax.devices(), jax.process_count(), config.mesh.data
    if processes > 1 and data not in (-1, len(devices)):
        raise ConfigError(
            f"mesh.data: expected the {len(devices)} devices of the {processes} processes, or -1, got {data}"
        )
    if data > len(devices):
        raise ConfigError(f"mesh.data: expected at most the {len(devices)} devices there are, or -1, got {data}")
    devices = devices[: None if data == -1 else data]
    for name, size in (("training", config.training.batch_size), ("evaluation", config.evaluation.batch_size)):
        if size % len(devices):
            says = "" if processes > 1 else "; mesh.data = 1 takes one device"
            raise ConfigError(f"{name}.batch_size: expected a multiple of the {len(devices)} devices, got {size}{says}")
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


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
        lambda x: NamedSharding(mesh, split_of(x.shape, mesh.size)) if split else replicated(mesh), arrays
    )
