"""Kernels: fused attention of other libraries, and what a call must be like for them to compute the same thing.

- ``cudnn``, on NVIDIA GPUs: cuDNN's flash attention, by way of `jax.nn.dot_product_attention`;
- ``splash``, on TPUs: the splash attention that comes with JAX.

A kernel is only ever handed rows that may attend to some key, and keys and values that some query may attend to: all
others are zero before the call, and rows without keys are zero after it. So it does not matter what a kernel does
with them, forward or backward. Kernels have reverse-mode first derivatives only.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jattn.engine.bands import Band, read_mask, shortest
from jattn.engine.rows import RowProgram
from jattn.rules import masks, normalizers, scores
from jattn.rules.grids import Grid

NUM_LANES = 128
"""What splash wants lengths to be multiples of."""
SPLASH_BLOCKS = (512, 256, 128)
"""Block lengths for splash; it gets the first one that divides the length."""


def unmet(
    name: str, query: Any, key: Any, value: Any, program: RowProgram, dropout_rate: float, block_size: int | None
) -> Iterator[str]:
    """Says what keeps a kernel from computing a call, each as "what it needs, got what there is"; from sizes alone."""
    yield from _UNMET[name](query, key, value, program)
    yield from _unmet_by_both(query, key, value, program, dropout_rate, block_size)


def unwise(name: str) -> Iterator[str]:
    """Says what keeps a kernel from being chosen where none was asked for, beside what is `unmet`."""
    if jax.sharding.get_abstract_mesh().manual_axes:
        yield "to be asked for inside shard_map, got None"
    elif name == "splash" and jax.device_count() > 1:
        yield f"one device or to be asked for, because XLA cannot partition it, got {jax.device_count()} devices"


def choose_kernel(
    implementation: str | None,
    query: Any,
    key: Any,
    value: Any,
    program: RowProgram,
    dropout_rate: float,
    block_size: int | None,
) -> str | None:
    """Names the kernel that computes a call; None is none.

    Raises:
      ValueError: if one was asked for and cannot.
    """
    call = (query, key, value, program, dropout_rate, block_size)
    if implementation in tuple(KERNELS):
        if reasons := "; ".join(unmet(implementation, *call)):
            raise ValueError(f"implementation: {implementation!r} needs {reasons}")
        return implementation
    if implementation is None:
        return next((name for name in KERNELS if not any(unmet(name, *call)) and not any(unwise(name))), None)
    return None


def attend_by_cudnn(
    query: Float[Array, "*batch T N H"],
    key: Float[Array, "*batch S K H"],
    value: Float[Array, "*batch S K H"],
    program: RowProgram,
    implementation: Any = "cudnn",
) -> Float[Array, "*batch T N H"]:
    """Attends by `jax.nn.dot_product_attention`; its other implementation is for tests."""
    (num_queries, num_keys), band = (query.shape[-3], key.shape[-3]), read_mask(program.mask)
    sees, seen = band.sees(num_queries, num_keys), band.seen(num_queries, num_keys)
    flat_query, flat_key, flat_value = (x.reshape(-1, *x.shape[-3:]) for x in (query, key, value))
    lengths = None
    if band.lengths:
        lengths = jnp.clip(jnp.asarray(shortest(band.lengths, num_keys)), 1, num_keys)
        lengths = jnp.broadcast_to(lengths[:, 0], flat_key.shape[:1])
    out = jax.nn.dot_product_attention(
        _keep(flat_query, sees),
        _keep(flat_key, seen),
        _keep(flat_value, seen),
        scale=_scale(program, query),
        is_causal=band.high is not None,
        key_value_seq_lengths=lengths,
        local_window_size=None if band.low is None else (-band.low, 0),
        implementation=implementation,
    )
    return _keep(out, sees).reshape(query.shape)


def attend_by_splash(
    query: Float[Array, "*batch T N H"],
    key: Float[Array, "*batch S K H"],
    value: Float[Array, "*batch S K V"],
    program: RowProgram,
    interpret: bool = False,
) -> Float[Array, "*batch T N V"]:
    """Attends by splash attention; interpreted, it runs anywhere, slowly, for tests."""
    (num_queries, num_heads), num_keys = query.shape[-3:-1], key.shape[-3]
    batch, band = query.shape[:-3], read_mask(program.mask)
    sees, seen = band.sees(num_queries, num_keys), band.seen(num_queries, num_keys)
    if band.segments and program.mask is not None:
        sees, seen = _look(program.mask, (*batch, 1, num_queries, num_keys))
    wide = query.astype(jnp.float32) * _scale(program, query)
    flat = (x.reshape(-1, *x.shape[-3:]) for x in (wide.astype(query.dtype), key, value))
    kept = (_keep(x, flags) for x, flags in zip(flat, (sees, seen, seen), strict=True))
    padded = [jnp.swapaxes(_pad_lanes(x), 1, 2) for x in kept]
    ids = _segment_ids(band, math.prod(batch), num_queries, num_keys)
    out = jax.vmap(_splash(num_heads, num_queries, num_keys, band.low, band.high, interpret))(*padded, ids)
    out = _keep(jnp.swapaxes(out, 1, 2)[..., : value.shape[-1]], sees)
    return out.reshape(*query.shape[:-1], value.shape[-1])


KERNELS: dict[str, Callable[..., Array]] = {"cudnn": attend_by_cudnn, "splash": attend_by_splash}
"""Each takes a query, a key, a value and a row program that leave nothing `unmet`."""


def compute_capability() -> tuple[int, ...] | None:
    """Returns the compute capability of the NVIDIA GPU that JAX uses, or None without one."""
    device = jax.local_devices()[0]
    if "cuda" not in device.client.platform_version:
        return None
    return tuple(int(number) for number in device.compute_capability.split("."))


def _backend() -> str:
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    return jax.default_backend() if device is None else getattr(device, "platform", device)


def _unmet_by_both(
    query: Any, key: Any, value: Any, program: RowProgram, dropout_rate: float, block_size: int | None
) -> Iterator[str]:
    dtypes = dict.fromkeys(str(x.dtype) for x in (query, key, value))
    if len(dtypes) > 1:
        yield f"one dtype for query, key and value, got {', '.join(dtypes)}"
    if 0 in (*query.shape, *key.shape, *value.shape):
        yield f"no empty axis, got query {query.shape}, key {key.shape} and value {value.shape}"
    score = program.score
    if not isinstance(score, scores.ScaledDot):
        yield f"score scaled_dot, got {score!r}"
    elif score.scale is not None and score.scale.number is None:
        yield "scaled_dot with a number for scale, got an array"
    if not isinstance(program.normalizer, normalizers.Softmax):
        yield f"normalizer softmax, got {program.normalizer!r}"
    if program.bias is not None:
        yield "no bias, got one"
    if program.edit is not None:
        yield "no edit, got one"
    if dropout_rate > 0:
        yield f"no dropout, got dropout_rate {dropout_rate}"
    if program.precision is not None:
        yield f"precision None, got {program.precision!r}"
    if block_size is not None:
        yield f"block_size None, got {block_size}"


def _unmet_by_cudnn(query: Any, key: Any, value: Any, program: RowProgram) -> Iterator[str]:
    if _backend() != "gpu":
        yield f"a GPU, got backend {_backend()}"
    elif (capability := compute_capability()) is None or capability < (8, 0):
        got = "none" if capability is None else ".".join(map(str, capability))
        yield f"an NVIDIA GPU of compute capability 8.0 or later, got {got}"
    if query.dtype not in (jnp.float16, jnp.bfloat16):
        yield f"float16 or bfloat16 inputs, got {query.dtype}"
    if query.shape[-1] % 8 or query.shape[-1] > 128:
        yield f"a head dim that is a multiple of 8, up to 128, got {query.shape[-1]}"
    if value.shape[-1] != query.shape[-1]:
        yield f"a value dim like the head dim {query.shape[-1]}, got {value.shape[-1]}"
    (num_queries, num_keys), band = (query.shape[-3], key.shape[-3]), read_mask(program.mask)
    if num_queries % 2 or num_keys % 2:  # jax asks for it where a gradient is taken
        yield f"even lengths, got {num_queries} queries and {num_keys} keys"
    if band.unread or band.segments:
        yield f"a mask made of causal, sliding_window, padding and prefix, got {band.unread or 'segments'}"
    elif band.high not in (None, 0) or (band.low is not None and (band.high is None or band.low > 0)):
        yield f"a window that ends at the query, with offset 0, got one of {band.window}"
    elif band.low is not None and (band.lengths or num_queries > num_keys):
        got = "padding" if band.lengths else f"{num_queries} queries and {num_keys} keys"
        yield f"no padding and no more queries than keys under a sliding window, got {got}"


def _unmet_by_splash(query: Any, key: Any, value: Any, program: RowProgram) -> Iterator[str]:
    if _backend() != "tpu":
        yield f"a TPU, got backend {_backend()}"
    if query.dtype not in (jnp.float32, jnp.bfloat16):
        yield f"float32 or bfloat16 inputs, got {query.dtype}"
    if jax.dtypes.canonicalize_dtype(np.int64) == np.int64:  # the kernel would divide an int32 by an int64
        yield "jax_enable_x64 off, got on"
    (num_queries, num_keys), band = (query.shape[-3], key.shape[-3]), read_mask(program.mask)
    if num_queries % NUM_LANES or num_keys % NUM_LANES:
        yield f"lengths that are multiples of {NUM_LANES}, got {num_queries} queries and {num_keys} keys"
    ids = [x.array.dtype for mask in band.segments for x in (mask.query_ids, mask.key_ids)]
    if band.unread:
        yield f"a mask made of causal, sliding_window, padding, prefix and segments, got {band.unread}"
    elif len(band.segments) > 1:
        yield f"at most one mask of segments, got {len(band.segments)}"
    elif any(dtype.itemsize > 4 for dtype in ids):
        yield f"segment ids of at most 32 bits, got {ids[0]} and {ids[1]}"
    elif not np.all(Band(band.low, band.high).sees(num_queries, num_keys)):
        yield f"a window that holds a key for every query, got one of {band.window}"


_UNMET = {"cudnn": _unmet_by_cudnn, "splash": _unmet_by_splash}


def _scale(program: RowProgram, query: Array) -> float:
    scale = program.score.scale  # pyright: ignore[reportAttributeAccessIssue]
    return 1 / math.sqrt(query.shape[-1]) if scale is None else scale.number


def _keep(x: Float[Array, "B L N X"], flags: Bool[np.ndarray | Array, "B L"]) -> Float[Array, "B L N X"]:
    if isinstance(flags, np.ndarray) and flags.all():
        return x
    return jnp.where(flags[..., None, None], x, 0)


def _pad_lanes(x: Float[Array, "... H"]) -> Float[Array, "... P"]:
    """Pads vectors with zeros to half the lanes of a TPU, or to a multiple of all."""
    size = x.shape[-1]
    missing = NUM_LANES // 2 - size if size <= NUM_LANES // 2 else -size % NUM_LANES
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])


def _look(mask: masks.Mask, shape: tuple[int, ...]) -> tuple[Bool[Array, "B T"], Bool[Array, "B S"]]:
    """Says which queries may attend to a key, and which keys a query may attend to, block by block."""
    *batch, _, num_queries, num_keys = shape

    def look(seen: Array, rows: Array) -> tuple[Array, Array]:
        allowed = jnp.broadcast_to(mask.evaluate(Grid(rows, shape)), (*batch, 1, NUM_LANES, num_keys))
        allowed = allowed.reshape(-1, NUM_LANES, num_keys)
        return seen | jnp.any(allowed, axis=-2), jnp.any(allowed, axis=-1)

    blocks = jnp.arange(num_queries, dtype=jnp.int32).reshape(-1, NUM_LANES)
    seen, sees = lax.scan(look, jnp.zeros((math.prod(batch), num_keys), bool), blocks)
    return jnp.swapaxes(sees, 0, 1).reshape(-1, num_queries), seen


def _segment_ids(band: Band, num_entries: int, num_queries: int, num_keys: int) -> Any:
    """Makes ids that forbid the keys beyond their length too: these get one that no query has."""
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    if not band.segments and not band.lengths:
        return None
    of_query = jnp.zeros((num_entries, num_queries), jnp.int32)
    of_key = jnp.zeros((num_entries, num_keys), jnp.int32)
    if band.segments:
        of_query, of_key = (
            ids.array.reshape(num_entries, -1).astype(jnp.int32)
            for ids in (band.segments[0].query_ids, band.segments[0].key_ids)
        )
    if band.lengths:
        smallest, largest = (pick(of_query, axis=-1, keepdims=True) for pick in (jnp.min, jnp.max))
        unused = jnp.where(smallest > jnp.iinfo(jnp.int32).min, smallest - 1, largest + 1)
        of_key = jnp.where(np.arange(num_keys) < shortest(band.lengths, num_keys), of_key, unused)
    return SegmentIds(of_query, of_key)


@functools.lru_cache(maxsize=64)
def _splash(
    num_heads: int, num_queries: int, num_keys: int, low: int | None, high: int | None, interpret: bool
) -> Callable[..., Array]:
    """Makes the kernel of a window; kept, because that looks at every block of the filter."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    shape = (num_queries, num_keys)
    if low is not None:
        mask = splash.LocalMask(shape, (-low, high), 0)
    else:
        mask = splash.FullMask(shape) if high is None else splash.CausalMask(shape, high)
    rows, keys = (next(block for block in SPLASH_BLOCKS if length % block == 0) for length in shape)
    sizes = splash.BlockSizes(
        block_q=rows,
        block_kv=keys,
        block_q_dkv=rows,
        block_kv_dkv=keys,
        block_q_dq=rows,
        block_kv_dq=keys,
    )
    # Arrays made while a caller is traced would belong to that trace.
    with jax.ensure_compile_time_eval():
        kernel = splash.make_splash_mha(
            splash.MultiHeadMask([mask] * num_heads),
            block_sizes=sizes,
            head_shards=1,
            q_seq_shards=1,
            interpret=interpret,
        )
    return jax.tree.map(np.asarray, kernel)
