"""What is said of a run before and after: what learns what, where it is written, on which devices, and how well."""

import math
import os
from typing import TYPE_CHECKING, Any

from jattn.drawing.plain import message, percent
from jattn.training.config import Config
from jattn.training.runs import cpu_cores

if TYPE_CHECKING:
    from jattn.training.setup import Setup


def first_line(config: Config, task: Any = None, model: Any = None) -> str:
    """Says task, layout, model and run folder; needs no JAX."""
    name = config.task.name if task is None else getattr(task, "name", type(task).__name__)
    learns = model_words(config) if model is None else f"own model {type(model).__name__}"
    return message(f"{name}, layout {config.task.layout}: {learns}; run folder {config.run.folder}")


def first_line_of_sweep(config: Config, runs: int, folder: Any) -> str:
    """Says task, layout, how many runs, and the folder of a sweep; needs no JAX."""
    return message(
        f"{config.task.name}, layout {config.task.layout}: a sweep of {_counted(runs, 'run')}; folder {folder}"
    )


def model_words(config: Config) -> str:
    """Names the model of a config with its sizes."""
    model = config.model
    if "model.kind" in config.parts:
        return model.kind
    sizes = [_counted(model.num_layers, "layer")]
    if model.num_heads is not None:
        sizes.append(_counted(model.num_heads, "head"))
    return f"{model.kind} of {', '.join(sizes)}, width {model.width}"


def device_line(setup: "Setup") -> str:
    """Says what a run runs on, and which variables of the environment decide it."""
    asked = [f"{name}={os.environ[name]}" for name in ("JAX_PLATFORMS", "XLA_FLAGS") if os.environ.get(name)]
    seeds = setup.config.training.replicates
    splits = setup.config.mesh.shard_parameters and setup.mesh.shape["data"] == 1
    whole = "; mesh.data is 1, so mesh.shard_parameters splits nothing" if splits else ""
    return message(
        f"on {device_words(setup)}{f' ({chr(32).join(asked)})' if asked else ''}"
        + (f", {seeds} seeds at once" if seeds > 1 else "")
        + whole
    )


def device_words(setup: "Setup") -> str:
    """Names the devices of a run and their number: ``1 NVIDIA H200``, ``2 CPU cores``."""
    device, number = setup.mesh.devices.flat[0], setup.mesh.size
    if device.platform != "cpu":
        return f"{number} {device.device_kind}"
    cores = cpu_cores()
    return _counted(cores, "CPU core") + ("" if number in (1, cores) else f" as {number} devices")


def result_words(found: dict[str, Any]) -> str:
    """Words the accuracy of a test, and the filter score where the task has an oracle; of a text, the perplexity."""
    if "perplexity" in found:
        return f"perplexity {_number(found['perplexity'])}, {_number(found['bits_per_byte'])} bits per byte"
    score = "" if found["filter_score"] is None else f", filter score {_number(found['filter_score'])}"
    return f"{percent(found['exact_accuracy'])}% right{score}"


def _number(value: float | None) -> str:
    # A file of metrics has null in place of a number that is not finite.
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
