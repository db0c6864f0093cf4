"""How many floating-point operations a step takes, as the compiler counts them in the program that takes it."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jaxtyping import Array, Int

from jattn.training.setup import Setup

WHOLE = 0.95
"""The part of the matrix products that a count must have at least; XLA writes small ones in other ways."""


def flops_per_step(setup: Setup, train_chunk: Any, state: Any, until: Int[Array, ""]) -> float | None:
    """Compiles the loop over steps, and returns what XLA counts of its body, on all devices together.

    Calls of `train_chunk` with such a state then take this very program. XLA counts the body of each loop once, and
    nothing inside of some kernels. So the result is None where it is less than the matrix products of the step alone,
    and where XLA does not count.

    Args:
      setup: the parts of the run.
      train_chunk: of `jattn.training.step.make_train_chunk`.
      state, until: its arguments.
    """
    traced = train_chunk.trace(state, until)
    count = (traced.lower().compile().cost_analysis() or {}).get("flops", 0.0) * setup.mesh.size
    return count if count >= WHOLE * flops_of_products(traced.jaxpr.jaxpr) > 0 else None


def flops_of_products(jaxpr: Any) -> int:
    """Adds up what the matrix products of a program take, 2·M·N·K each; a loop of unknown length is gone through once.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jattn.training.flops import flops_of_products
      >>> square = jnp.ones((4, 4))
      >>> flops_of_products(jax.make_jaxpr(lambda x: x @ x)(square).jaxpr)
      128
      >>> flops_of_products(jax.make_jaxpr(lambda x: jax.lax.map(lambda y: y @ x, jnp.ones((3, 4, 4))))(square).jaxpr)
      384
    """
    return sum(_times(equation) * _of_products(equation) for equation in jaxpr.eqns)


def _of_products(equation: Any) -> int:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        lengths = (equation.invars[0].aval.shape[axis] for axis in contracted)
        return 2 * equation.outvars[0].aval.size * math.prod(lengths)
    found = [flops_of_products(inner) for inner in _inside(equation)]
    return max(found, default=0) if equation.primitive.name == "cond" else sum(found)


def _times(equation: Any) -> int:
    """Returns how often what is inside is done; the shapes inside of a `shard_map` are those of one device."""
    if equation.primitive.name == "shard_map":
        return equation.params["mesh"].size
    return equation.params["length"] if equation.primitive.name == "scan" else 1


def _inside(equation: Any) -> Iterator[Any]:
    for leaf in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")):
        if hasattr(leaf, "eqns"):
            yield getattr(leaf, "jaxpr", leaf)
