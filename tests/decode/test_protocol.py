import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from numpy.testing import assert_array_equal

from jattn import Decoder, Encoder, apply_with_edits, attention_filter, edits
from jattn.decode.protocol import Decodable, Inspectable, as_inspectable
from jattn.rules.edits import in_turn


@dataclasses.dataclass(frozen=True)
class TwoLookUps:
    """A model of no library: two filters over the same vectors, and their values added."""

    LOST_EDIT = "is not reached"

    def filters(self, variables, x):
        given = variables.get("edits", {})
        return {name: attention_filter(x, x, edit=given.get(name)) for name in ("look_2", "look_10")}

    def apply(self, variables, x):
        return sum(filter.apply(x) for filter in self.filters(variables, x).values())

    def capture(self, variables, x):
        return self.apply(variables, x), self.filters(variables, x)

    def with_edits(self, variables, edits):
        return {**variables, "edits": edits}


X = jax.random.normal(jax.random.key(0), (5, 1, 4))


def test_a_model_of_no_library_is_edited_by_what_it_offers():
    model = TwoLookUps()
    assert as_inspectable(model) is model
    one = attention_filter(X, X).apply(X)
    half = apply_with_edits(model, {}, X, edits={"look_10": edits.knock_out()})
    assert_array_equal(half, one)
    assert_array_equal(apply_with_edits(model, {}, X, edits={}), 2 * one)
    with pytest.raises(ValueError, match=r"expected attention layers among look_2, look_10, got 'look_3'"):
        apply_with_edits(model, {}, X, edits={"look_3": edits.knock_out()})


def test_a_model_whose_edits_are_lost_says_why():
    class Deaf(TwoLookUps):
        def with_edits(self, variables, edits):
            return variables

    with pytest.raises(ValueError, match="edits: 'look_2' is not reached"):
        apply_with_edits(Deaf(), {}, X, edits={"look_2": in_turn(edits.knock_out(), edits.knock_out())})


def test_a_linen_module_offers_what_a_capture_needs_and_a_decoder_can_be_generated_from():
    tokens = jnp.array([[1, 2, 3]])
    model = Encoder(vocabulary=4, width=8)
    seen = as_inspectable(model)
    assert isinstance(seen, Inspectable)
    variables = model.init(jax.random.key(0), tokens)
    logits, filters = seen.capture(variables, tokens)
    assert_array_equal(logits, seen.apply(variables, tokens))
    assert list(filters) == ["block_0/attention"]
    assert isinstance(Decoder(vocabulary=4), Decodable)
    assert not isinstance(model, Decodable)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="module: expected a flax module with attention layers, got int"):
        apply_with_edits(3, {}, edits={})


def test_a_layer_is_known_whatever_was_imported():
    code = """if True:
        import jax, jax.numpy as jnp
        from jattn import MultiHeadAttention, knock_out
        layer, x = MultiHeadAttention(num_heads=2), jnp.ones((2, 3, 4))
        batch = {"inputs": {"inputs_q": x}}
        print(knock_out(layer, layer.init(jax.random.key(0), x), batch, loss=lambda out, batch: jnp.mean(out)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "attention, head 1" in done.stdout
