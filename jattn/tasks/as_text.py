"""A task's examples as text, with the oracle drawn."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jattn.tasks.pixels import join, letters_of
from jattn.tasks.sequences import Sequence, Task


def draw(task: Task, length: int | None = None, seed: int = 0) -> str:
    """Draws one example: its source, and below it a line per answer, with ``#`` at the keys of its oracle.

    A picture is drawn with a letter per pixel, and the answers with their patches stand side by side.

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
    source = np.asarray(example.source)[: example.source_length]
    answers = [task.symbols[token] for token in np.asarray(example.target)[: example.target_length]]
    alignment = np.asarray(example.alignment)[:, : len(source)]
    if source.ndim == 2:
        return "\n".join([*_picture(source), *_patches(answers, alignment)])
    words = task.words(source)
    lines = [" ".join(words)]
    for answer, row in zip(answers, alignment, strict=False):
        cells = [("#" if there else ".").ljust(len(word)) for word, there in zip(words, row, strict=True)]
        lines.append(f"{' '.join(cells)}  {answer}")
    return "\n".join(lines)


def _picture(patches: Float[np.ndarray, "S P"]) -> list[str]:
    """Draws a picture, with a letter per pixel and lines around patches."""
    pixels, side = join(patches), math.isqrt(len(patches))
    patch = len(pixels) // side
    rule, lines = "+".join(["", *["-" * patch] * side, ""]), []
    for row, colours in enumerate(pixels):
        letters = "".join(letters_of(colours))
        lines += [rule] * (row % patch == 0)
        lines.append("|".join(["", *(letters[start : start + patch] for start in range(0, len(letters), patch)), ""]))
    return [*lines, rule]


def _patches(answers: list[str], alignment: Bool[np.ndarray, "L S"]) -> list[str]:
    """Draws the patches of a picture below each answer."""
    side = math.isqrt(alignment.shape[1])
    widths = [max(len(answer), side) for answer in answers]
    rows = [answers]
    for start in range(0, side * side, side):
        rows.append(["".join("#" if there else "." for there in row[start : start + side]) for row in alignment])
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
