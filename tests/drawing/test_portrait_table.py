"""Head portraits as a table and as a picture, of numbers that are made up."""

import re

import numpy as np
import pytest

from jattn.drawing.look import ACCENT, INVALID, RAMP
from jattn.drawing.portrait_table import columns
from jattn.study.portraits import PATTERNS, HeadPortraits

NAN = np.nan


def portraits_of(**layers):
    """Makes portraits; of each layer the evenness, and by pattern the mass and the chance of each head."""
    names = dict.fromkeys(name for of in layers.values() for name in of if name != "evenness")
    parts = [
        {
            layer: {name: np.array(x[which]) for name, x in of.items() if name != "evenness"}
            for layer, of in layers.items()
        }
        for which in (0, 1)
    ]
    queries = {layer: {name: np.where(np.isnan(x), 0, 99) for name, x in of.items()} for layer, of in parts[0].items()}
    evenness = {layer: np.array(of["evenness"]) for layer, of in layers.items()}
    named = tuple(name for name in names if name not in PATTERNS)
    return HeadPortraits(*parts, queries, evenness, (*PATTERNS, *named))


PORTRAITS = portraits_of(
    b10={"first token": ([0.5, 0.0625], [0.04, 0.0625]), "<i>": ([0.4, 0.1], [0.2, 0.2]), "evenness": [0.25, 0.95]},
    b9={
        "itself": ([1.0, 0.02], [0.002, 0.02]),
        "next token": ([NAN, NAN], [NAN, NAN]),
        "first token": ([0.0, NAN], [0.1, NAN]),
        "evenness": [0.01, NAN],
    },
)


def test_the_table_is_this():
    expected = """\
                           first
layer  head  itself        token        <i>         evenness  name
b9     0     1.00 (500x)   0.00 (0.0x)              0.01      itself
       1     0.02 (1.0x)   -                        -         unknown
b10    0                   0.50 (12x)   0.40 (2.0x) 0.25      first token
       1                   0.06 (1.0x)  0.10 (0.5x) 0.95      uniform"""
    assert [line.split() for line in str(PORTRAITS).splitlines()] == [line.split() for line in expected.splitlines()]
    lines = str(PORTRAITS).splitlines()
    for heading, starts in (("layer", ["b9", "b10"]), ("name", ["itself", "unknown", "first token", "uniform"])):
        column = lines[1].index(heading)
        assert [line[column:].split("  ")[0] for line in lines[2:] if line[column] != " "] == starts
    assert not any(line.endswith(" ") for line in lines)


def test_the_table_of_patterns_of_one_word_has_one_line_of_headings():
    portraits = portraits_of(a={"itself": ([0.1], [0.1]), "evenness": [0.5]})
    assert str(portraits) == "layer  head  itself       evenness  name\na      0     0.10 (1.0x)  0.50      mixed"


def test_what_judges_no_query_is_no_column():
    assert columns(PORTRAITS) == ["itself", "first token", "<i>"]


def test_a_notebook_shows_the_table():
    shown = PORTRAITS._repr_html_()
    cells = [re.sub("<.*?>", "|", row).strip("|") for row in shown.split("</tr>")[:-1]]
    rows = [re.split(r"\|+", row) for row in cells]
    assert rows[0] == ["layer", "head", "name", "itself", "first token", "&lt;i&gt;", "evenness"]
    assert rows[1] == ["b9", "0", "itself", "1.00 (500x)", "0.00 (0.0x)", "0.01"]
    assert len(rows) == 5
    assert "<i>" not in shown
    assert repr(PORTRAITS) == "HeadPortraits(2 layers, 4 heads)"


@pytest.fixture
def pyplot():
    """Gives pyplot without a window, and closes what was drawn."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def cells(axes):
    """Tells by column and row what is in each cell of a picture: its words, its colour and its outline."""
    found = {}
    for cell in axes.patches:
        x, y = cell.get_x() + cell.get_width() / 2, cell.get_y() + cell.get_height() / 2
        words = [
            text.get_text()
            for text in axes.texts
            if max(abs(text.get_position()[0] - x), abs(text.get_position()[1] - y)) < 0.5 and text.get_text()
        ]
        outline = cell.get_edgecolor() if cell.get_linewidth() else None
        found[round(float(x), 2), round(float(y), 2)] = (words, cell.get_facecolor(), outline)
    return found


def test_the_picture_shows_every_number_as_ink_and_in_words(pyplot):
    from matplotlib.colors import to_rgba

    drawn = cells(PORTRAITS.plot())
    words = {place: words for place, (words, _, _) in drawn.items()}
    assert words == {
        (0, 0): ["1.00", "500x"], (1, 0): ["0.00", "0.0x"], (3.35, 0): ["0.01"],
        (0, 1): ["0.02", "1.0x"], (1, 1): [], (3.35, 1): [],
        (1, 2.35): ["0.50", "12x"], (2, 2.35): ["0.40", "2.0x"], (3.35, 2.35): ["0.25"],
        (1, 3.35): ["0.06", "1.0x"], (2, 3.35): ["0.10", "0.5x"], (3.35, 3.35): ["0.95"],
    }  # fmt: skip
    assert drawn[0, 0][1] == to_rgba(RAMP[-1])
    assert drawn[1, 0][1] == to_rgba(RAMP[0])
    assert drawn[1, 1][1] == drawn[3.35, 1][1] == to_rgba(INVALID)
    outlined = {place: outline for place, (_, _, outline) in drawn.items() if outline is not None}
    assert outlined == dict.fromkeys([(0, 0), (1, 2.35), (3.35, 3.35)], to_rgba(ACCENT))


def test_the_picture_names_layers_heads_patterns_and_at_the_right_what_heads_do(pyplot):
    axes = PORTRAITS.plot()
    axes.figure.canvas.draw()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b9   0", "1", "b10   0", "1"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["itself", "first\ntoken", "<i>", "evenness"]
    names = [text.get_text() for text in axes.texts if text.get_position()[0] > 3.9]
    assert names == ["itself", "unknown", "first token", "uniform"]
    inside = axes.figure.bbox.get_points()
    for text in (*axes.texts, *axes.get_yticklabels(), *axes.get_xticklabels(), axes.xaxis.label):
        box = text.get_window_extent().get_points()
        assert (box[0] >= inside[0]).all(), text
        assert (box[1] <= inside[1]).all(), text


def test_the_picture_is_drawn_in_the_axes_that_are_given(pyplot):
    figure, given = pyplot.subplots(1, 2)
    assert PORTRAITS.plot(given[1]) is given[1]
    assert not given[0].texts
    assert pyplot.get_fignums() == [figure.number]
