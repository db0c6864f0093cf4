"""Weights between linen and NNX: parameters of the same names, bit for bit."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import nnx
from flax.core import meta
from flax.traverse_util import flatten_dict, unflatten_dict

Model = TypeVar("Model", bound=nnx.Module)

COLLECTIONS = {"params": nnx.Param, "cache": nnx.Cache}
"""The collections of linen whose arrays NNX modules have, and as what type of variable."""


def from_linen(model: Model, variables: Mapping[str, Any]) -> Model:
    """Gives an NNX module the parameters of linen variables, and the cache if there is one, in place.

    The names of the parameters must be the same, as they are for the layers and models of `jattn.nnx` and `jattn`, and
    for models of one's own whose attributes have the names of the linen submodules.

    Args:
      model: the module to change.
      variables: of a linen module, ``{"params": ...}``; boxes of partitioned parameters are opened.

    Returns:
      The module.

    Raises:
      ValueError: if a name is on one side alone, or a shape differs; nothing is changed then.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jattn, jattn.nnx
      >>> one, other = (jattn.nnx.MultiHeadAttention(num_heads=2, in_features=8, rngs=nnx.Rngs(n)) for n in range(2))
      >>> variables, x = jattn.nnx.to_linen(one), jnp.ones((5, 8))
      >>> output = jattn.MultiHeadAttention(num_heads=2).apply(variables, x)
      >>> other = jattn.nnx.from_linen(other, variables)
      >>> bool((output == other(x)).all())
      True
    """
    changes = []
    for collection, kind in COLLECTIONS.items():
        if collection == "params" or collection in variables:
            arrays = variables.get(collection, {})
            if not isinstance(arrays, Mapping):
                raise ValueError(f"{collection}: expected a dict of arrays, got {type(arrays).__name__}")
            given = flatten_dict(meta.unbox(dict(arrays)))
            changes += _pairs(collection, _variables(model, kind), given)
    for variable, array in changes:
        variable.set_value(array)
    return model


def to_linen(model: nnx.Module) -> dict[str, Any]:
    """Returns the parameters of an NNX module as linen variables, and its cache if it has one.

    It undoes `from_linen`; see there.
    """
    variables = {}
    for collection, kind in COLLECTIONS.items():
        arrays = {path: variable.get_value() for path, variable in _variables(model, kind).items()}
        if arrays or collection == "params":
            variables[collection] = unflatten_dict(arrays)
    return variables


def _variables(model: nnx.Module, kind: type[nnx.Variable]) -> dict[tuple[str, ...], nnx.Variable]:
    return {tuple(map(str, path)): variable for path, variable in nnx.iter_graph(model) if isinstance(variable, kind)}


def _pairs(collection: str, own: Mapping[tuple[str, ...], nnx.Variable], given: Mapping[tuple[str, ...], Any]) -> list:
    for path in (*own, *given):
        name = "/".join((collection, *path))
        if path not in given:
            raise ValueError(f"variables: expected {name} of shape {own[path].shape}, got none")
        if path not in own:
            raise ValueError(f"variables: expected only what the module has, got {name} of shape {given[path].shape}")
        if own[path].shape != given[path].shape:
            raise ValueError(f"variables: expected {name} of shape {own[path].shape}, got {given[path].shape}")
    return [(variable, jnp.asarray(given[path])) for path, variable in own.items()]
