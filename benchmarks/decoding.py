"""How fast a token is decoded with a nearly full cache of keys and values, beside peers; prints Markdown tables.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --slots 16384 --tokens 20

The first table decodes with whole layers that have the same parameters: `flax.linen.MultiHeadDotProductAttention` with
``decode=True``, `jattn.MultiHeadAttention` with ``decode=True``, which keeps the same cache, and with a `KVCache` that
is handed from call to call. The second leaves out the projections: it appends a key and a value and attends, with a
`KVCache`, and with the same arithmetic in a few lines of `jax.numpy` on a cache ``[B, slots, N, H]``, as flax lays it
out.

Each contender decodes the last tokens for which its cache has room in one jitted `jax.lax.scan`, with its state
donated; they take turns in one process, and all start with the same keys and values. A ratio is a peer's time divided
by that of jattn with a `KVCache` in the same round, so above 1 jattn is faster: the median, the least and the greatest.
The floor is the time to read the cache once, as sums over its slots.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from attention import Turn, compare, describe_machine, milliseconds, print_row, race
from flax import linen as nn

import jattn
from jattn.decode.cache import KVCache, attend_cached

OURS = "jattn, KVCache"
Step = Callable[[Any, Any], tuple[Any, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare decoding with a cache."""

    slots: int = 4096
    """Tokens that the cache has room for."""
    tokens: int = 50
    """Tokens decoded in a turn; the cache holds the others at its start."""
    batch: int = 1
    """Sequences decoded together."""
    heads: int = 8
    """Heads of queries, keys and values."""
    head_dim: int = 64
    """Features of a head."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of inputs, parameters and cache."""
    repeats: int = 15
    """Rounds of turns, besides the first, which warms up."""
    seconds_per_table: float = 60.0
    """A table that would take longer has fewer rounds, at least 3."""

    @property
    def features(self) -> int:
        return self.heads * self.head_dim

    @property
    def filled(self) -> int:
        return self.slots - self.tokens

    def draw(self, *shape: int, seed: int) -> jax.Array:
        """Draws normal numbers in the dtype of the run."""
        return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32), self.dtype)

    def held(self) -> tuple[jax.Array, jax.Array]:
        """Returns keys and values ``[B, slots, N, H]`` of which the last ones are zero."""
        shape = (self.batch, self.filled, self.heads, self.head_dim)
        room = [(0, 0), (0, self.tokens), (0, 0), (0, 0)]
        return jnp.pad(self.draw(*shape, seed=1), room), jnp.pad(self.draw(*shape, seed=2), room)

    def kv_cache(self) -> KVCache:
        """Returns the same keys and values as a `KVCache`."""
        key, value = (x[:, : self.filled] for x in self.held())
        empty = KVCache.empty((self.batch,), self.slots, self.heads, self.head_dim, dtype=self.dtype)
        return empty.append(key, value)


@dataclasses.dataclass
class Decoding:
    """Decodes tokens from the same state at each turn; a turn gives the seconds of one token.

    Args:
      step: computes the next state and an output, of a state and an input.
      state: at the start.
      inputs: of all tokens, stacked.
    """

    step: Step
    state: Any
    inputs: Any
    outputs: Any = None

    def __post_init__(self) -> None:
        decode = jax.jit(lambda state, inputs: jax.lax.scan(self.step, state, inputs), donate_argnums=0)
        self.decode = decode.lower(self.state, self.inputs).compile()

    def __call__(self) -> float:
        state = jax.block_until_ready(jax.tree.map(jnp.copy, self.state))
        start = time.perf_counter()
        _, self.outputs = jax.block_until_ready(self.decode(state, self.inputs))
        return (time.perf_counter() - start) / len(self.outputs)


def layers(options: Options) -> dict[str, Decoding]:
    """Makes the contenders of the first table."""
    shared: dict[str, Any] = {"num_heads": options.heads, "qkv_features": options.features}
    shared |= {"dtype": options.dtype, "param_dtype": options.dtype}
    peer = nn.MultiHeadDotProductAttention(**shared, decode=True)
    ours_decoding = jattn.MultiHeadAttention(**shared, decode=True)
    ours = jattn.MultiHeadAttention(**shared)
    tokens = options.draw(options.tokens, options.batch, 1, options.features, seed=0)
    params = jax.jit(ours.init)(jax.random.key(0), tokens[0])["params"]
    key, value = options.held()
    index = jnp.array(options.filled, jnp.int32)
    variables = {"cached_key": key, "cached_value": value, "cache_index": index}

    def step_of(layer: nn.Module) -> Step:
        def step(state: Any, token: jax.Array) -> tuple[Any, jax.Array]:
            params, cache = state
            out, updated = layer.apply({"params": params, "cache": cache}, token, mutable=["cache"])
            return (params, updated["cache"]), out

        return step

    def step(state: Any, token: jax.Array) -> tuple[Any, jax.Array]:
        params, cache = state
        out, cache = ours.apply({"params": params}, token, cache=cache)
        return (params, cache), out

    return {
        OURS: Decoding(step, (params, options.kv_cache()), tokens),
        "jattn, decode=True": Decoding(step_of(ours_decoding), (params, variables), tokens),
        "flax.linen, decode=True": Decoding(step_of(peer), (params, variables), tokens),
    }


def cores(options: Options) -> dict[str, Decoding]:
    """Makes the contenders of the second table."""
    shape = (options.tokens, options.batch, 1, options.heads, options.head_dim)
    inputs = tuple(options.draw(*shape, seed=seed) for seed in (3, 4, 5))

    def step(cache: KVCache, token: tuple[jax.Array, ...]) -> tuple[KVCache, jax.Array]:
        query, key, value = token
        positions = cache.next_positions(1)
        cache = cache.append(key, value)
        return cache, attend_cached(query, cache, positions)

    def plain_step(state: Any, token: tuple[jax.Array, ...]) -> tuple[Any, jax.Array]:
        (keys, values, index), (query, key, value) = state, token
        keys = jax.lax.dynamic_update_slice_in_dim(keys, key, index, axis=1)
        values = jax.lax.dynamic_update_slice_in_dim(values, value, index, axis=1)
        scores = jnp.einsum("btnh,bsnh->bnts", query, keys, preferred_element_type=jnp.float32)
        scores = jnp.where(jnp.arange(options.slots) <= index, scores / options.head_dim**0.5, -jnp.inf)
        weights = jax.nn.softmax(scores).astype(values.dtype)
        return (keys, values, index + 1), jnp.einsum("bnts,bsnh->btnh", weights, values)

    state = (*options.held(), jnp.array(options.filled, jnp.int32))
    return {OURS: Decoding(step, options.kv_cache(), inputs), "plain jax.numpy": Decoding(plain_step, state, inputs)}


def make_floor(options: Options) -> Turn:
    """Makes a turn that reads the cache once."""
    cache = options.kv_cache()

    @jax.jit
    def read(key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.sum(key, axis=-2), jnp.sum(value, axis=-2)

    return Turn(lambda: jax.block_until_ready(read(cache.key, cache.value)))


def print_table(title: str, contenders: Mapping[str, Decoding], options: Options) -> list[str]:
    """Prints one table; returns where outputs differ."""
    floor = make_floor(options)
    turns = {**contenders, "the floor: reading the cache": floor}
    seconds = race(turns, options.repeats, options.seconds_per_table)
    sizes = f"{options.batch} x {options.slots} slots x {options.heads} heads x {options.head_dim}, {options.dtype}"
    print(f"\n{title}; {sizes}\n")
    print_row("decoding", "ms per token", "tokens/s", "jattn is faster by", head=True)
    for name, times in seconds.items():
        rate = options.batch / statistics.median(times)
        print_row(name, milliseconds(times), f"{rate:.0f}", "" if name == OURS else compare(times, seconds[OURS]))
    expected = np.asarray(contenders[OURS].outputs, np.float32)
    differences = []
    for name, contender in contenders.items():
        difference = np.abs(np.asarray(contender.outputs, np.float32) - expected).max()
        exact = options.dtype == "float32" and jax.default_backend() == "cpu"
        if not difference <= (1e-4 if exact else 3e-2) * np.abs(expected).max():
            differences.append(f"error: {title}: {OURS} and {name} differ by {difference:.2g}")
    return differences


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    if not 0 < options.tokens < options.slots:
        print(f"tokens: expected 1 to {options.slots - 1}, fewer than slots, got {options.tokens}", file=sys.stderr)
        return 2
    print(describe_machine())
    differences = print_table("Whole layers", layers(options), options)
    differences += print_table("Attention alone", cores(options), options)
    for difference in differences:
        print(difference, file=sys.stderr)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
