import base64
import io
import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from jattn import attention_filter, biases, masks, normalizers, scores
from jattn.drawing.ink import SCALES
from jattn.drawing.look import INVALID, RAMP, ramp_colours
from jattn.filters import cells as views, images, plots as pictures
from tests.sampled import sampled

WORDS = ["The", "animal", "didn't", "cross", "the", "street", "because", "it", "was", "too", "tired"]
HOSTILE = ["<img onerror=x>", "</script>", "$x^{2$", "\n", "\u202e", "日本", "", " ", "\\", "{}"]


def random_filter(num_queries, num_keys=None, heads=1, batch=(), **options):
    rng = np.random.default_rng(3)
    query = rng.normal(size=(*batch, num_queries, heads, 8)).astype(np.float32)
    key = rng.normal(size=(*batch, num_keys or num_queries, heads, 8)).astype(np.float32)
    return attention_filter(2 * jnp.asarray(query), 2 * jnp.asarray(key), **options)


def diagonal_filter(size):
    one_hot = 50 * jnp.eye(size)[:, None, :]
    return attention_filter(one_hot, one_hot)


def cells(axes):
    return np.ma.filled(axes.images[0].get_array(), np.nan)


def notes(figure):
    return figure.texts[1].get_text()


def ticks(axis):
    low, high = sorted(axis.get_view_interval())
    named = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    return [label.get_text() for place, label in named if low < place < high]


def pooled(weights, q_bins, k_bins):
    """Pools a matrix by the definition, in float64."""
    sums, counts = np.zeros((q_bins, k_bins)), np.zeros(q_bins)
    for i, row in enumerate(np.asarray(weights, np.float64)):
        counts[i * q_bins // len(weights)] += 1
        for j, weight in enumerate(row):
            sums[i * q_bins // len(weights), j * k_bins // len(row)] += weight
    return sums / counts[:, None]


def rendered(figure):
    return np.asarray(Image.open(io.BytesIO(figure._repr_png_())).convert("RGB"))


def pixel(figure, axes, query, key):
    """Returns the colour in the middle of a cell."""
    image, scale = rendered(figure), 120 / figure.dpi
    x, y = axes.transData.transform((key, query)) * scale
    return tuple(image[round(image.shape[0] - y), round(x)])


def rgb(colour):
    return tuple(round(255 * part) for part in to_rgb(colour))


# --- plot -----------------------------------------------------------------------------------------------------------


def test_a_diagonal_filter_has_ink_on_the_diagonal_and_nowhere_else():
    figure = pictures.plot(diagonal_filter(8))
    np.testing.assert_allclose(cells(figure.axes[0]), np.eye(8), atol=1e-4)
    for query, key in ((0, 0), (3, 3), (7, 7)):
        assert pixel(figure, figure.axes[0], query, key) == rgb(RAMP[-1])
    for query, key in ((0, 7), (3, 4), (7, 0)):
        assert pixel(figure, figure.axes[0], query, key) == rgb(RAMP[0])


def test_every_head_of_the_first_entry_is_drawn_side_by_side():
    filter = random_filter(12, 9, heads=4, batch=(2, 3))
    figure = pictures.plot(filter)
    *panels, bar = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["head 0", "head 1", "head 2", "head 3", "weight"]
    for head, axes in enumerate(panels):
        np.testing.assert_allclose(cells(axes), filter[0, 0, head], rtol=1e-6)
    assert len({axes.get_position().y0 for axes in panels}) == 1
    assert notes(figure) == "entry (0, 0) of (2, 3)"
    assert bar.get_position().x0 > panels[-1].get_position().x1


@pytest.mark.exhaustive
def test_one_head_of_one_entry_is_drawn_by_index():
    filter = random_filter(12, heads=4, batch=(2,))
    figure = pictures.plot(filter, head=-1, entry=1)
    assert len(figure.axes) == 2
    np.testing.assert_allclose(cells(figure.axes[0]), filter[1, 3], rtol=1e-6)
    assert notes(figure) == "head 3 of 4; entry 1 of 2"
    several = pictures.plot(filter, head=[2, 0], entry=(1,))
    np.testing.assert_allclose([cells(axes) for axes in several.axes[:2]], filter[1, [2, 0]], rtol=1e-6)


def test_more_heads_than_fit_are_left_out_and_counted():
    figure = pictures.plot(random_filter(4, heads=views.HEADS + 4))
    assert len(figure.axes) == views.HEADS + 1
    assert notes(figure) == "16 of 20 heads"


def test_given_axes_are_drawn_in_and_returned():
    filter = random_filter(6, 40, heads=2)
    left, right = Figure().subplots(1, 2)
    assert pictures.plot(filter, left, head=1) is left
    np.testing.assert_allclose(cells(left), filter[1], rtol=1e-6)
    assert not right.images
    assert left.get_title(loc="left") == "head 1"
    assert (left.get_ylabel(), left.get_xlabel()) == ("query", "key")
    pictures.plot(random_filter(600), right, title="long")
    assert right.get_title(loc="left") == "long\neach cell 3 queries x 3 keys"


def test_a_large_filter_is_pooled_in_equal_cells_and_says_so():
    filter = random_filter(600, 257, mask=masks.causal())
    figure = pictures.plot(filter)
    assert notes(figure) == "each cell 3 queries x 1 to 2 keys; hatched: may not be attended"
    assert figure.texts[0].get_text() == "attention filter, 600 queries x 257 keys"
    np.testing.assert_allclose(cells(figure.axes[0]), pooled(filter.weights()[0], 200, 129), atol=1e-6)
    np.testing.assert_allclose(cells(figure.axes[0]).sum(-1), 1, atol=1e-5)


@sampled("mask", [None, masks.causal(), masks.sliding_window(5)], keep=1)
def test_a_large_filter_is_swept_for_the_heads_in_view_alone(mask):
    filter = random_filter(301, 280, heads=5, batch=(2,), mask=mask, bias=biases.alibi(), block_size=16)
    figure = pictures.plot(filter, head=[3, 1], entry=1)
    for axes, head in zip(figure.axes, (3, 1), strict=False):
        np.testing.assert_allclose(cells(axes), pooled(filter[1, head], 151, 140), atol=1e-6)


@sampled("head", [0, 1], keep=1)
def test_zoomed_rows_are_those_of_the_block(head):
    filter = random_filter(1000, heads=2, mask=masks.causal())
    figure = pictures.plot(filter, head=head, rows=slice(-400, 650), columns=slice(580, 660))
    axes = figure.axes[0]
    expected = filter.block(slice(600, 650), slice(580, 660))[head]
    np.testing.assert_allclose(cells(axes), expected, rtol=1e-6)
    assert (axes.get_xlim(), axes.get_ylim()) == ((579.5, 659.5), (649.5, 599.5))
    assert notes(figure) == f"head {head} of 2; hatched: may not be attended"


@pytest.mark.exhaustive
def test_a_large_part_is_pooled_in_chunks_of_rows(monkeypatch):
    filter = random_filter(700)
    monkeypatch.setattr(views, "AT_ONCE", 700 * 64)
    figure = pictures.plot(filter, rows=slice(100, 620), columns=slice(0, 300))
    expected = pooled(filter.block(slice(100, 620), slice(0, 300))[0], 174, 150)
    np.testing.assert_allclose(cells(figure.axes[0]), expected, atol=1e-6)
    assert notes(figure) == "each cell 2 to 3 queries x 2 keys"


def test_only_the_rows_in_view_are_computed():
    asked = []

    def score(query, key):
        asked.append(query.shape)
        return query @ jnp.swapaxes(key, -1, -2)

    filter = random_filter(4096, heads=2, score=score)
    asked.clear()
    pictures.plot(filter, head=1, rows=slice(4000, 4010), columns=slice(10, 50))
    assert asked
    assert all(shape in ((10, 8), (1, 10, 8)) for shape in asked)


def test_a_limit_on_arrays_is_no_limit_on_pictures():
    filter = random_filter(64).with_limit(1e-9)
    assert cells(pictures.plot(filter).axes[0]).shape == (64, 64)


def test_tokens_of_one_sequence_are_given_once():
    with pytest.raises(ValueError, match="tokens: expected them alone, or queries and keys, got both"):
        random_filter(3).plot(tokens="abc", keys="abc")
    with pytest.raises(ValueError, match="keys"):
        random_filter(3, 6).plot(tokens="abc")


def test_tokens_name_the_cells():
    filter = random_filter(len(WORDS))
    axes = filter.plot(tokens=WORDS).axes[0]
    shortened = [*WORDS[:6], "becau…", *WORDS[7:]]
    assert ticks(axes.yaxis) == shortened
    assert ticks(axes.xaxis) == shortened
    assert all(label.get_rotation() == 90 for label in axes.get_xticklabels())
    part = pictures.plot(filter, queries=WORDS, rows=slice(3, 5), columns=slice(1, 3)).axes[0]
    assert (ticks(part.yaxis), ticks(part.xaxis)) == (["cross", "the"], ["animal", "didn't"])
    assert (list(part.get_yticks()), list(part.get_xticks())) == ([3, 4], [1, 2])


@pytest.mark.exhaustive
def test_queries_do_not_name_keys_of_another_number():
    axes = pictures.plot(random_filter(3, 6), queries="abc").axes[0]
    assert ticks(axes.yaxis) == ["a", "b", "c"]
    assert ticks(axes.xaxis) == ["0", "2", "4"]
    both = pictures.plot(random_filter(3, 6), queries="abc", keys=range(10, 16)).axes[0]
    assert ticks(both.xaxis) == ["10", "11", "12", "13", "14", "15"]


def test_where_there_is_no_room_some_tokens_name_their_cells_and_pooled_cells_have_places():
    tokens = [f"w{i}" for i in range(600)]
    axes = pictures.plot(random_filter(200), queries=tokens[:200]).axes[0]
    shown = dict(zip(axes.get_yticks(), ticks(axes.yaxis), strict=True))
    assert 10 < len(shown) < 100
    assert all(label == f"w{place}" for place, label in shown.items())
    axes = pictures.plot(random_filter(600), queries=tokens).axes[0]
    assert {"0", "200", "400"} <= set(ticks(axes.yaxis))
    assert axes.get_ylim() == (599.5, -0.5)


def test_a_single_cell_has_a_single_tick_on_each_side():
    axes = pictures.plot(random_filter(1)).axes[0]
    assert [ticks(axes.xaxis), ticks(axes.yaxis)] == [["0"], ["0"]]


def test_hostile_tokens_and_titles_stay_text():
    figure = pictures.plot(random_filter(len(HOSTILE)), queries=HOSTILE, title="$\\frac{ <b>")
    assert rendered(figure).ndim == 3
    shown = ["<img …", "</scr…", "$x^{2$", "·", "·", "日本", "", "␣", "\\", "{}"]
    assert ticks(figure.axes[0].yaxis) == shown
    assert figure.texts[0].get_text() == "$\\frac{ <b>"


def outline(axes):
    (lines,) = [artist for artist in axes.collections if isinstance(artist, LineCollection)]
    return {tuple(map(tuple, np.round(segment, 3))) for segment in lines.get_segments()}


def test_the_oracle_is_outlined():
    oracle = np.zeros((5, 5), bool)
    oracle[1, 3] = oracle[1, 4] = True
    axes = pictures.plot(random_filter(5), oracle=oracle).axes[0]
    around = {
        ((2.5, 0.5), (2.5, 1.5)),
        ((4.5, 0.5), (4.5, 1.5)),
        *(((x, y), (x + 1, y)) for x in (2.5, 3.5) for y in (0.5, 1.5)),
    }
    assert outline(axes) == around
    assert not pictures.plot(random_filter(5)).axes[0].collections


@sampled("oracle", [masks.sliding_window(0, 0), np.eye(8, dtype=int), jnp.eye(8)[None, None] > 0], keep=1)
def test_an_oracle_is_a_mask_or_an_array_and_its_mass_is_said(oracle):
    filter = random_filter(8, heads=2, batch=(1,))
    figure = pictures.plot(filter, oracle=oracle)
    for head, axes in enumerate(figure.axes[:2]):
        assert len(outline(axes)) == 4 * 8
        mass = float(np.trace(filter[0, head])) / 8
        assert axes.get_title(loc="left") == f"head {head}; mass on the oracle {mass:.2f}"


@pytest.mark.exhaustive
def test_the_oracle_of_each_head_and_entry_is_its_own():
    oracle = np.zeros((2, 2, 4, 4), bool)
    oracle[1, 1, 2, 0] = True
    figure = pictures.plot(random_filter(4, heads=2, batch=(2,)), entry=1, oracle=oracle)
    assert [len(outline(axes)) for axes in figure.axes[:2]] == [0, 4]


def test_a_pooled_cell_is_outlined_if_any_of_it_is_in_the_oracle():
    filter = attention_filter(jnp.full((512, 1, 4), jnp.nan), jnp.ones((512, 1, 4)))
    axes = pictures.plot(filter, oracle=masks.from_function(lambda query, key: (query == 7) & (key == 501))).axes[0]
    corners = np.array(list(outline(axes))).reshape(-1, 2)
    # Cell (3, 250), and two cells around it, for a line around so small a cell would hide it.
    assert corners.min(axis=0).tolist() == [2 * 248 - 0.5, 2 * 1 - 0.5]
    assert corners.max(axis=0).tolist() == [2 * 253 - 0.5, 2 * 6 - 0.5]
    assert len(corners) == 2 * 4 * 5


def hatched(axes):
    """Returns the corners of what is hatched: ``[runs of cells, (x, y)]`` from the first to the last."""
    runs = [path.vertices for box in axes.collections if isinstance(box, PolyCollection) for path in box.get_paths()]
    return [(run.min(axis=0).tolist(), run.max(axis=0).tolist()) for run in runs]


def test_cells_that_may_not_be_attended_are_hatched_and_small_weights_are_not():
    filter = random_filter(6, mask=masks.causal())
    figure = pictures.plot(filter, rows=slice(2, 4), columns=slice(1, 5))
    assert hatched(figure.axes[0]) == [([2.5, 1.5], [4.5, 2.5]), ([3.5, 2.5], [4.5, 3.5])]
    assert notes(figure) == "hatched: may not be attended"
    assert pixel(figure, figure.axes[0], 3, 3) != pixel(figure, figure.axes[0], 2, 4)
    seen = pictures.plot(filter, rows=slice(5, 6))
    assert not seen.axes[0].collections
    assert notes(seen) == ""


@pytest.mark.exhaustive
def test_masked_cells_are_those_of_each_head_and_pooled_ones_all_masked():
    by_head = masks.from_function(lambda head, query, key: key <= query + 3 * head)
    figure = pictures.plot(random_filter(4, heads=2, mask=by_head))
    assert [len(hatched(axes)) for axes in figure.axes[:2]] == [3, 0]
    pooled = pictures.plot(random_filter(512, mask=masks.causal())).axes[0]
    assert len(hatched(pooled)) == 255
    assert hatched(pooled)[0] == ([1.5, -0.5], [511.5, 1.5])
    edited = random_filter(4, mask=masks.causal(), edit=lambda weights, grid: weights + 0.1)
    assert not hatched(pictures.plot(edited).axes[0])


def test_a_weight_that_is_not_a_number_has_a_colour_of_its_own():
    query = jnp.ones((6, 1, 4)).at[2].set(jnp.nan)
    figure = pictures.plot(attention_filter(query, jnp.ones((6, 1, 4))))
    assert pixel(figure, figure.axes[0], 2, 3) == rgb(INVALID)
    assert pixel(figure, figure.axes[0], 3, 3) != rgb(INVALID)


@sampled("size", [4, 16, 64, 256, 512], keep=2)
def test_chance_has_a_quarter_of_the_ink_at_any_length(size):
    filter = attention_filter(jnp.zeros((size, 1, 2)), jnp.zeros((size, 1, 2)))
    image = pictures.plot(filter).axes[0].images[0]
    np.testing.assert_allclose(image.norm(image.get_array()), 0.25, rtol=1e-4)


def test_the_exponent_of_the_chance_scale_is_kept_between_one_fifth_and_one():
    inks = {n: SCALES["chance"](np.zeros(0), 1 / n) for n in (1, 2, 4, 1024, 10**6)}
    assert {n: round(ink.exponent, 6) for n, ink in inks.items()} == {1: 1, 2: 1, 4: 1, 1024: 0.2, 10**6: 0.2}
    assert {ink.top for ink in inks.values()} == {1.0}


@pytest.mark.parametrize(("scale", "expected"), [("linear", 0.36), ("sqrt", 0.6), ("max", 0.9), ("chance", 0.36**0.5)])
def test_each_scale_says_which_weight_is_which_ink(scale, expected):
    weights = np.array([0.0, 0.36, 0.4, np.nan])
    ink = SCALES[scale](weights, 1 / 16)
    np.testing.assert_allclose(ink(weights)[:2], [0, expected])
    assert np.isnan(ink(weights)[3])


def test_the_colour_bar_shows_the_inks_of_its_weights():
    *_, bar = pictures.plot(random_filter(64)).axes
    ink = SCALES["chance"](np.zeros(0), 1 / 64)
    assert len(bar.get_yticks()) >= 4
    for place, label in zip(bar.get_yticks(), [label.get_text() for label in bar.get_yticklabels()], strict=True):
        assert place == pytest.approx(ink(float(label)))


def test_weights_above_one_are_drawn_as_one():
    filter = random_filter(4, edit=lambda weights, grid: 5 * weights)
    image = pictures.plot(filter).axes[0].images[0]
    assert image.norm(image.get_array()).max() == 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"head": 4}, ValueError, "head: expected an index from 0 to 3, got 4"),
        ({"head": -5}, ValueError, "head: expected an index from 0 to 3, got -5"),
        ({"head": []}, ValueError, "head: expected at least one head, got none"),
        ({"head": 1.0}, TypeError, "head must be an int, got 1.0"),
        ({"head": True}, TypeError, "head must be an int, got True"),
        ({"head": "1"}, TypeError, "head must be an int, got '1'"),
        ({"entry": 2}, ValueError, "entry: expected an index from 0 to 1, got 2"),
        ({"entry": (0, 0)}, ValueError, r"entry: expected one index for each of the batch axes \(2,\), got \(0, 0\)"),
        ({"rows": slice(0, 7)}, ValueError, "rows: expected a part of 0 to 6 that is not empty, got slice"),
        ({"rows": slice(3, 3)}, ValueError, "rows: expected a part"),
        ({"rows": slice(-7, None)}, ValueError, "rows: expected a part"),
        ({"columns": slice(0, 6, 2)}, ValueError, "columns: expected a slice of neighbours, got step 2"),
        ({"columns": 3}, TypeError, r"columns: expected a slice, such as slice\(0, 6\), got 3"),
        ({"columns": slice(0.5, 2)}, TypeError, "columns must be an int, got 0.5"),
        ({"queries": WORDS}, ValueError, "queries: expected a label for each of 6, got 11 of them"),
        ({"keys": WORDS}, ValueError, "keys: expected a label for each of 6, got 11 of them"),
        ({"queries": 6}, ValueError, "queries: expected a label for each of 6, got int"),
        ({"scale": "log"}, ValueError, "scale: expected one of chance, linear, sqrt, max, got 'log'"),
        ({"scale": ["max"]}, ValueError, "scale: expected one of"),
        ({"oracle": np.ones((5, 6))}, ValueError, r"oracle: expected a shape that broadcasts to .*got \(5, 6\)"),
        ({"oracle": "diagonal"}, TypeError, "oracle: expected a boolean array or a jattn mask .*got 'diagonal'"),
        ({"axes": 3}, TypeError, "axes: expected Matplotlib axes, got int"),
    ],
)
def test_plot_says_what_is_wrong(options, error, words):
    with pytest.raises(error, match=f"^{words}"):
        pictures.plot(random_filter(6, heads=4, batch=(2,)), **options)


def test_given_axes_hold_one_head():
    with pytest.raises(ValueError, match="head: expected one of the 2 heads where axes are given, got None"):
        pictures.plot(random_filter(4, heads=2), Figure().subplots())


@pytest.mark.parametrize("draw", [pictures.plot, lambda filter: images.save_map(filter, "never.png")])
def test_a_filter_without_known_weights_is_refused(draw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="filter: it is being traced"):
        jax.jit(lambda filter: draw(filter))(random_filter(4))
    with pytest.raises(ValueError, match="filter: it has shapes only"):
        draw(jax.eval_shape(lambda: random_filter(4)))
    with pytest.raises(ValueError, match=r"filter: a filter of shape \(1, 0, 3\) holds no weights"):
        draw(attention_filter(jnp.zeros((0, 1, 4)), jnp.zeros((3, 1, 4))))
    gone = random_filter(4)
    gone.query.delete()
    with pytest.raises(ValueError, match="filter: its arrays have been donated or deleted"):
        draw(gone)
    assert not list(tmp_path.iterdir())


def run_alone(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_jattn_imports_no_matplotlib_and_drawing_no_pyplot():
    code = """
import sys, jattn, jattn.filters.images, jattn.filters.plots
print("matplotlib" in sys.modules, "PIL" in sys.modules, "treescope" in sys.modules)
import jax.numpy as jnp
figure = jattn.filters.plots.plot(jattn.attention_filter(jnp.ones((3, 1, 4)), jnp.ones((3, 1, 4))))
print("matplotlib" in sys.modules, "matplotlib.pyplot" in sys.modules)
print(figure._repr_png_()[1:4].decode())
"""
    assert run_alone(code) == ["False", "False", "False", "True", "False", "PNG"]


# --- save_map -------------------------------------------------------------------------------------------------------


def inks(path):
    """Returns how far along the ramp each pixel is, by its colour."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    of_level = {tuple(colour): level for level, colour in enumerate(ramp_colours(255))}
    return np.array([[of_level[tuple(colour)] for colour in row] for row in pixels]) / 254


@sampled("scale", SCALES, keep=2)
def test_a_map_has_a_pixel_per_cell_in_the_ink_of_its_weight(tmp_path, scale):
    filter = random_filter(96, 80, heads=2, batch=(2,), mask=masks.causal())
    path = images.save_map(filter, tmp_path / "map.png", size=(32, 16), head=1, entry=1, scale=scale)
    expected = pooled(filter[1, 1], 32, 16)
    ink = SCALES[scale](expected, 5 / 80)
    np.testing.assert_allclose(inks(path), ink(expected), atol=0.51 / 254)
    assert inks(path)[0, 1:].max() == 0
    assert inks(path).max() > 0.9


def test_a_short_side_is_scaled_up_by_whole_pixels(tmp_path):
    filter = random_filter(5, 300)
    path = images.save_map(filter, tmp_path / "map.png", size=64, scale="linear")
    image = inks(path)
    assert image.shape == (60, 60)
    np.testing.assert_allclose(image[::12], pooled(filter[0], 5, 60), atol=0.51 / 254)
    np.testing.assert_array_equal(image, image[::12].repeat(12, axis=0))


def test_a_map_says_what_it_shows(tmp_path):
    filter = random_filter(64, heads=2, batch=(3,))
    with Image.open(images.save_map(filter, tmp_path / "map.png", size=32, head=1, entry=2, scale="max")) as image:
        text = image.text
    facts = json.loads(text["jattn"])
    largest = facts.pop("top")
    assert facts == {
        "shape": [3, 2, 64, 64],
        "entry": [2],
        "head": 1,
        "cells": [32, 32],
        "scale": "max",
        "exponent": 1.0,
    }
    assert largest == pytest.approx(pooled(filter[2, 1], 32, 32).max(), rel=1e-5)
    start = "attention filter (3, 2, 64, 64), entry 2, head 1; each cell 2 queries x 2 keys; ink = (weight / "
    assert text["Description"].startswith(start)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tiff", ".webp", ".gif", ".bmp", ".PNG"])
def test_the_ending_tells_the_format(tmp_path, ending):
    path = images.save_map(diagonal_filter(8), tmp_path / f"map{ending}", size=64)
    with Image.open(path) as image:
        assert image.size == (64, 64)
        pixels = np.asarray(image.convert("L")).astype(int)
        described = image.getexif().get(0x010E, "") or image.info.get("comment", b"")
        if ending in (".jpg", ".tiff", ".webp", ".gif"):
            assert b"each cell 1 query x 1 key" in (described if isinstance(described, bytes) else described.encode())
    centres = pixels[4::8, 4::8]
    assert np.diag(centres).max() < 60
    assert centres[~np.eye(8, dtype=bool)].min() > 230


def test_nan_has_a_colour_of_its_own_in_a_map(tmp_path):
    query = jnp.ones((4, 1, 4)).at[2].set(jnp.nan)
    path = images.save_map(attention_filter(query, jnp.ones((4, 1, 4))), tmp_path / "map.png", size=4)
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert (pixels == rgb(INVALID)).all(-1).tolist() == [[False] * 4] * 2 + [[True] * 4] + [[False] * 4]


def test_an_existing_file_is_replaced_only_by_a_whole_one(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "map.png"
    assert images.save_map(diagonal_filter(4), str(path), size=4) == path
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(images, "image_notes", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            images.save_map(random_filter(4), path, size=4)
    assert path.read_bytes() == before
    images.save_map(random_filter(4), path, size=4)
    assert path.read_bytes() != before
    assert [file.name for file in path.parent.iterdir()] == ["map.png"]


@pytest.mark.parametrize("where", ["a file/map.png", "a folder.png"])
def test_a_path_that_cannot_be_written_is_found_out_before_anything_is_computed(tmp_path, where, monkeypatch):
    (tmp_path / "a file").write_text("")
    (tmp_path / "a folder.png").mkdir()
    computed = []
    monkeypatch.setattr(images, "compute_cells", lambda *_: computed.append(0))
    with pytest.raises(OSError, match=re.escape(f"path: cannot write {str(tmp_path / where)!r}")):
        images.save_map(random_filter(4), tmp_path / where)
    assert not computed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "a folder.png"]


def test_a_format_that_has_no_colours_is_refused_in_words(tmp_path):
    with pytest.raises(OSError, match=r"^path: cannot write .*map\.xbm'"):
        images.save_map(random_filter(4), tmp_path / "map.xbm", size=4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"size": 0}, ValueError, "size: expected 1 to 8192 pixels on a side, got 0"),
        ({"size": (10, 8193)}, ValueError, r"size: expected 1 to 8192 pixels on a side, got \(10, 8193\)"),
        ({"size": (1, 2, 3)}, ValueError, r"size: expected a number of pixels or \(high, wide\), got \(1, 2, 3\)"),
        ({"size": 10.5}, TypeError, "size must be an int, got 10.5"),
        ({"head": 2}, ValueError, "head: expected an index from 0 to 1, got 2"),
        ({"head": None}, TypeError, "head must be an int, got None"),
        ({"entry": 0}, ValueError, r"entry: expected one index for each of the batch axes \(\), got 0"),
        ({"scale": "log"}, ValueError, "scale: expected one of chance, linear, sqrt, max, got 'log'"),
        (
            {"path": "map.docx"},
            ValueError,
            "path: expected the ending of an image format, such as .png, got 'map.docx'",
        ),
        ({"path": "map"}, ValueError, "path: expected the ending of an image format"),
    ],
)
def test_save_map_says_what_is_wrong(tmp_path, monkeypatch, options, error, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=f"^{words}"):
        images.save_map(random_filter(6, heads=2), **{"path": "map.png", **options})
    assert not list(tmp_path.iterdir())


# --- notebooks ------------------------------------------------------------------------------------------------------


def inline_images(text):
    for encoded in re.findall(r'src="data:image/png;base64,([^"]*)"', text):
        yield np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("L")).astype(int)


def test_a_notebook_shows_a_small_picture_of_each_head():
    eye = 50 * jnp.eye(6)
    query = jnp.stack([eye, eye[::-1]], axis=1)
    text = images.as_html(attention_filter(query[None], eye[None, :, None]))
    forward, backward = (image < 128 for image in inline_images(text))
    np.testing.assert_array_equal(forward, np.eye(6, dtype=bool))
    np.testing.assert_array_equal(backward, np.eye(6, dtype=bool)[::-1])
    assert "AttentionFilter(shape=(1, 2, 6, 6), dtype=float32)" in text
    assert "batch (1,), 2 heads, 6 queries, 6 keys" in text


def test_a_notebook_shows_what_a_filter_is_made_of():
    filter = random_filter(
        8,
        mask=masks.causal() & ~(masks.padding(jnp.array(3)) | masks.sliding_window(2, 1)),
        bias=biases.alibi(),
        normalizer=normalizers.softmax_plus_one(),
        score=scores.negative_squared_distance(),
    )
    text = re.sub("<[^>]*>", "|", images.as_html(filter))
    for name, part in (
        ("score", "negative_squared_distance()"),
        ("bias", "alibi()"),
        ("mask", "causal() &amp; ~(padding(int32[1, 1, 1]) | sliding_window(2, right=1))"),
        ("normalizer", "softmax_plus_one()"),
    ):
        assert f"|{name}||{part}|" in text
    assert "edit" not in text


def test_names_are_never_html():
    def hostile(query, key):
        return query @ jnp.swapaxes(key, -1, -2)

    hostile.__name__ = "<script>alert(1)</script>"
    text = images.as_html(random_filter(4, score=hostile))
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_a_notebook_draws_what_is_cheap_and_says_what_to_call_for_the_rest(monkeypatch):
    large = random_filter(1500, heads=2)
    computed = []
    monkeypatch.setattr(images, "compute_cells", lambda *_: computed.append(0))
    text = images.as_html(large)
    assert not list(inline_images(text))
    assert not computed
    assert ".plot()" in text
    assert ".save_map(path)" in text
    monkeypatch.undo()
    text = images.as_html(random_filter(300, heads=views.HEADS + 1))
    assert [image.shape for image in inline_images(text)] == [(100, 100)] * views.HEADS
    assert "each cell 3 queries x 3 keys; 16 of 17 heads" in text


def test_a_notebook_never_computes_what_is_not_known():
    texts = []
    jax.jit(lambda filter: texts.append(images.as_html(filter)) or filter)(random_filter(4))
    texts.append(images.as_html(jax.eval_shape(lambda: random_filter(4))))
    texts.append(images.as_html(attention_filter(jnp.zeros((0, 1, 4)), jnp.zeros((3, 1, 4)))))
    for text, reason in zip(texts, ["being traced", "shapes only", "holds no weights"], strict=True):
        assert f"Not drawn: {'it is ' if reason == 'being traced' else ''}" in text
        assert reason in text
        assert "<img" not in text


def test_a_part_that_fails_hides_only_the_pictures():
    def broken(query, key):
        raise RuntimeError("<b>out of ideas</b>")

    text = images.as_html(random_filter(4, score=broken))
    assert "Not drawn: RuntimeError: &lt;b&gt;out of ideas&lt;/b&gt;" in text
    assert "softmax" in text


IGNORED = "ignore:The chararray class is deprecated"
"""Treescope looks at all that NumPy offers, and NumPy warns of some."""


@pytest.fixture
def treescope(monkeypatch):
    """Wires a filter to treescope, and lets tests take parts of treescope away."""
    treescope = pytest.importorskip("treescope")
    kind = type(random_filter(1))
    monkeypatch.setattr(kind, "_repr_html_", images.as_html, raising=False)
    monkeypatch.setattr(kind, "__treescope_repr__", images.treescope_repr, raising=False)
    return treescope


@pytest.mark.filterwarnings(IGNORED)
def test_treescope_shows_what_a_filter_is_made_of(treescope):
    text = treescope.render_to_text({"layer": random_filter(8, mask=masks.causal())})
    assert "program=RowProgram(score=scaled_dot(), mask=causal(), normalizer=softmax())" in text
    assert "shape=(1, 8, 8)" in text
    assert "query=<jax.Array float32(8, 1, 8)" in text
    page = treescope.render_to_html(random_filter(8), compressed=False)
    assert "data:image/png;base64," in page


@pytest.mark.filterwarnings(IGNORED)
def test_treescope_goes_its_own_way_where_it_lacks_what_is_needed(treescope, monkeypatch):
    from treescope import repr_lib

    monkeypatch.delattr(repr_lib, "render_object_constructor")
    text = treescope.render_to_text(random_filter(8))
    assert text.startswith("AttentionFilter(")
    assert re.search(r"\bSoftmax\(\)", text)
    monkeypatch.setitem(sys.modules, "treescope", None)
    assert images.treescope_repr(random_filter(1), None, None) is NotImplemented
