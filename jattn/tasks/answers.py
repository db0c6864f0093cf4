"""How right a model's answers to a batch are."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jattn.tasks.layouts import Batch


def cross_entropy(logits: Float[Array, "B T C"], batch: Batch) -> Float[Array, "B T"]:
    """Computes ``-ln p(target)`` of each scored query, zero elsewhere."""
    # A one-hot product's gradient is elementwise; that of picking by index would be a scatter.
    wanted = jax.nn.one_hot(batch.targets, logits.shape[-1], dtype=logits.dtype)
    return jnp.where(batch.scored, -jnp.sum(wanted * jax.nn.log_softmax(logits), axis=-1), 0)


def is_correct(logits: Float[Array, "B T C"], batch: Batch) -> Bool[Array, "B T"]:
    """Says of each query whether the likeliest token is the target; True where nothing is asked.

    With teacher forcing, all of a sequence's answers are right exactly when greedy decoding gives the target:
    so exact-sequence accuracy needs no decoding loop.
    """
    return (jnp.argmax(logits, axis=-1) == batch.targets) | ~batch.scored
