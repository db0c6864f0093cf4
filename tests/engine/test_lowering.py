"""The programs lower for every platform, on a machine that has none but a CPU."""

import jax
import jax.numpy as jnp

import jattn
from jattn import Decoder, EncoderDecoder, attend, attention_filter, masks, normalizers, scores
from tests.sampled import sampled
from tests.variants import NORMALIZERS, SCORES, VARIANTS, inputs

PLATFORMS = ("cpu", "cuda", "tpu")
QUERY, KEY, VALUE = jnp.ones((2, 5, 4, 6)), jnp.ones((2, 7, 2, 6)), jnp.ones((2, 7, 2, 3))
CALLS = {
    "dense": {},
    "blocked": {"block_size": 2, "mask": masks.causal() & masks.padding(jnp.array([3, 7]))},
    "cosine, bias, ranges": {
        "block_size": 3,
        "score": scores.cosine(),
        "bias": jnp.ones((4, 5, 7)),
        "mask": masks.sliding_window(1, 2) & ~masks.chunked(2, jnp.array([0, 1])),
    },
    "sink, segments": {
        "block_size": 2,
        "normalizer": normalizers.softmax_plus_one(jnp.ones((4, 1, 1))),
        "mask": masks.segments(jnp.arange(5) // 2, jnp.arange(7) // 2) | masks.prefix(1),
    },
    "dropout": {"block_size": 3, "dropout_rate": 0.1, "dropout_rng": jax.random.key(0)},
}


def lower(function, *arguments):
    """Lowers a function for all platforms at once."""
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS
    return exported


@sampled("name", CALLS, keep=2)
def test_attention_lowers_forward_and_backward(name, heads):
    def loss(query, key, value):
        return jnp.sum(attend(query, key, value, **CALLS[name]))

    lower(jax.value_and_grad(loss, argnums=(0, 1, 2)), QUERY, KEY, VALUE)


@sampled("name", [*(f"normalizer: {name}" for name in NORMALIZERS), *(f"score: {name}" for name in SCORES)], keep=8)
def test_every_normalizer_and_score_lowers(name):
    query, key, value = inputs()
    lower(lambda *arguments: attend(*arguments, block_size=3, **VARIANTS[name].call), query, key, value)


def test_drop_in_and_decoding_lower():
    lower(lambda query, key, value: jattn.dot_product_attention(query, key, value, is_causal=True), QUERY, KEY, KEY)

    def step(query, key, cache):
        at = cache.next_positions(5)
        return jattn.attend_cached(query, cache.append(key[:, :5], key[:, :5]), at)

    lower(step, QUERY, KEY, jattn.KVCache.empty((2,), 8, 2, 6))


def test_generation_lowers():
    model = Decoder(vocabulary=20, width=8, num_heads=2, positions="rotary")
    prompt = jnp.array([[0, 1, 2]])
    variables = jax.eval_shape(model.init, jax.random.key(0), prompt)
    options = {"max_new_tokens": 4, "temperature": 1.0, "top_k": 3, "top_p": 0.9, "rng": jax.random.key(0)}
    lower(lambda variables, prompt: jattn.generate(model, variables, prompt, **options), variables, prompt)


def test_half_precision_attention_lowers(heads):
    half = [x.astype(jnp.bfloat16) for x in (QUERY, KEY, VALUE)]
    lower(lambda *arguments: attend(*arguments, **CALLS["blocked"]), *half)


@sampled("heads", ["walked", "at once"], keep=1, indirect=True)
def test_folds_lower(heads):
    def folds(query, key):
        filter = attention_filter(query, key, mask=masks.causal(), block_size=2)
        asked = {"mass": jattn.folds.mass(masks.causal()), "map": jattn.folds.pool(3, 2), "best": jattn.folds.top_k(2)}
        found = filter.summarize("entropy", "argmax", "received", "histogram", "log_normalizer", **asked)
        return (
            found["entropy"],
            found,
            filter.rows(jnp.array([-1, 0])),
            filter[0, 1, 2:],
            filter.apply_transposed(query),
        )

    lower(folds, QUERY, KEY)


@sampled("heads", ["walked", "at once"], keep=1, indirect=True)
def test_the_gradient_of_a_fold_lowers(heads):
    def entropy(query, key):
        return jnp.sum(attention_filter(query, key, mask=masks.causal(), block_size=2).entropy())

    lower(jax.grad(entropy), QUERY, KEY)


def test_what_was_lowered_runs():
    exported = lower(lambda *arguments: attend(*arguments, mask=masks.causal()), QUERY, KEY, VALUE)
    assert exported.call(QUERY, KEY, VALUE).tolist() == attend(QUERY, KEY, VALUE, mask=masks.causal()).tolist()


@sampled("kind", [Decoder, EncoderDecoder], keep=1)
def test_models_lower(kind):
    model = kind(vocabulary=300, width=8, num_heads=2, hidden=8, positions="rotary", dtype=jnp.bfloat16)
    tokens = [jnp.array([[0, 1, 2, 299]])] * (2 if kind is EncoderDecoder else 1)
    variables = jax.eval_shape(model.init, jax.random.key(0), *tokens)

    def loss(variables, *tokens):
        return jnp.mean(model.apply(variables, *tokens, jnp.array([3])))

    lower(jax.value_and_grad(loss), variables, *tokens)
