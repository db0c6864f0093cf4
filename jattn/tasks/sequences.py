"""What a sequence task yields: a source, a target, and where in the source each target token is found.

Glossary of shapes: ``S`` room for the source, ``L`` room for the target; the first `source_length` and `target_length`
places are real. ``P`` values of a patch of a picture. Everything is a pure function of an rng, made on the device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jattn.tasks.late import jnp

if TYPE_CHECKING:
    from jaxtyping import Array, PRNGKeyArray
else:
    # What reads annotations finds the shapes and kinds of numbers; the class of arrays would import JAX.
    Array = PRNGKeyArray = Any

EVERY_LAYOUT = ("encoder", "decoder", "encoder_decoder")
"""The layouts of a task whose answers may depend on the whole source."""


class Sequence(NamedTuple):
    """One example of a sequence task; a pytree, as every named tuple is.

    Attributes:
      source: tokens to read, or patches of a picture; places beyond `source_length` are meaningless.
      source_length: how many places of `source` are real.
      target: tokens to answer with.
      target_length: how many tokens of `target` are real.
      alignment: ``[i, j]`` is True where source place ``j`` holds the answer for target token ``i``; several may, or
        none.
      read_at: the place of the source at which a model that only reads gives answer ``i``; None where that is ``i``.
    """

    source: Int[Array, " S"] | Float[Array, "S P"]
    source_length: Int[Array, ""]
    target: Int[Array, " L"]
    target_length: Int[Array, ""]
    alignment: Bool[Array, "L S"]
    read_at: Int[Array, " L"] | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """A toy task with a known answer: what to read, what to say, and where to look.

    Attributes:
      name: its name in the table of tasks.
      symbols: the vocabulary, a text per token.
      sample: makes one `Sequence` from ``(rng, length, room)``: at most `length` source tokens, as many as the task can
        use, in arrays of size `room`.
      shortest: the least length of a source.
      longest: the greatest.
      length: a length to begin with.
      target_room: the size of the target's arrays for a given room.
      fills: says whether all sources of a given length, in as much room, fill it, and all targets theirs.
      layouts: the names of the layouts that it makes sense in.
      describe: writes a patch of a picture as a word; None where sources are tokens.
      properties: names what can be told of a `Sequence` besides its target, each a class from zero on; None where there
        is nothing.
      judged: makes the examples that evaluation and test judge a model on, as `sample` makes those of training; None
        where they are made alike.
      has_oracle: whether alignments say where answers are found; where not, filters are shown and not scored.
      split: turns what a person writes into symbols; by default at blanks.
      symbol_bytes: of a text, how many bytes each symbol stands for: it is judged by perplexity and bits per byte. Of
        other tasks nothing.
      sha256: the digest of the file that its examples are read from; empty where they are generated.
      layout_reason: why it makes no sense in other layouts, where that is worth a word.
    """

    name: str
    symbols: tuple[str, ...]
    sample: Callable[[PRNGKeyArray, Int[Array, ""], int], Sequence]
    shortest: int = 1
    longest: int = 4096
    length: int = 16
    target_room: Callable[[int], int] = lambda room: room
    fills: Callable[[int], bool] = lambda length: True
    layouts: tuple[str, ...] = EVERY_LAYOUT
    describe: Callable[[Float[np.ndarray, " P"]], str] | None = None
    properties: Callable[[Sequence], dict[str, Int[Array, ""]]] | None = None
    judged: Callable[[PRNGKeyArray, Int[Array, ""], int], Sequence] | None = None
    has_oracle: bool = True
    split: Callable[[str], list[str]] = str.split
    symbol_bytes: tuple[float, ...] = ()
    sha256: str = ""
    layout_reason: str = ""

    def as_judged(self) -> "Task":
        """Returns the task that samples what a model is judged on."""
        return self if self.judged is None else dataclasses.replace(self, sample=self.judged)

    def words(self, source: Int[np.ndarray, " S"] | Float[np.ndarray, "S P"]) -> list[str]:
        """Writes each place of a source, all of them real, as a word."""
        return [self.symbols[item] if self.describe is None else self.describe(item) for item in source]


def one_answer(
    source: Int[Array, " S"], length: Int[Array, ""], answer: Int[Array, ""], holds: Bool[Array, " S"]
) -> Sequence:
    """Makes the `Sequence` of a task with a single answer, read at the last place of the source.

    Args:
      source: tokens to read.
      length: how many of them are real.
      answer: the token to say.
      holds: which places of the source hold the answer.
    """
    return Sequence(source, length, answer[None], length * 0 + 1, holds[None], (length - 1)[None])


def last_answer(
    sample: Callable[[PRNGKeyArray, Int[Array, ""], int], Sequence],
) -> Callable[[PRNGKeyArray, Int[Array, ""], int], Sequence]:
    """Makes a sampler of the same sources that asks for the last answer alone, read at the last place."""

    def judged(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        made = sample(rng, length, room)
        last = made.target_length - 1
        holds = jnp.take(made.alignment, last, axis=0)
        return one_answer(made.source, made.source_length, jnp.take(made.target, last), holds)

    return judged


def check_generator(generator: str, published: str) -> None:
    """Raises a ValueError unless samples can be drawn by this rule: jattn's own, or the published one of a task."""
    if generator not in ("jattn", published):
        raise ValueError(f"generator: expected 'jattn' or {published!r}, got {generator!r}")


def check_at_least(name: str, least: int, value: int) -> None:
    """Raises a ValueError if an argument of a task is less than what works."""
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
