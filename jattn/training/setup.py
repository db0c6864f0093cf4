"""From a config to the parts of a run: task, model, optimizer, mesh."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh
from jaxtyping import Array, PRNGKeyArray

from jattn import scores
from jattn.models import Decoder, Encoder, EncoderDecoder, Transformer
from jattn.tasks import LAYOUTS, Batch, Layout, Task, make_batch
from jattn.training.config import Config, ModelConfig, TrainingConfig
from jattn.training.options import ConfigError

MODELS: dict[str, type[Transformer]] = {
    "encoder": Encoder,
    "causal": Decoder,
    "decoder": Decoder,
    "encoder_decoder": EncoderDecoder,
}
"""The model that reads each layout."""

STREAMS = ("parameters", "training", "dropout", "evaluation", "test", "probes")
"""The independent streams of randomness of a run."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts of a run, made from its config once."""

    config: Config
    task: Task
    layout: Layout
    model: Transformer
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    mesh: Mesh

    def rng(self, stream: str) -> PRNGKeyArray:
        """Returns the rng of one of the `STREAMS`: a pure function of the seed."""
        return jax.random.fold_in(jax.random.key(self.config.training.seed), STREAMS.index(stream))

    def training_batch(self, rng: PRNGKeyArray, indices: Array) -> Batch:
        """Makes training examples; each depends on `rng` and its index alone."""
        lengths = (self.config.task.min_length, self.config.task.max_length)
        return make_batch(self.task, self.layout, rng, indices, lengths, self.config.task.max_length)

    def init(self, batch: Batch) -> optax.Params:
        """Makes the model's first parameters."""
        inputs: dict[str, Any] = batch.inputs
        return self.model.init(self.rng("parameters"), **inputs)["params"]

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


def make_model(config: ModelConfig, layout: str, vocabulary: int, dtype: str) -> Transformer:
    """Makes the model that reads a layout."""
    score = scores.cosine(config.temperature) if config.score == "cosine" else scores.scaled_dot()
    options: dict[str, Any] = config.model_dump(exclude={"score", "temperature", "queries"})
    if layout == "encoder":
        options["queries"] = config.queries
    return MODELS[layout](vocabulary=vocabulary, score=score, dtype=jnp.dtype(dtype), **options)


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
