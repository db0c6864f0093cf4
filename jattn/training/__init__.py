"""Training a model on a task from a config: `train` is the loop."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jattn.training.loop import train as train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    if name != "train":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Late, because a mistake in a config is reported before anything slow is imported.
    from jattn.training.loop import train

    return train
