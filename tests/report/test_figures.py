import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import style
from PIL import Image, ImageDraw

from jattn.drawing.look import ACCENT, DPI, HATCH, HATCH_PAPER, save_figure
from jattn.report import render
from jattn.report.animation import FRAME_MS, FRAMES, LAST_FRAME_MS, draw_frames, save_frames
from jattn.report.figures import HEADS, draw_curves, draw_filters
from jattn.report.record import Example, Layer, Probes, read_record, save_probes
from jattn.report.snapshots import save_snapshot
from tests.sampled import sampled

HOSTILE = ["<img onerror=x>", "</script>", "$x^{2$", "\n", "\u2028", "\u202e", "日本", "", " ", "\\", "{}"]


def texts(figure):
    own = [text.get_text() for text in figure.texts]
    return own + [axes.get_title(loc="left") for axes in figure.axes]


def png(figure):
    file = io.BytesIO()
    save_figure(figure, file)
    return Image.open(file)


def test_render_writes_every_file_and_returns_the_page(make_run):
    run_dir = make_run()
    assert render(run_dir) == run_dir / "report.html"
    assert sorted(path.name for path in (run_dir / "figures").iterdir()) == ["curves.png", "filters.gif", "filters.png"]
    assert not list(run_dir.glob(".*"))


STYLES = {
    "TeX that is not there": {"text.usetex": True},
    "ggplot": "ggplot",
    "images upside down and blurred": {"image.origin": "lower", "image.interpolation": "bilinear", "image.cmap": "jet"},
    "grids and tight boxes": {"axes.grid": True, "savefig.bbox": "tight", "savefig.dpi": 30},
    "dark": "dark_background",
    "seaborn": "seaborn-v0_8",
}


@sampled("name", STYLES, keep=1)
def test_a_style_of_ones_own_changes_no_pixel(make_run, name):
    record = read_record(make_run())

    def pixels():
        figures = np.asarray(png(draw_curves(record))), np.asarray(png(draw_filters(record)))
        return *figures, np.asarray(draw_frames(record)[-1])

    before = pixels()
    with style.context(STYLES[name]):
        for found, expected in zip(pixels(), before, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_render_draws_a_run_just_begun(make_run):
    run_dir = make_run(steps=(0,), metrics=[])
    (run_dir / "metrics.jsonl").unlink()
    render(run_dir)
    with Image.open(run_dir / "figures" / "filters.gif") as animation:
        assert animation.info["duration"] == LAST_FRAME_MS


def test_a_run_without_attention_has_curves_and_no_filters(make_run):
    run_dir = make_run(())
    render(run_dir)
    assert [path.name for path in (run_dir / "figures").iterdir()] == ["curves.png"]
    figure = draw_curves(read_record(run_dir))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "accuracy"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["training step"] * 2


def test_three_panels_leave_a_place_empty(make_run):
    figure = draw_curves(read_record(make_run((Layer("a", 1),))))
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "training step", "training step"]


def test_names_of_low_rows_do_not_touch(make_run):
    run_dir, layer = make_run(steps=(0,)), Layer("a/pooling/of/a/long/name", 2, "vector", "source")
    tokens = tuple("30142")
    sequences = {"inputs": tokens, "source": tokens, "vector": ("vector",)}
    save_probes(run_dir, Probes([layer], [Example(sequences, tokens, [True] * 5, [[]] * 5)]))
    save_snapshot(run_dir, 0, {layer.name: np.full((1, 2, 1, 5), 0.2)})
    figure = draw_filters(read_record(run_dir))
    png(figure)
    first, second = (text.get_window_extent() for text in figure.texts if text.get_text().startswith("a/pooling"))
    assert first.y0 > second.y1


def test_filters_show_first_halfway_last_and_oracle(make_run):
    figure = draw_filters(read_record(make_run(steps=(0, 1, 50, 100))))
    assert {"step 0", "step 50", "step 100", "oracle"} <= set(texts(figure))
    assert "mass on the oracle 1.00" in texts(figure)
    image = png(figure)
    np.testing.assert_allclose(image.size, DPI * figure.get_size_inches(), atol=1)


@pytest.mark.parametrize("pooled", [False, True])
def test_every_row_of_filters_is_named(make_run, make_pooled_run, pooled):
    layers = (Layer("a", 2, oracle=True), Layer("b", 1))
    figure = draw_filters(read_record((make_pooled_run if pooled else make_run)(layers)))
    assert {"a\nhead 0", "a\nhead 1", "b\nhead 0"} <= set(texts(figure))


def test_a_layer_without_an_oracle_has_no_column_for_it(make_run):
    figure = draw_filters(read_record(make_run((Layer("plain", 1),))))
    assert "oracle" not in texts(figure)
    assert len(figure.axes) == 3 + 1


def test_more_heads_than_fit_are_left_out_and_counted(make_run):
    record = read_record(make_run((Layer("a", 12, oracle=True), Layer("b", 12))))
    figure = draw_filters(record)
    assert len(figure.axes) == 3 * HEADS + 12 + 1
    assert any(text.endswith(f"{HEADS} of 24 heads") for text in texts(figure))


@pytest.mark.filterwarnings("error")
def test_hostile_tokens_stay_text_in_pictures(make_run):
    layer = Layer("$\\frac{", 1, oracle=True)
    record = read_record(make_run((layer,), tokens=HOSTILE))
    figure = draw_filters(record)
    png(figure)
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == ["<img …", "</scr…", "$x^{2$", "·", "·", "·", "日本", "", "␣", "\\", "{}"]
    save_frames(draw_frames(record), io.BytesIO())


def test_curves_of_no_numbers_say_so(make_run):
    figure = draw_curves(read_record(make_run(metrics=[])))
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["nothing logged yet"] * 4


@pytest.mark.parametrize("count", [1, 2, 5, FRAMES + 7])
def test_the_animation_has_a_frame_per_snapshot_and_rests_on_the_last(make_run, count):
    file = io.BytesIO()
    save_frames(draw_frames(read_record(make_run(steps=range(count)))), file)
    with Image.open(file) as animation:
        frames = min(count, FRAMES)
        assert getattr(animation, "n_frames", 1) == frames
        durations = []
        for frame in range(frames):
            animation.seek(frame)
            durations.append(animation.info["duration"])
    assert durations == [FRAME_MS] * (frames - 1) + [LAST_FRAME_MS]


def test_names_of_keys_do_not_touch_in_frames(make_run):
    names = [str(place + 10) for place in range(24)]
    frame = np.array(draw_frames(read_record(make_run(tokens=names)))[-1].convert("RGB"))
    outlined = np.flatnonzero((frame == [int(ACCENT[at : at + 2], 16) for at in (1, 3, 5)]).all(-1).any(1))
    bottom = outlined[np.flatnonzero(np.diff(outlined) > 1)[0]]
    inked = (frame[bottom + 4 : bottom + 26].min(-1) < 200).any(0)
    assert np.sum(np.diff(inked.astype(int)) == 1) == len(names)


def test_frames_outline_the_oracle_and_change(make_run):
    first, *_, last = (np.array(frame.convert("RGB")) for frame in draw_frames(read_record(make_run())))
    accent = [int(ACCENT[at : at + 2], 16) for at in (1, 3, 5)]
    outlined = (last == accent).all(-1)
    assert outlined.any()
    np.testing.assert_array_equal(outlined, (first == accent).all(-1))
    assert (first != last).any()


@pytest.mark.parametrize("pooled", [False, True])
def test_cells_that_may_not_be_attended_are_hatched_and_said(make_run, make_pooled_run, pooled):
    """No query sees a key after itself: above the diagonal lie hatched cells, below it none."""
    plain = read_record(make_pooled_run(lengths=(32, 32)) if pooled else make_run())
    count, side = (16, 32) if pooled else (5, 70)
    causal = {"block_0/attention": [[[0, query + 1] for query in range(count)]] * 2}
    record = replace(plain, probes=replace(plain.probes, visible=causal))
    words = "hatched: may not be attended"
    figures = draw_filters(plain), draw_filters(record)
    assert [any(words in text for text in texts(figure)) for figure in figures] == [False, True]
    assert [sum(len(axes.collections) for axes in figure.axes) for figure in figures] == [0, 3]
    frames = [np.array(draw_frames(each)[-1].convert("RGB")) for each in (plain, record)]
    assert np.all(frames[1][:, -4:] == 255), "the legend is cut"
    for colour in (HATCH, HATCH_PAPER):
        found = [(frame == [int(colour[at : at + 2], 16) for at in (1, 3, 5)]).all(-1) for frame in frames]
        assert not found[0].any()
        rows, columns = np.nonzero(found[1])
        assert np.all((columns - columns.min()) // side + 1 > (rows - rows.min()) // side)


def test_filters_that_are_not_numbers_are_drawn(make_run):
    run_dir = make_run()
    record = read_record(run_dir)
    record.snapshots[-1]["block_0/attention"][:, :, 2] = np.nan
    assert "mass on the oracle nan" in texts(draw_filters(record))
    draw_frames(record)


def ink(figure, panel):
    image = figure.axes[panel].images[0]
    return np.ma.getdata(image.norm(image.get_array()))


def test_a_pooled_filter_is_drawn_as_its_map_with_positions_and_words(make_pooled_run):
    record = read_record(make_pooled_run(lengths=(40, 24)))
    figure = draw_filters(record)
    assert any(text.endswith("; pooled: each cell is 2 to 3 queries x 2 to 3 keys") for text in texts(figure))
    assert "mass on the oracle 1.00" in texts(figure)
    first = figure.axes[0]
    queries, keys = (
        [label.get_text() for label in labels] for labels in (first.get_yticklabels(), first.get_xticklabels())
    )
    assert queries == ["0–2", "10–12", "20–22", "28–29", "38–39"]
    assert (keys[0], keys[-1]) == ("0–2", "38–39")
    np.testing.assert_allclose(ink(figure, 0) ** 2, record.picture(0, record.probes.layers[0], 0)[0], atol=1e-6)
    oracle = [[row * 40 // 16, 39 - row * 40 // 16] for row in range(16)]
    marked = ~np.ma.getmaskarray(figure.axes[3].images[0].get_array())
    assert all(marked[query * 16 // 40, key * 16 // 40] for query, key in oracle)
    png(figure)


def test_cells_of_a_map_are_whole_pixels(make_pooled_run):
    figure = draw_filters(read_record(make_pooled_run(lengths=(70, 50), bins=64)))
    width = figure.axes[0].get_position().width * figure.get_size_inches()[0] * DPI
    assert round(width, 6) == 6 * 64


def test_colours_of_a_map_are_told_in_proportion_to_the_root(make_run, make_pooled_run):
    for run_dir, rooted in ((make_run(), False), (make_pooled_run(), True)):
        bar = draw_filters(read_record(run_dir)).axes[-1]
        places = dict(zip([label.get_text() for label in bar.get_yticklabels()], bar.get_yticks(), strict=True))
        assert places["0.5"] == pytest.approx(0.5**0.5 if rooted else 0.5)


def test_queries_that_are_not_scored_are_grey_where_none_of_a_row_is(make_pooled_run):
    record = read_record(make_pooled_run(lengths=(32, 24)))
    record.probes.examples[0].scored[:] = [False] * 5 + [True] * 27
    oracle = draw_filters(record).axes[3]
    assert [patch.get_y() for patch in oracle.patches] == [-0.5, 0.5]


@pytest.mark.parametrize(("bins", "inside"), [(16, True), (200, False)])
def test_frames_outline_the_oracle_of_a_map_and_leave_its_ink_to_be_seen(make_pooled_run, bins, inside):
    record = read_record(make_pooled_run(lengths=(400, 300), bins=bins))
    *_, last = draw_frames(record)
    accent = (np.array(last.convert("RGB")) == [int(ACCENT[at : at + 2], 16) for at in (1, 3, 5)]).all(-1)
    _, top, cell = 92, 82, 512 // bins
    corner = accent[top : top + cell, 92 + (bins - 1) * cell : 92 + bins * cell]
    assert corner.any() == inside
    around = accent[top : top + cell, 92 + (bins - 1) * cell - 1]
    assert around.all() == (not inside)


def test_frames_of_a_pooled_run_tell_positions_and_what_a_cell_is(make_pooled_run, monkeypatch):
    said = []
    write = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, place, text, *a, **k: (said.append(text), write(self, place, text, *a, **k)),
    )
    draw_frames(read_record(make_pooled_run(lengths=(40, 24))))
    assert {"0–2", "38–39", "mass on the oracle 1.00"} <= set(said)
    assert "the oracle; row: query, column: key; pooled: each cell is 2 to 3 queries x 2 to 3 keys" in said


def test_maps_beside_whole_filters_are_drawn(make_pooled_run):
    layers = (Layer("long", 2, oracle=True), Layer("short", 1))
    run_dir = make_pooled_run(layers, lengths=(40, 24))
    for step in (0, 50, 100):
        kept = read_record(run_dir).snapshots[0]["long"]
        save_snapshot(run_dir, step, {"long": kept, "short": np.full((2, 1, 40, 40), 1 / 40)})
    record = read_record(run_dir)
    assert len(draw_filters(record).axes) == 3 * 3 + 2 + 1
    assert len(draw_frames(record)) == 3
