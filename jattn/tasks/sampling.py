"""What samplers draw: tokens, arrangements, things that differ; made of comparisons and sums, which vectorise.

Numbers of things may be traced: what is beyond them is meaningless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jattn.tasks.late import jax, jnp, lax

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


def uniform_tokens(rng: PRNGKeyArray, num_symbols: int | Int[Array, ""], room: int) -> Int[Array, " room"]:
    """Draws tokens from ``0 .. num_symbols - 1``, each as likely to within ``num_symbols / 2²³``."""
    return jnp.floor(jax.random.uniform(rng, (room,), jnp.float32) * num_symbols).astype(jnp.int32)


def uniform_token(rng: PRNGKeyArray, num_symbols: int | Int[Array, ""]) -> Int[Array, ""]:
    """Draws one token from ``0 .. num_symbols - 1``."""
    return uniform_tokens(rng, num_symbols, 1)[0]


def ranks(scores: Float[Array, " n"]) -> Int[Array, " n"]:
    """Says of each score how many come before it in rising order; of equal ones, the first comes first.

    Give it scores that are exact: those that rounding may make differ from one use to the next have no single order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn.tasks.sampling import ranks
      >>> ranks(jnp.array([0.3, 0.1, 0.3])).tolist()
      [1, 0, 2]
    """
    index = jnp.arange(scores.shape[0])
    earlier = (scores < scores[:, None]) | ((scores == scores[:, None]) & (index < index[:, None]))
    return jnp.sum(earlier, axis=-1, dtype=jnp.int32)


def permutation(rng: PRNGKeyArray, room: int, number: int | Int[Array, ""] | None = None) -> Int[Array, " room"]:
    """Draws an arrangement of ``0 .. number - 1``, all alike; places beyond stay where they are."""
    drawn = jax.random.uniform(rng, (room,), jnp.float32)
    return ranks(drawn if number is None else jnp.where(jnp.arange(room) < number, drawn, 1.0))


def distinct(rng: PRNGKeyArray, count: int | Int[Array, ""], number: int) -> Int[Array, " number"]:
    """Draws `number` different tokens from ``0 .. count - 1``, every arrangement as likely.

    The i-th draw takes one of the ``count - i`` that are left. Of those taken before, ``u₀ < u₁ < ...`` in rising
    order, the r-th that is left is ``r + |{j : uⱼ - j <= r}|``.
    """
    index = jnp.arange(number, dtype=jnp.int32)
    picks = jnp.floor(jax.random.uniform(rng, (number,), jnp.float32) * (count - index)).astype(jnp.int32)

    def take(taken: Array, pick: Array) -> tuple[Array, Array]:
        token = pick + jnp.sum(taken - index <= pick, dtype=jnp.int32)
        before = jnp.concatenate([taken[:1] * 0 - 1, taken[:-1]])
        return jnp.where(taken < token, taken, jnp.maximum(before, token)), token

    nothing = jnp.full((number,), jnp.iinfo(jnp.int32).max, jnp.int32)
    return lax.scan(take, nothing, picks)[1]


def pick(values: Int[Array, " n"], places: Int[Array, "..."]) -> Int[Array, "..."]:
    """Returns ``values[places]``, and zero where there is no such place."""
    chosen = places[..., None] == jnp.arange(values.shape[0], dtype=jnp.int32)
    return jnp.sum(jnp.where(chosen, values, 0), axis=-1, dtype=jnp.int32)


def put(places: Int[Array, " n"], values: Int[Array, " n"], into: Int[Array, " room"]) -> Int[Array, " room"]:
    """Returns `into` with ``values[i]`` at ``places[i]``; places that are not there are left out.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn.tasks.sampling import put
      >>> put(jnp.array([2, 0]), jnp.array([8, 9]), jnp.zeros(4, jnp.int32)).tolist()
      [9, 0, 8, 0]
    """
    here = places == jnp.arange(into.shape[0], dtype=jnp.int32)[:, None]
    found = jnp.sum(jnp.where(here, values, 0), axis=-1, dtype=jnp.int32)
    return jnp.where(jnp.any(here, axis=-1), found, into)


def nth_true(where: Bool[Array, " n"], room: int) -> Int[Array, " room"]:
    """Returns the places of the first, second, ... True; there is no n-th, it is ``n`` itself.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn.tasks.sampling import nth_true
      >>> nth_true(jnp.array([False, True, False, True]), 3).tolist()
      [1, 3, 4]
    """
    number = jnp.cumsum(where, dtype=jnp.int32) - 1
    here = (number == jnp.arange(room, dtype=jnp.int32)[:, None]) & where
    index = jnp.arange(where.shape[0], dtype=jnp.int32)
    return jnp.min(jnp.where(here, index, where.shape[0]), axis=-1)


def letters(count: int) -> tuple[str, ...]:
    """Names `count` things: ``a .. z``, then ``a1 .. z1``, and so on."""
    return tuple(chr(ord("a") + i % 26) + (str(i // 26) if i >= 26 else "") for i in range(count))


def numbers(count: int, first: int = 0) -> tuple[str, ...]:
    """Writes `count` numbers, from `first` on."""
    return tuple(str(first + i) for i in range(count))
