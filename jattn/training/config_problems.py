"""What is wrong with a config: keys that nothing uses, and values that do not fit together."""

from typing import Any

from jattn.tasks.catalogue import check_options

Config = Any
"""A `jattn.training.config.Config`, which is made with this module and not known here."""


def choice_problems(config: Config) -> list[str]:
    """Lists what is wrong with the choices that decide which keys there are."""
    kind, layout, models = config.model.kind, config.task.layout, config.model.chosen("kind").models
    if layout in models:
        return []
    expected = " or ".join(map(repr, models))
    return [f"model.kind: {kind!r} needs task.layout {expected}, got {layout!r}"]


def unused_problems(config: Config, unused: dict[str, dict[str, str]]) -> list[str]:
    """Lists the keys that are given and that nothing chosen uses."""
    try:
        given = {key: None for key in unused["task"] if key in config.task.given()}
        check_options(config.task.name, given, config.task.chosen("name").options)
    except ValueError as error:
        return [f"task.{error}"]
    return [
        f"{name}.{key}: {reason}"
        for name, reasons in unused.items()
        for key, reason in reasons.items()
        if key in getattr(config, name).given()
    ]


def missing_problems(config: Config) -> list[str]:
    """Lists the options without a default that are not given."""
    return [
        f"{name}.{key}: expected a value, as {needs} has no default of it, got nothing"
        for name in ("task", "model", "training")
        for key, needs in getattr(config, name).missing().items()
    ]


def _given(config: Config, *keys: str) -> str:
    """Returns the first of the keys that a person set, or the first of all: not one that followed from a default."""
    for path in keys:
        table, _, key = path.partition(".")
        if key in getattr(config, table).given():
            return path
    return keys[0]


def _is_path(text: str) -> bool:
    try:
        return b"\0" not in text.encode("utf-8")
    except UnicodeEncodeError:
        return False


def fitting_problems(config: Config) -> list[str]:
    """Lists what does not fit together, each as ``key: what was expected, what came``."""
    problems = []
    last_seed = config.training.seed + config.training.replicates - 1
    if last_seed >= 2**32:
        problems.append(
            f"training.replicates: expected seeds below {2**32}, got {last_seed} for the last; "
            f"nearest: {2**32 - config.training.seed}"
        )
    if config.run.debug and config.mesh.data > 1:
        problems.append(f"mesh.data: expected 1 with run.debug, or nothing, got {config.mesh.data}")
    if config.mesh.shard_parameters and (config.mesh.data == 1 or config.run.debug):
        got = "run.debug, which takes one" if config.run.debug else "mesh.data 1"
        problems.append(f"mesh.shard_parameters: expected devices to split parameters over, got {got}")
    if config.run.debug and config.mesh.sequence > 1:
        problems.append(f"mesh.sequence: expected 1 with run.debug, got {config.mesh.sequence}")
    for key, splits in (("shard_parameters", config.mesh.shard_parameters), ("sequence", config.mesh.sequence > 1)):
        if splits and config.training.replicates > 1:
            problems.append(f"training.replicates: expected 1 with mesh.{key}, got {config.training.replicates}")
    if config.run.debug and config.run.joins:
        problems.append(f"run.debug: expected one process, got run.distributed {config.run.distributed}")
    if not _is_path(config.run.folder):
        problems.append(f"run.folder: expected the name of a folder in UTF-8, got {config.run.folder!r}")
    return problems + _watching_problems(config) + _task_problems(config) + _model_problems(config)


def _watching_problems(config: Config) -> list[str]:
    """Lists what cannot be watched of a run."""
    profile, steps, problems = config.run.profile, config.training.steps, []
    for key in ("logger", "log_folds"):
        names = getattr(config.run, key)
        if len(set(names)) < len(names):
            problems.append(f"run.{key}: expected different names, got {', '.join(names)}")
    if profile and not (len(profile) == 2 and 0 <= profile[0] < profile[1] <= steps):
        problems.append(
            f"run.profile: expected two steps from 0 to training.steps {steps}, the first before the last, "
            f"got {list(profile)}"
        )
    return problems


def _not_a_divisor(key: str, value: int | None, whole_key: str, whole: int) -> list[str]:
    """Says that a number does not divide another, and which one near it does."""
    if value is None or whole % value == 0:
        return []
    nearest = min((n for n in range(1, whole + 1) if whole % n == 0), key=lambda n: abs(n - value))
    return [f"{key}: expected a divisor of {whole_key} {whole}, got {value}; nearest: {nearest}"]


def _model_problems(config: Config) -> list[str]:
    """Lists sizes of a model that do not fit one another."""
    task, model, problems = config.task, config.model, []
    if "model.kind" in config.parts:
        return []
    problems += _not_a_divisor("model.num_heads", model.num_heads, "model.width", model.width)
    kv_heads = getattr(model, "num_kv_heads", None)
    problems += _not_a_divisor("model.num_kv_heads", kv_heads, "model.num_heads", model.num_heads)
    if not problems and model.positions == "rotary" and (model.width // model.num_heads) % 2:
        key = _given(config, "model.num_heads", "model.width")
        problems.append(
            f"{key}: rotary positions need an even model.width / model.num_heads, "
            f"got {model.width} / {model.num_heads} = {model.width // model.num_heads}"
        )
    if model.queries == "positions" and model.positions not in ("sinusoidal", "learned"):
        problems.append(
            f"model.queries: 'positions' needs positions 'sinusoidal' or 'learned', got {model.positions!r}"
        )
    # The answers of a pooled model are told apart by their places alone.
    told = "sinusoidal" if model.kind == "pooled" and model.positions != "learned" else model.positions
    if told == "sinusoidal" and model.width % 2:
        problems.append(f"model.width: sinusoidal positions need an even width, got {model.width}")
    if model.positions == "learned" and (positions_needed := _num_positions(config)) > getattr(model, "max_length"):  # noqa: B009
        key = _given(config, "model.max_length", "evaluation.test_lengths", "task.max_length", "task.min_length")
        problems.append(
            f"{key}: learned positions must reach {positions_needed} for sequences of {config.longest()} "
            f"in layout {task.layout!r}, got model.max_length {getattr(model, 'max_length')}"  # noqa: B009
        )
    return problems


def _num_positions(config: Config) -> int:
    """Returns how many positions the longest sequences need; imports JAX."""
    from jattn.tasks.layouts import LAYOUTS

    room = config.longest()
    return LAYOUTS[config.task.layout].num_positions(room, config.task.make().target_room(room))


def _task_problems(config: Config) -> list[str]:
    """Lists what a task cannot do: a layout, or lengths with its options."""
    section, task, problems = config.task, config.task.make(), []
    keys = [] if section.reads() else section.chosen("name").options
    options = " and ".join(f"{key} = {getattr(section, key)}" for key in keys)
    wanted = f"task {task.name!r}" + (f" with {options}" if options else "")
    if section.layout not in task.layouts:
        expected = " or ".join(repr(layout) for layout in task.layouts)
        because = f"; {task.layout_reason}" if task.layout_reason else ""
        if _given(config, "task.layout", "task.name") == "task.layout":
            problems.append(f"task.layout: expected {expected} for task {task.name!r}, got {section.layout!r}{because}")
        else:
            problems.append(
                f"task.name: {task.name!r} needs task.layout {expected}, got none, which is {section.layout!r}{because}"
            )
    lengths = [("task.min_length", section.min_length), ("task.max_length", section.max_length)]
    for key, length in lengths + [("evaluation.test_lengths", length) for length in config.evaluation.test_lengths]:
        if not task.shortest <= length <= min(task.longest, 4096):
            problems.append(
                f"{key}: {wanted} needs lengths from {task.shortest} to {min(task.longest, 4096)}, got {length}; "
                f"nearest: {min(max(length, task.shortest), task.longest, 4096)}"
            )
    if task.symbol_bytes and config.training.stop_when_solved:
        problems.append(f"training.stop_when_solved: task {task.name!r} is judged by its loss, which solves nothing")
    for length in sorted(set(config.evaluation.test_lengths)):
        if config.evaluation.test_lengths.count(length) > 1:
            problems.append(f"evaluation.test_lengths: expected lengths that differ, got {length} twice")
    if section.min_length > section.max_length:
        if _given(config, "task.min_length", "task.max_length") == "task.min_length":
            most = f"task.max_length {section.max_length}{'' if 'max_length' in section.given() else ', its default'}"
            problems.append(f"task.min_length: expected at most {most}, got {section.min_length}")
        else:
            problems.append(
                f"task.max_length: expected at least task.min_length {section.min_length}, its default, "
                f"got {section.max_length}; set both"
            )
    return problems
