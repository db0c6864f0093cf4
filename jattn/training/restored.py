"""A model out of its run folder, to be asked in words."""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Int

from jattn.tasks.layouts import Batch
from jattn.tasks.sequences import Sequence as TaskSequence
from jattn.training.setup import Setup

SAMPLES = 64
"""How many examples of the task are looked at for where it reads its answers."""


class Restored(NamedTuple):
    """The parts of a run and its parameters, as ``setup, params = restore(folder)``, and what can be asked of them.

    Attributes:
      setup: the parts of the run; ``setup.model`` is the model, ``setup.apply(params, batch)`` its logits.
      params: what it has learned; of a run of several seeds, each array has a first axis of them, and what is asked in
        words is answered by the first.
    """

    setup: Setup
    params: optax.Params

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The text of each token: the task's symbols, then the layout's special tokens."""
        return self.setup.vocabulary()

    def encode(self, text: str) -> Int[np.ndarray, " T"]:
        """Turns words, with spaces between them, into tokens; of a text its characters, or bytes.

        Raises:
          ValueError: if the task reads pictures, or has no such word; the nearest one is named.
        """
        if self.setup.task.describe is not None:
            raise ValueError(f"text: expected a task that reads words, {self.setup.task.name!r} reads pictures")
        known = {word: token for token, word in enumerate(self.vocabulary)}
        words = self.setup.task.split(text)
        for word in words:
            if word not in known:
                near = difflib.get_close_matches(word, known, n=1)
                some = ", ".join(self.vocabulary[:5])
                said = f"did you mean {near[0]!r}?" if near else f"expected words such as {some}"
                raise ValueError(f"text: task {self.setup.task.name!r} has no word {word!r}; {said}")
        return np.array([known[word] for word in words], np.int32)

    def decode(self, tokens: Sequence[int] | Any) -> str:
        """Turns tokens into words, with spaces between them."""
        return " ".join(self.vocabulary[int(token)] for token in np.ravel(np.asarray(tokens)))

    def examples(self, number: int, seed: int = 0) -> Batch:
        """Makes examples as the run's own evaluation does: from held-out ones, where the task holds some out."""
        # One program: what is computed outside of one is compiled operation by operation.
        return jax.jit(lambda rng: self.setup.judging_batch(rng, jnp.arange(number)))(jax.random.key(seed))

    def batch(self, text: str) -> Batch:
        """Makes a batch of one from a source in words, with as many answers as the task has for sources as long.

        Raises:
          ValueError: as `encode`; or if the task has no source of that length.
        """
        return self._arranged(self._sequence(text))

    def predict(self, text: str) -> str:
        """Answers a source in words.

        Where the task decides from the words at which place an answer is read, all places are read. Decoders say one
        word after the other, the likeliest.

        Args:
          text: a source, its words with spaces between them.

        Raises:
          ValueError: as `batch`.
        """
        sequence, params = self._sequence(text), self.setup.first(self.params)
        predict = jax.jit(lambda batch: jnp.argmax(self.setup.apply(params, batch)[0], axis=-1))
        steps = 1 if self.setup.layout.name in ("encoder", "causal") else int(sequence.target_length)
        said = np.zeros(0, np.int32)
        for _ in range(steps):
            batch = self._arranged(sequence)
            said = np.asarray(predict(batch))[np.asarray(batch.scored[0])]
            target = np.zeros(sequence.target.shape, np.int32)
            target[: len(said)] = said
            sequence = sequence._replace(target=jnp.asarray(target))
        return self.decode(said)

    def caution(self, text: str) -> str:
        """Says in one line that the model was trained with sources of other lengths; nothing where it was not.

        Raises:
          ValueError: as `encode`.
        """
        length, (shortest, longest) = len(self.encode(text)), self.trained_lengths()
        if shortest <= length <= longest:
            return ""
        trained = f"{shortest} to {longest}" if shortest < longest else str(longest)
        return f"text of {length} words; the model was trained with {trained}, so its answer says little"

    def trained_lengths(self) -> tuple[int, int]:
        """Returns how many words the shortest and the longest source have, of some that the model was trained with."""
        wanted, rngs = self.setup.config.task, jax.random.split(jax.random.key(0), SAMPLES)
        lengths = jnp.resize(jnp.array([wanted.min_length, wanted.max_length], jnp.int32), (SAMPLES,))
        sample = jax.jit(jax.vmap(lambda rng, length: self.setup.task.sample(rng, length, wanted.max_length)))
        found = np.asarray(sample(rngs, lengths).source_length)
        return int(found.min()), int(found.max())

    def _sequence(self, text: str) -> TaskSequence:
        """Makes a source of words, with room for the answers that the task has for a source as long."""
        task, source = self.setup.task, self.encode(text)
        length, room = len(source), max(len(source), task.shortest)
        if not 1 <= length <= task.longest:
            raise ValueError(f"text: task {task.name!r} needs {task.shortest} to {task.longest} words, got {length}")
        sample = jax.jit(jax.vmap(lambda rng: task.sample(rng, jnp.int32(room), room)))
        many = jax.device_get(sample(jax.random.split(jax.random.key(0), SAMPLES)))
        alike = np.flatnonzero(many.source_length == length)
        if not alike.size:
            found = ", ".join(map(str, np.unique(many.source_length)))
            raise ValueError(f"text: task {task.name!r} has sentences of {found} words here, got {length}")
        like = jax.tree.map(lambda x: x[alike[0]], many)
        padded = np.zeros(room, np.int32)
        padded[:length] = source
        given = like._replace(source=padded, target=np.zeros_like(like.target))
        if many.read_at is None or np.all(many.read_at[alike] == many.read_at[alike[0]]):
            return given
        # Which place is read depends on the words.
        everywhere, nowhere = np.arange(room, dtype=np.int32), np.zeros((room, room), bool)
        return given._replace(target=padded * 0, target_length=np.int32(length), alignment=nowhere, read_at=everywhere)

    def _arranged(self, sequence: TaskSequence) -> Batch:
        batch = self.setup.layout.arrange(sequence, len(self.setup.task.symbols))
        return jax.tree.map(lambda x: x[None], batch)
