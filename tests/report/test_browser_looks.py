"""What the page shows, and how it looks, in a headless Chromium: answers, masks, words, contrast, copies, zoom."""

import csv
import io

import pytest

from jattn.report import read_record, render
from jattn.report.record import Layer
from jattn.report.snapshots import save_snapshot
from tests.report.browsing import Page, opened
from tests.report.conftest import answers, turning
from tests.report.test_browser_keys import ESCAPE, size_of
from tests.report.test_pictures import pictured

LAYERS = (Layer("block_0/attention", 2, oracle=True), Layer("block_1/attention", 1))
STEPS = (0, 10, 40, 70, 100)
CAUSAL = {"block_0/attention": [[[0, query + 1] for query in range(5)]] * 2}
TASK = "Says the source backwards: ``3 1 2 -> 2 1 3``. The oracle is the anti-diagonal."

COPIES = [("filter", "SVG"), ("filter", "PNG"), ("filter", "CSV"), ("lines", "SVG"), ("lines", "PNG")]

CONTRASTS = """
const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const read = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
const paper = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const colour = read(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let text = walker.nextNode(); text; text = walker.nextNode()) {
  const node = text.parentElement;
  if (!text.textContent.trim() || node.closest('script, style, noscript')) continue;
  if (!node.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
  const style = getComputedStyle(node);
  if (style.paintOrder.includes('stroke')) continue;
  const [a, b] = [light(read(node instanceof SVGElement ? style.fill : style.color)), light(paper(node))];
  let opacity = 1;
  for (let at = node; at; at = at.parentElement) opacity *= Number(getComputedStyle(at).opacity);
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const place = node.id || node.className.baseVal || node.className || node.tagName;
  found.push([opacity === 1 ? ratio : 1, `${place}: ${text.textContent}`]);
}
return found;
"""


@pytest.fixture(scope="module")
def run_dir(make_run):
    run_dir = make_run(LAYERS, steps=STEPS, visible=CAUSAL, task=TASK)
    render(run_dir)
    return run_dir


@pytest.fixture
def page(browser, run_dir):
    for page in opened(browser, (run_dir / "report.html").as_uri()):
        yield page
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def texts(page, selector):
    return page.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)


def test_the_answers_shown_are_those_of_the_step_and_wrong_ones_are_marked(page):
    target = list("24103")
    for snapshot, step in enumerate(STEPS):
        page.slide_to(snapshot)
        said = answers("30142", step / 100)[0].tolist()
        assert texts(page, "#example-table .said td") == said
        assert texts(page, "#example-table .right td") == target
        assert texts(page, "#matrix [data-says]") == said
        wrong = [str(place) for place in range(5) if said[place] != target[place]]
        marked = (
            "return [...document.querySelectorAll('#example-table mark')].map((m) => m.parentElement.dataset.place)"
        )
        assert page.run(marked) == wrong
        assert page.find("#example-words").text.partition("At")[2].startswith(f" step {step}, {5 - len(wrong)} of 5")
    page.slide_to(0)
    page.point_at("#matrix text[data-side='query'][data-index='3']")
    assert (
        page.find("#focus")
        .text.replace("\u2068", "")
        .replace("\u2069", "")
        .endswith("The model answers “2”, which is wrong: “0” is right.")
    )
    assert page.find("#matrix .beside").text == "2 ≠ 0"
    assert page.find("#example-table .said td.here").get_attribute("data-place") == "3"


@pytest.mark.exhaustive
def test_an_older_folder_without_answers_says_so(browser, run_dir, make_run):
    older = make_run(LAYERS, steps=STEPS)
    for step in STEPS:
        save_snapshot(older, step, {layer.name: turning(layer, 5, step / 100) for layer in LAYERS})
    for page in opened(browser, render(older).as_uri()):
        assert "What the model answered at this step was not kept" in page.find("#example-words").text
        assert page.find("#matrix text.heading").text == "right"
        assert page.find("#record").text.startswith("record was not kept")
        assert page.find("#task").text == "This run did not keep what its task is in words."


def test_cells_that_may_not_be_attended_are_hatched_and_say_masked(page):
    assert page.find("#matrix .masked").get_attribute("fill").startswith("url(#hatch-")
    assert page.find("#masked-key").is_displayed()
    frame = page.find("#matrix .frame")
    cell = frame.rect["width"] / 5
    page.run("document.querySelector('#matrix').scrollIntoView({block: 'center'})")
    page.actions().move_to_element_with_offset(frame, int(1.0 * cell), int(-1.0 * cell)).perform()
    assert "masked: this query may not attend to this key" in page.find("#tooltip").text
    page.find("#heads [data-layer='1']").click()
    assert not page.find("#masked-key").is_displayed()
    assert page.run("return document.querySelectorAll('#matrix .masked').length") == 0


@pytest.mark.exhaustive
def test_the_task_is_told_with_an_example(page):
    assert page.find("#task").text == TASK.replace("``", "")
    assert page.find("#task code").text == "3 1 2 -> 2 1 3"
    words = page.find("#oracle-words").text.replace("\u2068", "").replace("\u2069", "")
    assert words.startswith("In the example below, query 0 must answer “2”, and key 4 “2” holds what decides it")


@pytest.mark.exhaustive
def test_words_of_the_trade_explain_themselves_on_hover_and_focus(page):
    terms = {"mass on the oracle", "hit rate", "lift", "chance", "entropy", "nats", "filter score"}
    assert terms <= set(texts(page, ".term"))
    page.point_at("#filter-measures .term:nth-of-type(2)")
    assert page.find("#tooltip").text.startswith("How often the key with a query's largest weight")
    page.point_at("#title")
    assert not page.find("#tooltip").is_displayed()
    page.run("document.querySelector('#curves h3 .term').focus()")
    assert page.find("#tooltip").text.startswith("The mass on the oracle of the best head")
    assert page.run("return [...document.querySelectorAll('.term')].every((term) => term.ariaDescription)")


def attributes(page, selector, name):
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.getAttribute(arguments[1]))"
    return page.run(script, selector, name)


def check_contrast(page):
    low = [words for ratio, words in page.run(CONTRASTS) if ratio < 4.5]
    assert low == []


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.exhaustive)])
def test_all_text_has_a_contrast_of_4_5(page, scheme):
    size_of(page, 1400, scheme)
    assert len(page.run(CONTRASTS)) > 100
    page.slide_to(1)
    page.find("#examples [data-example='1']").click()
    page.find("#view [data-view='layer']").click()
    check_contrast(page)


@pytest.mark.exhaustive
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1000, 1400])
def test_the_page_fits_and_can_be_read_at_every_width(page, width, scheme):
    size_of(page, width, scheme)
    for view in ("one", "two", "layer"):
        page.find(f"#view [data-view='{view}']").click()
        page.slide_to(1)
        page.point_at("#matrix rect.outlined")
        check_contrast(page)
        assert page.run("return document.documentElement.scrollWidth") <= width


def test_filter_lines_and_slider_are_above_the_fold(page):
    size_of(page, 1400)
    for selector in ("#step", "#matrix svg", "#lines svg", "#threshold"):
        assert page.run("return document.querySelector(arguments[0]).getBoundingClientRect().bottom", selector) <= 1000


@pytest.mark.exhaustive
def test_48_heads_stand_in_rows_that_wrap_without_a_second_scrollbar(browser, make_run):
    layers = [Layer(f"block_{i}/attention", 12, oracle=True) for i in range(4)]
    for page in opened(browser, render(make_run(layers)).as_uri()):
        for width in (390, 1000, 1400):
            size_of(page, width)
            scrolls = "return [h.scrollHeight - h.clientHeight, h.scrollWidth - h.clientWidth]"
            assert page.run(f"const h = document.getElementById('heads'); {scrolls}") == [0, 0]
            assert page.run("return document.querySelectorAll('#heads button').length") == 48
            assert page.run("return document.documentElement.scrollWidth") <= width
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.exhaustive
def test_two_heads_and_all_heads_of_a_layer(page):
    page.find("#view [data-view='two']").click()
    assert page.find("#other").is_displayed()
    assert not page.find("#lines").is_displayed()
    assert page.find("#other-name").text == "block_0/attention, head 1: mass 0.200"
    assert page.picture("#other canvas") != page.picture()
    page.find("#view [data-view='layer']").click()
    assert texts(page, "#line-heads span") == ["head 0", "head 1"]
    assert set(attributes(page, "#lines .line", "stroke")) == {"var(--head-0)", "var(--head-1)"}


@pytest.mark.exhaustive
def test_a_threshold_for_lines(page):
    page.slide_to(2)
    assert len(page.shown_lines()) > 10
    script = "const slider = document.getElementById('threshold'); slider.value = 0.4;"
    page.run(script + "slider.dispatchEvent(new Event('input', { bubbles: true }))")
    weights = [float(weight) for weight in attributes(page, "#lines .line", "stroke-opacity")]
    assert weights
    assert min(weights) >= 0.4


@pytest.mark.exhaustive
def test_a_box_and_the_wheel_zoom_and_escape_leads_back(page):
    page.run("document.querySelector('#matrix').scrollIntoView({block: 'center'})")
    frame = page.find("#matrix .frame")
    cell = frame.rect["width"] / 5
    drag = page.actions().move_to_element_with_offset(frame, int(-1.4 * cell), int(-1.4 * cell)).click_and_hold()
    drag.move_to_element_with_offset(frame, int(0.3 * cell), int(1.3 * cell)).release().perform()
    assert page.state["zoom"] == "1-4-1-3"
    assert page.run("return [...document.querySelectorAll('#matrix text[data-side=key]')].length") == 2
    assert page.find("#zoom-out").is_displayed()
    page.find("#zoom-out").click()
    assert page.state["zoom"] == ""
    wheel = "document.querySelector('#matrix').dispatchEvent(new WheelEvent('wheel', arguments[0]))"
    page.run(wheel, {"deltaY": -100, "ctrlKey": True, "clientX": 200, "clientY": 500, "cancelable": True})
    assert page.state["zoom"] != ""
    page.press(ESCAPE)
    page.press(ESCAPE)
    assert page.state["zoom"] == ""


def copied(page, selector):
    """Clicks a button that copies, and returns what kinds of things lie in the clipboard, and the text if any."""
    page.run("document.getElementById('copied').textContent = ''")
    page.run("document.querySelector(arguments[0]).click()", selector)
    page.wait_until("return document.getElementById('copied').textContent !== ''")
    assert page.find("#copied").text.endswith("copied")
    script = """
    const done = arguments[0];
    navigator.clipboard.read().then(async ([item]) => {
      const text = item.types.includes("text/plain") ? await (await item.getType("text/plain")).text() : "";
      const image = item.types.includes("image/png") && await createImageBitmap(await item.getType("image/png"));
      done([text, image ? image.width : 0]);
    });
    """
    return page.browser.execute_async_script(script)


@pytest.mark.exhaustive
def test_what_is_shown_is_copied_as_picture_and_as_numbers(page, run_dir):
    for name in ("clipboardReadWrite", "clipboardSanitizedWrite"):
        page.browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": [name]})
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.browser.execute_cdp_cmd("Browser.grantPermissions", permissions)
    page.slide_to(1)
    text, _ = copied(page, "[data-copy='csv'][data-of='matrix']")
    header, *rows = csv.reader(io.StringIO(text))
    assert header[1:] == ["0 3", "1 0", "2 1", "3 4", "4 2"]
    weights = read_record(run_dir).filters(1, LAYERS[0], 0)[0]
    for query, row in enumerate(rows):
        assert row[0] == header[query + 1]
        assert [float(cell) for cell in row[1 : query + 2]] == pytest.approx(weights[query, : query + 1], abs=0.003)
        assert row[query + 2 :] == [""] * (4 - query)
    text, _ = copied(page, "[data-copy='svg'][data-of='lines']")
    assert text.startswith("<svg")
    assert "var(" not in text.split("style=")[1]
    width = page.run("return document.querySelector('#matrix svg').clientWidth")
    _, size = copied(page, "[data-copy='png'][data-of='matrix']")
    assert size == 2 * width


def test_a_picture_is_shown_with_the_weights_of_each_query(browser, make_run):
    run_dir = pictured(make_run)
    for page in opened(browser, render(run_dir).as_uri()):
        size_of(page, 1400)
        page.slide_to(1)
        assert page.find("#pictured").is_displayed()
        assert page.run("return document.querySelector('#picture').getBoundingClientRect().bottom") <= 1000
        weights = read_record(run_dir).filters(1, read_record(run_dir).probes.layers[1], 0)[0]
        veils = [float(veil) for veil in attributes(page, ".spot:nth-child(2) .veil", "fill-opacity")]
        assert veils == pytest.approx(0.86 * (1 - weights[1] ** 0.5), abs=0.03)
        page.find(".spot[data-query='1']").click()
        assert (page.state["query"], page.state["pinned"]) == ("1", "true")
        assert page.find(".spot[data-query='1']").get_attribute("aria-pressed") == "true"
        page.find("#heads [data-layer='0']").click()
        assert not page.find("#pictured").is_displayed()


@pytest.mark.exhaustive
def test_the_accessibility_tree_names_all_that_can_be_used(page):
    nodes = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored") and "role" in node
    ]
    usable = {"button", "slider", "checkbox", "spinbutton", "link", "image", "region"}
    assert [role for role, name in found if role in usable and not name.strip()] == []
    assert ("slider", "Training step") in found
    assert ("button", "block_0/attention, head 1") in found
    assert any(
        role == "image" and name.startswith("Attention filter of block_0/attention, head 0, at") for role, name in found
    )
    assert ("heading", "How to read this page") in found
    copies = [name for role, name in found if role == "button" and name.startswith("Copy ")]
    assert copies == [f"Copy the {what} as {how}" for what, how in COPIES]


@pytest.mark.exhaustive
def test_paper_is_light_and_narrow_and_the_screen_is_as_before_again(page):
    size_of(page, 1400, "dark")
    drawn = (
        "return [getComputedStyle(document.body).backgroundColor, document.querySelector('#matrix canvas').toDataURL()]"
    )
    dark, dark_picture = page.run(drawn)
    page.run("dispatchEvent(new Event('beforeprint'))")
    light, light_picture = page.run(drawn)
    assert (light, light != dark, light_picture != dark_picture) == ("rgb(250, 249, 246)", True, True)
    assert not page.find("#play").is_displayed()
    rights = page.run("return [...document.querySelectorAll('svg')].map((each) => each.getBoundingClientRect().right)")
    left = page.run("return document.querySelector('main').getBoundingClientRect().left")
    assert max(rights) - left <= 720
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run(drawn) == [dark, dark_picture]


@pytest.mark.exhaustive
def test_forced_colours_leave_what_is_chosen_and_what_is_wrong_to_be_seen(page):
    features = [{"name": "forced-colors", "value": "active"}, {"name": "prefers-color-scheme", "value": "dark"}]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.slide_to(1)
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    paper = page.run(style, "body", "backgroundColor")
    assert page.run(style, "#example-table mark", "color") == page.run(style, "body", "color") != paper
    outlines = [
        page.run(style, f"#examples [aria-pressed='{is_chosen}']", "outlineStyle") for is_chosen in ("true", "false")
    ]
    assert outlines == ["solid", "none"]
    assert page.run(style, ".legend .outline", "borderColor") == "rgb(255, 147, 80)"


@pytest.mark.exhaustive
def test_a_sweep_links_to_its_runs_and_draws_their_curves_together(browser, make_run, tmp_path):
    from jattn.report import render_again
    from jattn.report.comparison import write_comparison
    from jattn.report.outcomes import Outcome

    outcomes = []
    for heads in (1, 2):
        make_run((Layer("a", heads, oracle=True),)).rename(tmp_path / f"num_heads={heads}")
        test = read_record(tmp_path / f"num_heads={heads}").last("test")
        outcomes.append(Outcome({"num_heads": heads}, f"num_heads={heads}", test))
    write_comparison(tmp_path, outcomes)
    (tmp_path / "sweep.html").unlink()
    page = Page(browser)
    browser.get(render_again(tmp_path).as_uri())
    page.wait_for("ready", "true")
    links = page.run("return [...document.querySelectorAll('#tables a')].map((a) => a.href)")
    assert links == [(tmp_path / f"num_heads={heads}" / "report.html").as_uri() for heads in (1, 2)]
    assert all((tmp_path / f"num_heads={heads}" / "report.html").exists() for heads in (1, 2))
    dashes = page.run("return [...document.querySelectorAll('#curves .curve')].map((c) => c.style.strokeDasharray)")
    assert [bool(dash) for dash in dashes] == [False, True, False, True]
    page.run("dispatchEvent(new Event('beforeprint'))")
    sizes = "return [...document.querySelectorAll('main, #tables table, #curves svg')].map((each) => each.scrollWidth)"
    assert max(page.run(sizes)) <= 720
    assert not page.find("#curves-title + p").is_displayed()
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.find("#curves-title + p").is_displayed()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "forced-colors", "value": "active"}]})
    colours = "return [...document.querySelectorAll('#curves :is(.curve, .entries i)')].map((each) => "
    colours += "getComputedStyle(each)[each.tagName === 'I' ? 'borderTopColor' : 'stroke'])"
    assert len(set(page.run(colours))) >= 2
    page.find("#tables a").click()
    page.wait_for("ready", "true")
    assert page.find("h1").text == "reverse"
    assert browser.get_log("browser") == []
