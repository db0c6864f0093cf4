"""What a run is: frozen, checked before anything is compiled, written down in full beside its results.

Every key has a default; a config file says what differs, and options on the command line come on top.
"""

from typing import TYPE_CHECKING, Any, Literal

import pydantic
from pydantic import Field

from jattn.linen.models import QUERIES
from jattn.linen.recurrent import CELLS
from jattn.linen.transformer import POSITIONS
from jattn.tasks import LAYOUTS, TASKS, Task
from jattn.tasks.options import make_task, task_options


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


if TYPE_CHECKING:
    TaskName = str
    LayoutName = str
    PositionsName = str
    QueriesName = str
    KindName = str
else:
    TaskName = Literal[tuple(TASKS)]
    LayoutName = Literal[tuple(LAYOUTS)]
    PositionsName = Literal[POSITIONS]
    QueriesName = Literal[QUERIES]
    KindName = Literal[("transformer", *CELLS, "pooled")]


def _own(**limits: Any) -> Any:
    """Declares a key that each task has a default of its own for, if it has the key at all."""
    return Field(default=None, **limits)


class TaskConfig(_Section):
    """What is learned, and how the model sees it; tasks differ in the keys they have."""

    name: TaskName = Field(default="reverse", description="the task")
    layout: LayoutName = Field(default="encoder", description="how the model sees it; decides the kind of model")
    min_length: int = _own(ge=1, le=4096, description="the shortest source trained on")
    max_length: int = _own(ge=1, le=4096, description="the longest source trained on")
    symbols: int = _own(ge=2, le=10_000, description="how many different symbols there are")
    by: int = _own(ge=-4096, le=4096, description="shift: how many places to the right")
    places: int = _own(ge=1, le=2048, description="permute: how many tokens there are to arrange at most")
    items: int = _own(ge=1, le=2048, description="selective_copy: how many tokens stand among the blanks")
    hay: int = _own(ge=1, le=10_000, description="needle: how many different letters the heap has")
    keys: int = _own(ge=1, le=10_000, description="associative_recall: how many different keys there are")
    values: int = _own(ge=1, le=10_000, description="associative_recall, variable_tracking: how many different values")
    vocabulary: int = _own(ge=2, le=100_000, description="mqar: how many keys and values there are together")
    pairs: int = _own(ge=1, le=1024, description="mqar: how many pairs of a key and a value, and how many questions")
    names: int = _own(ge=1, le=10_000, description="variable_tracking: how many different names there are")
    hops: int = _own(ge=1, le=100, description="variable_tracking: how many names lie between the value and the end")
    max_count: int = _own(ge=1, le=4096, description="histogram: the greatest count, and so the greatest length")
    base: int = _own(ge=2, le=10_000, description="addition: how many different digits there are")
    modulus: int = _own(ge=2, le=10_000, description="modular_addition: how many different numbers there are")
    depth: int = _own(ge=1, le=20, description="listops: how many lists may be in each other")
    operators: int = _own(ge=1, le=3, description="listops: how many operators there are, of MIN, MAX and MED")
    split: Literal["all", "train", "test"] = _own(description="pronoun: all sentences, all but a fifth, or that fifth")
    read_at: Literal["it", "end"] = _own(description="pronoun: where in the sentence the answer is read")
    facts: int = _own(ge=1, le=3, description="reading: how many sentences of the story decide the answer")
    image: int = _own(ge=6, le=4096, description="captions: how many pixels wide and high the picture is")
    patch: int = _own(ge=1, le=64, description="captions: how many pixels wide and high a patch of it is")
    shape: int = _own(ge=3, le=2048, description="captions: how many pixels wide and high a shape in it is")

    @pydantic.model_validator(mode="after")
    def _complete(self) -> "TaskConfig":
        """Fills in what the task has by default, and refuses what it does not have or cannot do."""
        options = {key: value for key, value in self._given().items() if key not in _EVERY_TASK}
        try:
            task = make_task(self.name, options)
        except ValueError as error:
            raise ValueError(f"task.{error}") from None
        lengths = {"min_length": task.length, "max_length": task.length}
        # What is filled in does not count as given: another task, named later, brings its own.
        vars(self).update(lengths | task_options(self.name) | self._given())
        return self

    def _given(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in type(self).model_fields if key in self.model_fields_set}

    @pydantic.model_serializer(mode="wrap")
    def _without_the_others(self, serialize: Any) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if value is not None}

    def make(self) -> Task:
        """Makes the task with its options."""
        return make_task(self.name, {key: getattr(self, key) for key in task_options(self.name)})


_EVERY_TASK = ("name", "layout", "min_length", "max_length")


class ModelConfig(_Section):
    """What learns; some keys concern some kinds alone."""

    kind: KindName = Field(default="transformer", description="the kind of model; all but transformers read a source")
    attention: bool = Field(
        default=True,
        description="gru, lstm: whether the decoder attends to the source, or has one fixed vector of it",
    )
    num_layers: int = Field(default=1, ge=1, le=64, description="blocks in a stack, or cells on top of one another")
    num_heads: int = Field(default=1, ge=1, le=256, description="attention heads; must divide the width")
    width: int = Field(default=32, ge=2, le=8192, description="length of a token's vector")
    hidden: int = Field(default=64, ge=1, le=65_536, description="width inside the feed-forward layers")
    norm: Literal["pre", "post"] = Field(default="pre", description="whether norms come before or after each step")
    queries: QueriesName = Field(
        default="tokens",
        description="what an encoder's first queries know; with positions, answers must come through a filter",
    )
    positions: PositionsName = Field(default="sinusoidal", description="how a transformer is told where tokens stand")
    max_length: int = Field(default=512, ge=1, le=65_536, description="the longest length of learned positions")
    score: Literal["scaled_dot", "cosine"] = Field(
        default="scaled_dot", description="how a transformer compares queries and keys"
    )
    temperature: float = Field(default=0.1, gt=0, description="what cosines are divided by")
    normalizer: Literal["softmax", "softmax_plus_one", "sigmoid", "entmax15", "sparsemax"] = Field(
        default="softmax", description="how weights are made of scores"
    )
    dropout_rate: float = Field(
        default=0.0, ge=0, lt=1, description="chance of each activation and weight to be dropped"
    )


class TrainingConfig(_Section):
    """How it is learned."""

    steps: int = Field(default=500, ge=1, le=100_000_000, description="optimizer steps at most")
    stop_when_solved: bool = Field(
        default=False, description="stop at the first evaluation that meets [evaluation]'s solved_*"
    )
    batch_size: int = Field(default=128, ge=1, le=1_048_576, description="examples per step")
    learning_rate: float = Field(
        default=1e-2, gt=0, description="its peak, after the warm-up; a cosine brings it to zero at the last step"
    )
    warmup_steps: int = Field(default=50, ge=0, description="steps in which the learning rate rises from zero")
    weight_decay: float = Field(default=0.0, ge=0, description="of AdamW")
    clip_norm: float = Field(default=1.0, gt=0, description="global norm beyond which a gradient is scaled down")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the computation; parameters are float32"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="decides parameters, batches and dropout")
    replicates: int = Field(default=1, ge=1, le=100, description="seeds trained at once: `seed` and those after it")


class EvaluationConfig(_Section):
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


class RunConfig(_Section):
    """Where it is written, and what is watched on the way."""

    folder: str = Field(default="", description="the run folder; by default runs/ and the config's name")
    overwrite: bool = Field(default=False, description="delete what an earlier run left in the folder and start anew")
    log_every: int = Field(default=50, ge=1, description="steps between rows of metrics")
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
    devices: int = Field(
        default=0, ge=0, le=4096, description="devices to split batches over; 0 takes all, on a CPU as many as suit"
    )
    cache: bool = Field(default=True, description="keep compiled programs in your own cache folder")


class Config(_Section):
    """All of a run."""

    task: TaskConfig = TaskConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    run: RunConfig = RunConfig()

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> "Config":
        for problem in _problems(self):
            raise ValueError(problem)
        return self

    def longest(self) -> int:
        """The longest source of training and test."""
        return max(self.task.max_length, *self.evaluation.test_lengths, 1)


def _is_path(text: str) -> bool:
    try:
        return b"\0" not in text.encode("utf-8")
    except UnicodeEncodeError:
        return False


def _problems(config: Config) -> list[str]:
    """Lists what does not fit together, each as ``key: what was expected, what came``."""
    problems = []
    last_seed = config.training.seed + config.training.replicates - 1
    if last_seed >= 2**32:
        problems.append(
            f"training.replicates: expected seeds below {2**32}, got {last_seed} for the last; "
            f"nearest: {2**32 - config.training.seed}"
        )
    if not _is_path(config.run.folder):
        problems.append(f"run.folder: expected the name of a folder in UTF-8, got {config.run.folder!r}")
    problems += _task_problems(config)
    problems += _model_problems(config)
    return problems


def _model_problems(config: Config) -> list[str]:
    """Lists what a model cannot do: a layout, or sizes that do not fit one another."""
    task, model, problems = config.task, config.model, []
    if model.width % model.num_heads:
        divisors = [n for n in range(1, model.width + 1) if model.width % n == 0]
        nearest = min(divisors, key=lambda n: abs(n - model.num_heads))
        problems.append(
            f"model.num_heads: expected a divisor of model.width {model.width}, got {model.num_heads}; "
            f"nearest: {nearest}"
        )
    elif model.positions == "rotary" and (model.width // model.num_heads) % 2:
        problems.append(
            "model.num_heads: rotary positions need an even model.width / model.num_heads, "
            f"got {model.width} / {model.num_heads} = {model.width // model.num_heads}"
        )
    if model.queries == "positions":
        if task.layout != "encoder":
            problems.append(f"model.queries: 'positions' needs task.layout 'encoder', got {task.layout!r}")
        if model.positions not in ("sinusoidal", "learned"):
            problems.append(
                f"model.queries: 'positions' needs positions 'sinusoidal' or 'learned', got {model.positions!r}"
            )
    places = "learned" if model.positions == "learned" else "sinusoidal"
    told = places if model.kind == "pooled" else model.positions
    if model.kind not in CELLS and told == "sinusoidal" and model.width % 2:
        problems.append(f"model.width: sinusoidal positions need an even width, got {model.width}")
    target_room = task.make().target_room(config.longest())
    positions_needed = LAYOUTS[task.layout].num_positions(config.longest(), target_room)
    if model.positions == "learned" and positions_needed > model.max_length:
        problems.append(
            f"model.max_length: learned positions must reach {positions_needed} for sequences of {config.longest()} "
            f"in layout {task.layout!r}, got {model.max_length}"
        )
    return problems + _kind_problems(config)


def _kind_problems(config: Config) -> list[str]:
    """Lists what a kind of model does not have."""
    task, model, problems = config.task, config.model, []
    if model.kind != "transformer" and task.layout != "encoder_decoder":
        problems.append(f"model.kind: {model.kind!r} needs task.layout 'encoder_decoder', got {task.layout!r}")
    if model.kind not in CELLS and not model.attention:
        cells = " or ".join(map(repr, CELLS))
        problems.append(
            f"model.attention: kind {model.kind!r} is made of attention, expected true; "
            f"false is for model.kind {cells}, whose decoder then has one fixed vector of the source"
        )
    if model.kind in CELLS and model.positions not in ("sinusoidal", "none"):
        problems.append(
            f"model.positions: kind {model.kind!r} reads in order and takes no positions, expected 'none' or nothing, "
            f"got {model.positions!r}"
        )
    if model.kind in CELLS and model.normalizer != "softmax":
        problems.append(
            f"model.normalizer: kind {model.kind!r} attends by a softmax, expected nothing, got {model.normalizer!r}"
        )
    if model.kind in CELLS and model.score != "scaled_dot":
        problems.append(
            f"model.score: kind {model.kind!r} scores by a small network, expected nothing, got {model.score!r}"
        )
    return problems


def _task_problems(config: Config) -> list[str]:
    """Lists what a task cannot do: a layout, or lengths with its options."""
    section, task, problems = config.task, config.task.make(), []
    options = " and ".join(f"{key} = {getattr(section, key)}" for key in task_options(task.name))
    wanted = f"task {task.name!r}" + (f" with {options}" if options else "")
    if section.layout not in task.layouts:
        expected = ", ".join(repr(layout) for layout in task.layouts)
        problems.append(f"task.layout: expected one of {expected} for task {task.name!r}, got {section.layout!r}")
    lengths = [("task.min_length", section.min_length), ("task.max_length", section.max_length)]
    for key, length in lengths + [("evaluation.test_lengths", length) for length in config.evaluation.test_lengths]:
        if not task.shortest <= length <= min(task.longest, 4096):
            problems.append(
                f"{key}: {wanted} needs lengths from {task.shortest} to {min(task.longest, 4096)}, got {length}; "
                f"nearest: {min(max(length, task.shortest), task.longest, 4096)}"
            )
    if section.min_length > section.max_length:
        problems.append(
            f"task.min_length: expected at most task.max_length {section.max_length}, got {section.min_length}"
        )
    return problems
