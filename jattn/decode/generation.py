"""Generation: a model's own predictions, one token after the other, in one compiled loop.

Pure functions of variables, prompt and rng. `generate` reads the prompt in one pass, keeps keys and values
(`jattn.decode.cache`), and then passes one token at a time through the model; `sample` chooses each.

Glossary of shapes: ``P`` prompt length, ``C`` vocabulary.
"""

import functools
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jattn.decode.drawn_rows import rows_of
from jattn.decode.protocol import Decodable, as_inspectable
from jattn.rules.checks import check_float, check_integer
from jattn.rules.ranks import any_rank


def generate(
    model: Decodable,
    variables: Any,
    prompt: Int[Array, "*batch P"],
    *,
    max_new_tokens: int,
    lengths: Int[Array, "*batch"] | None = None,
    temperature: float | Float[Array, ""] = 0.0,
    top_k: int | None = None,
    top_p: float | Float[Array, ""] | None = None,
    end_token: int | Sequence[int] | None = None,
    rng: PRNGKeyArray | None = None,
) -> Int[Array, "*batch max_new_tokens"]:
    """Continues prompts: draws a token from the model's prediction, appends it, and so on.

    ::

        xₜ ~ softmax(logitsₜ / temperature), among the tokens that top_k and top_p leave; logitsₜ = model(x₁ … xₜ₋₁)

    A call whose shapes, model, `max_new_tokens` and `top_k` are those of an earlier one runs the program that was
    compiled for it. The loop stops as soon as every batch entry has ended.

    Args:
      model: `jattn.Decoder`, or a linen module like it: ``model.empty_cache(batch, slots)`` makes a cache, and
        ``model.apply(variables, tokens, lengths, cache=cache)`` returns logits ``[*batch, T, C]`` and the cache
        afterwards.
      variables: of the model.
      prompt: the tokens to continue.
      max_new_tokens: how many tokens follow at most.
      lengths: how many tokens of each prompt are real, at least one; by default all.
      temperature: 0 takes the most likely token each time; see `sample`.
      top_k, top_p: which tokens may be drawn; see `sample`.
      end_token: ends a batch entry; what would follow it is `end_token` too. Of several, any ends it, and the first
        follows; none at all are the same as None.
      rng: needed where `temperature` is above zero. Step ``t`` draws with ``fold_in(rng, t)``, so fewer new tokens
        are the first of more, except with `DynamicNTKScaling`, whose frequencies go by the length of prompt and new
        tokens together.

    Returns:
      The new tokens, int32, without the prompt.

    Raises:
      ValueError: if an option is out of range, or the model has fewer positions than prompt and new tokens need.
      TypeError: if an argument has the wrong type or dtype.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jattn.decode.generation import generate
      >>> from jattn.linen.models import Decoder
      >>> model, prompt = Decoder(vocabulary=10, width=8), jnp.array([[1, 2, 3], [4, 0, 0]])
      >>> variables = jax.jit(model.init)(jax.random.key(0), prompt)
      >>> generate(model, variables, prompt, lengths=jnp.array([3, 1]), max_new_tokens=5).shape
      (2, 5)
    """
    choice = _Choice(end_token, temperature, top_k, top_p, rng)
    return _run(model, variables, prompt, max_new_tokens, lengths, choice, keeps_rows=False)[0]


def generate_with_filters(
    model: Decodable,
    variables: Any,
    prompt: Int[Array, "*batch P"],
    *,
    max_new_tokens: int,
    lengths: Int[Array, "*batch"] | None = None,
    temperature: float | Float[Array, ""] = 0.0,
    top_k: int | None = None,
    top_p: float | Float[Array, ""] | None = None,
    end_token: int | Sequence[int] | None = None,
    rng: PRNGKeyArray | None = None,
) -> tuple[Int[Array, "*batch max_new_tokens"], dict[str, Float[Array, "*batch N max_new_tokens S"]]]:
    """Continues prompts as `generate` does, and returns where the model looked when it drew each token.

    ::

        rowₜ = the row of the filter whose query is the last token before xₜ, which logitsₜ were computed by

    These are the rows of the filters of one pass over prompt and new tokens together. They are kept as arrays: 4 bytes
    for each new token, head, layer and column.

    Args:
      model: one whose filters `jattn.capture_filters` can capture, with a cache that keeps position ``p`` in slot
        ``p``, as those of jattn do.
      variables, prompt, max_new_tokens, lengths, temperature, top_k, top_p, end_token, rng: as in `generate`.

    Returns:
      The new tokens, and by the name of each layer the rows, ``S = P + max_new_tokens - 1`` columns by position: new
      token ``t`` of a batch entry was drawn by the query at position ``length - 1 + t``. What follows an end token has
      rows of zeros.

    Raises:
      ValueError, TypeError: as `generate`; or if the model has no attention whose filters can be captured.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jattn
      >>> model, prompt = jattn.Decoder(vocabulary=10, width=8, num_heads=2), jnp.array([1, 2, 3])
      >>> variables = jax.jit(model.init)(jax.random.key(0), prompt)
      >>> tokens, rows = jattn.generate_with_filters(model, variables, prompt, max_new_tokens=2)
      >>> rows["block_0/attention"].shape
      (2, 2, 4)
      >>> look = jax.jit(lambda variables, tokens: jattn.capture_filters(model, variables, tokens))
      >>> _, filters = look(variables, jnp.append(prompt, tokens[:1]))
      >>> bool(jnp.allclose(rows["block_0/attention"], filters["block_0/attention"][:, 2:], atol=1e-6))
      True
    """
    choice = _Choice(end_token, temperature, top_k, top_p, rng)
    return _run(model, variables, prompt, max_new_tokens, lengths, choice, keeps_rows=True)


def sample(
    logits: Float[Array, "*batch C"],
    rng: PRNGKeyArray | None = None,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | None = None,
    top_p: float | Float[Array, ""] | None = None,
) -> Int[Array, "*batch"]:
    """Draws a token from each row of logits: ``x ~ softmax(logits / temperature)`` among those that `truncate` leaves.

    Args:
      logits: a row per batch entry.
      rng: needed where `temperature` is above zero.
      temperature: how even the odds are; towards 0 the most likely token wins more and more often, and at 0 always
        (the first of equals). A traced array will do.
      top_k, top_p: as in `truncate`; the shares of `top_p` are those at this temperature.

    Returns:
      Tokens, int32.

    Raises:
      ValueError: if an option is out of range, or there is no rng to draw with.
      TypeError: if the logits are no floats.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jattn.decode.generation import sample
      >>> logits = jnp.array([[0.0, 2.0, 1.0], [3.0, 3.0, 0.0]])
      >>> sample(logits, temperature=0.0).tolist()
      [1, 0]
      >>> sample(logits, jax.random.key(0), temperature=0.7, top_k=1).tolist()
      [1, 0]
    """
    _check_logits(logits)
    _check_choice(rng, temperature, top_k, top_p)
    best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if rng is None or _is_zero(temperature):
        return best
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    positive = jnp.where(jnp.asarray(temperature) > 0, temperature, 1)
    # What is divided is at most zero, so that even the smallest temperature leaves the best one where it is.
    highest = jnp.max(logits, axis=-1, keepdims=True)
    scaled = (logits - jnp.where(jnp.isfinite(highest), highest, 0)) / positive
    drawn = jax.random.categorical(rng, truncate(scaled, top_k, top_p), axis=-1).astype(jnp.int32)
    return jnp.where(jnp.asarray(temperature) > 0, drawn, best)


def truncate(
    logits: Float[Array, "*batch C"], top_k: int | None = None, top_p: float | Float[Array, ""] | None = None
) -> Float[Array, "*batch C"]:
    """Sets the logits of all but the likeliest tokens to minus infinity.

    Args:
      logits: a row per batch entry.
      top_k: how many tokens stay; of equals the first. None, or more than there are, keeps all.
      top_p: the fewest of the likeliest tokens stay whose shares, ``softmax(logits)`` of what `top_k` leaves, sum to at
        least this; always one. None, or 1, keeps all.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn.decode.generation import truncate
      >>> logits = jnp.log(jnp.array([0.2, 0.4, 0.3, 0.1]))
      >>> jnp.exp(truncate(logits, top_k=2)).round(1).tolist()
      [0.0, 0.4..., 0.3..., 0.0]
      >>> jnp.exp(truncate(logits, top_p=0.8)).round(1).tolist()
      [0.2..., 0.4..., 0.3..., 0.0]

    Source: Fan et al. 2018, "Hierarchical neural story generation", section 5.1 (top k); Holtzman et al. 2020, "The
    curious case of neural text degeneration", section 3.1 (nucleus).
    """
    _check_logits(logits)
    _check_truncation(top_k, top_p)
    if top_k is None and top_p is None:
        return logits
    num_tokens = logits.shape[-1]
    # Plus and minus zero are equals.
    order = jnp.where(logits == 0, 0, logits)
    likeliest, tokens = lax.top_k(order, num_tokens if top_k is None else min(top_k, num_tokens))
    stays = jnp.ones(likeliest.shape, bool)
    if top_p is not None:
        shares = jax.nn.softmax(likeliest.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1)
        before = jnp.pad(jnp.cumsum(shares, axis=-1)[..., :-1], [(0, 0)] * (logits.ndim - 1) + [(1, 0)])
        # Where it is traced, it may be 0 or not a number: the likeliest token stays.
        stays = ((before < top_p) | (jnp.asarray(top_p) >= 1)).at[..., 0].set(True)
    kept = jnp.put_along_axis(jnp.zeros(logits.shape, bool), tokens, stays, axis=-1, inplace=False)
    return jnp.where(kept, logits, -jnp.inf)


class _Choice(NamedTuple):
    """How tokens are chosen, as a caller says it."""

    end_token: Any
    temperature: Any
    top_k: Any
    top_p: Any
    rng: Any


def _run(
    model: Any, variables: Any, prompt: Any, max_new_tokens: Any, lengths: Any, choice: _Choice, keeps_rows: bool
) -> tuple[Array, dict[str, Array]]:
    if not isinstance(model, Decodable):
        got = type(model).__name__
        raise TypeError(f"model: expected a module with apply and empty_cache, such as jattn.Decoder, got {got}")
    prompt, lengths = _check_prompt(prompt, lengths)
    check_integer("max_new_tokens", max_new_tokens, 1)
    end_token, temperature, top_k, top_p, rng = choice
    end_tokens = _check_end(end_token)
    _check_choice(rng, temperature, top_k, top_p)
    if _is_zero(temperature):
        temperature = top_k = top_p = rng = None
    try:
        hash(model)
        run = functools.partial(_compiled_loop, model)
    except TypeError:  # A field holds an array, so nothing tells whether this is the model of an earlier call.
        run = jax.jit(functools.partial(_loop, model), static_argnums=(0, 1, 2))
    return run(max_new_tokens, top_k, keeps_rows, variables, prompt, lengths, end_tokens, rng, temperature, top_p)


@any_rank
def _loop(
    model: Any,
    max_new_tokens: int,
    top_k: int | None,
    keeps_rows: bool,
    variables: Any,
    prompt: Int[Array, "*batch P"],
    lengths: Int[Array, "*batch"],
    end_tokens: Array | None,
    rng: PRNGKeyArray | None,
    temperature: Float[Array, ""] | None,
    top_p: Float[Array, ""] | None,
) -> tuple[Int[Array, "*batch max_new_tokens"], dict[str, Float[Array, "*batch N max_new_tokens S"]]]:
    batch, slots = prompt.shape[:-1], prompt.shape[-1] + max_new_tokens - 1
    read = functools.partial(_read, model, variables, slots, keeps_rows)
    choose = functools.partial(_choose, end_tokens, rng, temperature, top_k, top_p)

    def unfinished(carry: tuple[Array, ...]) -> Array:
        step, _, ended, *_ = carry
        return (step < max_new_tokens) & ~jnp.all(ended)

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        step, token, ended, tokens, kept, cache = carry
        logits, rows, cache = read(token[..., None], None, cache, jnp.zeros(batch, jnp.int32))
        rows = {name: jnp.where(ended[..., None, None], 0, row) for name, row in rows.items()}
        kept = {name: kept[name].at[..., step, :].set(row) for name, row in rows.items()}
        token, ended = choose(logits, step, ended)
        return step + 1, token, ended, tokens.at[..., step].set(token), kept, cache

    # The last token drawn is never read.
    logits, rows, cache = read(prompt, lengths, model.empty_cache(batch, slots), lengths - 1)
    token, ended = choose(logits, jnp.int32(0), jnp.zeros(batch, bool))
    tokens = jnp.full((*batch, max_new_tokens), 0 if end_tokens is None else end_tokens[0], jnp.int32)
    kept = {name: jnp.zeros((*row.shape[:-1], max_new_tokens, slots), row.dtype) for name, row in rows.items()}
    kept = {name: kept[name].at[..., 0, :].set(row) for name, row in rows.items()}
    carry = (jnp.int32(1), token, ended, tokens.at[..., 0].set(token), kept, cache)
    *_, tokens, kept, _ = lax.while_loop(unfinished, advance, carry)
    return tokens, kept


def _read(
    model: Any, variables: Any, slots: int, keeps_rows: bool, tokens: Array, lengths: Any, cache: Any, last: Array
) -> tuple[Array, dict[str, Array], Any]:
    """Returns the logits at one token of each batch entry, the rows that they come from, and the cache afterwards."""
    if keeps_rows:
        (logits, cache), filters = as_inspectable(model).capture(variables, tokens, lengths, cache=cache)
        rows = rows_of(filters, last, slots)
    else:
        logits, cache = model.apply(variables, tokens, lengths, cache=cache)
        rows = {}
    return jnp.take_along_axis(logits, last[..., None, None], axis=-2)[..., 0, :], rows, cache


def _choose(
    end_tokens: Any, rng: Any, temperature: Any, top_k: Any, top_p: Any, logits: Array, step: Array, ended: Array
) -> tuple[Array, Array]:
    if temperature is None or rng is None:
        token = sample(logits, temperature=0.0)
    else:
        token = sample(logits, jax.random.fold_in(rng, step), temperature, top_k, top_p)
    if end_tokens is None:
        return token, ended
    token = jnp.where(ended, end_tokens[0], token)
    return token, jnp.any(token[..., None] == end_tokens, axis=-1)


_compiled_loop = jax.jit(_loop, static_argnums=(0, 1, 2, 3))


def _check_end(end_token: Any) -> Array | None:
    """Returns all tokens that end a batch entry, or None."""
    if end_token is None:
        return None
    several = (isinstance(end_token, Sequence) and not isinstance(end_token, str)) or np.ndim(end_token) == 1
    tokens = [check_integer("end_token", token, 0) for token in (end_token if several else [end_token])]
    if any(token >= 2**31 for token in tokens):
        raise ValueError(f"end_token: expected tokens below 2³¹, got {max(tokens)}")
    return jnp.array(tokens, jnp.int32) if tokens else None


def _check_prompt(prompt: Any, lengths: Any) -> tuple[Array, Array]:
    if not hasattr(prompt, "dtype") or not hasattr(prompt, "shape"):
        raise TypeError(f"prompt: expected an array, got {type(prompt).__name__}")
    if not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise TypeError(f"prompt: expected integer tokens, got dtype {prompt.dtype}")
    if prompt.ndim < 1 or prompt.shape[-1] < 1:
        raise ValueError(f"prompt: expected shape [*batch, P] with at least one token, got {prompt.shape}")
    batch, longest = prompt.shape[:-1], prompt.shape[-1]
    lengths = jnp.full(batch, longest, jnp.int32) if lengths is None else jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"lengths: expected integers, one per prompt, got dtype {lengths.dtype}")
    if lengths.shape != batch:
        raise ValueError(f"lengths: expected the batch shape {batch} of prompt, got {lengths.shape}")
    if not isinstance(lengths, Tracer):
        wrong = [int(length) for length in np.ravel(lengths) if not 1 <= length <= longest]
        if wrong:
            raise ValueError(f"lengths: expected 1 to {longest}, the length of prompt, got {wrong[0]}")
    return jnp.asarray(prompt, jnp.int32), lengths.astype(jnp.int32)


def _check_logits(logits: Any) -> None:
    check_float("logits", logits)
    if logits.ndim < 1 or logits.shape[-1] < 1:
        raise ValueError(f"logits: expected shape [*batch, C] with at least one token, got {logits.shape}")


def _check_choice(rng: Any, temperature: Any, top_k: Any, top_p: Any) -> None:
    is_number = isinstance(temperature, numbers.Real) and not isinstance(temperature, bool)
    is_scalar = isinstance(temperature, jax.Array | np.ndarray) and temperature.ndim == 0
    if not is_number and not is_scalar:
        raise TypeError(f"temperature: expected a number, got {temperature!r}")
    if not isinstance(temperature, Tracer) and not 0 <= float(temperature) < np.inf:
        raise ValueError(f"temperature: expected a finite number of at least 0, got {temperature!r}")
    _check_truncation(top_k, top_p)
    if rng is None and not _is_zero(temperature):
        raise ValueError(f"rng: needed for temperature {temperature!r}, got None")


def _check_truncation(top_k: Any, top_p: Any) -> None:
    if top_k is not None:
        check_integer("top_k", top_k, 1)
    if top_p is None or isinstance(top_p, Tracer):
        return
    if not isinstance(top_p, numbers.Real | jax.Array) or isinstance(top_p, bool) or not 0 < float(top_p) <= 1:
        raise ValueError(f"top_p: expected a number above 0 and up to 1, got {top_p!r}")


def _is_zero(temperature: Any) -> bool:
    return not isinstance(temperature, Tracer) and temperature == 0
