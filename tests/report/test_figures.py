import io

import numpy as np
import pytest
from PIL import Image

from jattn.report import render
from jattn.report.animation import FRAME_MS, FRAMES, LAST_FRAME_MS, draw_frames, save_frames
from jattn.report.figures import DPI, HEADS, draw_curves, draw_filters, save_figure
from jattn.report.look import ACCENT
from jattn.report.record import Layer, read_record

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


def test_render_draws_a_run_just_begun(make_run):
    run_dir = make_run(steps=(0,), metrics=[])
    (run_dir / "metrics.jsonl").unlink()
    render(run_dir)
    with Image.open(run_dir / "figures" / "filters.gif") as animation:
        assert animation.info["duration"] == LAST_FRAME_MS


def test_filters_show_first_halfway_last_and_oracle(make_run):
    figure = draw_filters(read_record(make_run(steps=(0, 1, 50, 100))))
    assert {"step 0", "step 50", "step 100", "oracle"} <= set(texts(figure))
    assert "mass on the oracle 1.00" in texts(figure)
    image = png(figure)
    np.testing.assert_allclose(image.size, DPI * figure.get_size_inches(), atol=1)


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


def test_frames_outline_the_oracle_and_change(make_run):
    first, *_, last = (np.array(frame.convert("RGB")) for frame in draw_frames(read_record(make_run())))
    accent = [int(ACCENT[at : at + 2], 16) for at in (1, 3, 5)]
    outlined = (last == accent).all(-1)
    assert outlined.any()
    np.testing.assert_array_equal(outlined, (first == accent).all(-1))
    assert (first != last).any()


def test_filters_that_are_not_numbers_are_drawn(make_run):
    run_dir = make_run()
    record = read_record(run_dir)
    record.snapshots[-1]["block_0/attention"][:, :, 2] = np.nan
    assert "mass on the oracle nan" in texts(draw_filters(record))
    draw_frames(record)
