"""The keys of the page, the pin and the address, in a headless Chromium."""

import pytest

from jattn.report import render
from jattn.report.record import Layer
from tests.report.browsing import opened

LEFT, UP, RIGHT, DOWN, ESCAPE, TAB, ENTER = "\ue012", "\ue013", "\ue014", "\ue015", "\ue00c", "\ue004", "\ue007"
LAYERS = (Layer("block_0/attention", 2, oracle=True), Layer("block_1/attention", 1))
STEPS = (0, 10, 40, 70, 100)
CAUSAL = {"block_0/attention": [[[0, query + 1] for query in range(5)]] * 2}

CLICKS = (
    "#title",
    "#play",
    "#step",
    "#oracle",
    "#show-keys",
    "#examples [data-example='1']",
    "#heads button[data-head='1']",
    "#view [data-view='two']",
    "#view [data-view='layer']",
    "#matrix rect.outlined",
    "#lines text",
    "#threshold",
    "[data-copy='csv']",
    "#curves svg",
    ".term",
    "#example-table td",
    "details:not(.small) summary",
)


@pytest.fixture(scope="module")
def address(make_run):
    return render(make_run(LAYERS, steps=STEPS, visible=CAUSAL)).as_uri()


@pytest.fixture
def page(browser, address):
    yield from opened(browser, address)


def size_of(page, width, scheme="light"):
    """Shows the page at a width and in a scheme; widths below 500 are those of a phone."""
    metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.reload()


@pytest.fixture
def resized(page):
    """Returns a page whose size and scheme a test may set; both are as before afterwards."""
    yield page
    page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def check_keys(page):
    """Presses every key and checks what each has done."""
    page.press(ESCAPE, ESCAPE)
    page.slide_to(2)
    page.press(LEFT)
    assert page.state["step"] == "10"
    page.press(RIGHT, RIGHT)
    assert page.state["step"] == "70"
    playing = page.state["playing"]
    page.press(" ")
    assert page.state["playing"] != playing
    page.press(" ")
    assert page.state["playing"] == playing
    page.press(DOWN, DOWN, DOWN, UP)
    assert page.state["query"] == "1"
    assert page.state["pinned"] == "true"
    page.press(ESCAPE)
    assert page.state["query"] == ""
    before = page.state["layer"], page.state["head"]
    page.press("]")
    assert (page.state["layer"], page.state["head"]) != before
    page.press("[")
    assert (page.state["layer"], page.state["head"]) == before
    page.press("?")
    assert page.find("#keys").is_displayed()
    assert "the query before, the next query" in page.find("#keys").text
    page.press(ESCAPE)
    assert not page.find("#keys").is_displayed()


def test_every_key_works_at_once_and_after_a_click_on_a_head(page):
    check_keys(page)
    page.find("#heads button[data-head='1']").click()
    check_keys(page)


@pytest.mark.exhaustive
@pytest.mark.parametrize("width", [390, 1000, 1400])
def test_every_key_works_after_every_kind_of_click(resized, width):
    page = resized
    size_of(page, width)
    for selector in CLICKS:
        page.forget_state()
        page.reload()
        target = page.find(selector)
        if not target.is_displayed():
            page.find("#view [data-view='one']").click()
        page.point_at(selector)
        page.click()
        if page.run("return document.getElementById('keys').open"):
            page.press(ESCAPE)
        if page.state["playing"] == "true":
            page.wait_for("playing", "false")
        check_keys(page)


@pytest.mark.exhaustive
def test_a_button_that_the_keyboard_has_reached_is_pressed_by_space(page):
    page.run("document.getElementById('oracle').focus()")
    page.press(TAB, "\ue008" + TAB, " ")
    page.run("document.getElementById('oracle').focus()")
    page.press(" ")
    assert page.state["playing"] == "false"
    assert page.state["oracle"] == "false"


def test_a_click_pins_until_escape(page):
    page.point_at("#lines text[data-side='query'][data-index='3']")
    page.click()
    page.point_at("#title")
    assert (page.state["query"], page.state["pinned"]) == ("3", "true")
    assert {line["query"] for line in page.shown_lines()} == {"3"}
    page.point_at("#lines text[data-side='query'][data-index='1']")
    assert page.state["query"] == "3"
    page.slide_to(0)
    assert page.state["query"] == "3"
    assert page.find("#focus").text.endswith("Pinned: Escape lets go.")
    page.press(ESCAPE)
    assert (page.state["query"], page.state["pinned"]) == ("", "false")


def test_a_link_leads_back_to_the_state(page, address):
    page.slide_to(1)
    page.find("#examples [data-example='1']").click()
    page.find("#heads button[data-layer='0'][data-head='1']").click()
    page.find("#view [data-view='two']").click()
    page.press(DOWN, DOWN)
    page.wait_until("return location.hash.includes('query=1')")
    link = page.run("return location.href")
    assert link == f"{address}#step=10&example=1&head=0.1&view=two&with=0.1&query=1"
    before = page.state
    page.browser.get("about:blank")
    page.browser.get(link)
    page.wait_for("ready", "true")
    assert page.state == before
    page.run("location.hash = '#step=44&head=1.0&view=layer&query=77&threshold=oops'")
    page.wait_for("step", "40")
    assert (page.state["layer"], page.state["view"], page.state["query"]) == ("1", "layer", "")
    page.forget_state()


@pytest.mark.exhaustive
def test_the_oracle_keeps_its_state_in_the_address(page):
    page.find("#oracle").click()
    page.wait_until("return location.hash.includes('oracle=off')")
    page.reload()
    assert page.state["oracle"] == "false"
    page.forget_state()
