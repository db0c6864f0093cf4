"""Published families, each against its forward pass in plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jattn
from jattn.linen.architecture import Architecture
from jattn.linen.language import LanguageModel
from jattn.linen.vision import VisionModel
from jattn.pretrained import load
from jattn.pretrained.families import Config
from jattn.pretrained.loading import FAMILIES
from jattn.rules.positions import FrequencyFactors
from tests.pretrained import forward
from tests.pretrained.published import MODELS, write_folder
from tests.sampled import sampled

TOKENS = np.array([3, 1, 4, 1, 5, 9, 2, 6])
IMAGE = np.random.default_rng(1).normal(size=(12, 12, 3)).astype(np.float32)


def computed(name, tmp_path):
    config, tensors = MODELS[name]()
    loaded = load(write_folder(tmp_path / name, config, tensors))
    look = jax.jit(lambda variables, tokens: jattn.capture_filters(loaded.model, variables, tokens))
    read = IMAGE if "image_size" in config else TOKENS
    logits, filters = look(loaded.variables, read)
    expected = getattr(forward, config["model_type"].partition("_")[0], forward.llama)(config, tensors, read)
    return loaded, (logits, filters), expected


@sampled("name", MODELS, keep=["bert", "qwen3"])
def test_logits_and_filters_are_those_of_the_published_formula(name, tmp_path):
    loaded, (logits, filters), (expected_logits, expected_filters) = computed(name, tmp_path)
    assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-4 * np.abs(expected_logits).max())
    assert list(filters) == [f"layer_{layer}/attention" for layer in range(3)]
    for filter, weights in zip(filters.values(), expected_filters, strict=True):
        assert_allclose(filter.weights(), weights, atol=1e-5)
    assert loaded.card.parameters == sum(x.size for x in jax.tree.leaves(loaded.variables))
    assert (loaded.tokenizer is None) == (loaded.card.family not in ("ViT", "DINOv2"))


def test_generated_tokens_are_those_of_the_formula_with_windows_in_some_layers(tmp_path):
    config, tensors = MODELS["qwen2"]()
    loaded, tokens = load(write_folder(tmp_path, config, tensors)), list(TOKENS[:5])
    for _ in range(6):
        tokens.append(int(forward.llama(config, tensors, np.array(tokens))[0][-1].argmax()))
    prompts, lengths = jnp.array([tokens[:5], [*tokens[:3], 0, 0]]), jnp.array([5, 3])
    found, rows = jattn.generate_with_filters(
        loaded.model, loaded.variables, prompts, lengths=lengths, max_new_tokens=6
    )
    assert found[0].tolist() == tokens[5:]
    short = list(TOKENS[:3])
    for _ in range(6):
        short.append(int(forward.llama(config, tensors, np.array(short))[0][-1].argmax()))
    assert found[1].tolist() == short[3:]
    for entry, text in enumerate((tokens, short)):
        _, filters = forward.llama(config, tensors, np.array(text[:-1]))
        for layer, weights in enumerate(filters):
            kept = rows[f"layer_{layer}/attention"][entry, ..., : len(text) - 1]
            assert_allclose(kept, weights[:, -6:], atol=1e-5)


@pytest.mark.exhaustive
def test_a_pooled_vector_and_the_logits_of_a_pair_are_those_of_bert(tmp_path):
    config, tensors = MODELS["bert"]()
    bare = {name: tensor for name, tensor in tensors.items() if not name.startswith("cls.predictions")}
    loaded = load(write_folder(tmp_path, config, bare))
    assert loaded.model.architecture.head == "none"
    hidden, _ = forward.bert(config, bare, TOKENS)
    vector = np.tanh(forward.Numbers(bare).linear("bert.pooler.dense", hidden[0]))
    found, pair = loaded.model.apply(loaded.variables, TOKENS, method="pooled")
    assert_allclose(found, vector, atol=1e-5)
    assert_allclose(pair, forward.Numbers(bare).linear("cls.seq_relationship", vector), atol=1e-5)


# Images


@pytest.mark.exhaustive
def test_a_vision_model_with_a_pooler_gives_the_vector_of_an_image(tmp_path):
    config, tensors = MODELS["vit"]()
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}
    bare = tensors | {"pooler.dense.weight": np.eye(32, dtype=np.float32) / 4, "pooler.dense.bias": np.ones(32, "f4")}
    loaded = load(write_folder(tmp_path, config, bare))
    hidden, _ = forward.vit(config, tensors, IMAGE)
    assert_allclose(loaded.model.apply(loaded.variables, IMAGE), hidden, atol=1e-4)
    found = loaded.model.apply(loaded.variables, IMAGE, method="pooled")
    assert_allclose(found, np.tanh(hidden[0] / 4 + 1), atol=1e-5)


@pytest.mark.exhaustive
def test_of_masked_patches_nothing_is_seen(tmp_path):
    loaded = load(write_folder(tmp_path, *MODELS["dinov2"]()))
    look = jax.jit(lambda image, masked: loaded.model.apply(loaded.variables, image, masked))
    nothing, everything = np.zeros(9, bool), np.ones(9, bool)
    assert_allclose(look(IMAGE, everything), look(-IMAGE, everything))
    assert_allclose(look(IMAGE, nothing), loaded.model.apply(loaded.variables, IMAGE), rtol=1e-4, atol=1e-4)
    other = IMAGE.copy()
    other[4:8, :4] = 0  # the fourth patch in reading order
    fourth = np.arange(9) == 3
    assert_allclose(look(IMAGE, fourth), look(other, fourth))
    assert not np.allclose(look(IMAGE, nothing), look(other, nothing), atol=1e-2)


def test_scaled_layers_compute_in_another_dtype_than_their_parameters_have():
    its = Architecture(5, num_layers=2, num_heads=1, width=4, hidden=4, causal=False, head="none", layer_scale=True)
    model = VisionModel(its, image_size=12, patch_size=4, dtype=jnp.bfloat16)
    hidden, variables = jax.eval_shape(lambda rng: model.init_with_output(rng, IMAGE), jax.random.key(0))
    assert hidden.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}


WRONG_IMAGES = {
    "another size": ({"image_size": 8}, (), r"images: expected shape \[\*batch, 8, 8, 3\], got \(12, 12, 3\)"),
    "patches that do not fit": ({"patch_size": 5}, (), "patch_size: expected a divisor of 12 pixels, got 5"),
    "no mask token": ({}, (np.ones(9, bool),), "masked: expected None for a model without a mask token, got an array"),
}


@pytest.mark.parametrize("case", WRONG_IMAGES)
def test_images_that_do_not_fit_are_refused(case):
    change, more, message = WRONG_IMAGES[case]
    its = Architecture(5, num_layers=1, num_heads=1, width=4, hidden=4, causal=False, head="linear")
    model = VisionModel(its, **({"image_size": 12, "patch_size": 4} | change))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda rng: model.init(rng, IMAGE, *more), jax.random.key(0))


@pytest.mark.exhaustive
def test_a_cache_turns_tokens_as_a_text_of_its_room_would(tmp_path):
    """A base that grows with the length is the same for all tokens that a cache has room for."""
    config, tensors = MODELS["llama dynamic"]()
    loaded = load(write_folder(tmp_path, config, tensors))
    model = loaded.model.apply
    logits, cache = model(loaded.variables, jnp.asarray(TOKENS[:5]), cache=loaded.model.empty_cache((), len(TOKENS)))
    more, _ = model(loaded.variables, jnp.asarray(TOKENS[5:]), cache=cache)
    expected, _ = forward.llama(config, tensors, TOKENS)
    assert_allclose(jnp.concatenate([logits, more]), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_without_an_activation_a_config_means_the_published_one():
    for kind, expected in {"albert": "gelu_tanh", "bert": "gelu"}.items():
        config, tensors = MODELS[kind]()
        del config["hidden_act"]
        assert FAMILIES[kind].architecture(Config(config), tensors).activation == expected


def test_without_sizes_of_windows_a_config_means_the_published_ones():
    config, tensors = MODELS["qwen2"]()
    cases = {
        ("mistral", "sliding_window"): (4096,) * 3,
        ("qwen2", "sliding_window"): (None, 4096, 4096),
        ("qwen2", "max_window_layers"): None,
    }
    for (kind, missing), windows in cases.items():
        without = {name: value for name, value in config.items() if name != missing} | {"model_type": kind}
        assert FAMILIES[kind].architecture(Config(without), tensors).windows == windows
    off = Config(config | {"model_type": "mistral", "sliding_window": None})
    assert FAMILIES["mistral"].architecture(off, tensors).windows is None


# Scanned layers

SMALL = Architecture(30, num_layers=3, num_heads=2, width=8, hidden=8, causal=False, shared_layers=True)


@pytest.mark.exhaustive
def test_an_edit_reaches_the_layers_it_names_and_no_other():
    model = LanguageModel(SMALL)
    variables = jax.jit(model.init)(jax.random.key(0), TOKENS)
    variables = jax.tree.map(lambda x: 5 * x, variables)
    first = jnp.zeros((2, 8, 8)).at[:, :, 0].set(1)
    edits = {"layer_0/attention": jattn.edits.force(first), "layer_2/attention": jattn.edits.knock_out([1])}

    @jax.jit
    def look(variables, edits):
        model_with = jattn.apply_with_edits(model, variables, TOKENS, edits=edits)
        return model_with, *jattn.capture_filters(model, variables, TOKENS)

    edited, plain, filters = look(variables, edits)
    assert not np.allclose(edited, plain, atol=1e-3)
    same = {name: jattn.edits.swap(filters[name]) for name in ("layer_1/attention", "layer_2/attention")}
    assert_allclose(look(variables, same)[0], plain, atol=1e-5)


def test_an_edit_of_a_layer_that_is_not_there_is_refused():
    model = LanguageModel(SMALL)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    with pytest.raises(ValueError, match=r"expected attention layers among layer_0/attention, .* got 'layer_3/att"):
        jattn.apply_with_edits(model, variables, TOKENS, edits={"layer_3/attention": jattn.edits.knock_out()})


@pytest.mark.exhaustive
def test_a_knock_out_of_each_head_is_an_edit_of_the_unrolled_layers(tmp_path):
    config, tensors = MODELS["gpt2"]()
    loaded = load(write_folder(tmp_path, config, tensors))
    batch = {"inputs": {"tokens": jnp.asarray(TOKENS)}}

    def loss(logits, batch):
        return -jax.nn.log_softmax(logits)[-1, 7]

    found = jattn.knock_out(loaded.model, loaded.variables, batch, loss=loss)
    for layer in range(3):
        for head in range(4):
            silent = {name: tensor.copy() for name, tensor in tensors.items()}
            silent[f"transformer.h.{layer}.attn.c_proj.weight"][head * 8 : (head + 1) * 8] = 0
            logits, _ = forward.gpt2(config, silent, TOKENS)
            expected = np.log(np.exp(logits[-1]).sum()) - logits[-1, 7]
            assert_allclose(found.alone[f"layer_{layer}/attention"].loss[head], expected, rtol=1e-4)


WRONG = {
    "cache of another kind": (lambda model: {"cache": ()}, TypeError, "cache: expected a KVCache .*, got tuple"),
    "cache of another batch": (
        lambda model: {"cache": model.empty_cache((2,), 4)},
        ValueError,
        r"cache: expected layers and batch of shape \(2,\), got \(2, 2\)",
    ),
    "too many tokens": (lambda model: {}, ValueError, "tokens: expected at most 4 learned positions, got 8 tokens"),
    "token types": (
        lambda model: {"token_types": jnp.zeros(8, int)},
        ValueError,
        "token_types: expected None for a model without",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls_are_refused_in_one_line(case):
    make, kind, message = WRONG[case]
    its = Architecture(9, num_layers=2, num_heads=1, width=4, hidden=4, max_length=None if case == "token types" else 4)
    model = LanguageModel(its)
    call = make(model)
    with pytest.raises(kind, match=message):
        jax.eval_shape(lambda rng: model.init(rng, TOKENS, **call), jax.random.key(0))


WRONG_SIZES = {
    "heads": ({"num_heads": 3}, "num_heads: expected a divisor of the width 8, got 3"),
    "key heads": ({"num_kv_heads": 3}, "num_kv_heads: expected a divisor of 4 heads, got 3"),
    "no layers": ({"num_layers": 0}, "num_layers: expected a positive int, got 0"),
    "norm": ({"norm": "batch"}, "norm: expected one of layer, rms, got 'batch'"),
    "windows": ({"windows": (3,)}, "windows: expected one for each of 2 layers, got 1"),
    "an empty window": ({"windows": (3, 0)}, "windows: expected positive ints or None, got 0"),
    "a negative window": ({"windows": (-1, None)}, "windows: expected positive ints or None, got -1"),
    "negative key heads": ({"num_kv_heads": -2}, "num_kv_heads: expected a positive int, got -2"),
    "no key heads": ({"num_kv_heads": 0}, "num_kv_heads: expected a positive int, got 0"),
    "no dims": ({"head_dim": 0}, "head_dim: expected a positive int, got 0"),
    "no positions": ({"max_length": 0}, "max_length: expected a positive int, got 0"),
    "no width of embeddings": ({"embedding_width": 0}, "embedding_width: expected a positive int, got 0"),
    "negative token types": ({"token_types": -1}, "token_types: expected an int of at least 0, got -1"),
    "negative classes": ({"pair_classes": -1}, "pair_classes: expected an int of at least 0, got -1"),
    "no base": ({"rotary": 0.0}, "rotary: expected a positive number, got 0.0"),
    "no scaling": ({"rotary_scaling": 0.0}, "rotary_scaling: expected a positive number, got 0.0"),
    "negative epsilon": ({"epsilon": -1}, "epsilon: expected a positive number, got -1"),
    "tied logits of another width": (
        {"embedding_width": 4, "head": "tied"},
        "embedding_width: expected the width 8 for tied logits, got 4",
    ),
    "factors of other pairs": (
        {"rotary": 9.0, "rotary_scaling": FrequencyFactors((1.0, 2.0))},
        "scaling: expected 1 factors, one per pair of dims, got 2",
    ),
    "no epsilon": ({"epsilon": None}, "epsilon: expected a positive number, got None"),
}


@pytest.mark.parametrize("case", WRONG_SIZES)
def test_sizes_that_do_not_fit_are_refused(case):
    change, message = WRONG_SIZES[case]
    sizes = {"vocabulary": 9, "num_layers": 2, "num_heads": 4, "width": 8, "hidden": 4}
    with pytest.raises(ValueError, match=message):
        Architecture(**(sizes | change))
