"""Examples as text: what a person reads of tokens, of pictures, and of what fills unused places."""

import base64
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jattn.tasks import Sequence
from jattn.training.describing import decode, describe_answers, describe_probes
from jattn.training.evaluation import Measured
from jattn.training.reading import check
from jattn.training.setup import make_setup

REVERSE = {"name": "reverse", "layout": "encoder_decoder"}
THREE_OF_FOUR = Sequence(
    np.array([3, 1, 2, 7]), np.int32(3), np.array([2, 1, 3, 9]), np.int32(3), np.eye(4, dtype=bool)
)


def described(task, sequence, wrong, *layers):
    """Describes one example whose answers are right but for some, and the filters of layers."""
    setup = make_setup(check({"task": task, "mesh": {"data": 1}}, "test"))
    batch = jax.tree.map(lambda x: x[None], setup.layout.arrange(sequence, len(setup.task.symbols)))
    if sequence.source_length == len(sequence.source):
        batch.inputs.pop("source_lengths")
    predictions = jnp.where(jnp.array(wrong), 0, batch.targets)
    weights = {layer: jnp.zeros((1, 1, *batch.oracle.shape[1:])) for layer in layers}
    measured = Measured({}, batch, predictions, weights, {}, tuple((layer, setup.layout.oracle) for layer in layers))
    (example,), probes = decode(setup, measured), describe_probes(setup, measured)
    assert " ".join(text for text in describe_answers(setup, measured)[0] if text) == example["prediction"]
    return example, probes


def test_tokens_are_written_without_what_fills_unused_places():
    """3 1 2 -> 2 1 3, in room for four."""
    example, probes = described(REVERSE, THREE_OF_FOUR, [False, True, False, False], "cross_attention")
    assert example == {"source": "3 1 2", "target": "2 1 3", "prediction": "2 0 3"}
    assert probes.examples[0].sequences == {"source": ["3", "1", "2"], "inputs": ["<bos>", "2", "1"]}
    assert probes.examples[0].oracle == [[0], [1], [2]]


def test_layers_are_listed_as_a_person_counts_them_for_the_page_and_the_figures():
    names = [f"block_{number}/attention" for number in range(12)]
    _, probes = described(REVERSE, THREE_OF_FOUR, [False] * 4, *sorted(names))
    assert [layer.name for layer in probes.layers] == names


@pytest.mark.parametrize(("real", "written"), [(4, ["r4", "r1b2", ".", "g1y1"]), (3, ["r4", "r1b2", "."])])
def test_patches_of_a_picture_are_written_by_their_colours(real, written):
    red, green, blue, yellow, black = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 0, 0)
    patches = [[red] * 4, [blue, red, black, blue], [black] * 4, [black, yellow, green, black]]
    source = jnp.array(np.reshape(patches, (4, 12)), jnp.float32)
    shown = jnp.eye(5, 4, dtype=bool) & (jnp.arange(4) < real)
    sequence = Sequence(source, jnp.int32(real), jnp.array([1, 4, 8, 2, 5]), jnp.int32(5), shown)
    task = {"name": "captions", "layout": "encoder_decoder", "image": 12}
    example, probes = described(task, sequence, [True, False, False, False, False], "decoder_0/cross_attention")
    assert example["source"] == " ".join(written)
    assert example["target"] == "green square left-of blue circle"
    assert example["prediction"] == "red square left-of blue circle"
    assert probes.examples[0].sequences["source"] == written
    assert probes.examples[0].sequences["inputs"] == ["<bos>", "green", "square", "left-of", "blue"]
    assert probes.layers[0].keys == "source"
    picture = probes.examples[0].picture
    if real < 4:
        assert picture is None
        return
    assert (picture.rows, picture.columns, picture.sequence) == (2, 2, "source")
    with Image.open(io.BytesIO(base64.b64decode(picture.png))) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (4, 4, 3)
    assert pixels[0].tolist() == [[255, 0, 0], [255, 0, 0], [0, 0, 255], [255, 0, 0]]
