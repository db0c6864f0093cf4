"""A task's examples as text, with the oracle drawn."""

import jax
import jax.numpy as jnp
import numpy as np

from jattn.tasks.sequences import Sequence, Task


def draw(task: Task, length: int | None = None, seed: int = 0) -> str:
    """Draws one example: its source, and below it a line per answer, with ``#`` at the keys of its oracle.

    Args:
      task: what to sample.
      length: how long the source may be; by default what suits the task.
      seed: which example.

    Raises:
      ValueError: if the task has no source of that length.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.sort(), length=4, seed=1))
      4 5 4 4
      # . # #  4
      # . # #  4
      # . # #  4
      . # . .  5
    """
    length = task.length if length is None else length
    if not task.shortest <= length <= task.longest:
        raise ValueError(
            f"length: task {task.name!r} needs one from {task.shortest} to {task.longest}, got {length}; "
            f"nearest: {min(max(length, task.shortest), task.longest)}"
        )
    sample = jax.jit(task.sample, static_argnums=2)
    example: Sequence = jax.device_get(sample(jax.random.key(seed), jnp.int32(length), length))
    words = [task.symbols[token] for token in example.source[: example.source_length]]
    lines = [" ".join(words)]
    for answer in range(example.target_length):
        row = example.alignment[answer]
        cells = [("#" if there else ".").ljust(len(word)) for word, there in zip(words, row, strict=False)]
        lines.append(f"{' '.join(cells)}  {task.symbols[int(np.asarray(example.target)[answer])]}")
    return "\n".join(lines)
