"""Fused kernels compute the same thing, refuse what they cannot, and are chosen only where they can."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jattn import attend, biases, masks, normalizers, scores
from jattn.engine import kernels
from jattn.engine.bands import read_mask
from jattn.engine.implementations import explain_implementation
from jattn.engine.kernels import attend_by_cudnn, attend_by_splash
from jattn.engine.rows import row_program
from jattn.rules.grids import whole_grid
from jattn.rules.normalizers import softmax
from jattn.rules.scores import scaled_dot
from tests.sampled import sampled


def shapes(num_queries=128, num_keys=128, dtype=jnp.bfloat16, batch=(2,), dims=(64, 64), num_heads=4):
    """Returns a query, a key and a value without content."""
    return [
        jax.ShapeDtypeStruct((*batch, num_queries, num_heads, dims[0]), dtype),
        jax.ShapeDtypeStruct((*batch, num_keys, 2, dims[0]), dtype),
        jax.ShapeDtypeStruct((*batch, num_keys, 2, dims[1]), dtype),
    ]


@pytest.fixture
def backend(monkeypatch):
    """Returns a function that makes the machine look like one with another accelerator."""

    def pretend(name, capability=(8, 0), devices=1):
        monkeypatch.setattr(jax, "default_backend", lambda: name)
        monkeypatch.setattr(jax, "device_count", lambda: devices)
        monkeypatch.setattr(kernels, "compute_capability", lambda: capability)

    return pretend


LENGTHS = masks.padding(jnp.array([3, 0]))
# What each backend chooses: backend, arguments of `shapes`, the call, the choice, and a part of the reason for each of
# some others.
CHOICES = {
    "cpu, small": (
        "cpu",
        {},
        {},
        "dense",
        {
            "blocked": "the filter has 131072 weights, no more than the 4194304",
            "cudnn": "needs a GPU, got backend cpu",
            "splash": "needs a TPU, got backend cpu",
        },
    ),
    "cpu, large": (
        "cpu",
        {"num_queries": 4096, "num_keys": 4096},
        {},
        "blocked",
        {"dense": "134217728 weights, more than the 4194304"},
    ),
    "cpu, block size": ("cpu", {}, {"block_size": 64}, "blocked", {"dense": "needs block_size None, got 64"}),
    "cpu, by name": ("cpu", {}, {"implementation": "blocked"}, "blocked", {"dense": "blocked was asked for"}),
    "gpu": ("gpu", {}, {}, "cudnn", {"dense": "cudnn can compute the call", "splash": "needs a TPU, got backend gpu"}),
    "gpu, float16": ("gpu", {"dtype": jnp.float16}, {}, "cudnn", {}),
    "gpu, float32": ("gpu", {"dtype": jnp.float32}, {}, "dense", {"cudnn": "got float32"}),
    "gpu, by name": ("gpu", {}, {"implementation": "dense"}, "dense", {"cudnn": "dense was asked for"}),
    "gpu, causal": ("gpu", {}, {"mask": masks.causal()}, "cudnn", {}),
    "gpu, lengths": ("gpu", {}, {"mask": masks.causal() & LENGTHS & masks.prefix(7)}, "cudnn", {}),
    "gpu, window": ("gpu", {}, {"mask": masks.sliding_window(3) & masks.causal()}, "cudnn", {}),
    "gpu, scale": ("gpu", {}, {"score": scores.scaled_dot(0.3)}, "cudnn", {}),
    "gpu, no batch": ("gpu", {"batch": ()}, {}, "cudnn", {}),
    "gpu, two batch axes": ("gpu", {"batch": (2, 3)}, {"mask": masks.padding(jnp.ones((2, 3), int))}, "cudnn", {}),
    "gpu, large float32": (
        "gpu",
        {"num_queries": 4096, "num_keys": 4096, "dtype": jnp.float32},
        {},
        "blocked",
        {"cudnn": "got float32"},
    ),
    "tpu": ("tpu", {}, {}, "splash", {"blocked": "splash can compute the call", "cudnn": "a GPU, got backend tpu"}),
    "tpu, float32": ("tpu", {"dtype": jnp.float32}, {}, "splash", {}),
    "tpu, head dims": ("tpu", {"dims": (6, 200)}, {}, "splash", {}),
    "tpu, window that looks ahead": ("tpu", {}, {"mask": masks.sliding_window(3, 2, offset=1)}, "splash", {}),
    "tpu, segments": (
        "tpu",
        {},
        {"mask": masks.segments(jnp.arange(128) // 50) & masks.causal() & LENGTHS},
        "splash",
        {},
    ),
    "tpu, ragged": ("tpu", {"num_queries": 100}, {}, "dense", {"splash": "100 queries and 128 keys"}),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_call_takes_the_implementation_that_suits_it(name, backend):
    platform, sizes, call, chosen, reasons = CHOICES[name]
    backend(platform)
    explanation = explain_implementation(*shapes(**sizes), **call)
    assert explanation.chosen == chosen
    assert {chosen, *explanation.reasons} == {"dense", "blocked", "cudnn", "splash"}
    for other, reason in reasons.items():
        assert reason in explanation.reasons[other]


@pytest.mark.parametrize("name", CHOICES)
def test_attention_takes_what_the_explanation_says(name, backend, monkeypatch):
    platform, sizes, call, chosen, _ = CHOICES[name]
    backend(platform)
    calls = []

    def kernel(which, query, key, value, program):
        calls.append(which)
        return jnp.zeros((*query.shape[:-1], value.shape[-1]), value.dtype)

    for which in ("cudnn", "splash"):
        monkeypatch.setitem(kernels.KERNELS, which, functools.partial(kernel, which))
    jax.eval_shape(functools.partial(attend, **call), *shapes(**sizes))
    assert calls == [chosen] * (chosen in kernels.KERNELS)


# What both kernels refuse: arguments of `shapes`, the call, what the message says.
REFUSED = {
    "score": ({}, {"score": scores.cosine()}, r"score scaled_dot, got cosine\(\)"),
    "score, a function": ({}, {"score": lambda query, key: None}, "score scaled_dot, got <lambda>"),
    "scale, an array": ({}, {"score": scores.scaled_dot(jnp.ones((4, 1, 1)))}, "a number for scale, got an array"),
    "sink": ({}, {"normalizer": normalizers.softmax_plus_one()}, r"normalizer softmax, got softmax_plus_one\(\)"),
    "top_k": ({}, {"normalizer": normalizers.top_k(2)}, r"normalizer softmax, got top_k\(2\)"),
    "bias": ({}, {"bias": jnp.ones((128, 128))}, "no bias, got one"),
    "alibi": ({}, {"bias": biases.alibi()}, "no bias, got one"),
    "edit": ({}, {"edit": lambda weights, grid: weights}, "no edit, got one"),
    "dropout": (
        {},
        {"dropout_rate": 0.1, "dropout_rng": jax.random.key(0)},
        r"no dropout, got dropout_rate 0\.1",
    ),
    "precision": ({}, {"precision": "highest"}, "precision None, got 'highest'"),
    "block size": ({}, {"block_size": 8}, "block_size None, got 8"),
    "no queries": ({"num_queries": 0}, {}, r"no empty axis, got query \(2, 0, 4, 64\)"),
    "no batch entries": ({"batch": (0,)}, {}, "no empty axis"),
    "mask array": ({}, {"mask": jnp.ones((128, 128), bool)}, r"a mask made of .* got bool\["),
    "mask function": (
        {},
        {"mask": masks.from_function(lambda query, key: query == key)},
        r"got from_function\(<lam",
    ),
    "or": ({}, {"mask": masks.causal() | masks.prefix(3)}, "a mask made of .* got causal.* [|] prefix"),
    "not": ({}, {"mask": masks.causal() & ~masks.prefix(3)}, "a mask made of .* got ~"),
    "chunked": ({}, {"mask": masks.chunked(32)}, "a mask made of .* got chunked"),
    "offsets": ({}, {"mask": masks.causal(jnp.array([1, 2]))}, "a mask made of .* got an offset that is an array"),
    "two things": ({}, {"bias": biases.alibi(), "block_size": 8}, "no bias, got one; block_size None, got 8"),
}
SPECIAL = {
    "cudnn": {
        "dtype": ({"dtype": jnp.float32}, {}, "needs float16 or bfloat16 inputs, got float32"),
        "head dim 12": ({"dims": (12, 12)}, {}, "a head dim that is a multiple of 8, up to 128, got 12"),
        "head dim 136": ({"dims": (136, 136)}, {}, "a head dim .* got 136"),
        "value dim": ({"dims": (64, 32)}, {}, "a value dim like the head dim 64, got 32"),
        "odd length": ({"num_keys": 127}, {}, "even lengths, got 128 queries and 127 keys"),
        "segments": ({}, {"mask": masks.segments(jnp.zeros(128, int))}, "a mask made of .* got segments"),
        "causal, offset": ({}, {"mask": masks.causal(1)}, "offset 0, got one of key - query any to 1"),
        "window, offset": ({}, {"mask": masks.sliding_window(3, offset=-1)}, "offset 0, .* query -4 to -1"),
        "window that looks ahead": ({}, {"mask": masks.sliding_window(3, 2)}, "ends at the query, .* query -3 to 2"),
        "window to the end": ({}, {"mask": masks.sliding_window(3, None)}, "ends at the query, .* query -3 to any"),
        "window, lengths": (
            {},
            {"mask": masks.sliding_window(3) & LENGTHS},
            "no padding .* sliding window, got padding",
        ),
        "window, few keys": ({"num_keys": 64}, {"mask": masks.sliding_window(3)}, "got 128 queries and 64 keys"),
    },
    "splash": {
        "dtype": ({"dtype": jnp.float16}, {}, "needs float32 or bfloat16 inputs, got float16"),
        "queries": ({"num_queries": 100}, {}, "lengths that are multiples of 128, got 100 queries and 128 keys"),
        "keys": ({"num_keys": 200}, {}, "lengths that are multiples of 128, got 128 queries and 200 keys"),
        "two segments": (
            {},
            {"mask": masks.segments(jnp.zeros(128, int)) & masks.segments(jnp.ones(128, int))},
            "at most one mask of segments, got 2",
        ),
        "rows without keys": ({}, {"mask": masks.causal(-1)}, "a key for every query, .* query any to -1"),
        "last rows without keys": (
            {"num_queries": 256},
            {"mask": masks.sliding_window(100)},
            "a key for every query, .* query -100 to 0",
        ),
    },
}


@pytest.mark.parametrize(
    ("kernel", "name"), [(kernel, name) for kernel in SPECIAL for name in [*REFUSED, *SPECIAL[kernel]]]
)
def test_a_kernel_says_what_it_cannot_do(kernel, name, backend):
    backend({"cudnn": "gpu", "splash": "tpu"}[kernel])
    sizes, call, text = (REFUSED | SPECIAL[kernel])[name]
    with pytest.raises(ValueError, match=text) as caught:
        jax.eval_shape(functools.partial(attend, implementation=kernel, **call), *shapes(**sizes))
    explanation = explain_implementation(*shapes(**sizes), **call)
    assert explanation.chosen in ("dense", "blocked")
    assert f"implementation: '{kernel}' {explanation.reasons[kernel]}" == str(caught.value).partition("\n")[0]


@pytest.mark.parametrize("kernel", SPECIAL)
def test_mixed_dtypes_are_refused(kernel, backend):
    backend({"cudnn": "gpu", "splash": "tpu"}[kernel])
    query, key, _ = shapes()
    with pytest.raises(ValueError, match="one dtype for query, key and value, got bfloat16, float32"):
        explain_implementation(query, key, shapes(dtype=jnp.float32)[2], implementation=kernel)


@pytest.mark.parametrize(
    ("platform", "capability", "text"),
    [
        ("cpu", None, "a GPU, got backend cpu"),
        ("gpu", None, r"an NVIDIA GPU of compute capability 8\.0 or later, got none"),
        ("gpu", (7, 5), r"an NVIDIA GPU of compute capability 8\.0 or later, got 7\.5"),
    ],
)
def test_cudnn_wants_a_gpu_that_has_it(platform, capability, text, backend):
    backend(platform, capability)
    with pytest.raises(ValueError, match=f"^implementation: 'cudnn' needs {text}$"):
        attend(*(jnp.ones(x.shape, x.dtype) for x in shapes(2, 2)), implementation="cudnn")
    assert explain_implementation(*shapes()).chosen == "dense"


def test_this_machine_tells_whether_it_has_an_nvidia_gpu():
    has_one = "cuda" in jax.local_devices()[0].client.platform_version
    assert (kernels.compute_capability() is not None) == has_one


def test_a_default_device_is_heeded(backend):
    backend("gpu")
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        assert explain_implementation(*shapes()).reasons["cudnn"] == "needs a GPU, got backend cpu"


def test_splash_is_left_alone_where_arrays_may_be_spread_over_devices(backend):
    backend("tpu", devices=4)
    explanation = explain_implementation(*shapes())
    assert explanation.chosen == "dense"
    assert explanation.reasons["splash"].startswith("needs one device or to be asked for")
    assert explain_implementation(*shapes(), implementation="splash").chosen == "splash"


def test_splash_wants_x64_off(backend):
    backend("tpu")
    with jax.enable_x64(True):
        assert explain_implementation(*shapes()).reasons["splash"] == "needs jax_enable_x64 off, got on"


def test_kernels_are_left_alone_inside_shard_map(backend):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))
    backend("gpu")

    def inside(x):
        assert explain_implementation(*shapes()).reasons["cudnn"] == "needs to be asked for inside shard_map, got None"
        assert explain_implementation(*shapes(), implementation="cudnn").chosen == "cudnn"
        return x

    spec = jax.sharding.PartitionSpec("x")
    jax.eval_shape(jax.shard_map(inside, mesh=mesh, in_specs=spec, out_specs=spec), jnp.ones(1))


def test_an_explanation_reads_well(backend):
    assert str(explain_implementation(*shapes(), mask=masks.causal())) == (
        "dense: 128 query rows a block, 100% of the 128 x 128 scores computed, all heads at once\n"
        "  not blocked: the filter has 131072 weights, no more than the 4194304 that are computed at once\n"
        "  not cudnn: needs a GPU, got backend cpu\n"
        "  not splash: needs a TPU, got backend cpu"
    )
    backend("gpu")
    assert str(explain_implementation(*shapes(), mask=masks.causal(), implementation="cudnn")) == (
        "cudnn: one fused kernel, with reverse-mode first derivatives only\n"
        "  not dense: cudnn was asked for\n"
        "  not blocked: cudnn was asked for\n"
        "  not splash: needs a TPU, got backend gpu"
    )
    long = shapes(4096, 4096, jnp.float32)
    how = explain_implementation(*long, mask=masks.causal(), block_size=512).how
    assert how == "512 query rows a block, 62% of the 4096 x 4096 scores computed, all heads at once"


def test_an_explanation_raises_what_attention_raises():
    query, key, value = shapes()
    with pytest.raises(ValueError, match="implementation: expected one of dense, blocked, cudnn, splash or None"):
        explain_implementation(query, key, value, implementation="flash")
    with pytest.raises(ValueError, match="value: expected shape"):
        explain_implementation(query, key, query)
    with pytest.raises(ValueError, match="dropout_rng: needed"):
        explain_implementation(query, key, value, dropout_rate=0.1)


def test_an_explanation_takes_arrays():
    explanation = explain_implementation(*(jnp.ones(x.shape, x.dtype) for x in shapes(2, 3)))
    assert explanation == explain_implementation(*shapes(2, 3))


READABLE = {
    "none": None,
    "causal": masks.causal(),
    "behind": masks.causal(-2),
    "window": masks.sliding_window(1, 2, offset=1),
    "far window": masks.sliding_window(0, 0, offset=20),
    "far": masks.sliding_window(2**30, 2**30) & masks.causal(-(2**30)) & masks.prefix(-(2**30)),
    "lengths": masks.padding(jnp.array([3, 0]), jnp.array([9, 2])) & masks.prefix(2),
    "prefixes": masks.prefix(jnp.array([1, 4], jnp.uint8)) & masks.sliding_window(1),
    "all": masks.sliding_window(3) & masks.padding(jnp.array([2, 5]), jnp.array([4, 6])) & masks.causal(-1),
}


@sampled("name", READABLE, keep=6)
@pytest.mark.parametrize(("num_queries", "num_keys"), [(8, 5), (4, 7)])
def test_what_sees_and_what_is_seen_is_known_without_looking(name, num_queries, num_keys):
    shape, mask = (2, 1, num_queries, num_keys), READABLE[name]
    mask = None if mask is None else mask.fit(shape)
    allowed = np.broadcast_to(True if mask is None else mask.evaluate(whole_grid(shape)), shape)[:, 0]
    band = read_mask(mask)
    assert band.unread is None
    assert np.all(band.sees(num_queries, num_keys) == allowed.any(axis=2))
    assert np.all(band.seen(num_queries, num_keys) == allowed.any(axis=1))


def arrays(num_queries, num_keys, dims=(8, 8), batch=(2,), dtype=np.float32):
    """Draws a query, a key and a value."""
    draw = np.random.default_rng(0).standard_normal
    return [jnp.asarray(draw(x.shape), dtype) for x in shapes(num_queries, num_keys, dtype, batch, dims)]


def compare(kernel, inputs, mask, score=scaled_dot(), atol=1e-5):
    """Compares a kernel's output and gradients with those of `dense`, where unseen keys and values hold NaN."""
    query, key, value = inputs
    shape = (*query.shape[:-3], query.shape[-2], query.shape[-3], key.shape[-3])
    program = row_program(score, None, mask, softmax(), None, None, shape)
    allowed = True if program.mask is None else program.mask.evaluate(whole_grid(shape))
    allowed = np.broadcast_to(allowed, (*shape[:-3], 1, *shape[-2:]))[..., 0, :, :]
    sees, seen = (allowed.any(axis=axis)[..., None, None] for axis in (-1, -2))
    broken = [jnp.where(flags, x, jnp.nan) for x, flags in zip(inputs, (sees, seen, seen), strict=True)]
    cotangent = jnp.cos(jnp.arange(query.shape[-3] * value.shape[-1], dtype=value.dtype))
    cotangent = cotangent.reshape(query.shape[-3], 1, value.shape[-1])

    def run(function, *inputs):
        def loss(*inputs):
            out = function(*inputs)
            return jnp.sum(out * cotangent), out

        (_, out), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*inputs)
        return out, *gradients

    got = run(lambda *inputs: kernel(*inputs, program), *broken)
    expected = run(functools.partial(attend, mask=mask, score=score, implementation="dense"), *inputs)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert_allclose(mine, theirs, rtol=1e-5, atol=atol)
    assert np.all(np.where(sees, 0, got[0]) == 0)
    for gradient, flags in zip(got[1:], (sees, seen, seen), strict=True):
        assert np.all(np.where(flags, 0, gradient) == 0)


CUDNN = functools.partial(attend_by_cudnn, implementation="xla")
# What cudnn serves: lengths, the mask, the score.
SERVED = {
    "none": (4, 6, None, scaled_dot(-0.7)),
    "causal, more queries": (6, 4, masks.causal(), scaled_dot()),
    "window": (4, 6, masks.sliding_window(1), scaled_dot()),
    "lengths": (4, 6, masks.padding(jnp.array([3, 0])), scaled_dot()),
    "causal, lengths of both": (
        6,
        4,
        masks.causal() & masks.padding(jnp.array([3, 9]), jnp.array([0, 5])),
        scaled_dot(),
    ),
    "no prefix": (4, 6, masks.prefix(0), scaled_dot()),
}


@sampled("name", SERVED, keep=2)
def test_what_surrounds_cudnn_keeps_the_meaning_of_a_call(name, backend):
    num_queries, num_keys, mask, score = SERVED[name]
    backend("gpu")
    assert explain_implementation(*shapes(num_queries, num_keys), mask=mask, score=score).chosen == "cudnn"
    compare(CUDNN, arrays(num_queries, num_keys), mask, score)


@pytest.mark.exhaustive
def test_what_surrounds_cudnn_takes_several_batch_axes():
    compare(CUDNN, arrays(4, 6, batch=(2, 3)), masks.padding(jnp.arange(6).reshape(2, 3)))


def test_no_row_without_keys_reaches_cudnn(monkeypatch):
    seen = {}

    def spy(query, key, value, **options):
        seen.update(options, query=query, key=key, value=value)
        return query

    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    query, key, value = arrays(4, 6, dtype=jnp.bfloat16)
    program = row_program(scaled_dot(), None, masks.padding(jnp.array([2, 0])), softmax(), None, None, (2, 4, 4, 6))
    out = attend_by_cudnn(query, key, value, program)
    assert seen["key_value_seq_lengths"].tolist() == [2, 1]
    assert seen["key_value_seq_lengths"].dtype == jnp.int32
    for zero in (seen["key"][0, 2:], seen["key"][1], seen["value"][0, 2:], seen["value"][1], seen["query"][1], out[1]):
        assert not np.any(zero)
    assert np.all(out[0] == query[0])
    assert (seen["is_causal"], seen["local_window_size"], seen["implementation"]) == (False, None, "cudnn")


SPLASH = functools.partial(attend_by_splash, interpret=True)
IDS = jnp.array([[0] * 60 + [1] * 50 + [7] * 18, [-(2**31)] * 100 + [3] * 28], jnp.int32)
# What splash serves: lengths, dims, the mask.
SPLASHED = {
    "none, dims": (128, 128, (6, 70), None),
    "causal, more keys, lengths": (128, 256, (8, 8), masks.causal(2) & masks.padding(jnp.array([100, 0]))),
    "window that looks ahead, segments, rows without keys": (
        128,
        128,
        (8, 8),
        masks.sliding_window(3, 2) & masks.segments(IDS, IDS[::-1]) & masks.prefix(120),
    ),
}


@pytest.mark.exhaustive
@sampled("name", SPLASHED, keep=1)
def test_splash_computes_what_dense_does(name, backend):
    num_queries, num_keys, dims, mask = SPLASHED[name]
    compare(SPLASH, arrays(num_queries, num_keys, dims), mask, scaled_dot(0.3), atol=5e-5)
    backend("tpu")
    assert explain_implementation(*arrays(num_queries, num_keys, dims), mask=mask).chosen == "splash"


@pytest.mark.exhaustive
def test_attention_by_splash_from_end_to_end(backend, monkeypatch):
    monkeypatch.setitem(kernels.KERNELS, "splash", SPLASH)
    query, key, value = (x.astype(jnp.bfloat16) for x in arrays(128, 128, batch=()))
    expected = attend(query, key, value, mask=masks.causal())
    backend("tpu")
    out = jax.jit(functools.partial(attend, mask=masks.causal()))(query, key, value)
    assert out.dtype == jnp.bfloat16
    assert_allclose(np.asarray(out, np.float32), np.asarray(expected, np.float32), atol=0.03)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_splash_lowers_for_a_tpu(dtype, backend):
    backend("tpu")
    mask = masks.sliding_window(100) & masks.padding(jnp.array([700, 3]))

    def loss(*inputs):
        return jnp.sum(attend(*inputs, mask=mask, implementation="splash"))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    exported = jax.export.export(gradient, platforms=("tpu",))(*shapes(512, 1024, dtype, dims=(64, 100)))
    assert exported.mlir_module().count("tpu_custom_call") == 3


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", ["none", "causal, more queries", "window", "causal, lengths of both"])
def test_cudnn_lowers_for_a_gpu(name, x64, backend, monkeypatch):
    fused_attention = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(fused_attention, "check_cudnn_version", lambda: 91000)
    backend("gpu")
    num_queries, num_keys, mask, _ = SERVED[name]

    def loss(*inputs):
        return jnp.sum(attend(*inputs, mask=mask))

    with jax.enable_x64(x64):
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*shapes(num_queries, num_keys))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmaxBackward" in text
