"""Examples of a person's own, from a file: a finite set, of which a fixed share is never trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from jattn.tasks.example_files import Examples, read_examples
from jattn.tasks.files import check_share, held_out, read_file
from jattn.tasks.late import jax, jnp
from jattn.tasks.sequences import Sequence, Task

if TYPE_CHECKING:
    from jaxtyping import Array, Int, PRNGKeyArray


def examples(file: str = "", test_share: float = 0.2, sha256: str = "") -> Task:
    """Answers as the examples of a file do, and is judged on a share of them that is never trained on.

    A ``.jsonl`` file has a JSON object per line: ``source`` and ``target``, each a string that is split at blanks or a
    list of tokens, and perhaps ``oracle``: for each token of the target the place of the source that holds it, a list
    of places, or null. Either every line has an oracle or none has. A ``.npz`` file has the arrays ``source [N, S]``
    and ``target [N, L]``, of whole numbers or texts, and perhaps ``source_lengths [N]``, ``target_lengths [N]`` and
    ``oracle [N, L, S]``, bool. The vocabulary is every token of the file, numbers by their value, then texts in order.

    A model that only reads gives its answers at the last places of the source, as many as there are: an answer of one
    token at the last place, one as long as the source at each of its places. So layouts ``encoder`` and ``causal``
    need targets that are no longer than their sources.

    Args:
      file: the path of the file.
      test_share: the share of the different sources that evaluation and test draw from, and training never does;
        always the same ones. With 0 all examples may come in all of them.
      sha256: the digest that the file must have, in hexadecimal; empty where it may be any.

    Raises:
      ValueError: at the first thing in the file that is wrong, with its line; if it has another digest; or if there is
        no such share.

    Example:
      >>> import json, pathlib, tempfile
      >>> from jattn import tasks
      >>> path = pathlib.Path(tempfile.mkdtemp(), "rotate.jsonl")
      >>> row = {"source": "a b c", "target": "b c a", "oracle": [1, 2, 0]}
      >>> _ = path.write_text(json.dumps(row))
      >>> print(tasks.draw(tasks.examples(str(path), test_share=0)))
      a b c
      . # .  b
      . . #  c
      # . .  a
    """
    check_share(test_share)
    found, digest = read_file(file, sha256, "a file of examples, .jsonl or .npz", read_examples)
    train, test = np.arange(len(found.source)), None
    if test_share:
        groups = np.unique(np.where(_real(found), found.source, -1), axis=0, return_inverse=True)[1]
        train, test = held_out(groups.reshape(-1), test_share)
    long = np.flatnonzero(found.target_lengths > found.source_lengths)
    size, target_room = found.source.shape[1], found.target.shape[1]
    full = bool((found.source_lengths == size).all() and (found.target_lengths == target_room).all())
    return Task(
        name="examples",
        symbols=found.symbols,
        sample=_sampler(found, train),
        judged=None if test is None else _sampler(found, test),
        shortest=size,
        longest=size,
        length=size,
        target_room=lambda room: target_room,
        fills=lambda length: full,
        layouts=("decoder", "encoder_decoder") if long.size else ("encoder", "causal", "decoder", "encoder_decoder"),
        has_oracle=found.oracle is not None,
        sha256=digest,
        layout_reason=f"{found.places[long[0]]} has a target longer than its source" if long.size else "",
    )


def _real(found: Examples) -> np.ndarray:
    return np.arange(found.source.shape[1]) < found.source_lengths[:, None]


def _sampler(found: Examples, chosen: Int[np.ndarray, " n"]) -> Callable[..., Sequence]:
    """Makes a sampler of the chosen examples, each as likely."""
    source, target = found.source[chosen], found.target[chosen]
    source_lengths, target_lengths = found.source_lengths[chosen], found.target_lengths[chosen]
    # A bit per cell: files of many examples have oracles of many more cells.
    oracle = None if found.oracle is None else np.packbits(found.oracle[chosen], axis=-1)

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        index = jax.random.randint(rng, (), 0, len(source), jnp.int32)
        count, answers = jnp.asarray(source_lengths)[index], jnp.asarray(target_lengths)[index]
        alignment = jnp.zeros((target.shape[1], room), bool)
        if oracle is not None:
            alignment = jnp.unpackbits(jnp.asarray(oracle)[index], axis=-1, count=room).astype(bool)
        read_at = count - answers + jnp.arange(target.shape[1], dtype=jnp.int32)
        return Sequence(jnp.asarray(source)[index], count, jnp.asarray(target)[index], answers, alignment, read_at)

    return sample
