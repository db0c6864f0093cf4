"""ListOps: small nested calculations, each of which comes to one of the digits in it.

Glossary of shapes: ``K`` lists at most, the outermost first; ``M`` nodes, which are the lists and then the digits. What
is not there is in no list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jattn.tasks.late import jax, jnp
from jattn.tasks.sampling import numbers, permutation, pick, put, uniform_token, uniform_tokens
from jattn.tasks.sequences import Sequence, Task, check_at_least, one_answer

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int, PRNGKeyArray

_OPERATORS = ("[MIN", "[MAX", "[MED")


def listops(depth: int = 2, num_operators: int = 3) -> Task:
    """Works out a nested list of digits: ``[MAX 2 [MIN 7 4 ] 0 ] -> 4``.

    MIN, MAX and MED come to the least, the greatest and the middle of two or more arguments, digits or lists again; the
    middle of an even number is the lesser of two. A source of ``n`` holds ``1 .. (n + 1) // 4`` lists, each number as
    likely, at most `depth` in each other. It is one list, and its answer is read where it closes. The oracle is each
    digit that makes the answer: it is equal to it, and so is every list that it is in.

    Args:
      depth: how many lists may be in each other; with 1, there is one list of digits.
      num_operators: how many operators there are: 1 for MIN, 2 for MIN and MAX, 3 for all.

    Example:
      >>> from jattn import tasks
      >>> print(tasks.draw(tasks.listops()))
      [MIN [MAX 2 7 0 9 ] [MAX 4 0 ] [MIN 7 1 ] ]
      .    .    . . . . . .    . . . .    . # . .  1

    Source: Nangia and Bowman, "ListOps: A diagnostic dataset for latent tree learning", 2018. There is a fourth
    operator, the sum modulo 10, which comes to a digit that need not be there.
    """
    check_at_least("depth", 1, depth)
    if num_operators not in (1, 2, 3):
        nearest = min(max(num_operators, 1), 3)
        raise ValueError(f"num_operators: expected 1, 2 or 3, got {num_operators}; nearest: {nearest}")
    operators, close = _OPERATORS[:num_operators], 10 + num_operators

    def sample(rng: PRNGKeyArray, length: Int[Array, ""], room: int) -> Sequence:
        rngs = jax.random.split(rng, 5)
        index, most = jnp.arange(room, dtype=jnp.int32), (room + 1) // 4
        levels = min(depth, most)
        count = 1 + uniform_token(rngs[0], (length + 1) // 4) * (levels > 1)
        holder = _holders(rngs[3], count, length - 2 * count, levels, (most, room - 2))
        begins = _places(rngs[2], holder, most, levels)
        opens = 10 + uniform_tokens(rngs[1], num_operators, most)
        tokens = jnp.concatenate([opens, uniform_tokens(rngs[4], 10, room - 2)])
        values, wins = _values(tokens, holder, most, levels)
        source = put(begins, tokens, jnp.full((room,), close, jnp.int32))
        holds = jnp.any((begins[most:] == index[:, None]) & wins[most:], axis=-1)
        return one_answer(source, length, values[0], holds)

    return Task(
        name="listops",
        symbols=(*numbers(10), *operators, "]"),
        sample=sample,
        shortest=4,
        target_room=lambda room: 1,
        layouts=("encoder", "causal", "decoder", "encoder_decoder"),
    )


def _holders(
    rng: PRNGKeyArray, lists: Int[Array, ""], digits: Int[Array, ""], levels: int, sizes: tuple[int, int]
) -> Int[Array, " M"]:
    """Draws which list each node is in, two or more in each."""
    rng_of_levels, rng_of_lists, rng_of_digits = jax.random.split(rng, 3)
    index, digit = (jnp.arange(size, dtype=jnp.int32) for size in sizes)
    # A list lies at the level of the one before it or one below, so that each level has a list above it.
    below = (jax.random.bernoulli(rng_of_levels, shape=index.shape) | (index == 1)) & (index > 0)
    level = jnp.minimum(jnp.cumsum(below, dtype=jnp.int32), levels - 1)
    first = jnp.sum(level < level[:, None] - 1, axis=-1, dtype=jnp.int32)
    above = jnp.sum(level == level[:, None] - 1, axis=-1, dtype=jnp.int32)
    drawn = first + jnp.floor(jax.random.uniform(rng_of_lists, index.shape) * above).astype(jnp.int32)
    of_lists = jnp.where((index > 0) & (index < lists), drawn, -1)
    # The first digits go where a list has fewer than two lists in it, the others anywhere.
    needs = jnp.maximum(2 - jnp.sum(of_lists == index[:, None], axis=-1, dtype=jnp.int32), 0)
    needed = jnp.cumsum(jnp.where(index < lists, needs, 0))
    filled = jnp.sum(needed <= digit[:, None], axis=-1, dtype=jnp.int32)
    of_digits = jnp.where(digit < needed[-1], filled, uniform_tokens(rng_of_digits, lists, digit.size))
    return jnp.concatenate([of_lists, jnp.where(digit < digits, of_digits, -1)])


def _places(rng: PRNGKeyArray, holder: Int[Array, " M"], lists: int, levels: int) -> Int[Array, " M"]:
    """Draws the order of what is in each list; returns where each node begins."""
    held = holder == jnp.arange(lists)[:, None]
    order = permutation(rng, holder.size)
    sizes = jnp.ones(holder.shape, jnp.int32)
    for _ in range(levels):
        inner = 2 + jnp.sum(jnp.where(held, sizes, 0), axis=-1, dtype=jnp.int32)
        sizes = jnp.concatenate([inner, sizes[lists:]])
    earlier = (holder == holder[:, None]) & (order < order[:, None])
    before = 1 + jnp.sum(jnp.where(earlier, sizes, 0), axis=-1, dtype=jnp.int32)
    begins = jnp.zeros(holder.shape, jnp.int32)
    for _ in range(levels):
        begins = jnp.where(holder < 0, 0, pick(begins, holder) + before)
    # What is not there begins beyond all places.
    return jnp.where((holder >= 0) | (jnp.arange(holder.size) == 0), begins, lists + holder.size)


def _values(
    tokens: Int[Array, " M"], holder: Int[Array, " M"], lists: int, levels: int
) -> tuple[Int[Array, " M"], Bool[Array, " M"]]:
    """Works out what each node comes to, and whether it makes the value of the outermost list."""
    index = jnp.arange(holder.size, dtype=jnp.int32)
    held = holder == index[:lists, None]
    # MIN, MAX and MED are 0, 2 and 1 halves of the way from the first to the last of the arguments in rising order.
    chosen = (tokens[:lists] - 10) * 2 % 3 * (jnp.sum(held, axis=-1, dtype=jnp.int32) - 1) // 2
    values = tokens
    for _ in range(levels):
        less = (values < values[:, None]) | ((values == values[:, None]) & (index < index[:, None]))
        rank = jnp.sum(less & (holder == holder[:, None]), axis=-1, dtype=jnp.int32)
        found = jnp.sum(jnp.where(held & (rank == chosen[:, None]), values, 0), axis=-1, dtype=jnp.int32)
        values = jnp.concatenate([found, tokens[lists:]])
    outermost = (index == 0).astype(jnp.int32)
    same, wins = values == pick(values, holder), outermost
    for _ in range(levels):
        wins = jnp.where(holder < 0, outermost, pick(wins, holder) * same)
    return values, wins > 0
