"""A model that is asked in words: its vocabulary, its examples, its answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jattn.tasks import LAYOUTS
from jattn.training.reading import check
from jattn.training.restored import Restored
from jattn.training.setup import make_setup
from tests.sampled import sampled

MORE = pytest.mark.exhaustive


def restored(name="reverse", layout="encoder", **options):
    """A model that has learned nothing."""
    task = {"name": name, "layout": layout} | options
    setup = make_setup(check({"task": task, "model": {"width": 8}, "mesh": {"data": 1}}, "test"))
    batch = jax.jit(setup.training_batch)(jax.random.key(0), jnp.arange(1))
    return Restored(setup, jax.jit(setup.init)(batch))


@pytest.fixture(scope="module")
def reverse():
    return restored(symbols=4, min_length=5, max_length=5)


def test_it_is_the_parts_and_the_parameters(reverse):
    setup, params = reverse
    assert setup is reverse.setup
    assert params is reverse.params


def test_words_become_tokens_and_back(reverse):
    assert reverse.encode("3 0  1").tolist() == [3, 0, 1]
    assert reverse.decode([3, 0, 1]) == reverse.decode(jnp.array([[3, 0, 1]])) == "3 0 1"
    assert reverse.decode([4]) == "<pad>" == reverse.vocabulary[4]


def test_examples_are_those_of_the_run(reverse):
    batch = reverse.examples(3, seed=7)
    wanted = reverse.setup.judging_batch(jax.random.key(7), jnp.arange(3))
    np.testing.assert_array_equal(batch.inputs["tokens"], wanted.inputs["tokens"])


def test_an_answer_is_the_likeliest_word_at_each_place(reverse):
    batch = reverse.batch("3 0 1 2 2")
    np.testing.assert_array_equal(batch.inputs["tokens"], [[3, 0, 1, 2, 2]])
    likeliest = jnp.argmax(reverse.setup.apply(reverse.params, batch), axis=-1)
    assert reverse.predict("3 0 1 2 2") == reverse.decode(likeliest)


@pytest.mark.exhaustive
@pytest.mark.parametrize("layout", ["decoder", "encoder_decoder"])
def test_words_that_are_said_one_after_the_other_are_those_that_teacher_forcing_expects(layout):
    model = restored(layout=layout, symbols=4, min_length=3, max_length=3)
    said = model.encode(model.predict("3 0 1"))
    sequence = model._sequence("3 0 1")
    sequence = type(sequence)(
        sequence.source, sequence.source_length, jnp.asarray(said), sequence.target_length, sequence.alignment
    )
    batch = jax.tree.map(lambda x: x[None], LAYOUTS[layout].arrange(sequence, 4))
    likeliest = jnp.argmax(model.setup.apply(model.params, batch), axis=-1)
    assert likeliest[batch.scored].tolist() == said.tolist()


@pytest.mark.exhaustive
@sampled(("read_at", "layout", "place"), [("end", "causal", 11), ("it", "encoder", 8)], keep=1)
def test_an_answer_is_read_where_the_task_reads_it(read_at, layout, place):
    model = restored("pronoun", layout, read_at=read_at)
    text = "the animal did not cross the street because it was too tired"
    scored = model.batch(text).scored[0]
    assert [at for at in range(13) if scored[at]] == [place]
    assert len(model.predict(text).split()) == 1
    with pytest.raises(ValueError, match="text: task 'pronoun' has sentences of 12, 13 words here, got 2"):
        model.predict("the animal")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3 x", "text: task 'reverse' has no word 'x'; expected words such as 0, 1, 2, 3, <pad>"),
        ("3 <pads>", "text: task 'reverse' has no word '<pads>'; did you mean '<pad>'?"),
        (" ", "text: task 'reverse' needs 1 to 4096 words, got 0"),
    ],
)
def test_what_cannot_be_read_is_refused(reverse, text, said):
    with pytest.raises(ValueError, match="text: ") as refused:
        reverse.predict(text)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (6, "text of 6 words; the model was trained with 5, so its answer says little"),
        pytest.param(3, "text of 3 words; the model was trained with 5, so its answer says little", marks=MORE),
        pytest.param(5, "", marks=MORE),
    ],
)
def test_a_text_of_another_length_than_the_model_was_trained_with_is_said_to_be(reverse, words, said):
    assert reverse.caution(" ".join("3" * words)) == said


@pytest.mark.exhaustive
def test_lengths_are_those_of_what_the_task_makes():
    assert restored(min_length=4, max_length=9).trained_lengths() == (4, 9)
    assert restored("pronoun", "encoder").trained_lengths() == (12, 13)


def test_pictures_are_not_read_in_words():
    setup = make_setup(check({"task": {"name": "captions", "layout": "encoder_decoder"}}, "test"))
    with pytest.raises(ValueError, match="expected a task that reads words, 'captions' reads pictures"):
        Restored(setup, {}).encode("red square")
