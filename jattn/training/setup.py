"""From a config to the parts of a run: task, model, optimizer, mesh."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import AxisType, Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from jattn.linen.models import Decoder, Encoder, EncoderDecoder, PooledEncoder
from jattn.linen.recurrent import RecurrentEncoderDecoder
from jattn.rules import normalizers, scores
from jattn.rules.normalizers import NormalizerLike
from jattn.tasks import LAYOUTS, Batch, Layout, Task, make_batch
from jattn.training.config import Config, ModelConfig, TrainingConfig
from jattn.training.reading import ConfigError

MODELS: dict[tuple[str, str], type[nn.Module]] = {
    ("transformer", "encoder"): Encoder,
    ("transformer", "causal"): Decoder,
    ("transformer", "decoder"): Decoder,
    ("transformer", "encoder_decoder"): EncoderDecoder,
    ("gru", "encoder_decoder"): RecurrentEncoderDecoder,
    ("lstm", "encoder_decoder"): RecurrentEncoderDecoder,
    ("pooled", "encoder_decoder"): PooledEncoder,
}
"""The model of each kind that reads a layout."""

NORMALIZERS: dict[str, NormalizerLike] = {
    "softmax": normalizers.softmax(),
    "softmax_plus_one": normalizers.softmax_plus_one(),
    "sigmoid": normalizers.sigmoid(),
    "entmax15": normalizers.entmax15(),
    "sparsemax": normalizers.sparsemax(),
}
"""What makes weights of scores, by its name in a config."""

STREAMS = ("parameters", "training", "dropout", "evaluation", "test", "probes")
"""The independent streams of randomness of a run."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts of a run, made from its config once."""

    config: Config
    task: Task
    layout: Layout
    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    mesh: Mesh

    @property
    def seeds(self) -> Int[Any, "*R"]:
        """The seed of each replicate; of a single one, without an axis."""
        first, replicates = self.config.training.seed, self.config.training.replicates
        return np.uint32(first) if replicates == 1 else np.arange(first, first + replicates, dtype=np.uint32)

    def each(self, function: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
        """Maps a function over the axis of replicates; a single one has no such axis."""
        return function if self.config.training.replicates == 1 else jax.vmap(function, in_axes)

    def rng(self, stream: str, seed: Int[Array, ""] | None = None) -> PRNGKeyArray:
        """Returns the rng of one of the `STREAMS`: a pure function of the seed, by default the first."""
        first: Any = self.config.training.seed
        return jax.random.fold_in(jax.random.key(first if seed is None else seed), STREAMS.index(stream))

    def rngs(self, stream: str) -> PRNGKeyArray:
        """Returns that rng for each replicate."""
        return self.each(lambda seed: self.rng(stream, seed))(self.seeds)

    def training_batch(self, rng: PRNGKeyArray, indices: Array) -> Batch:
        """Makes training examples; each depends on `rng` and its index alone."""
        lengths = (self.config.task.min_length, self.config.task.max_length)
        return make_batch(self.task, self.layout, rng, indices, lengths, self.config.task.max_length)

    def init(self, batch: Batch, seed: Int[Array, ""] | None = None) -> optax.Params:
        """Makes the model's first parameters."""
        inputs: dict[str, Any] = batch.inputs
        return self.model.init(self.rng("parameters", seed), **inputs)["params"]

    def apply(self, params: optax.Params, batch: Batch, **options: Any) -> Any:
        """Applies the model to the inputs of a batch; returns logits."""
        variables: dict[str, Any] = {"params": params}
        inputs: dict[str, Any] = batch.inputs
        return self.model.apply(variables, **inputs, **options)

    def vocabulary(self) -> tuple[str, ...]:
        """The text of each token: the task's symbols, then the layout's special tokens."""
        return self.task.symbols + self.layout.specials


def make_setup(config: Config) -> Setup:
    """Makes the parts of a run; nothing is compiled yet.

    Raises:
      ConfigError: if the devices do not fit the batch sizes.
    """
    task, layout = config.task.make(), LAYOUTS[config.task.layout]
    schedule = make_schedule(config.training)
    return Setup(
        config=config,
        task=task,
        layout=layout,
        model=make_model(config.model, config.task.layout, len(task.symbols + layout.specials), config.training.dtype),
        optimizer=make_optimizer(config.training, schedule),
        schedule=schedule,
        mesh=make_mesh(config),
    )


def make_model(config: ModelConfig, layout: str, vocabulary: int, dtype: str) -> nn.Module:
    """Makes the model of a kind that reads a layout, from what the config says of it."""
    model = MODELS[config.kind, layout]
    options: dict[str, Any] = config.model_dump() | {
        "vocabulary": vocabulary,
        "cell": config.kind,
        "score": scores.cosine(config.temperature) if config.score == "cosine" else scores.scaled_dot(),
        "normalizer": NORMALIZERS[config.normalizer],
        "dtype": jnp.dtype(dtype),
    }
    return model(**{field.name: options[field.name] for field in dataclasses.fields(model) if field.name in options})


def make_schedule(config: TrainingConfig) -> optax.Schedule:
    """Makes the learning rate by step: a linear warm-up, then a cosine that ends at zero with the last step."""
    warmup_steps = min(config.warmup_steps, config.steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup_steps, config.steps)


def make_optimizer(config: TrainingConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Makes AdamW behind clipping by the global norm."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm), optax.adamw(schedule, weight_decay=config.weight_decay)
    )


def make_mesh(config: Config) -> Mesh:
    """Makes a mesh with one axis, ``data``, over the local devices.

    Raises:
      ConfigError: if there are fewer devices than asked for, or they do not divide the batch sizes.
    """
    devices = jax.local_devices()[: config.run.devices or None]
    if config.run.devices > len(devices):
        raise ConfigError(f"run.devices: expected at most the {len(devices)} there are, got {config.run.devices}")
    for name, size in (("training", config.training.batch_size), ("evaluation", config.evaluation.batch_size)):
        if size % len(devices):
            raise ConfigError(
                f"{name}.batch_size: expected a multiple of the {len(devices)} devices, got {size}; "
                f"run.devices = 1 takes one device"
            )
    return Mesh(devices, ("data",), axis_types=(AxisType.Auto,))
