"""Linear probes: what the one vector of a sentence keeps besides what the model was trained to say.

Glossary of shapes: ``E`` examples, ``D`` width of a vector, ``Q`` properties, ``C`` classes of one, ``R`` replicates.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jattn.training.setup import Setup
from jattn.training.step import initial_state

RIDGE = 1e-3
"""What is added to each variance, as a part of their mean, so that directions in which nothing varies do no harm."""


@dataclasses.dataclass(frozen=True)
class Probed:
    """How often a linear classifier tells a property of unseen sentences from their vectors, for each seed.

    Attributes:
      name: the property.
      classes: how many values it has.
      accuracy: of the classifier on the trained model's vectors, a number per seed.
      untrained: of one on the vectors that the same model makes before training.
      chance: of always naming the value that is commonest.
    """

    name: str
    classes: int
    accuracy: tuple[float, ...]
    untrained: tuple[float, ...]
    chance: float


def probe_run(setup: Setup, params: optax.Params, fitted: int = 4000, judged: int = 4000) -> list[Probed]:
    """Says how much of each property of its sentences is in a model's vectors; nothing of the model changes.

    A property is what `Task.properties` tells of a sentence besides the target: no model was trained on it. All
    sentences are fresh; those that judge a classifier are not those it was fitted to.

    Args:
      setup: of the run; its model makes one vector of a source, as kind ``"pooled"`` does.
      params: of the trained model; with replicates they have a first axis ``R`` of them.
      fitted: how many sentences each classifier is fitted to.
      judged: how many it is judged by.

    Raises:
      ValueError: if the model makes no vector of a source, the task has no properties, or there are too few
        sentences to fit or judge by.

    Example: before training, whether a sentence is in the passive can be read from the vector already.
      >>> from jattn.training import probing
      >>> from jattn.training.reading import check
      >>> from jattn.training.setup import make_setup
      >>> from jattn.training.step import initial_state
      >>> config = {"task": {"name": "roles", "layout": "encoder_decoder"}, "model": {"kind": "pooled"}}
      >>> setup = make_setup(check(config, "example"))
      >>> found = probing.probe_run(setup, initial_state(setup).params, fitted=300, judged=300)
      >>> passive = next(each for each in found if each.name == "passive")
      >>> passive.accuracy[0] > 0.8, passive.chance < 0.6
      (True, True)

    Source: Conneau et al., "What you can cram into a single vector: Probing sentence embeddings for linguistic
    properties", 2018; as there, an untrained model says how much the vector tells by its make alone.
    """
    _check(setup, fitted, judged)
    sources, told = _sentences(setup, fitted + judged)
    labels = np.stack(list(told.values()))
    classes = labels.max(axis=1) + 1

    def judge(params: optax.Params) -> Float[Array, " Q"]:
        variables: dict[str, Any] = {"params": params}
        made: Any = setup.model.apply(variables, **sources, method="vector")
        vectors = made.astype(jnp.float32)
        # One program for all properties: a class that one of them lacks is never named.
        named = jax.vmap(lambda label: _name(vectors, label, int(classes.max()), fitted))(jnp.array(labels))
        return jnp.mean(named == labels[:, fitted:], axis=-1)

    judge_each = jax.jit(setup.each(judge))
    after, before = (np.atleast_2d(jax.device_get(judge_each(each))) for each in (params, initial_state(setup).params))
    return [
        Probed(
            name=name,
            classes=int(classes[i]),
            accuracy=tuple(after[:, i].tolist()),
            untrained=tuple(before[:, i].tolist()),
            chance=float(np.mean(labels[i, fitted:] == np.argmax(np.bincount(labels[i, :fitted])))),
        )
        for i, name in enumerate(told)
    ]


def fit_classifier(
    vectors: Float[Array, "E D"], labels: Int[Array, " E"], classes: int
) -> tuple[Float[Array, "D C"], Float[Array, " C"]]:
    """Fits a linear classifier in closed form: the most likely class of vectors that are normal within each class.

    With the mean ``μ_c`` and the share ``π_c`` of each class, and ``Σ`` the covariance within classes::

        logits(x) = x W + b        W_c = Σ⁻¹ μ_c        b_c = ln π_c - ½ μ_cᵀ Σ⁻¹ μ_c

    Args:
      vectors: what is known of each example.
      labels: the class of each, from zero on.
      classes: how many there are.

    Returns:
      ``W`` and ``b``. A class without examples is never the most likely.

    Example: two classes on a line, with the border halfway between.
      >>> import jax.numpy as jnp
      >>> from jattn.training.probing import fit_classifier
      >>> vectors, labels = jnp.array([[0.0], [2.0], [6.0], [8.0]]), jnp.array([0, 0, 1, 1])
      >>> weights, bias = fit_classifier(vectors, labels, 2)
      >>> jnp.argmax(jnp.array([[3.9], [4.1]]) @ weights + bias, axis=-1).tolist()
      [0, 1]

    Source: Fisher, "The use of multiple measurements in taxonomic problems", 1936; Hastie et al., "The elements of
    statistical learning", 2nd edition, 2009, section 4.3.
    """
    of_class = jax.nn.one_hot(labels, classes, dtype=vectors.dtype)
    counts = jnp.sum(of_class, axis=0)
    center = jnp.mean(vectors, axis=0)
    means = of_class.T @ (vectors - center) / jnp.maximum(counts, 1)[:, None]
    apart = vectors - center - of_class @ means
    covariance = apart.T @ apart / len(vectors)
    ridge = RIDGE * jnp.trace(covariance) / len(covariance) + jnp.finfo(vectors.dtype).tiny
    weights = jnp.linalg.solve(covariance + ridge * jnp.eye(len(covariance), dtype=vectors.dtype), means.T)
    bias = jnp.log(counts / len(vectors)) - jnp.sum(means.T * weights, axis=0) / 2
    return weights, bias - center @ weights


def _name(vectors: Float[Array, "E D"], labels: Int[Array, " E"], classes: int, fitted: int) -> Int[Array, " judged"]:
    """Names the class of each vector after the first few, to which a classifier is fitted."""
    weights, bias = fit_classifier(vectors[:fitted], labels[:fitted], classes)
    return jnp.argmax(vectors[fitted:] @ weights + bias, axis=-1)


def _sentences(setup: Setup, count: int) -> tuple[dict[str, Any], dict[str, Int[np.ndarray, " E"]]]:
    """Makes fresh sources as the model reads them, and tells their properties."""
    task, room = setup.task.as_judged(), setup.config.task.max_length
    tell: Any = task.properties

    def make(index: Int[Array, ""]) -> tuple[dict[str, Array], dict[str, Array]]:
        sequence = task.sample(jax.random.fold_in(setup.rng("test"), index), jnp.int32(room), room)
        inputs = setup.layout.arrange(sequence, len(task.symbols)).inputs
        return {name: inputs[name] for name in ("source", "source_lengths")}, tell(sequence)

    return jax.device_get(jax.jit(jax.vmap(make))(jnp.arange(count)))


def _check(setup: Setup, fitted: int, judged: int) -> None:
    if not hasattr(setup.model, "vector"):
        raise ValueError(
            f"model.kind: expected one that makes one vector of a source, 'pooled', got {setup.config.model.kind!r}"
        )
    if setup.task.properties is None:
        raise ValueError(
            f"task.name: expected a task that tells properties of its sources, 'sentences', got {setup.task.name!r}"
        )
    for name, value in (("fitted", fitted), ("judged", judged)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1 sentence, got {value}; nearest: 1")
