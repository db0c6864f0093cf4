"""From a config to the parts of a run: task, model, optimizer, mesh."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

# Linen modules of a person's own need not import it.
import jattn.linen.capture  # noqa: F401
from jattn.decode.protocol import as_inspectable
from jattn.filters.filter import AttentionFilter
from jattn.rules.scores import soft_cap
from jattn.tasks import LAYOUTS, Batch, Layout, Task, make_batch
from jattn.tasks.options import Entry
from jattn.training.config import Config, ModelConfig, TrainingConfig
from jattn.training.own.checks import check_call, check_optimizer, check_schedule, check_task, naming_the_line, takes
from jattn.training.own.code import OwnError
from jattn.training.own.nnx_modules import as_functional, make_functional, makes_nnx
from jattn.training.own.parts import OwnPart
from jattn.training.own.signatures import is_nnx
from jattn.training.reading import ConfigError
from jattn.training.schedules import with_warmup
from jattn.training.sections import Section
from jattn.training.sharding import SEQUENCE, make_mesh, spread
from jattn.training.tables import NORMALIZERS, SCORES

STREAMS = ("parameters", "training", "dropout", "evaluation", "test", "probes")
"""The independent streams of randomness of a run."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts of a run, made from its config once.

    Attributes:
      config: of the run.
      task, layout, model, optimizer: what is learned, how the model sees it, what learns and how; an NNX module is in
        its functional form, with the methods of a linen one.
      schedule: the learning rate by step; None where an own optimizer has its own.
      mesh: the devices, on an axis ``data``, and where sequences are split on ``sequence``.
      own: what stands in place of the config's task and model, by name and in words.
    """

    config: Config
    task: Task
    layout: Layout
    model: Any
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule | None
    mesh: Mesh
    own: Mapping[str, str] = dataclasses.field(default_factory=dict)

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

    def first(self, found: Any) -> Any:
        """Picks what belongs to the first replicate; of a single one, all does."""
        return found if self.config.training.replicates == 1 else jax.tree.map(lambda x: x[0], found)

    def learning_rate(self, step: int) -> dict[str, float]:
        """Returns the learning rate of a step by its name in a row of metrics; nothing for an own optimizer."""
        return {} if self.schedule is None else {"learning_rate": float(jax.jit(self.schedule)(step))}

    @property
    def splits_parameters(self) -> bool:
        """Whether parameters and the optimizer's state are split over the devices."""
        return self.config.mesh.shard_parameters and self.mesh.shape["data"] > 1

    @property
    def splits_sequence(self) -> bool:
        """Whether the positions of each example are split over the devices."""
        return SEQUENCE in self.mesh.shape

    def on_mesh(self) -> AbstractContextManager[Any]:
        """Lets the layers of a model find the devices over which sequences are split."""
        if not self.splits_sequence:
            return contextlib.nullcontext()
        return jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh)

    def inputs_of(self, batch: Batch) -> dict[str, Any]:
        """Returns the inputs of a batch, split over the devices where sequences are."""
        return spread(self.mesh, batch.inputs) if self.splits_sequence else batch.inputs

    @property
    def tokens_per_step(self) -> int:
        """How many positions of how many examples a step reads, of all replicates together."""
        longest, training = self.config.task.max_length, self.config.training
        positions = self.layout.num_positions(longest, self.task.target_room(longest))
        return training.batch_size * positions * training.replicates

    def training_batch(self, rng: PRNGKeyArray, indices: Array) -> Batch:
        """Makes training examples; each depends on `rng` and its index alone."""
        lengths = (self.config.task.min_length, self.config.task.max_length)
        return make_batch(self.task, self.layout, rng, indices, lengths, self.config.task.max_length)

    def judging_batch(self, rng: PRNGKeyArray, indices: Array) -> Batch:
        """Makes examples of the same lengths to judge a model on: held-out ones, where the task holds some out."""
        return dataclasses.replace(self, task=self.task.as_judged()).training_batch(rng, indices)

    def init(self, batch: Batch, seed: Int[Array, ""] | None = None) -> optax.Params:
        """Makes the model's first parameters."""
        inputs: dict[str, Any] = batch.inputs
        with self.on_mesh():
            return self.model.init(self.rng("parameters", seed), **inputs)["params"]

    def apply(self, params: optax.Params, batch: Batch, **options: Any) -> Any:
        """Applies the model to the inputs of a batch; returns logits."""
        variables: dict[str, Any] = {"params": params}
        if not takes(self.model, "deterministic"):
            options = {name: value for name, value in options.items() if name != "deterministic"}
        with self.on_mesh():
            return self.model.apply(variables, **self.inputs_of(batch), **options)

    def capture(self, params: optax.Params, batch: Batch) -> tuple[Any, dict[str, AttentionFilter]]:
        """Applies the model to the inputs of a batch; returns logits, and its filters by layer."""
        with self.on_mesh():
            return as_inspectable(self.model).capture({"params": params}, **self.inputs_of(batch))

    def vocabulary(self) -> tuple[str, ...]:
        """The text of each token: the task's symbols, then the layout's special tokens."""
        return self.task.symbols + self.layout.specials


def make_setup(
    config: Config,
    task: Task | None = None,
    model: Any = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Setup:
    """Makes the parts of a run; nothing is compiled yet.

    Args:
      config: of the run.
      task, model, optimizer: own ones in place of the config's; see `jattn.training.train`.

    Raises:
      ConfigError: if the devices do not fit the batch sizes, an own task has no such layout or lengths, or code that
        the config names does not do what it must.
      TypeError: if an own part is of another type.
      ValueError: if an own model does not return logits of the right shape.
    """
    for name, part, kind in (
        ("task", task, Task),
        ("model", model, nn.Module),
        ("optimizer", optimizer, optax.GradientTransformation),
    ):
        if part is not None and not isinstance(part, kind) and not (name == "model" and _is_nnx_module(part)):
            raise TypeError(f"{name}: expected a {kind.__name__}, got {type(part).__name__}")
    own = {"task": task and task.name}
    if model is not None:
        model, own["model"] = as_functional(model) if is_nnx(model) else (model, _in_one_line(model))
    if task is not None:
        _check_task(task, config)
    parts = own_parts(config, task, model, optimizer)
    task, layout = _make_task(config) if task is None else task, LAYOUTS[config.task.layout]
    if model is None:
        with _naming("model.kind"):
            sizes = layout.name, len(task.symbols + layout.specials), config.training.dtype
            model = make_model(config.model, *sizes, SEQUENCE if config.mesh.sequence > 1 else None)
    if config.mesh.sequence > 1 and getattr(model, "sequence_axis", None) != SEQUENCE:
        name = repr(config.model.kind) if own.get("model") is None else type(model).__name__
        without = f"a model without sequence_axis={SEQUENCE!r}, as {name} is"
        raise ConfigError(f"mesh.sequence: expected 1 for {without}, got {config.mesh.sequence}")
    schedule = None
    if optimizer is None:
        with _naming("training.schedule"):
            schedule = make_schedule(config.training)
        with _naming("training.optimizer"):
            optimizer = make_optimizer(config.training, schedule)
    setup = Setup(
        config=config,
        task=task,
        layout=layout,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        mesh=make_mesh(config),
        own={name: words for name, words in own.items() if words is not None},
    )
    if "model" in setup.own:
        _check_model(setup)
    _check_own(setup, parts)
    return setup


def own_parts(config: Config, *given: Any) -> dict[str, OwnPart]:
    """Returns the parts that code makes which the config names, by key: all but those given in another way."""
    replaced: dict[str, Any] = dict(zip(("task.name", "model.kind", "training.optimizer"), given, strict=False))
    if replaced.get("training.optimizer") is not None:
        replaced["training.schedule"] = replaced["training.optimizer"]
    return {path: part for path, part in config.parts.items() if replaced.get(path) is None}


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Says of which key code is wrong."""
    try:
        yield
    except OwnError as error:
        raise ConfigError(f"{path}: {error}") from error


def _make_task(config: Config) -> Task:
    task = config.task.make()
    if "task.name" in config.parts:
        with _naming("task.name"):
            check_task(config.parts["task.name"].code, task, config.task.max_length)
    return task


def _check_own(setup: Setup, parts: Mapping[str, OwnPart]) -> None:
    """Tries what the code of a model and of an optimizer makes, without compiling anything."""
    if not parts.keys() & {"model.kind", "training.optimizer"}:
        return
    batch = jax.eval_shape(lambda: setup.training_batch(setup.rng("training"), jnp.arange(1)))
    if part := parts.get("model.kind"):
        with _naming("model.kind"), naming_the_line(part.code):
            check_call(part.code, setup.model, setup.layout.name)
            options: dict[str, Any] = {"deterministic": False, "rngs": {"dropout": setup.rng("dropout")}}
            logits = jax.eval_shape(lambda batch: setup.apply(setup.init(batch), batch, **options), batch)
            _check_logits("expected", setup, batch, logits, part.code.wrong)
            _check_relates("expected", setup, batch, part.code.wrong)
            _check_keeps("expected", setup, part.code.wrong)
    if part := parts.get("training.optimizer"):
        with _naming("training.optimizer"):
            check_optimizer(part.code, setup.optimizer, jax.eval_shape(setup.init, batch))


def _check_model(setup: Setup) -> None:
    batch = jax.eval_shape(lambda: setup.training_batch(setup.rng("training"), jnp.arange(1)))
    logits = jax.eval_shape(lambda batch: setup.apply(setup.init(batch), batch), batch)
    _check_logits("model: expected", setup, batch, logits, ValueError)
    _check_relates("model: expected", setup, batch, ValueError)
    _check_keeps("model: expected", setup, ValueError)


def _check_logits(begins: str, setup: Setup, batch: Batch, logits: Any, error: Callable[[str], ValueError]) -> None:
    expected = (*batch.targets.shape, len(setup.vocabulary()))
    if getattr(logits, "shape", None) != expected:
        raise error(
            f"{begins} to return logits of shape [B, T, C] = {expected} for a batch of one, "
            f"got {getattr(logits, 'shape', type(logits).__name__)}"
        )


def _check_relates(begins: str, setup: Setup, batch: Batch, error: Callable[[str], ValueError]) -> None:
    """Refuses attention that does not say what it relates, where there are two sequences."""
    if len(set(setup.layout.oracle)) == 1:
        return

    def look(batch: Batch) -> Any:
        return as_inspectable(setup.model).capture({"params": setup.init(batch)}, **batch.inputs)[1]

    silent = [name for name, layer in jax.eval_shape(look, batch).items() if layer.relates is None]
    if silent:
        raise error(
            f"{begins} each attention layer to say which inputs its queries and keys come from, such as "
            f"MultiHeadAttention(..., relates={setup.layout.oracle}), got none from {', '.join(silent)}"
        )


def _check_keeps(begins: str, setup: Setup, error: Callable[[str], ValueError]) -> None:
    """Refuses an NNX model of which a call changes more than parameters: it is made anew in each call."""
    if not hasattr(setup.model, "changed_by"):
        return

    def changed() -> dict[str, Any]:
        batch = setup.training_batch(setup.rng("training"), jnp.arange(1))
        variables, rngs = {"params": setup.init(batch)}, {"dropout": setup.rng("dropout")}
        return setup.model.changed_by(variables, rngs=rngs, **batch.inputs)

    # Most models write to no such variable, which is known without a computation.
    if jax.eval_shape(changed) and (names := [name for name, is_so in jax.jit(changed)().items() if is_so]):
        raise error(f"{begins} no variables that a call changes, as they would be lost, got {', '.join(names)}")


def _is_nnx_module(model: Any) -> bool:
    return is_nnx(model) and not isinstance(model, type)


def _in_one_line(model: nn.Module) -> str:
    return " ".join(word for word in repr(model).replace("# attributes", "").split())


def _check_task(task: Task, config: Config) -> None:
    wanted = config.task
    if wanted.layout != "causal" and wanted.layout not in task.layouts:
        raise ConfigError(
            f"task.layout: expected one of {', '.join(task.layouts)} for {task.name!r}, got {wanted.layout!r}"
        )
    if not task.shortest <= wanted.min_length <= config.longest() <= task.longest:
        raise ConfigError(
            f"task: expected lengths from {task.shortest} to {task.longest} for {task.name!r}, "
            f"got {wanted.min_length} to {config.longest()}"
        )


def make_model(config: ModelConfig, layout: str, vocabulary: int, dtype: str, sequence_axis: str | None = None) -> Any:
    """Makes the model of a kind that reads a layout, from what the config says of it."""
    kind = config.chosen("kind")
    options: dict[str, Any] = config.model_dump()
    for key, table in (("score", SCORES), ("normalizer", NORMALIZERS)):
        if key in options:
            options[key] = _make(table[options[key]], config)
    if "soft_cap" in options:
        options["score"] = soft_cap(options["score"], options["soft_cap"])
    options |= {"vocabulary": vocabulary, "cell": config.kind, "dtype": jnp.dtype(dtype), "layout": layout}
    options["sequence_axis"] = sequence_axis
    if isinstance(kind, OwnPart):
        return make_functional(kind, options) if makes_nnx(kind) else kind.make(nn.Module, **options)
    model = kind.maker(layout)
    return model(**{field.name: options[field.name] for field in dataclasses.fields(model) if field.name in options})


def make_schedule(config: TrainingConfig) -> optax.Schedule | None:
    """Makes the learning rate by step: a linear warm-up, then the config's schedule for the steps that are left.

    Returns None where the optimizer has no use for a learning rate.
    """
    if config.schedule is None:
        return None
    warmup_steps = min(config.warmup_steps, config.steps - 1)
    chosen, peak, steps = config.chosen("schedule"), config.learning_rate, config.steps - warmup_steps
    if isinstance(chosen, OwnPart):
        schedule = chosen.make(object, **(config.model_dump() | {"peak": peak, "steps": steps}))
        check_schedule(chosen.code, schedule, steps)
        return with_warmup(schedule, peak, warmup_steps)
    return with_warmup(_make(chosen, config, peak, steps), peak, warmup_steps)


def make_optimizer(config: TrainingConfig, schedule: optax.Schedule | None) -> optax.GradientTransformation:
    """Makes the config's optimizer behind clipping by the global norm."""
    chosen = config.chosen("optimizer")
    if isinstance(chosen, OwnPart):
        options = config.model_dump() | {"learning_rate": schedule}
        made = chosen.make(optax.GradientTransformation, **options)
    else:
        made = _make(chosen, config, schedule)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), made)


def _make(made: Entry, section: Section, *arguments: Any) -> Any:
    """Makes what a section of the config chose, with the options it has there."""
    given = {option.argument or key: getattr(section, key) for key, option in made.options.items()}
    return made.load()(*arguments, **given)
