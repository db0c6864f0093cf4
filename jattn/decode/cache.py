"""Keys and values kept for decoding, so that a new token costs one row of the filter and not all of them.

A `KVCache` has a fixed number of slots and never changes its shape: it passes through jit, scan and while loops, and is
written in place where its buffers are donated. Each slot says which position it holds, and the mask is made from that;
so batch entries may have seen different numbers of tokens, and a windowed cache may overwrite its oldest slot.

Glossary of shapes: ``n`` new tokens, ``slots`` tokens held, ``N`` query heads, ``K`` key/value heads, ``H`` head dim,
``V`` value dim.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jattn.decode.cache_mask import CacheMask
from jattn.engine.attention import attend
from jattn.engine.sharded import attend as sharded_attend
from jattn.rules.biases import Bias
from jattn.rules.checks import check_float, check_integer
from jattn.rules.grids import static
from jattn.rules.mask import Mask, MaskLike, as_mask
from jattn.rules.ranks import any_rank
from jattn.rules.trees import as_pytree

UNWRITTEN = -1
"""The position of a slot that holds no token yet."""


@as_pytree
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Holds the keys and values of the tokens seen so far; make one with `KVCache.empty`.

    Without a window, position ``p`` is kept in slot ``p``, and there is room for as many tokens as slots. With a window
    the slots are a ring, ``p mod slots``: any number of tokens may pass through, and the last ones are kept.

    Args:
      key: the keys, heads before slots; what unwritten slots hold has no influence, be it NaN.
      value: the values alike.
      positions: the position of the token in each slot, -1 where none was written.
      length: how many tokens each batch entry has seen.
      window: how many positions a query sees, its own included; None for all up to its own.

    Example: one token at a time gives what the whole sequence gives.
      >>> import jax.numpy as jnp
      >>> from jattn import attend, masks
      >>> from jattn.decode.cache import KVCache, attend_cached
      >>> x = jnp.arange(6.0).reshape(3, 1, 2)
      >>> cache, outputs = KVCache.empty((), slots=4, num_kv_heads=1, head_dim=2), []
      >>> for token in x:
      ...     positions = cache.next_positions(1)
      ...     cache = cache.append(token[None], token[None])
      ...     outputs.append(attend_cached(token[None], cache, positions))
      >>> bool(jnp.allclose(jnp.concatenate(outputs), attend(x, x, x, mask=masks.causal())))
      True
      >>> cache.positions.tolist()
      [0, 1, 2, -1]
    """

    key: Float[Array, "*batch K slots H"]
    value: Float[Array, "*batch K slots V"]
    positions: Int[Array, "*batch slots"]
    length: Int[Array, "*batch"]
    window: int | None = static(default=None)

    @classmethod
    def empty(
        cls,
        batch: Sequence[int],
        slots: int,
        num_kv_heads: int,
        head_dim: int,
        value_dim: int | None = None,
        dtype: Any = jnp.float32,
        window: int | None = None,
    ) -> "KVCache":
        """Makes a cache that has seen nothing.

        Args:
          batch: the batch axes, any number of them.
          slots: how many tokens it holds; with a window at least as many as that, and `window` plus ``n - 1`` if ``n``
            tokens at a time shall pass through without the copy that `extend` makes otherwise.
          num_kv_heads: heads of keys and values.
          head_dim: dim of a key.
          value_dim: dim of a value; by default that of a key.
          dtype: of keys and values; what is appended is converted to it.
          window: how many positions a query sees, its own included; None for all.

        Raises:
          TypeError: if a size is not an int.
          ValueError: if a size is not positive, or the slots are fewer than the window.

        Example:
          >>> from jattn.decode.cache import KVCache
          >>> KVCache.empty((2,), slots=16, num_kv_heads=4, head_dim=8).key.shape
          (2, 4, 16, 8)
        """
        if isinstance(batch, str) or not isinstance(batch, Sequence):
            raise TypeError(f"batch: expected a tuple of ints, got {batch!r}")
        value_dim = head_dim if value_dim is None else value_dim
        sizes = {"slots": slots, "num_kv_heads": num_kv_heads, "head_dim": head_dim, "value_dim": value_dim}
        for name, size in (sizes if window is None else {**sizes, "window": window}).items():
            check_integer(name, size, 1)
        if window is not None and slots < window:
            raise ValueError(f"slots: expected at least as many as the window of {window}, got {slots}")
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"dtype: expected a float dtype, got {dtype}")
        return cls(
            key=jnp.zeros((*batch, num_kv_heads, slots, head_dim), dtype),
            value=jnp.zeros((*batch, num_kv_heads, slots, value_dim), dtype),
            positions=jnp.full((*batch, slots), UNWRITTEN, jnp.int32),
            length=jnp.zeros(batch, jnp.int32),
            window=window,
        )

    @property
    def slots(self) -> int:
        """How many tokens the cache has room for at one time."""
        return self.key.shape[-2]

    @any_rank
    def next_positions(self, n: int) -> Int[Array, "*batch n"]:
        """Computes the positions that the next ``n`` tokens of each batch entry will have."""
        return self.length[..., None] + jnp.arange(n, dtype=jnp.int32)

    @any_rank
    def append(
        self,
        key: Float[Array, "*batch n K H"],
        value: Float[Array, "*batch n K V"],
        lengths: Int[Array, "*batch"] | None = None,
    ) -> "KVCache":
        """Writes the keys and values of ``n`` new tokens.

        Args:
          key: the keys of the new tokens, in their order.
          value: the values alike.
          lengths: how many of the ``n`` tokens are real; each batch entry advances by its own. By default all are.

        Returns:
          The cache afterwards; shapes and dtypes are those it had.

        Raises:
          ValueError: if shapes do not fit, or a cache without a window has no room. Lengths that are traced cannot be
            looked at: under jit the tokens beyond the last slot are dropped, `length` goes on counting, and whoever
            attends to that batch entry gets NaN.

        Example: two prompts, of which the second has one token.
          >>> import jax.numpy as jnp
          >>> from jattn.decode.cache import KVCache
          >>> cache = KVCache.empty((2,), slots=3, num_kv_heads=1, head_dim=1)
          >>> prompts = jnp.ones((2, 2, 1, 1))
          >>> cache = cache.append(prompts, prompts, lengths=jnp.array([2, 1]))
          >>> cache.positions.tolist()
          [[0, 1, -1], [0, -1, -1]]
          >>> cache.next_positions(1).tolist()
          [[2], [1]]
        """
        return self._write(*self._new_tokens(key, value, lengths))

    @any_rank
    def extend(
        self,
        key: Float[Array, "*batch n K H"],
        value: Float[Array, "*batch n K V"],
        lengths: Int[Array, "*batch"] | None = None,
    ) -> tuple["KVCache", "KVCache"]:
        """Appends, and also returns what the queries of the new tokens attend to.

        That is the cache afterwards, but for more tokens at once than a ring can take: the later ones overwrite keys
        that the earlier ones still see, so their queries attend to the old slots and the new tokens side by side.

        Returns:
          The cache to attend to, and the cache to go on with.

        Example:
          >>> import jax.numpy as jnp
          >>> from jattn.decode.cache import KVCache
          >>> cache, prompt = KVCache.empty((), slots=2, num_kv_heads=1, head_dim=1, window=2), jnp.ones((5, 1, 1))
          >>> seen, cache = cache.extend(prompt, prompt)
          >>> seen.positions.tolist(), cache.positions.tolist()
          ([-1, -1, 0, 1, 2, 3, 4], [4, 3])
        """
        tokens = self._new_tokens(key, value, lengths)
        after = self._write(*tokens)
        new_key, new_value, lengths = tokens
        n = new_key.shape[-2]
        if self.window is None or n <= self._most_queries():
            return after, after
        real = jnp.arange(n, dtype=jnp.int32) < lengths[..., None]
        positions = jnp.where(real, self.next_positions(n), UNWRITTEN)
        seen = KVCache(
            key=jnp.concatenate([self.key, new_key], axis=-2),
            value=jnp.concatenate([self.value, new_value], axis=-2),
            positions=jnp.concatenate([self.positions, positions], axis=-1),
            length=after.length,
            window=self.window,
        )
        return seen, after

    def mask(self, query_positions: Int[Array, "*batch n"]) -> Mask:
        """Lets a query see the slots whose position is written, not later than its own, and within the window.

        ::

            allowedᵢⱼ = 0 ≤ pⱼ ≤ qᵢ  and  pⱼ > qᵢ - window

        Args:
          query_positions: the position of each query, as `next_positions` gave it before they were appended.

        Returns:
          A mask for a filter of shape ``[*batch, N, n, slots]``.

        Example:
          >>> import jax.numpy as jnp
          >>> from jattn import masks
          >>> from jattn.decode.cache import KVCache
          >>> cache, token = KVCache.empty((), slots=4, num_kv_heads=1, head_dim=1), jnp.ones((3, 1, 1))
          >>> print(masks.draw(cache.append(token, token).mask(jnp.arange(3)), 3, 4))
          #...
          ##..
          ###.
        """
        query_positions = jnp.asarray(query_positions)
        if not jnp.issubdtype(query_positions.dtype, jnp.integer):
            raise TypeError(f"query_positions: expected integers, got dtype {query_positions.dtype}")
        if query_positions.ndim != self.length.ndim + 1 or query_positions.shape[:-1] != self.length.shape:
            expected = ", ".join([*map(str, self.length.shape), "n"])
            raise ValueError(f"query_positions: expected shape [{expected}], got {query_positions.shape}")
        return CacheMask(query_positions[..., None, :, None], self.positions[..., None, None, :], self.window)

    def _most_queries(self) -> int:
        """How many tokens may be appended before the first of their queries attends, with a window."""
        return self.slots - (self.window or 0) + 1

    def _new_tokens(self, key: Array, value: Array, lengths: Array | None) -> tuple[Array, Array, Array]:
        """Checks new tokens and brings them into the layout and dtype of the cache."""
        batch, leading, arranged = self.length.shape, [*map(str, self.length.shape), "n"], []
        for name, array, held in (("key", key, self.key), ("value", value, self.value)):
            check_float(name, array)
            heads = (held.shape[-3], held.shape[-1])
            if array.ndim != held.ndim or array.shape[:-3] != batch or array.shape[-2:] != heads:
                expected = ", ".join([*leading, *map(str, heads)])
                raise ValueError(f"{name}: expected shape [{expected}] for this cache, got {array.shape}")
            arranged.append(jnp.swapaxes(array, -3, -2).astype(held.dtype))
            leading[-1] = str(array.shape[-3])
        if value.shape[-3] != key.shape[-3]:
            raise ValueError(f"value: expected the {key.shape[-3]} tokens of key, got {value.shape[-3]}")
        n = key.shape[-3]
        given = _as_lengths(lengths, batch, n)
        self._check_room(n if lengths is None else given)
        return arranged[0], arranged[1], given

    def _check_room(self, new: int | Array) -> None:
        if self.window is not None:
            return
        seen = 0 if isinstance(self.length, Tracer) else self.length
        new = 0 if isinstance(new, Tracer) else new
        most = int(np.max(np.asarray(seen) + np.asarray(new), initial=0))
        if most > self.slots:
            raise ValueError(
                f"cache: expected room for {most} tokens, got {self.slots} slots and no window; make the cache with "
                "more slots, or with a window, which keeps the last ones"
            )

    def _write(self, key: Array, value: Array, lengths: Array) -> "KVCache":
        n = key.shape[-2]
        places = jnp.arange(n, dtype=jnp.int32)
        positions = self.next_positions(n)
        written = places < lengths[..., None]
        if self.window is not None:
            written &= places >= lengths[..., None] - self.slots
        # A slot beyond the last one is dropped; no two tokens ever have the same.
        slots = positions if self.window is None else positions % self.slots
        slots = jnp.where(written, slots, positions + self.slots)
        set_slots = _per_entry(_set_slots, slots.ndim - 1)
        return KVCache(
            key=set_slots(self.key, key, slots),
            value=set_slots(self.value, value, slots),
            positions=_per_entry(_set_positions, slots.ndim - 1)(self.positions, positions, slots),
            length=self.length + lengths,
            window=self.window,
        )


@any_rank
def attend_cached(
    query: Float[Array, "*batch n N H"],
    cache: KVCache,
    query_positions: Int[Array, "*batch n"],
    *,
    mask: MaskLike | None = None,
    **options: Any,
) -> Float[Array, "*batch n N V"]:
    """Attends to what a cache holds: for each query, the tokens up to its own position, within the window.

    Args:
      query: the queries of the last tokens appended; ``N`` is a multiple of the cache's heads.
      cache: the cache with their keys and values; the first that `KVCache.extend` returns, or what `KVCache.append`
        returns.
      query_positions: their positions, as `KVCache.next_positions` gave them before.
      mask: forbids further slots; an array that broadcasts to ``[*batch, N, n, slots]``.
      **options: what `attend` takes further, or with an `axis` over which slots and queries are split
        `jattn.sharded.attend`; a bias must be an array too, or, for a cache without a window, know where
        the queries stand: ``biases.alibi(offset=lengths)`` with the `KVCache.length` before they were appended.

    Returns:
      The averaged values, in the dtype of the cache; NaN for a batch entry with more tokens than there was room for,
      where that is not known before the program runs.

    Raises:
      ValueError: if shapes do not fit, the cache has more tokens than room, a ring of slots has already overwritten
        what the first of so many queries sees (``n > slots - window + 1``), or mask or bias is another object: it would
        take slots for positions.

    Example:
      >>> import jax.numpy as jnp
      >>> from jattn.decode.cache import KVCache, attend_cached
      >>> cache, tokens = KVCache.empty((), slots=4, num_kv_heads=1, head_dim=1), jnp.zeros((2, 1, 1))
      >>> cache = cache.append(tokens, jnp.array([2.0, 4.0]).reshape(2, 1, 1))
      >>> attend_cached(tokens, cache, jnp.arange(2)).ravel().tolist()
      [2.0, 3.0]
    """
    check_float("query", query)
    n = query.shape[-3] if query.ndim >= 3 else None
    if n is not None and jnp.shape(query_positions)[-1:] != (n,):
        raise ValueError(f"query_positions: expected one for each of {n} queries, got {jnp.shape(query_positions)}")
    if n is not None and cache.window is not None and n > cache._most_queries():
        raise ValueError(
            f"query: expected at most {cache._most_queries()} queries at once for a window of {cache.window} "
            f"in {cache.slots} slots, got {n}: attend to the first of what cache.extend returns"
        )
    for name, option in (("mask", mask), ("bias", options.get("bias"))):
        placed = isinstance(option, Bias) and option.is_placed and cache.window is None
        if isinstance(option, Mask | Bias) and not placed:
            raise ValueError(
                f"{name}: expected an array [*batch, N, n, slots] or None with a cache, which is causal and knows its "
                f"window; got {option!r}, which knows no positions but the indices of queries and slots"
            )
    cache._check_room(0)
    allowed = cache.mask(query_positions)
    if mask is not None:
        allowed = allowed & as_mask(mask)
    key, value = (jnp.swapaxes(x, -3, -2) for x in (cache.key, cache.value))
    out = (sharded_attend if "axis" in options else attend)(query, key, value, mask=allowed, **options)
    if cache.window is not None or not isinstance(cache.length, Tracer):
        return out
    return jnp.where((cache.length <= cache.slots)[..., None, None, None], out, jnp.nan)


def _as_lengths(lengths: Any, batch: tuple[int, ...], n: int) -> Int[Array, "*batch"]:
    if lengths is None:
        return jnp.full(batch, n, jnp.int32)
    array = jnp.asarray(lengths)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"lengths: expected integers, one per batch entry, got dtype {array.dtype}")
    if array.ndim and array.shape != batch:
        raise ValueError(f"lengths: expected the batch shape {batch}, got {array.shape}")
    if not isinstance(array, Tracer):
        wrong = [int(length) for length in np.ravel(array) if not 0 <= length <= n]
        if wrong:
            raise ValueError(f"lengths: expected 0 to {n}, the number of new tokens, got {wrong[0]}")
    return jnp.broadcast_to(jnp.clip(array, 0, n).astype(jnp.int32), batch)


def _per_entry(function: Callable[..., Array], batch_axes: int) -> Callable[..., Array]:
    """Maps a function over batch axes, which stay axes: one that is sharded stays sharded."""
    for _ in range(batch_axes):
        function = jax.vmap(function)
    return function


def _set_slots(
    held: Float[Array, "K slots H"], new: Float[Array, "K n H"], slots: Int[Array, " n"]
) -> Float[Array, "K slots H"]:
    if len(slots) == 1:
        # XLA on CPU loops over the slots, and unrolls a loop of one: then it may write twice, once for who reads next,
        # into a copy of the cache. A second slot, beyond the last, is dropped.
        slots = jnp.concatenate([slots, slots + 2 * held.shape[1]])
        new = jnp.concatenate([new, new], axis=1)
    return held.at[:, slots].set(new, mode="drop", unique_indices=True)


def _set_positions(held: Int[Array, " slots"], new: Int[Array, " n"], slots: Int[Array, " n"]) -> Int[Array, " slots"]:
    return held.at[slots].set(new, mode="drop", unique_indices=True)
