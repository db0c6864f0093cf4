"""Layouts: how a sequence task becomes what a model eats, and which attention its oracle speaks of.

Glossary of shapes: ``B`` examples, ``T`` queries that may be scored, ``S`` keys of the attention that is judged.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jattn.rules.trees import as_pytree
from jattn.tasks.sequences import Sequence

PAD = "<pad>"
"""The text of the token that fills unused places."""

VECTOR = "vector"
"""The side of a learned query, which comes from no input: it asks for the one vector of a source."""


@as_pytree
@dataclasses.dataclass(frozen=True)
class Batch:
    """What a model is trained and judged on; made from a `Sequence` by a `Layout`, with a batch axis by vmap.

    Attributes:
      inputs: the model's arguments by name.
      targets: the right token per query.
      scored: which queries are asked for an answer.
      oracle: ``[i, j]`` is True where key ``j`` holds the answer of query ``i``; several may, or none.
    """

    inputs: dict[str, Int[Array, "B ..."] | Float[Array, "B S P"]]
    targets: Int[Array, "B T"]
    scored: Bool[Array, "B T"]
    oracle: Bool[Array, "B T S"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way to put a sequence task before a model.

    Attributes:
      name: ``"encoder"``, ``"causal"``, ``"decoder"`` or ``"encoder_decoder"``.
      specials: the tokens it adds after the task's symbols.
      arrange: makes a `Batch` of one example from a `Sequence` and the number of symbols.
      oracle: the inputs from which queries and keys come of the attention that the oracle speaks of.
      num_positions: how many positions the model needs for sources of a given length, and targets of another, or as
        long.
    """

    name: str
    specials: tuple[str, ...]
    arrange: Callable[[Sequence, int], Batch]
    oracle: tuple[str, str]
    num_positions: Callable[..., int]


def encoder(sequence: Sequence, num_symbols: int) -> Batch:
    """Reads the source; answer ``i`` is read at the query where it stands, `Sequence.read_at`, else at query ``i``.

    The oracle's rows are those of the alignment, moved alike. So it is for a model that reads from left to right, too.
    """
    room = sequence.source.shape[0]
    place = jnp.arange(room, dtype=jnp.int32)
    inputs = {
        "tokens": jnp.where(place < sequence.source_length, sequence.source, num_symbols),
        "lengths": sequence.source_length,
    }
    if sequence.read_at is None:
        return Batch(inputs, sequence.target, place < sequence.target_length, sequence.alignment)
    real = jnp.arange(sequence.target.shape[0]) < sequence.target_length
    here = (sequence.read_at == place[:, None]) & real
    scored, answer = jnp.any(here, axis=-1), jnp.argmax(here, axis=-1)
    return Batch(
        inputs=inputs,
        targets=jnp.sum(here * sequence.target, axis=-1, dtype=jnp.int32),
        scored=scored,
        oracle=jnp.take(sequence.alignment, answer, axis=0) & scored[:, None],
    )


def decoder(sequence: Sequence, num_symbols: int) -> Batch:
    """Reads ``source SEP target`` and predicts each next token, packed without gaps.

    The token at place ``p`` is predicted at query ``p - 1``: with a source of ``n`` tokens the answers ``0, 1, ...``
    are read at queries ``n, n + 1, ...`` (the first at ``SEP``), and the oracle's rows are shifted alike.
    """
    room, target_room = sequence.source.shape[0], sequence.target.shape[0]
    length = sequence.source_length
    place = jnp.arange(room + target_room, dtype=jnp.int32)
    pad, separator = num_symbols, num_symbols + 1
    answer = place - length
    scored = (answer >= 0) & (answer < sequence.target_length)
    index = jnp.clip(answer, 0, target_room - 1)
    spoken = jnp.take(sequence.target, jnp.clip(answer - 1, 0, target_room - 1))
    source = jnp.pad(sequence.source, (0, target_room))
    tokens = jnp.select([answer < 0, answer == 0, answer < sequence.target_length], [source, separator, spoken], pad)
    alignment = jnp.pad(sequence.alignment, ((0, 0), (0, target_room)))
    return Batch(
        inputs={"tokens": tokens, "lengths": length + sequence.target_length},
        targets=jnp.where(scored, jnp.take(sequence.target, index), 0),
        scored=scored,
        oracle=jnp.take(alignment, index, axis=0) & scored[:, None],
    )


def encoder_decoder(sequence: Sequence, num_symbols: int) -> Batch:
    """Reads the source with the encoder and ``BOS target`` with the decoder; query ``i`` predicts answer ``i``.

    The oracle speaks of the decoder's attention to the source, and its rows are those of the alignment. Unused places
    of a source of tokens are ``PAD``, those of a picture are zero.
    """
    place = jnp.arange(sequence.source.shape[0], dtype=jnp.int32)
    answer = jnp.arange(sequence.target.shape[0], dtype=jnp.int32)
    pad, begin = num_symbols, num_symbols + 1
    scored = answer < sequence.target_length
    tokens = jnp.concatenate([jnp.array([begin], jnp.int32), sequence.target[:-1]])
    real = place < sequence.source_length
    if sequence.source.ndim == 2:
        source = jnp.where(real[:, None], sequence.source, 0)
    else:
        source = jnp.where(real, sequence.source, pad)
    return Batch(
        inputs={
            "source": source,
            "source_lengths": sequence.source_length,
            "tokens": jnp.where(scored, tokens, pad),
        },
        targets=sequence.target,
        scored=scored,
        oracle=sequence.alignment,
    )


def _as_long(source: int, target: int | None = None) -> int:
    return source


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("encoder", (PAD,), encoder, ("tokens", "tokens"), _as_long),
        Layout("causal", (PAD,), encoder, ("tokens", "tokens"), _as_long),
        Layout(
            "decoder",
            (PAD, "<sep>"),
            decoder,
            ("tokens", "tokens"),
            lambda source, target=None: source + (source if target is None else target),
        ),
        Layout(
            "encoder_decoder",
            (PAD, "<bos>"),
            encoder_decoder,
            ("tokens", "source"),
            lambda source, target=None: source if target is None else max(source, target),
        ),
    )
}
"""How a task is put before a model, by name: ``causal`` is ``encoder`` for a model that sees only what came before."""
