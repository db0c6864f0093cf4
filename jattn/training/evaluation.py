"""What a model achieves: accuracy, and how much of each filter lies on the oracle.

Glossary: per head, *mass* is the mean weight on the oracle set of a scored query, *hit rate* how often the largest
weight lies in the set, *lift* the mass over that of looking at all visible keys alike. The *filter score* is the mass
of the best head.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jattn.filters import AttentionFilter
from jattn.layers import capture_filters
from jattn.tasks import Batch, make_batch
from jattn.training.setup import Setup
from jattn.training.step import cross_entropy, is_correct

Lengths = tuple[Any, Any]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one batch shows: sums to be added up over batches, and the first few examples whole.

    Attributes:
      sums: nested sums and counts.
      batch: the first examples.
      predictions: the likeliest token at each of their queries.
      weights: their filters, by layer, ``[examples, N, T, S]``.
    """

    sums: dict[str, Any]
    batch: Batch
    predictions: Int[Array, "P T"]
    weights: dict[str, Float[Array, "P N T S"]]


jax.tree_util.register_dataclass(Measured)


def make_measure(setup: Setup, room: int, size: int) -> Callable[..., Measured]:
    """Compiles ``measure(params, rng, start, shortest, longest)``: makes `size` examples and judges a model on them.

    Example ``start + i`` of the stream `rng` is the same whatever the size. `room` is the longest source that fits; for
    the run's own training lengths, give ``None`` for `shortest` and `longest`.
    """

    def measure(params: Any, rng: PRNGKeyArray, start: Array, shortest: Any = None, longest: Any = None) -> Measured:
        indices = start + jnp.arange(size, dtype=jnp.int32)
        indices = lax.with_sharding_constraint(indices, jax.NamedSharding(setup.mesh, PartitionSpec("data")))
        if shortest is None:
            batch = setup.training_batch(rng, indices)
        else:
            batch = make_batch(setup.task, setup.layout, rng, indices, (shortest, longest), room)
        logits, filters = capture_filters(setup.model, {"params": params}, **batch.inputs)
        correct = is_correct(logits, batch)
        sums = {
            "loss": jnp.sum(cross_entropy(logits, batch)),
            "correct": jnp.sum(correct & batch.scored),
            "tokens": jnp.sum(batch.scored),
            "exact": jnp.sum(jnp.all(correct, axis=-1)),
            "examples": jnp.int32(size),
            "layers": {name: _layer_sums(setup, name, layer, batch) for name, layer in filters.items()},
        }
        few = min(setup.config.run.probes, size)
        first = jax.tree.map(lambda x: x[:few], (batch, jnp.argmax(logits, axis=-1), filters))
        return Measured(sums, first[0], first[1], {name: layer.weights() for name, layer in first[2].items()})

    return jax.jit(measure)


def _layer_sums(setup: Setup, name: str, layer: AttentionFilter, batch: Batch) -> dict[str, Any]:
    queries, _ = setup.layout.sides(name)
    real = batch.scored if queries == "tokens" else _real(batch, queries)
    sums = {"entropy": _over(layer.entropy(), real), "queries": jnp.sum(real)}
    if name.split("/")[-1] == setup.layout.oracle_layer:
        judged = batch.scored & jnp.any(batch.oracle, axis=-1)
        oracle = batch.oracle[:, None]
        hits = jnp.any(oracle & jax.nn.one_hot(layer.argmax(), oracle.shape[-1], dtype=bool), axis=-1)
        sums |= {
            "mass": _over(layer.mass(oracle), judged),
            "hits": _over(hits, judged),
            "chance": _over(layer.uniform().mass(oracle), judged),
            "judged": jnp.sum(judged),
        }
    return sums


def _real(batch: Batch, name: str) -> Bool[Array, "B S"]:
    tokens, lengths = batch.inputs[name], batch.inputs.get(f"{name}_lengths")
    if lengths is None:
        return jnp.ones(tokens.shape, bool)
    return jnp.arange(tokens.shape[-1]) < lengths[:, None]


def _over(per_query: Float[Array, "B N T"], queries: Bool[Array, "B T"]) -> Float[Array, " N"]:
    return jnp.sum(jnp.where(queries[:, None], per_query, 0), axis=(0, 2))


def add_up(sums: list[dict[str, Any]]) -> dict[str, Any]:
    """Adds the fetched sums of several batches, in float64."""
    return jax.tree.map(lambda *parts: np.sum(np.asarray(parts, np.float64), axis=0), *sums)


def summarize(sums: dict[str, Any]) -> dict[str, Any]:
    """Turns added-up sums into means: loss, accuracies, filter score, and the filters by layer and head."""
    filters = {name: _layer_means(layer) for name, layer in sums["layers"].items()}
    masses = [mass for layer in filters.values() for mass in layer["mass"] or ()]
    return {
        "loss": float(sums["loss"] / sums["tokens"]),
        "token_accuracy": float(sums["correct"] / sums["tokens"]),
        "exact_accuracy": float(sums["exact"] / sums["examples"]),
        "filter_score": max(masses, default=None),
        "filters": filters,
    }


def _layer_means(layer: dict[str, Any]) -> dict[str, list[float] | None]:
    means = {"entropy": layer["entropy"] / layer["queries"], "mass": None, "hit_rate": None, "lift": None}
    if "judged" in layer:
        means |= {
            "mass": layer["mass"] / layer["judged"],
            "hit_rate": layer["hits"] / layer["judged"],
            "lift": layer["mass"] / layer["chance"],
        }
    return {name: None if mean is None else [float(x) for x in mean] for name, mean in means.items()}
