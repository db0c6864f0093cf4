"""The page of a run whose filters are longer than the screen, in a headless Chromium."""

import pytest

from jattn.report import render
from jattn.report.record import Layer
from tests.report.browsing import Page, opened

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def pooled_address(make_pooled_run):
    """A run of two examples, of 600 tokens and of 24, whose filters are pooled on a screen of 128."""
    layers = (Layer("block_0/attention", 2, oracle=True), Layer("block_1/attention", 1))
    return render(make_pooled_run(layers, lengths=(600, 24), bins=128, steps=(0, 50, 100))).as_uri()


@pytest.fixture
def pooled_page(browser, pooled_address):
    """Opens the page of filters that are longer than the screen."""
    yield from opened(browser, pooled_address)


def row_of(page, number):
    """Returns the texts of a row of the list of largest weights."""
    script = "return [...document.querySelectorAll('#row-keys tr')][arguments[0]].innerText.split('\\t')"
    return [text.strip() for text in page.run(script, number)]


def point_at_cell(page, row, column):
    """Moves the pointer to the middle of a cell of the map, 4 pixels wide."""
    page.run("document.querySelector('#matrix').scrollIntoView({block: 'center'})")
    frame = page.find("#matrix .frame")
    half = frame.rect["width"] / 2
    x, y = (round((index + 0.5) * 4 - half) for index in (column, row))
    page.actions().move_to_element_with_offset(frame, x, y).perform()


def test_a_pooled_filter_is_shown_as_a_map_with_rows_on_demand_and_no_lines(pooled_page):
    page = pooled_page
    assert (
        page.find("#matrix")
        .find_element("xpath", "..")
        .text.startswith("The filter: row query, column key; pooled: each cell is 4 to 5 queries x 4 to 5 keys")
    )
    size = "const {width, height} = document.querySelector('#matrix canvas'); return [width, height]"
    assert page.run(size) == [128, 128]
    assert page.run("return document.querySelector('#matrix canvas').clientWidth") == 512
    assert page.find("#rows").is_displayed()
    assert not page.find("#lines").is_displayed()
    assert page.find("#filter-measures").text.startswith("mass on the oracle 1.000 · hit rate 1.00 · entropy 0.00")
    labels = page.run("return [...document.querySelectorAll('#matrix text[data-side]')].map((x) => x.textContent)")
    assert labels[0] == labels[5] == "0–4"
    assert labels[4] == labels[-1] == "596–599"


def test_a_cell_pointed_at_says_which_queries_and_keys_it_stands_for(pooled_page):
    page = pooled_page
    point_at_cell(page, 2, 125)
    assert (page.state["query"], page.state["key"]) == ("2", "125")
    assert page.find("#tooltip").text.split("\n") == [
        "queries 10–14",
        "keys 586–590",
        "pooled weight ≈ 0.8",
        "the mean over these queries of their weight on these keys",
        "oracle: in this cell",
    ]
    assert page.find("#focus").text.startswith("queries 10–14: most weight on keys 586–590 ≈ 0.8, keys 582–585")
    point_at_cell(page, 2, 60)
    assert "pooled weight below 0.00001\n" in page.find("#tooltip").text
    assert page.find("#tooltip").text.endswith("oracle: not in this cell")


def test_a_row_of_the_map_opens_its_queries_one_by_one(pooled_page):
    page = pooled_page
    point_at_cell(page, 2, 60)
    page.click()
    assert page.state["row"] == "10"
    assert page.find("#row").get_attribute("value") == "10"
    assert page.find("#row-count").text == "of 0 to 599; its row of the map holds 10 to 14"
    assert page.find("#row-words").text.replace("\u2068", "").replace("\u2069", "") == (
        "Token “0”. The right answer is “9”."
    )
    assert row_of(page, 1) == ["589", "9", "1.000", "", "oracle"]
    assert page.find("#row-note").text == "This key holds 1.000 of weight 1."
    page.find("#row-after").click()
    assert (page.state["row"], row_of(page, 1)[0]) == ("11", "588")
    page.find("#row-before").click()
    page.find("#row-before").click()
    assert (page.state["row"], row_of(page, 1)[0]) == ("9", "590")


def test_any_query_can_be_asked_for_by_number(pooled_page):
    page = pooled_page
    page.run("document.getElementById('row').select()")
    page.press("345")
    assert (page.state["row"], row_of(page, 1)[0]) == ("345", "254")
    page.press("\ue013")
    assert page.state["row"] == "344"
    page.run("document.getElementById('row').select()")
    page.press("9999")
    assert page.state["row"] == "599"
    assert page.state["playing"] == "false"


def test_arrow_keys_on_the_map_step_through_exact_queries(pooled_page):
    page = pooled_page
    page.run("document.querySelector('#matrix svg').focus()")
    page.press("\ue015", "\ue015", "\ue015")
    assert page.state["row"] == "3"
    mark = page.find("#matrix .mark").get_attribute("d")
    page.press("\ue015", "\ue015")
    assert page.state["row"] == "5"
    assert page.find("#matrix .mark").get_attribute("d") != mark
    page.press(*["\ue013"] * 9)
    assert page.state["row"] == "0"


def test_spread_weights_are_listed_by_size_with_what_they_hold_together(pooled_page):
    page = pooled_page
    page.slide_to(1)
    page.find("button[data-layer='0'][data-head='1']").click()
    weights = [float(row_of(page, number)[2]) for number in range(1, 9)]
    assert weights == sorted(weights, reverse=True)
    assert 0.5 <= weights[0] < 0.51
    assert row_of(page, 1)[0] == "0"
    note = page.find("#row-note").text
    assert note.startswith("These 8 keys hold 0.5")
    assert note.endswith("Its oracle, key 599, is not among them.")


def test_a_short_example_of_a_pooled_run_has_a_cell_for_each_query_and_key(pooled_page):
    page = pooled_page
    page.find("#examples [data-example='1']").click()
    assert "each cell is 1 query x 1 key" in page.find("#pooling").text
    size = "const {width, height} = document.querySelector('#matrix canvas'); return [width, height]"
    assert page.run(size) == [24, 24]
    assert page.run("return document.querySelectorAll('#matrix rect.outlined').length") == 24
    page.point_at("#matrix rect.outlined")
    assert page.find("#tooltip").text.split("\n") == [
        "query 0",
        "key 23",
        "pooled weight above 0.996",
        "oracle: in this cell",
    ]


def test_the_oracle_of_a_map_can_be_hidden(pooled_page):
    page = pooled_page
    count = "return document.querySelectorAll('#matrix .around, #matrix .outlined').length"
    assert page.run(count) == 1
    page.find("#oracle").click()
    assert page.run(count) == 0


def test_rows_that_were_left_out_are_told_and_the_nearest_offered(browser, make_pooled_run, monkeypatch):
    monkeypatch.setattr("jattn.report.page.WEIGHTS_LIMIT", 1)
    steps = (0, 25, 50, 75, 100)
    page = Page(browser)
    browser.get(render(make_pooled_run(lengths=(40, 30), steps=steps)).as_uri())
    page.wait_for("ready", "true")
    assert page.find("#thinned").text == (
        "Of 5 snapshots the page holds 2. "
        "To stay small the page holds rows on demand at 1 of its 2 steps, for example 1 of 2 only."
    )
    page.slide_to(0)
    assert page.find("#row-note").text == "To stay small the page leaves out the rows of this step."
    page.find("#row-step").click()
    assert page.state["step"] == "100"
    assert not page.find("#row-step").is_displayed()
    page.find("#examples [data-example='1']").click()
    assert page.find("#row-note").text == "To stay small the page holds the rows of example 1 only."
    assert browser.get_log("browser") == []


def test_the_page_of_a_pooled_run_fits_a_phone(pooled_page):
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    pooled_page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    pooled_page.reload()
    width = pooled_page.run("return document.documentElement.scrollWidth")
    pooled_page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 360
