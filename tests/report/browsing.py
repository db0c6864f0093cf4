"""A headless Chromium for the tests of the page, and the page as a person sees and moves it."""

import json
import os
import shutil
import time

import pytest

try:
    from selenium import webdriver
except ImportError:
    webdriver = None

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1000",
)


def missing_parts():
    programs = {"chromium": find_chromium(), "chromedriver": shutil.which("chromedriver")}
    missing = [name for name, path in programs.items() if path is None]
    return missing + ["package selenium"] * (webdriver is None)


def find_chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def started(profile):
    """Starts Chromium with logs of its console and its network, and ends it; skips where it is not installed."""
    missing = missing_parts()
    if missing:
        tell = pytest.fail if os.environ.get("JATTN_REQUIRE_TOOLS") == "1" else pytest.skip
        tell(f"the page is tested in a browser, and here is no {' and no '.join(missing)}")
    options = webdriver.ChromeOptions()
    options.binary_location = find_chromium()
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def opened(browser, address):
    """Opens a page anew, and demands in the end that the console is empty and that nothing was fetched."""
    browser.get(address)
    browser.get_log("performance")
    browser.get_log("browser")
    page = Page(browser)
    page.reload()
    yield page
    assert browser.get_log("browser") == []
    assert {url.partition("#")[0] for url in requested(browser)} <= {address, "about:blank"}
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def requested(browser):
    """Returns the addresses that were asked for since the last call, data in the page itself aside."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return {url for url in sent if not url.startswith("data:")}


class Page:
    """The page as a person sees and moves it."""

    def __init__(self, browser):
        self.browser = browser

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def forget_state(self):
        """Takes the state out of the address."""
        self.run("history.replaceState(null, '', location.pathname)")

    def reload(self):
        self.browser.refresh()
        if self.run("return document.getElementById('report') !== null"):
            self.wait_for("ready", "true")

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    @property
    def state(self):
        return self.run("return {...document.getElementById('report')?.dataset}")

    def picture(self, selector="#matrix canvas"):
        return self.run("return document.querySelector(arguments[0]).toDataURL()", selector)

    def shown_lines(self):
        script = "return [...document.querySelectorAll('#lines line:not(.off)')].map((line) => ({...line.dataset}))"
        return self.run(script)

    def actions(self):
        return webdriver.ActionChains(self.browser)

    def press(self, *keys):
        self.actions().send_keys(*keys).perform()

    def click(self):
        """Clicks where the pointer is."""
        self.actions().click().perform()

    def point_at(self, selector):
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
        self.actions().move_to_element(self.find(selector)).perform()

    def slide_to(self, snapshot):
        script = "const slider = document.getElementById('step'); slider.value = arguments[0];"
        self.run(script + "slider.dispatchEvent(new Event('input', { bubbles: true }))", snapshot)

    def wait_until(self, script):
        deadline = time.monotonic() + 10
        while not self.run(script):
            assert time.monotonic() < deadline, f"waited for {script}"
            time.sleep(0.02)

    def wait_for(self, name, value):
        deadline = time.monotonic() + 10
        while self.state.get(name) != value:
            assert time.monotonic() < deadline, f"expected {name} = {value}, got {self.state}"
            time.sleep(0.02)
