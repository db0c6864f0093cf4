"""What a run is: frozen, checked before anything is compiled, written down in full beside its results.

Every key has a default; a config file says what differs, and options on the command line come on top. A key is used, or
refused with the reason; the names and ranges are checked without JAX.
"""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pydantic
from pydantic import Field, ValidationInfo

from jattn.tasks.catalogue import CATALOGUE, FROM_FILES, make_task
from jattn.training.config_problems import choice_problems, fitting_problems, missing_problems, unused_problems
from jattn.training.distributed import Processes
from jattn.training.own.code import Code, Places
from jattn.training.own.parts import OwnPart
from jattn.training.sections import Section, with_options
from jattn.training.tables import (
    ATTENTION,
    KINDS,
    LAYOUTS,
    LOG_FOLDS,
    LOGGERS,
    NORMALIZERS,
    OPTAX,
    OPTIMIZERS,
    POSITIONS,
    SCHEDULES,
    SCORES,
)

if TYPE_CHECKING:
    from jattn.tasks.sequences import Task

    TaskName = LayoutName = KindName = PositionsName = ScoreName = NormalizerName = OptimizerName = ScheduleName = str
    LoggerName = FoldName = str
else:
    TaskName = Literal[tuple(CATALOGUE)]
    LayoutName = Literal[tuple(LAYOUTS)]
    KindName = Literal[tuple(KINDS)]
    PositionsName = Literal[tuple(POSITIONS)]
    ScoreName = Literal[tuple(SCORES)]
    NormalizerName = Literal[tuple(NORMALIZERS)]
    OptimizerName = Literal[(*OPTIMIZERS, *OPTAX)]
    ScheduleName = Literal[tuple(SCHEDULES)]
    LoggerName, FoldName = Literal[tuple(LOGGERS)], Literal[LOG_FOLDS]

DRAFT = {"draft": True}
"""The context that lets pydantic check names and ranges alone: not whether keys are used and fit together."""


def _length(description: str) -> Any:
    return Field(default=None, ge=1, le=4096, description=description)


class TaskKeys(Section):
    """What is learned, and how the model sees it; tasks differ in the keys they have."""

    name: TaskName = Field(default="reverse", description="the task; FILE.py:NAME is one of your own")
    layout: LayoutName = Field(default="encoder", description="how the model sees it; decides the kind of model")
    min_length: int = _length("the shortest source trained on; by default what suits the task")
    max_length: int = _length("the longest source trained on; by default what suits the task")

    def make(self) -> "Task":
        """Makes the task with its options."""
        chosen = self.chosen("name")
        options = {key: getattr(self, key) for key in chosen.options if getattr(self, key) is not None}
        return chosen.make_task(options) if isinstance(chosen, OwnPart) else make_task(self.name, options)

    def reads(self) -> bool:
        """Says whether the task reads a file of a person's own."""
        return self.name in FROM_FILES


class ModelKeys(Section):
    """What learns; kinds differ in the keys they use."""

    kind: KindName = Field(
        default="transformer",
        description="the kind of model; all but transformers read a source; FILE.py:NAME is one of your own",
    )
    attention: bool = Field(
        default=True, description="whether the decoder attends to the source, or has one fixed vector of it"
    )
    num_layers: int = Field(default=1, ge=1, le=64, description="blocks in a stack, or cells on top of one another")
    num_heads: int = Field(default=1, ge=1, le=256, description="attention heads; must divide the width")
    width: int = Field(default=32, ge=2, le=8192, description="length of a token's vector")
    hidden: int = Field(default=64, ge=1, le=65_536, description="width inside the feed-forward layers")
    norm: Literal["pre", "post"] = Field(default="pre", description="whether norms come before or after each step")
    queries: Literal["tokens", "positions"] = Field(
        default="tokens",
        description="what an encoder's first queries know; with positions, answers must come through a filter",
    )
    positions: PositionsName = Field(default="sinusoidal", description="how a model is told where tokens stand")
    score: ScoreName = Field(default="scaled_dot", description="how queries and keys are compared")
    normalizer: NormalizerName = Field(default="softmax", description="how weights are made of scores")
    dropout_rate: float = Field(
        default=0.0, ge=0, lt=1, description="chance of each activation and weight to be dropped"
    )


class TrainingKeys(Section):
    """How it is learned."""

    steps: int = Field(default=500, ge=1, le=100_000_000, description="optimizer steps at most")
    stop_when_solved: bool = Field(
        default=False, description="stop at the first evaluation that meets [evaluation]'s solved_*"
    )
    batch_size: int = Field(default=128, ge=1, le=1_048_576, description="examples per step")
    optimizer: OptimizerName = Field(default="adamw", description="what learns; FILE.py:NAME is one of your own")
    learning_rate: float = Field(default=1e-2, gt=0, le=1e38, description="its peak, after the warm-up")
    schedule: ScheduleName = Field(
        default="cosine",
        description="how the learning rate goes on from its peak; all but constant end at zero; FILE.py:NAME is yours",
    )
    warmup_steps: int = Field(default=50, ge=0, description="steps in which the learning rate rises from zero")
    clip_norm: float = Field(default=1.0, gt=0, le=1e38, description="global norm beyond which gradients are scaled")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the computation; parameters are float32"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="decides parameters, batches and dropout")
    replicates: int = Field(default=1, ge=1, le=100, description="seeds trained at once: `seed` and those after it")


if TYPE_CHECKING:
    TaskConfig = TaskKeys
    ModelConfig = ModelKeys
    TrainingConfig = TrainingKeys
else:
    TaskConfig = with_options("TaskConfig", TaskKeys, {"name": CATALOGUE})
    ModelConfig = with_options(
        "ModelConfig",
        ModelKeys,
        {
            "kind": KINDS,
            "layout": LAYOUTS,
            "attention": ATTENTION,
            "positions": POSITIONS,
            "score": SCORES,
            "normalizer": NORMALIZERS,
        },
    )
    TrainingConfig = with_options("TrainingConfig", TrainingKeys, {"optimizer": OPTIMIZERS, "schedule": SCHEDULES})


class EvaluationConfig(Section):
    """How it is judged."""

    every: int = Field(default=100, ge=1, description="steps between evaluations")
    examples: int = Field(default=1000, ge=1, le=1_000_000, description="examples of an evaluation, in whole batches")
    solved_accuracy: float = Field(default=1.0, ge=0, le=1, description="exact-sequence accuracy that counts as solved")
    solved_filter_score: float = Field(default=0.9, ge=0, le=1, description="filter score that counts as solved")
    test_examples: int = Field(
        default=10_000, ge=1, le=10_000_000, description="fresh examples of the final test, in whole batches"
    )
    test_lengths: tuple[int, ...] = Field(
        default=(), description="lengths tested besides, each with a tenth of the examples"
    )
    batch_size: int = Field(default=200, ge=1, le=1_048_576, description="examples computed at once")


class MeshConfig(Section):
    """Over which devices it is split."""

    data: int = Field(
        default=-1, ge=-1, le=1_048_576, description="devices to split batches over; -1 takes all, on a CPU what suits"
    )
    sequence: int = Field(
        default=1, ge=1, le=1_048_576, description="devices to split each sequence over; data times this are all"
    )
    shard_parameters: bool = Field(
        default=False, description="split parameters and the optimizer's state over these devices as well"
    )

    @pydantic.field_validator("data")
    @classmethod
    def _is_some(cls, data: int) -> int:
        """Refuses no device at all."""
        if data == 0:
            raise ValueError("mesh.data: expected a number of devices, or -1 for all of them, got 0")
        return data


class RunConfig(Section):
    """Where it is written, and what is watched on the way."""

    folder: str = Field(default="", description="the run folder; by default runs/ and the config's name")
    overwrite: bool = Field(default=False, description="delete what an earlier run left in the folder and start anew")
    log_every: int = Field(default=50, ge=1, description="steps between rows of metrics")
    logger: tuple[LoggerName, ...] = Field(default=(), description="what rows and filters are handed on to besides")
    log_folds: tuple[FoldName, ...] = Field(
        default=(), description="folds whose mean per layer and head is in the rows besides: of jattn.folds, by name"
    )
    profile: tuple[int, ...] = Field(
        default=(), description="first and last step of a trace by JAX's profiler, as in 100 110; none by default"
    )
    snapshots: int = Field(default=20, ge=2, le=1000, description="filter snapshots, at log-spaced steps")
    probes: int = Field(default=4, ge=1, le=64, description="examples whose filters are kept in the snapshots")
    screen: int = Field(
        default=256,
        ge=16,
        le=4096,
        description="filters with more queries or keys are kept as maps of so many rows and columns at most",
    )
    checkpoint_every: int = Field(default=500, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(default=2, ge=1, description="latest checkpoints kept besides the best")
    distributed: Literal["none", "auto"] | Processes = Field(
        default="none",
        description="several processes that train together: auto, or {coordinator, processes, index} of this one",
    )
    lock: bool = Field(default=True, description="write to the folder only while no other process does")
    debug: bool = Field(
        default=False, description="look at every array of every step, on one device, and name the first not finite"
    )
    cache: bool = Field(default=True, description="keep compiled programs in your own cache folder")

    @pydantic.field_validator("distributed", mode="before")
    @classmethod
    def _is_known(cls, asked: Any) -> Any:
        """Refuses in one line what is neither of the two."""
        return asked if asked in ("none", "auto") or isinstance(asked, Processes) else Processes.of(asked)

    @property
    def joins(self) -> bool:
        """Whether this is one of several processes."""
        return self.distributed != "none"

    @pydantic.field_validator("folder")
    @classmethod
    def _is_named(cls, folder: str) -> str:
        """Refuses a name without a letter or with control characters; the default, which is none, is not checked."""
        if not folder.strip():
            raise ValueError(f"run.folder: expected the name of a folder, got {folder!r}")
        if any(letter < " " or letter == "\x7f" for letter in folder):
            raise ValueError(f"run.folder: expected a name without control characters, got {folder!r}")
        return folder


class Config(Section):
    """All of a run."""

    task: TaskConfig = TaskConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    mesh: MeshConfig = MeshConfig()
    run: RunConfig = RunConfig()

    parts: ClassVar[Mapping[str, OwnPart]] = MappingProxyType({})
    """What code of one's own stands for, by the key that names it."""

    @property
    def code(self) -> list[Code]:
        """The code of one's own that the config names."""
        return [part.code for part in self.parts.values() if part.recorded]

    @property
    def code_of_run(self) -> list[Code]:
        """That of it without which it is another run: all but loggers."""
        return [part.code for part in self.parts.values() if part.recorded and part.of_run]

    @property
    def places(self) -> Places:
        """Where that code is."""
        return Places(known={code.file: str(code.path) for code in self.code})

    @pydantic.model_validator(mode="after")
    def _completed(self, info: ValidationInfo) -> "Config":
        """Fills in what is used, and refuses what is not, or does not fit together; a draft is filled in alone."""
        unused = self.unused_keys()
        if info.context != DRAFT:
            for problem in (*choice_problems(self), *unused_problems(self, unused), *missing_problems(self)):
                raise ValueError(problem)
        layout = {"layout": self.task.layout}
        sections = {name: getattr(self, name).resolved(unused[name], **layout) for name in unused}
        vars(self).update(sections)
        if info.context != DRAFT:
            self._fill_in_lengths()
            for problem in fitting_problems(self):
                raise ValueError(problem)
        return self

    def unused_keys(self) -> dict[str, dict[str, str]]:
        """Returns the keys of each section that nothing chosen uses, with the reason."""
        return {
            "task": self.task.unused(),
            "model": self.model.unused(layout=self.task.layout),
            "training": self.training.unused(),
        }

    def _fill_in_lengths(self) -> None:
        """Fills in the lengths that suit the task, with its options."""
        try:
            task = self.task.make()
        except ValueError as error:
            raise ValueError(f"task.{error}") from None
        vars(self.task).update({"min_length": task.length, "max_length": task.length} | self.task.given())
        if self.task.reads():
            # What a run has read belongs to it, wherever it is resumed from.
            paths = {key: getattr(self.task, key, "") for key in ("file", "tokenizer")}
            found = {key: os.path.abspath(path) for key, path in paths.items() if path}
            vars(self.task).update(found, sha256=task.sha256)

    def longest(self) -> int:
        """The longest source of training and test."""
        return max(self.task.max_length, *self.evaluation.test_lengths, 1)
