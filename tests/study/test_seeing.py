"""The page of every filter: what it holds, what it refuses, and how it is moved in a browser."""

import base64
import io
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

import jattn
from jattn import masks
from jattn.study import seeing
from jattn.study.seeing import see
from tests.report import browsing

WORDS = ["the", "cat", "<b>&", "the", "cat", "sat"]
PLACE = np.arange(6)


def looking_back(steps, heads=2):
    """Heads that look so many tokens back, each a bit less sure than the one before it."""
    sure = jnp.arange(heads, 0, -1, dtype=float)[:, None, None] * 9
    zeros = jnp.zeros((6, heads, 4))
    return jattn.attention_filter(zeros, zeros, bias=sure * (PLACE[:, None] == PLACE + steps), mask=masks.causal())


FILTERS = {"layer_0/attention": looking_back(1), "layer_1/attention": looking_back(3)}


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def weights_of(levels, *shape):
    return (np.frombuffer(base64.b64decode(levels), np.uint8).reshape(shape) / 254) ** 2


def test_a_page_holds_every_weight_and_names_every_head(tmp_path):
    page = see(FILTERS, WORDS, tmp_path / "see.html", title="<i>", written=5)
    data = data_of(page)
    assert "<i>" not in page.read_text()
    assert "<b>" not in page.read_text()
    assert (data["tokens"], data["written"], data["side"], data["first"]) == (WORDS, 5, 6, [0, 0])
    for layer, (name, filter) in zip(data["layers"], FILTERS.items(), strict=True):
        assert (layer["name"], layer["heads"], layer["top"]) == (name, 2, None)
        assert_allclose(weights_of(layer["levels"], 2, 6, 6), filter.weights(), atol=0.005)
        assert layer["words"] == jattn.head_portraits(FILTERS, jnp.array([0, 1, 2, 0, 1, 3])).names()[name]


def test_of_a_long_text_a_page_holds_maps_and_the_largest_weights_of_the_last_queries(tmp_path, monkeypatch):
    monkeypatch.setattr(seeing, "MOST_BYTES", 128)
    data = data_of(see(FILTERS, WORDS, tmp_path / "see.html"))
    assert (data["side"], data["top_k"], data["top_rows"], data["key_bytes"]) == (4, 4, 1, 2)
    assert data["cell"] == "1 to 2 queries x 1 to 2 keys"
    for layer, filter in zip(data["layers"], FILTERS.values(), strict=True):
        assert_allclose(weights_of(layer["levels"], 2, 4, 4), filter.pool(4, 4), atol=0.005)
        keys = np.frombuffer(base64.b64decode(layer["top"]["keys"]), "<u2").reshape(2, 1, 4)
        weights = weights_of(layer["top"]["levels"], 2, 1, 4)
        expected = np.take_along_axis(np.asarray(filter.weights())[:, -1:], keys.astype(int), -1)
        assert_allclose(weights, expected, atol=0.005)
        assert (np.diff(weights) <= 0).all()


# Pairs and pictures

OTHERS = ["the", "dog", "<b>&", "so", "the", "cat", "sat"]


def looking_ahead(length):
    zeros, place = jnp.zeros((length, 2, 4)), np.arange(length)
    return jattn.attention_filter(zeros, zeros, bias=9.0 * (place[:, None] == place - 1))


SECOND = {"layer_0/attention": looking_ahead(7), "layer_1/attention": looking_ahead(7)}


def test_a_page_of_a_pair_holds_both_texts_and_how_much_of_each_head_moves(tmp_path):
    data = data_of(see(FILTERS, WORDS, tmp_path / "see.html", written=(5, 4), other=(SECOND, OTHERS)))
    assert (data["tokens"], data["other"]["tokens"]) == (WORDS, OTHERS)
    assert (data["written"], data["other"]["written"]) == (5, 4)
    assert data["aligned"] == [[0, 0], [1, 1], [2, 2], [3, 4], [4, 5], [5, 6]]
    kept = [0, 1, 2, 4, 5, 6]
    moves = []
    for layer, first, second in zip(data["layers"], FILTERS.values(), SECOND.values(), strict=True):
        moved = np.asarray(second.weights())[:, kept][:, :, kept] - np.asarray(first.weights())
        moves.append(np.abs(moved).sum(-1).mean(-1) / 2)
        assert_allclose(layer["changes"], moves[-1], atol=1e-4)
    assert data["first"] == [*map(int, np.unravel_index(np.argmax(moves), (2, 2)))]


def test_filters_that_are_the_same_do_not_change(tmp_path):
    data = data_of(see(FILTERS, WORDS, tmp_path / "see.html", other=(FILTERS, WORDS)))
    assert [layer["changes"] for layer in data["layers"]] == [[0, 0], [0, 0]]


PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
TILES = ["[class]", "[register]", "1,1", "1,2", "2,1", "2,2"]


def test_a_page_of_a_picture_holds_it_and_the_grid_of_patches(tmp_path):
    page = see(FILTERS, TILES, tmp_path / "see.html", picture=PICTURE, patches=(np.int64(2), 2))
    image = data_of(page)["image"]
    assert (image["rows"], image["columns"], image["lead"]) == (2, 2, 2)
    assert image["source"].startswith("data:image/jpeg;base64,")
    file = io.BytesIO(base64.b64decode(image["source"].partition(",")[2]))
    assert Image.open(file).size == (6, 4)


def test_of_many_patches_a_page_holds_blocks(tmp_path, monkeypatch):
    """One token and a row of five patches: with room for 4 x 4 weights of each head, blocks of two, the last of one."""
    monkeypatch.setattr(seeing, "MOST_BYTES", 4 * 16)
    data = data_of(see(FILTERS, TILES, tmp_path / "see.html", picture=PICTURE, patches=(1, 5)))
    assert (data["side"], data["tokens"]) == (4, ["[class]", "[register]", "1,2", "2,2"])
    image = data["image"]
    assert (image["columns"], image["block"], image["all_rows"], image["all_columns"]) == (3, 2, 1, 5)
    blocks = [[0], [1, 2], [3, 4], [5]]
    for layer, filter in zip(data["layers"], FILTERS.values(), strict=True):
        weights = np.asarray(filter.weights())
        expected = [[weights[:, q][:, :, k].sum(-1).mean(-1) for k in blocks] for q in blocks]
        assert_allclose(weights_of(layer["levels"], 2, 4, 4), np.moveaxis(expected, -1, 0), atol=0.005)


WRONG_MORE = {
    "other heads": (
        {"other": ({"layer_0/attention": looking_ahead(7)}, OTHERS)},
        r"other: expected heads by layer as in the first text, {'layer_0/attention': 2, 'layer_1/attention': 2}, got",
    ),
    "other words": ({"other": (SECOND, WORDS)}, r"filters: expected shape \[heads, 6, 6\], .* got \(2, 7, 7\)"),
    "two counts of one text": (
        {"written": (5, 4)},
        r"written: expected a pair of numbers with a second text and one without, got \(5, 4\)",
    ),
    "patches alone": ({"patches": (2, 2)}, "picture: expected with patches, and without a second text"),
    "too many patches": (
        {"picture": PICTURE, "patches": (2, 4)},
        r"patches: expected rows and columns of at most 6 tokens in all, got \(2, 4\)",
    ),
    "patches that are true": (
        {"picture": PICTURE, "patches": (True, 2)},
        r"patches: expected rows and columns of at most 6 tokens in all, got \(True, 2\)",
    ),
    "numbers between zero and one": (
        {"picture": PICTURE / 255, "patches": (2, 2)},
        r"picture: expected uint8 \[Y, X\] or \[Y, X, 3\], got float64 \[4, 6, 3\]",
    ),
}


@pytest.mark.parametrize("case", WRONG_MORE)
def test_pairs_and_pictures_that_do_not_fit_are_refused(case, tmp_path):
    options, message = WRONG_MORE[case]
    with pytest.raises(ValueError, match=message):
        see(FILTERS, WORDS, tmp_path / "see.html", **options)
    assert not (tmp_path / "see.html").exists()


WRONG = {
    "no filter": (({}, WORDS), ValueError, "filters: expected at least one, got none"),
    "no filters at all": ((3, WORDS), TypeError, "filters: expected an AttentionFilter or a dict of them, got int"),
    "a text": ((FILTERS, "the cat"), TypeError, "tokens: expected a list of words, one per position, got str"),
    "too few words": (
        (FILTERS, WORDS[:5]),
        ValueError,
        r"filters: expected shape \[heads, 5, 5\], a word per position, got \(2, 6, 6\) of 'layer_0/attention'",
    ),
    "a batch": (
        (jattn.attention_filter(jnp.zeros((1, 6, 2, 4)), jnp.zeros((1, 6, 2, 4))), WORDS),
        ValueError,
        r"expected shape \[heads, 6, 6\], a word per position, got \(1, 2, 6, 6\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_and_nothing_is_written(case, tmp_path):
    arguments, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        see(*arguments, tmp_path / "see.html")
    assert not (tmp_path / "see.html").exists()


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    yield from browsing.started(tmp_path_factory.mktemp("profile"))


@pytest.fixture
def page(browser, tmp_path):
    yield from browsing.opened(browser, see(FILTERS, WORDS, tmp_path / "see.html", written=4).as_uri())


def texts(page, selector):
    return page.run("return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)", selector)


def state(page):
    return page.run("return {...document.getElementById('see').dataset}")


def test_a_person_finds_what_a_token_looks_at_and_which_head_does(page):
    assert texts(page, "#text .token") == WORDS
    assert texts(page, "#text .written") == WORDS[4:]
    assert len(texts(page, "#grid .head")) == 4
    assert texts(page, "#row-words span") == texts(page, "#column-words span") == WORDS
    first = page.picture("#large")
    page.point_at("#text .token:nth-child(5)")
    assert texts(page, "#looks li")[0].startswith("the1.00")
    assert texts(page, "#seen li")[0].startswith("sat1.00")
    page.click()
    page.point_at("#text .token:nth-child(2)")
    assert texts(page, "#looks-title") == ["Where “cat” looks"]
    page.click()
    assert texts(page, "#pair li")[0].startswith("1.0 ")
    assert texts(page, "#map .here") == ["cat", "cat"]
    page.point_at("#pair li:first-child button")
    page.click()
    assert (state(page)["layer"], state(page)["head"]) == ("1", "0")
    assert page.picture("#large") != first
    assert texts(page, "#looks li")[0].startswith("cat1.00")
    page.press("\ue012")  # arrow to the left; there is no head further left
    assert (state(page)["layer"], state(page)["head"]) == ("1", "0")
    page.press("\ue013")  # arrow up
    assert (state(page)["layer"], state(page)["head"]) == ("0", "0")


@pytest.mark.exhaustive
def test_paper_is_light_and_has_what_was_chosen_and_the_screen_is_as_before_again(page):
    drawn = "return [getComputedStyle(document.body).backgroundColor, document.getElementById('large').toDataURL()]"
    dark_scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark_scheme)
    page.reload()
    dark, dark_picture = page.run(drawn)
    page.run("dispatchEvent(new Event('beforeprint'))")
    light, light_picture = page.run(drawn)
    assert (light, light != dark, light_picture != dark_picture) == ("rgb(255, 255, 255)", True, True)
    hidden = ("#hint", "#kinds", "input[name=view]", "#lines-view", "#pair")
    assert [page.find(one).is_displayed() for one in hidden] == [False] * len(hidden)
    top = "return document.getElementById(arguments[0]).getBoundingClientRect().top"
    assert page.run(top, "chosen") < page.run(top, "grid")
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run(drawn) == [dark, dark_picture]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.exhaustive
def test_forced_colours_leave_the_ink_of_tokens_and_the_chosen_head_to_be_seen(page):
    features = {"features": [{"name": "forced-colors", "value": "active"}]}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    page.point_at("#text .token:nth-child(5)")
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    ink, paper = page.run(style, ".inked", "backgroundColor"), page.run(style, "body", "backgroundColor")
    assert ink not in (paper, "rgba(0, 0, 0, 0)")
    assert page.run(style, "#looks li", "backgroundImage") != "none"
    assert page.run(style, ".head.on", "outlineStyle") == "solid"
    assert page.run(style, ".head:not(.on)", "outlineStyle") == "none"
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


COLOURED = "return ramp.map((colour) => [colour, textOn(colour)])"


def luminance(colour):
    channels = np.asarray(colour) / 255
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722] + 0.05


@pytest.mark.exhaustive
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_on_every_ink(page, scheme):
    features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    page.reload()
    coloured = page.run(COLOURED)
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    words = {"#000": [0, 0, 0], "#fff": [255, 255, 255]}
    ratios = [luminance(colour) / luminance(words[word]) for colour, word in coloured]
    assert min(max(ratio, 1 / ratio) for ratio in ratios) > 4.5


def test_lines_join_queries_with_the_keys_they_look_at(page):
    page.point_at("input[value=lines]")
    page.click()
    each = "(one) => ['y1', 'y2'].map((end) => one.getAttribute(end))"
    ends = f"return [...document.querySelectorAll('#lines line')].map({each})"
    steps = {(int(a) - int(b)) // 17 for a, b in page.run(ends) if int(a) > 12}
    assert steps == {1}
    page.point_at("#text .token:nth-child(3)")
    page.click()
    assert len(page.run(ends)) == 1


POINT_AT = """
const [id, part] = arguments, element = document.getElementById(id), box = element.getBoundingClientRect();
const place = {clientX: box.left + part * box.width, clientY: box.top + part * box.height};
element.dispatchEvent(new MouseEvent("mousemove", place));
"""


def test_a_page_of_a_long_text_says_that_it_is_pooled_and_what_is_listed(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(seeing, "MOST_BYTES", 128)
    pages = browsing.opened(browser, see(FILTERS, WORDS, tmp_path / "see.html").as_uri())
    page = next(pages)
    [pooled] = texts(page, "#pooled:not([hidden])")
    assert "A cell covers 1 to 2 queries x 1 to 2 keys; its value is the sum of the weights on its keys" in pooled
    assert pooled.endswith("have the 4 largest weights of each query from token 6 on, “sat”.")
    page.run(POINT_AT, "large", 0.6)  # in the third of four cells each way
    assert texts(page, "#cell")[0].startswith("“the” … “cat” → “the” … “cat”: ")
    page.point_at("#text .token:nth-child(2)")
    assert texts(page, "#looks li") == ["not kept before token 6, “sat”"]
    list(pages)


def test_a_query_whose_weights_are_no_numbers_looks_at_no_number(browser, tmp_path):
    bias = jnp.where(PLACE[:, None] == 2, jnp.nan, 0.0)
    zeros = jnp.zeros((6, 1, 4))
    invalid = jattn.attention_filter(zeros, zeros, bias=bias)
    pages = browsing.opened(browser, see(invalid, WORDS, tmp_path / "see.html").as_uri())
    page = next(pages)
    assert texts(page, "#pooled:not([hidden])") == []
    page.point_at("#text .token:nth-child(3)")
    assert texts(page, "#looks li") == ["not a number"]
    page.point_at("#text .token:nth-child(4)")
    assert texts(page, "#looks li")[0] != "not a number"
    list(pages)


def test_a_token_of_a_pair_is_seen_in_both_texts(browser, tmp_path):
    pages = browsing.opened(browser, see(FILTERS, WORDS, tmp_path / "see.html", other=(SECOND, OTHERS)).as_uri())
    page = next(pages)
    assert texts(page, "#other .token") == OTHERS
    assert texts(page, ".differs") == ["cat", "dog", "so"]
    assert state(page)["shows"] == "change"
    assert texts(page, "#ramp-words span") == ["more in the first", "more in the second"]
    assert "cat | dog" in texts(page, "#row-words span")
    difference = page.picture("#large")
    page.point_at("input[value=second]")
    page.click()
    assert page.picture("#large") != difference
    page.point_at("#other .token:nth-child(5)")
    assert state(page)["text"] == "1"
    assert texts(page, ".token.here") == ["the", "the"]
    assert texts(page, "#looks li")[0].startswith("cat")
    page.point_at("#other .token:nth-child(4)")  # a word that the first text has not
    assert texts(page, ".token.here") == ["so"]
    ends = "return ['changed', 'grid'].map((id) => document.getElementById(id).getBoundingClientRect().bottom)"
    assert np.diff(page.run(ends)) > 0
    page.point_at("#changed li:first-child button")
    page.click()
    list(pages)


def test_over_a_picture_a_person_sees_the_weights_of_the_patch_that_is_pointed_at(browser, tmp_path):
    pages = browsing.opened(
        browser, see(FILTERS, TILES, tmp_path / "see.html", picture=PICTURE, patches=(2, 2)).as_uri()
    )
    page = next(pages)
    assert texts(page, "#text .token") == TILES[:2]
    first, small = page.picture("#image"), page.picture("#grid canvas")
    page.run(POINT_AT, "image", 0.6)  # the last of four patches
    assert texts(page, "#looks-title") == ["Where “2,2” looks"]
    assert texts(page, "#looks li")[0].startswith("2,1")
    assert page.picture("#image") != first
    assert page.picture("#grid canvas") != small
    assert texts(page, "#scale")[0].startswith("“2,2” puts 1.00 of its weight on the patches")
    displayed = [page.find(one).is_displayed() for one in ("#picture", "#map", "#lines-view")]
    page.point_at("input[value=map]")
    page.click()
    assert (displayed, page.find("#map").is_displayed()) == ([True, False, False], True)
    list(pages)


COLOURS = """
const { data } = document.getElementById("image").getContext("2d").getImageData(0, 20, 100, 1);
return arguments[0].map((column) => [...data.slice(4 * column, 4 * column + 4)]);
"""


def test_blocks_of_patches_are_drawn_and_found_where_their_patches_are(browser, tmp_path, monkeypatch):
    """Blocks of two of five columns cover 40 %, 40 % and 20 % of the picture, on which weights alone have a colour."""
    monkeypatch.setattr(seeing, "MOST_BYTES", 4 * 16)
    red = np.full((40, 100, 3), (255, 0, 0), np.uint8)
    path = see(FILTERS, TILES, tmp_path / "see.html", picture=red, patches=(1, 5))
    pages = browsing.opened(browser, path.as_uri())
    page = next(pages)
    page.run(POINT_AT, "image", 0.75)
    assert texts(page, "#looks-title") == ["Where “1,2” looks"]
    page.run(POINT_AT, "image", 0.95)  # the last patch, which looks at the one before it
    assert texts(page, "#looks-title") == ["Where “2,2” looks"]
    before, begin, end = page.run(COLOURS, [35, 50, 75])
    assert before != begin == end
    assert len(set(before[:3])) == 1 < len(set(begin[:3]))
    list(pages)
