"""Arrays of a rule that an attention layer has as its own parameters.

Such a rule names what it lacks: a `Learned` in place of each array. A layer makes these parameters (`learned_by`), and
has the rule with them for each call (`with_learned`).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jattn.rules.checks import check_integer
from jattn.rules.parameters import HeadParameter, Parameter, as_head_parameter, as_parameter
from jattn.rules.rule import Rule

Initializer = Callable[[PRNGKeyArray, tuple[int, ...], Any], Array]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Learned:
    """Stands in a rule for an array that an attention layer learns, one per head.

    Args:
      parameter: its name among the parameters of the layer.
      name: the argument that it stands for, as error messages call it.
      init: what draws its first values, as in `jax.nn.initializers`.
      axes: the size of each axis after that of heads, by name; None is the head dim. Without axes it is a number.
    """

    parameter: str
    name: str
    init: Initializer
    axes: tuple[tuple[str, int | None], ...] = ()

    as_written = None
    """What a user gave."""

    def shape(self, num_heads: int, head_dim: int) -> tuple[int, ...]:
        """Returns the shape of the parameter."""
        return (num_heads, *(head_dim if size is None else size for _, size in self.axes))

    def filled(self, array: Array) -> HeadParameter | Parameter:
        """Returns what stands in the rule with the array of a layer."""
        if self.axes:
            return as_head_parameter(self.name, array, *(name for name, _ in self.axes))
        return as_parameter(self.name, array[:, None, None])

    def fit(self, *call: Any) -> Any:
        """Refuses to compute without an array."""
        raise ValueError(f"{self.name}: expected an array, or a MultiHeadAttention that learns one, got none")

    fit_rows = part = fit


def learned_by(*rules: Any) -> dict[str, Learned]:
    """Lists what rules leave to their layer to learn, by the name of the parameter; of functions that is nothing."""
    found: dict[str, Learned] = {}
    for rule in rules:
        found |= {rule.parameter: rule} if isinstance(rule, Learned) else learned_by(*_fields(rule).values())
    return found


def with_learned(rule: Any, arrays: Mapping[str, Array]) -> Any:
    """Returns a rule with the arrays of a layer, by the name of the parameter, in place of what it left to learn."""
    if isinstance(rule, Learned):
        return rule.filled(arrays[rule.parameter]) if rule.parameter in arrays else rule
    if not learned_by(rule):
        return rule
    return dataclasses.replace(rule, **{name: with_learned(value, arrays) for name, value in _fields(rule).items()})


def _fields(rule: Any) -> dict[str, Any]:
    if not isinstance(rule, Rule):
        return {}
    return {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)}  # pyright: ignore[reportArgumentType]


def learned_bilinear() -> Learned:
    """Makes what stands for the matrix of `scores.bilinear`."""
    return Learned("bilinear_matrix", "bilinear: matrix", identity, (("H", None), ("H", None)))


def learned_additive(units: int | None) -> tuple[Learned, Learned, Learned]:
    """Makes what stands for the arrays of `scores.additive`, with so many hidden units; the head dim by default."""
    hidden = ("D", None if units is None else check_integer("additive: units", units, 1))
    kernel = (("H", None), hidden)
    return (
        Learned("additive_query_kernel", "additive: query_kernel", unit_kernel, kernel),
        Learned("additive_key_kernel", "additive: key_kernel", unit_kernel, kernel),
        Learned("additive_vector", "additive: vector", unit_vector, (hidden,)),
    )


def learned_sink() -> Learned:
    """Makes what stands for the sink of `normalizers.learned_sink`."""
    return Learned("sink", "learned_sink: sink", jax.nn.initializers.zeros)


def identity(rng: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Float[Array, "N H H"]:
    """Draws nothing: a matrix per head by which a product is that of the vectors alone, scaled by ``1/√H``."""
    return jnp.broadcast_to(jnp.eye(shape[-1], dtype=dtype) / math.sqrt(shape[-1]), shape)


def unit_kernel(rng: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Float[Array, "N H D"]:
    """Draws matrices that keep the variance of vectors of ``H`` components."""
    return jax.random.normal(rng, shape, dtype) / math.sqrt(shape[-2])


def unit_vector(rng: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Float[Array, "N D"]:
    """Draws vectors of mean square length one."""
    return jax.random.normal(rng, shape, dtype) / math.sqrt(shape[-1])
