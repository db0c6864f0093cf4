"""The page in a headless Chromium: what a person does with it, and what it must never do."""

import pytest

from jattn.report import render
from jattn.report.record import Layer
from tests.report.browsing import opened, requested

TOKENS = ["3", "</script><b>x", "<img src=x onerror=window.pwned=1>", "a\u2028b", "\u202egnol", "$&'\""]
LAYERS = (Layer("block_0/<b>attention</b>", 2, oracle=True), Layer("block_1/attention", 1))
STEPS = (0, 10, 40, 70, 100)


@pytest.fixture(scope="module")
def address(make_run):
    return render(make_run(LAYERS, TOKENS, STEPS)).as_uri()


@pytest.fixture
def page(browser, address):
    """Opens the page of short sequences."""
    yield from opened(browser, address)


def test_the_page_opens_at_the_last_step_with_the_best_head(page):
    assert (page.state["step"], page.state["layer"], page.state["head"]) == ("100", "0", "0")
    assert page.find("#result").text.startswith("After 100 steps, 75.00 % of 10,000 fresh sequences")
    assert page.find("#result").text.endswith("puts 90 % of its weight on the right keys (chance: 45 %).")
    assert page.run("return /\\d (%|nats|steps)/.test(document.querySelector('header').textContent)") is False
    assert page.find("#filter-measures").text.startswith("mass on the oracle 1.000 · hit rate 1.00 · lift 6.0")
    assert page.find("#filter-name").text == "block_0/<b>attention</b>, head 0"


def test_the_page_of_a_model_without_attention_plays_predictions(browser, make_run):
    for page in opened(browser, render(make_run((), TOKENS, STEPS)).as_uri()):
        assert page.find("h1").text == "reverse"
        assert "no attention" in page.find(".introduction").text
        hidden = ("#heads", "#matrix", "#view", "#oracle", "#filter-name")
        assert not any(page.find(selector).is_displayed() for selector in hidden)
        assert len(page.run("return [...document.querySelectorAll('#curves figure')]")) == 2
        page.slide_to(0)
        assert page.find("#step-shown").text == "step 0 of 100"
        assert page.find("#predictions").get_attribute("data-step") == "0"


def test_the_slider_changes_step_picture_lines_and_curves(page):
    before = page.picture(), page.picture("#heads canvas"), len(page.shown_lines())
    mark = page.find("#curves .now").get_attribute("x1")
    page.slide_to(0)
    assert page.find("#step-shown").text == "step 0 of 100"
    assert page.state["step"] == "0"
    after = page.picture(), page.picture("#heads canvas"), len(page.shown_lines())
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert page.find("#curves .now").get_attribute("x1") != mark


def test_play_runs_from_the_first_step_to_the_last_and_stops(page):
    page.find("#play").click()
    assert page.state["playing"] == "true"
    assert page.find("#play").text == "Stop"
    page.wait_for("step", "40")
    page.wait_for("playing", "false")
    assert (page.state["step"], page.find("#play").text) == ("100", "Play")


def test_keys_play_and_step(page):
    page.press("\ue012")
    assert page.state["step"] == "70"
    page.press("\ue014")
    assert page.state["step"] == "100"
    page.press(" ")
    assert page.state["playing"] == "true"
    page.press(" ")
    assert page.state["playing"] == "false"


def test_another_head_and_another_layer(page):
    first = page.picture()
    page.find("button[data-layer='0'][data-head='1']").click()
    assert (page.state["layer"], page.state["head"]) == ("0", "1")
    assert page.picture() != first
    page.find("button[data-layer='1']").click()
    assert page.find("#filter-name").text == "block_1/attention, head 0"
    assert page.find("#filter-measures").text.startswith("entropy")
    assert page.run("return document.querySelectorAll('.outlined').length") == 0


def test_another_example(page):
    assert page.find("#examples").text.split("\n")[0] == "3 </script><b… <img src=x … a·b …"
    page.find("#examples [data-example='1']").click()
    assert page.state["example"] == "1"
    labels = page.run("return [...document.querySelectorAll('#matrix text')].map((label) => label.textContent)")
    assert labels[0] == "</scr…"


def test_a_query_that_is_not_scored_is_quiet_and_has_no_oracle(page):
    page.find("#examples [data-example='1']").click()
    quiet = "return [...document.querySelectorAll('#matrix .quiet')].map((label) => label.dataset.index)"
    assert page.run(quiet) == ["5"]
    assert page.run("return document.querySelectorAll('.outlined').length") == 5
    page.point_at("#matrix text.quiet")
    assert page.state["query"] == "5"


def test_a_query_pointed_at_shows_only_its_lines(page):
    page.slide_to(0)
    assert {line["query"] for line in page.shown_lines()} == set("012345")
    page.point_at("#lines text[data-side='query'][data-index='3']")
    assert {line["query"] for line in page.shown_lines()} == {"3"}
    assert len(page.shown_lines()) > 1
    assert page.find("#focus").text.startswith("query 3 “\u2068a·b\u2069” attends to key")


def test_a_key_pointed_at_shows_only_its_lines(page):
    page.slide_to(0)
    page.point_at("#lines text[data-side='key'][data-index='5']")
    assert {line["key"] for line in page.shown_lines()} == {"5"}
    assert "is attended to by query" in page.find("#focus").text


def test_a_cell_pointed_at_is_explained(page):
    page.point_at("#matrix rect.outlined")
    assert (page.state["query"], page.state["key"]) == ("0", "5")
    lines = page.find("#tooltip").text.split("\n")
    assert [line.replace("\u2068", "").replace("\u2069", "") for line in lines] == [
        "query 0 “3”",
        "its right answer “$&'\"”",
        "the model's answer “$&'\"”, right",
        "key 5 “$&'\"”",
        "weight above 0.998",
        "oracle: yes",
    ]
    page.point_at("#title")
    assert not page.find("#tooltip").is_displayed()
    assert page.state["query"] == ""


def test_arrow_keys_walk_through_the_queries_and_escape_leaves(page):
    page.run("document.querySelector('#matrix svg').focus()")
    page.press("\ue015", "\ue015")
    assert page.state["query"] == "1"
    page.press("\ue013")
    assert page.state["query"] == "0"
    page.press("\ue00c")
    assert page.state["query"] == ""


def test_the_oracle_can_be_hidden(page):
    count = "return document.querySelectorAll('.outlined').length + document.querySelectorAll('.answer').length"
    assert page.run(count) == 12
    page.find("#oracle").click()
    assert (page.run(count), page.state["oracle"]) == (0, "false")


def test_a_click_on_a_curve_goes_to_its_step(page):
    page.point_at("#curves svg")
    page.click()
    assert page.state["step"] == "40"


def test_predictions_lengths_and_config_are_told(page):
    page.slide_to(1)
    assert page.find("#predictions").get_attribute("data-step") == "10"
    assert [mark.text for mark in page.browser.find_elements("css selector", "#predictions mark")] == ["1"]
    assert page.find("#by-length").text.split("\n")[2:] == ["8 0.7500 0.9000 0.8000", "16 0.5000 0.9000 0.8000"]
    assert 'name = "reverse"' in page.find("#config").get_attribute("textContent")


def test_hostile_tokens_are_inert(page):
    for snapshot in range(len(STEPS)):
        page.slide_to(snapshot)
    page.point_at("#lines text[data-side='query'][data-index='2']")
    assert "<img src=x onerror=window.pwned=1>" in page.find("#focus").text
    assert page.run("return window.pwned ?? null") is None
    assert page.run("return document.querySelectorAll('img, script:not([type]), main b b, text b').length") == 0


def test_the_policy_refuses_markup_code_and_connections(browser, address):
    browser.get(address)
    tried = browser.execute_async_script(
        """
        const done = arguments[0];
        const results = [];
        try { document.body.innerHTML = "<b>x</b>"; results.push("markup"); } catch { results.push("refused"); }
        try { document.createElement("script").text = "1"; results.push("code"); } catch { results.push("refused"); }
        fetch("http://127.0.0.1:9/").then(() => results.push("sent"), () => results.push("refused"))
          .finally(() => done(results));
        """
    )
    assert tried == ["refused"] * 3
    assert requested(browser) <= {address}
    browser.get_log("browser")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_light_and_dark(page, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.reload()
    first_cell = "document.querySelector('#matrix canvas').getContext('2d').getImageData(0, 0, 1, 1).data"
    colour = page.run(f"return [...{first_cell}]")
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert (sum(colour[:3]) > 380) == (scheme == "light")


def test_the_page_fits_a_phone(page):
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.reload()
    width = page.run("return document.documentElement.scrollWidth")
    page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 360
