"""What a model achieves: accuracy, and how much of each filter lies on the oracle.

Glossary: per head, *mass* is the mean weight on the oracle set of a scored query, *hit rate* how often the largest
weight lies in the set, *lift* the mass over that of equal weight on every visible key. The *filter score* is the mass
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

from jattn.filters.filter import AttentionFilter, folds
from jattn.filters.names import in_order
from jattn.rules.grids import static, whole_grid
from jattn.rules.mask import Mask
from jattn.rules.trees import as_pytree
from jattn.tasks import Batch, make_batch
from jattn.tasks.layouts import PAD, VECTOR
from jattn.training.pooling import map_fold, on_oracle, pool_filters
from jattn.training.processes import together
from jattn.training.reading import ConfigError
from jattn.training.setup import Setup
from jattn.training.sharding import replicated
from jattn.training.step import cross_entropy, is_correct

ACCURACIES = ("token_accuracy", "exact_accuracy", "filter_score")
"""What a model is judged by."""

OF_TEXT = ("perplexity", "bits_per_byte")
"""What a model of a text is judged by besides."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one batch shows: sums to be added up over batches, and the first few examples whole.

    Attributes:
      sums: nested sums and counts.
      batch: the first examples.
      predictions: the likeliest token at each of their queries.
      weights: their filters, by layer, ``[examples, N, T, S]``, where queries and keys fit the screen.
      pooled: what is kept of their other filters, by layer: the fields of `jattn.report.Pooled`, or zeros.
      relates: of each layer its name and the inputs that it relates; see `relates`.
      visible: which keys any head may attend to, of layers with a mask: ``[examples, T, S]``, or as many rows and
        columns as the layer's map has.
    """

    sums: dict[str, Any]
    batch: Batch
    predictions: Int[Array, "P T"]
    weights: dict[str, Float[Array, "P N T S"]]
    pooled: dict[str, dict[str, Array]]
    relates: tuple[tuple[str, tuple[str, str]], ...] = static(default=())
    visible: dict[str, Bool[Array, "P T S"]] = dataclasses.field(default_factory=dict)


as_pytree(Measured)


def make_measure(setup: Setup, room: int, size: int) -> Callable[..., Measured]:
    """Makes ``measure(params, rng, start, shortest, longest)``: makes `size` examples and judges a model on them.

    Example ``start + i`` of the stream `rng` is the same whatever the size. `room` is the longest source that fits; for
    the run's own training lengths, give ``None`` for `shortest` and `longest`. With ``pools=True`` it computes what is
    kept of filters longer than the screen, too, which takes one more sweep over those of the first examples. With
    replicates, `params`, `rng` and all results have a first axis of them.
    """

    def judge(params: Any, rng: PRNGKeyArray, start: Array, shortest: Any, longest: Any, pools: Any) -> Measured:
        indices = start + jnp.arange(size, dtype=jnp.int32)
        indices = lax.with_sharding_constraint(indices, jax.NamedSharding(setup.mesh, PartitionSpec("data")))
        if shortest is None:
            batch = setup.judging_batch(rng, indices)
        else:
            batch = make_batch(setup.task.as_judged(), setup.layout, rng, indices, (shortest, longest), room)
        logits, filters = setup.capture(params, batch)
        correct = is_correct(logits, batch)
        sums = {
            "loss": jnp.sum(cross_entropy(logits, batch)),
            "correct": jnp.sum(correct & batch.scored),
            "tokens": jnp.sum(batch.scored),
            "exact": jnp.sum(jnp.all(correct, axis=-1)),
            "examples": jnp.int32(size),
            "layers": {name: _layer_sums(setup, name, layer, batch) for name, layer in filters.items()},
        }
        if setup.task.symbol_bytes:
            sizes = jnp.array(setup.task.symbol_bytes, jnp.float32)[batch.targets]
            sums["bytes"] = jnp.sum(jnp.where(batch.scored, sizes, 0))
        few = min(setup.config.run.probes, size)
        batch, predictions, filters = jax.tree.map(lambda x: x[:few], (batch, jnp.argmax(logits, axis=-1), filters))
        related = tuple((name, relates(setup, name, layer)) for name, layer in filters.items())
        weights, pooled, visible = _keep(setup, filters, batch, pools)
        return Measured(sums, batch, predictions, weights, pooled, related, visible)

    # On every device, so that each process can read it.
    judge = together(jax.jit(setup.each(judge, (0, 0, None, None, None, None)), out_shardings=replicated(setup.mesh)))

    def measure(
        params: Any, rng: PRNGKeyArray, start: Any, shortest: Any = None, longest: Any = None, *, pools: bool = False
    ) -> Measured:
        # Always traced, so that both ways are one compiled program.
        return judge(params, rng, start, shortest, longest, pools)

    return measure


def _keep(setup: Setup, filters: dict[str, AttentionFilter], batch: Batch, pools: Bool[Array, ""]) -> tuple[Any, ...]:
    """Returns the weights of the filters that fit the screen; where `pools`, what is kept of the others; and which keys
    may be attended to.
    """
    screen = setup.config.run.screen
    fitting = {name for name, layer in filters.items() if max(layer.shape[-2:]) <= screen}
    weights = {name: layer.weights() for name, layer in filters.items() if name in fitting}
    masks = {name: layer.program.mask for name, layer in filters.items() if layer.program.mask is not None}
    visible = {name: _visible(mask, filters[name].shape) for name, mask in masks.items() if name in fitting}
    if len(fitting) == len(filters):
        return weights, {}, visible

    def pool() -> tuple[dict[str, dict[str, Array]], dict[str, Array]]:
        pooled = {name: _pool(setup, name, layer, batch) for name, layer in filters.items() if name not in fitting}
        return pooled, {
            name: _visible_in_map(setup, name, filters[name], batch) for name in masks.keys() & pooled.keys()
        }

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(pool))
    pooled, in_maps = lax.cond(pools, pool, lambda: nothing)
    return weights, pooled, visible | in_maps


def _visible(mask: Mask, shape: tuple[int, ...]) -> Bool[Array, "P T S"]:
    """Returns which keys a query may attend to in any head of a filter ``[P, N, T, S]``."""
    return jnp.any(jnp.broadcast_to(mask.evaluate(whole_grid(shape)), shape), axis=1)


def _layer_sums(setup: Setup, name: str, layer: AttentionFilter, batch: Batch) -> dict[str, Any]:
    queries, _ = relates(setup, name, layer)
    real = batch.scored if queries == "tokens" else _real(batch, queries)
    counted: dict[str, Any] = {"queries": jnp.sum(real)}
    if wanted := setup.config.run.log_folds:
        counted["folds"] = {fold: _over(values, real) for fold, values in _folds(layer, wanted).items()}
    if not is_judged(setup, relates(setup, name, layer)):
        return {"entropy": _over(layer.entropy(), real), **counted}
    judged, on_keys = batch.scored & jnp.any(batch.oracle, axis=-1), folds.mass(batch.oracle[:, None])
    found = layer.summarize("entropy", "argmax", mass=on_keys)
    return {
        "entropy": _over(found["entropy"], real),
        "mass": _over(found["mass"], judged),
        "hits": _over(on_oracle(batch.oracle, found["argmax"]), judged),
        "chance": _over(layer.uniform().fold(on_keys), judged),
        "judged": jnp.sum(judged),
        **counted,
    }


def relates(setup: Setup, name: str, layer: AttentionFilter) -> tuple[str, str]:
    """Returns the inputs that a layer's queries and keys come from, or `VECTOR`, as the layer says; where there is one
    sequence alone, it need not.
    """
    if layer.relates is not None:
        return layer.relates
    if len(set(setup.layout.oracle)) == 1:
        return setup.layout.oracle
    raise ValueError(
        f"layer {name!r}: expected it to say which inputs its queries and keys come from, such as "
        f"MultiHeadAttention(..., relates={setup.layout.oracle}), got nothing"
    )


def _folds(layer: AttentionFilter, names: tuple[str, ...]) -> dict[str, Float[Array, "B N T"]]:
    try:
        return layer.summarize(*names)
    except ValueError as error:
        raise ConfigError(f"run.log_folds: {error}") from None


def is_judged(setup: Setup, related: tuple[str, str]) -> bool:
    """Says whether an oracle speaks of layers that relate two inputs: the task has one, and it is of these inputs."""
    return setup.task.has_oracle and related == setup.layout.oracle


def _pool(setup: Setup, name: str, layer: AttentionFilter, batch: Batch) -> dict[str, Array]:
    """Computes what is kept of a layer's filters, over the real queries and keys of each example."""
    related = relates(setup, name, layer)
    oracle = batch.oracle & batch.scored[..., None] if is_judged(setup, related) else None
    return pool_filters(layer, setup.config.run.screen, _counts(setup, related, batch), oracle)


def _visible_in_map(setup: Setup, name: str, layer: AttentionFilter, batch: Batch) -> Bool[Array, "P q_bins k_bins"]:
    """Returns which cells of a layer's map hold a query and a key that it may attend to in any head."""
    counts = _counts(setup, relates(setup, name, layer), batch)
    return jnp.any(layer.uniform().fold(map_fold(layer.shape, setup.config.run.screen, counts)) > 0, axis=1)


def _counts(setup: Setup, related: tuple[str, str], batch: Batch) -> tuple[Int[Array, " B"], Int[Array, " B"]] | None:
    """Counts the real queries and keys of each example; None where all are real."""
    padded = any(name.endswith("lengths") for name in batch.inputs)
    pad = setup.vocabulary().index(PAD)

    def count(side: str) -> Int[Array, " B"]:
        items = batch.inputs.get(side)
        # A picture has no token that says where it ends, and a vector is one.
        told = items is None or items.ndim == 3
        real = _real(batch, side) if told else jnp.cumprod(items != pad, axis=-1, dtype=jnp.int32)
        return jnp.sum(real, axis=-1)

    queries, keys = map(count, related)
    return (queries, keys) if padded else None


def _real(batch: Batch, name: str) -> Bool[Array, "B S"]:
    if name == VECTOR:
        return jnp.ones((batch.targets.shape[0], 1), bool)
    size, lengths = batch.inputs[name].shape[:2], batch.inputs.get(f"{name}_lengths")
    if lengths is None:
        return jnp.ones(size, bool)
    return jnp.arange(size[1]) < lengths[:, None]


def _over(per_query: Float[Array, "B N T"], queries: Bool[Array, "B T"]) -> Float[Array, " N"]:
    return jnp.sum(jnp.where(queries[:, None], per_query, 0), axis=(0, 2))


def add_up(sums: list[dict[str, Any]]) -> dict[str, Any]:
    """Adds the fetched sums of several batches, in float64."""
    return jax.tree.map(lambda *parts: np.sum(np.asarray(parts, np.float64), axis=0), *sums)


def of_replicate(found: Any, replicate: int, replicates: int) -> Any:
    """Picks what belongs to one replicate; of a single one, all does."""
    return found if replicates == 1 else jax.tree.map(lambda x: x[replicate], found)


def average(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Averages the accuracies and filter scores of several results, of all replicates or of all lengths alike."""
    means: dict[str, Any] = {}
    for name in accuracies(results[0]):
        values = [result[name] for result in results]
        means[name] = None if None in values else float(np.mean(values))
    return means


def accuracies(result: dict[str, Any]) -> dict[str, Any]:
    """Picks what a model is judged by."""
    return {name: result[name] for name in (*ACCURACIES, *OF_TEXT) if name in result}


def summarize(sums: dict[str, Any]) -> dict[str, Any]:
    """Turns added-up sums into means: loss, accuracies, filter score, and the filters by layer and head."""
    filters = {name: _layer_means(layer) for name, layer in in_order(sums["layers"]).items()}
    masses = [mass for layer in filters.values() for mass in layer["mass"] or ()]
    loss = float(sums["loss"] / sums["tokens"])
    of_text = {}
    if "bytes" in sums:
        with np.errstate(over="ignore"):
            of_text = {
                "perplexity": float(np.exp(loss)),
                "bits_per_byte": float(sums["loss"] / sums["bytes"] / np.log(2)),
            }
    return {
        "loss": loss,
        "token_accuracy": float(sums["correct"] / sums["tokens"]),
        "exact_accuracy": float(sums["exact"] / sums["examples"]),
        "filter_score": max(masses, default=None),
        **of_text,
        "filters": filters,
    }


def _layer_means(layer: dict[str, Any]) -> dict[str, list[float] | None]:
    means = {"entropy": layer["entropy"] / layer["queries"], "mass": None, "hit_rate": None, "lift": None}
    means |= {name: total / layer["queries"] for name, total in layer.get("folds", {}).items()}
    # Examples of a person's own may have an oracle of none of what was drawn.
    if layer.get("judged"):
        means |= {
            "mass": layer["mass"] / layer["judged"],
            "hit_rate": layer["hits"] / layer["judged"],
            "lift": layer["mass"] / layer["chance"],
        }
    return {name: None if mean is None else [float(x) for x in mean] for name, mean in means.items()}
