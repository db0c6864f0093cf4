"""Training a model on a task from a config: `train` is the loop; `restore` reads a run back."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jattn.training.loop import train as train
    from jattn.training.restore import restore as restore

__all__ = ["restore", "train"]


def __getattr__(name: str) -> Any:
    # Late, because a mistake in a config is told before anything slow is imported.
    if name == "train":
        from jattn.training.loop import train

        return train
    if name == "restore":
        from jattn.training.restore import restore

        return restore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
