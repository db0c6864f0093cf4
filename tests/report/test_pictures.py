"""Pictures with weights over their patches, as the figures draw them."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jattn.report.figures import draw_filters
from jattn.report.pictures import choose_spots
from jattn.report.record import Example, Layer, Picture, read_record
from tests.report.conftest import answers, reversal

LAYERS = (Layer("encoder_0/attention", 1), Layer("decoder_0/cross_attention", 2, keys="source", oracle=True))
COLOURS = np.array([[[255, 0, 0], [0, 0, 255]], [[0, 0, 0], [255, 255, 0]]], np.uint8)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def pictured(make_run, picture=None):
    """Makes a run that reads a picture of four patches, one pixel each; its filters turn into the oracle's."""
    picture = picture or Picture(png(COLOURS), 2, 2)
    examples = [replace(example, picture=picture) for example in reversal(LAYERS, "abcd").examples]
    return make_run(LAYERS, "abcd", examples=examples)


def test_the_head_that_finds_the_answers_is_shown_over_the_picture(make_run):
    spots = choose_spots(read_record(pictured(make_run)))
    assert (spots.layer.name, spots.head, spots.count) == ("decoder_0/cross_attention", 0, 4)
    assert choose_spots(read_record(make_run())) is None


def test_a_patch_is_as_bright_as_its_weight_and_the_oracle_is_outlined(make_run):
    """Query 0 looks at patch 3 alone."""
    first = choose_spots(read_record(pictured(make_run))).images(2, 40)[0]
    assert first.shape == (40, 40, 3)
    assert first[30, 30].tolist() == [255, 255, 0]
    assert first[20, 20].tolist() == [194, 65, 12]
    np.testing.assert_allclose(first[10, 10], 0.14 * COLOURS[0, 0] + 0.86 * 255, atol=0.5)


def test_words_below_are_what_is_read_and_what_the_model_says(make_run):
    spots = choose_spots(read_record(pictured(make_run)))
    for snapshot, turned in enumerate((0, 0.5, 1)):
        labels = spots.labels(snapshot)
        assert [reads for reads, _, _ in labels] == list("abcd")
        assert [says for _, says, _ in labels] == answers("abcd", turned)[0].tolist()
    assert [right for _, _, right in spots.labels(0)] == [True, False, False, False]


def test_the_figure_has_the_pictures_at_each_step(make_run):
    plain, more = (draw_filters(read_record(run)) for run in (make_run(LAYERS, "abcd"), pictured(make_run)))
    images = [[len(axes.images) for axes in figure.axes].count(1) for figure in (plain, more)]
    assert images[1] - images[0] == 3 * 4
    assert any("over the picture" in text.get_text() for text in more.texts)


def test_a_picture_that_is_none_is_told(make_run):
    spots = choose_spots(read_record(pictured(make_run, Picture(base64.b64encode(b"no").decode(), 2, 2))))
    with pytest.raises(ValueError, match="expected a picture as PNG in base64"):
        spots.images(0, 10)


def test_a_picture_has_a_patch_for_each_token_of_its_sequence():
    with pytest.raises(ValueError, match="expected a picture of 3 patches, got 2 rows of 2"):
        Example({"inputs": ["a"], "source": list("abc")}, ["a"], [True], [[0]], Picture("", 2, 2))
