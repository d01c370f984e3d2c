"""The report in a real browser, without network: what a person would meet who opens it.

Needs Chromium and its driver (Debian's package chromium-driver); without them the tests are skipped by name, unless
``BRAINUAD_REQUIRE_BROWSER=1``.
"""

import json
import os
import shutil

import numpy as np
import pytest

from brainuad.quality import quality
from brainuad.quality_page import quality_page
from brainuad.report import report
from conftest import ROOT
from fabricated import fabricated
from test_quality import write_chunks

DEMO = ROOT / "demo/results/report.html"
DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium")
REQUIRED = os.environ.get("BRAINUAD_REQUIRE_BROWSER") == "1"

pytestmark = pytest.mark.skipif(
    not REQUIRED and not (DRIVER and BROWSER), reason="no browser: apt-get install chromium-driver"
)

OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no name is found: what the page asked of the network would fail
)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium that keeps what pages write to the console."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """A page of made-up results whose labels try to break it."""
    folder = tmp_path_factory.mktemp("made_up")
    report(folder / "report.html", *fabricated(folder))
    return folder / "report.html"


@pytest.fixture(params=["made_up", "demo"])
def opened(request, browser):
    """The browser with a page open in a window of 1280 pixels."""
    if request.param == "demo" and not DEMO.exists():
        pytest.skip("the demonstration has not run: make demo")
    path = DEMO if request.param == "demo" else request.getfixturevalue("made_up")
    resize(browser, 1280)
    browser.get_log("performance")
    browser.get(path.resolve().as_uri())
    return browser


def resize(browser, width, height=900):
    """Give the page a window of that many pixels, as a phone or a screen has it."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def all_of(browser, selector):
    return browser.find_elements("css selector", selector)


def test_nothing_is_reported_to_the_console(opened):
    assert opened.get_log("browser") == []
    assert opened.execute_script("return document.readyState") == "complete"
    assert opened.execute_script("return [...document.scripts].length") == 1, "no label became a script"


def test_the_page_asks_nothing_of_the_network(opened):
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert sent, "the page itself is among them"
    assert {address.split(":")[0] for address in sent} <= {"file", "data"}


def test_every_picture_is_shown(opened):
    opened.execute_script("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    sizes = opened.execute_async_script(
        """
        const done = arguments[arguments.length - 1];
        const images = [...document.querySelectorAll("main img")];
        Promise.all(images.map((image) => image.decode()))
          .then(() => done(images.map((image) => [image.naturalWidth, image.width, image.alt])));
        """
    )
    assert len(sizes) > 3
    for natural, shown, words in sizes:
        assert natural > 0, words
        assert shown > 200, words
        assert words, "a picture without words for those who cannot see it"


def test_the_contents_lead_to_every_section(opened):
    links = all_of(opened, "nav a")
    sections = [section.get_attribute("id") for section in all_of(opened, "main > section")]
    assert [link.get_attribute("href").split("#")[1] for link in links] == sections
    for link, section in zip(links, sections, strict=True):
        link.click()
        place = "const place = document.getElementById(arguments[0]).getBoundingClientRect(); return place.top"
        top, height = opened.execute_script(place, section), opened.execute_script("return innerHeight")
        last = opened.execute_script("return scrollY + innerHeight >= document.documentElement.scrollHeight - 2")
        assert -2 <= top < 40 or (last and top < height), section


def column(browser, table, index):
    """The values of a column from top to bottom; None where there is no number."""
    script = "return [...arguments[0].tBodies[0].rows].map(row => row.cells[arguments[1]].dataset.value)"
    return [float(value) if value else None for value in browser.execute_script(script, table, index)]


def heads(table):
    return table.find_elements("css selector", "tr.heads th")


@pytest.mark.parametrize("section", ["comparison", "costs"])
def test_a_click_on_a_head_sorts_by_its_numbers(opened, section):
    table = all_of(opened, f"#{section} table:has(tr.heads button)")[-1]
    for index, head in enumerate(heads(table)):
        before = column(opened, table, index)
        known = sorted(value for value in before if value is not None)
        missing = [None] * before.count(None)
        for order, wanted in (("descending", known[::-1]), ("ascending", known)) if known else ():
            head.find_element("tag name", "button").click()
            assert [head.get_attribute("aria-sort") for head in heads(table)].count(None) == len(heads(table)) - 1
            assert head.get_attribute("aria-sort") == order
            assert column(opened, table, index) == [*wanted, *missing], "by number, unknown ones last"


def test_a_table_is_sorted_from_the_keyboard(opened):
    from selenium.webdriver.common.keys import Keys

    table = all_of(opened, "#comparison table")[0]
    head = heads(table)[0]
    head.find_element("tag name", "button").send_keys(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "ascending"
    names = [cell.text for cell in table.find_elements("css selector", "tbody td:first-child")]
    assert names == opened.execute_script("return arguments[0].sort((a, b) => a.localeCompare(b))", names)


def test_a_picture_is_enlarged_and_closed_again(opened):
    from selenium.webdriver.common.keys import Keys

    button = all_of(opened, "button.picture")[0]
    shown = button.find_element("tag name", "img").size["width"]
    button.send_keys(Keys.ENTER)
    dialog = opened.find_element("css selector", "dialog")
    assert dialog.get_attribute("open")
    assert dialog.find_element("tag name", "img").size["width"] > shown
    opened.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.get_attribute("open")


WIDER = """
const wide = (element) => element.getBoundingClientRect().right > innerWidth + 1;
const scrolls = (element) => element.closest("div.table, figure, pre, dialog");
const found = [...document.querySelectorAll("body *")].filter((element) => wide(element) && !scrolls(element));
return found.map((element) => element.outerHTML.slice(0, 90));
"""


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(opened, width):
    resize(opened, width)
    opened.refresh()
    opened.execute_script("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert opened.execute_script("return innerWidth") == width
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    assert opened.execute_script(WIDER) == []


def test_on_a_phone_the_contents_are_at_hand_and_the_text_is_legible(opened):
    resize(opened, 400)
    opened.refresh()
    summary = opened.find_element("css selector", "nav summary")
    assert not all_of(opened, "nav a")[0].is_displayed(), "closed at first: the page begins with its title"
    summary.click()
    link = all_of(opened, "nav a")[0]
    assert link.is_displayed()
    assert link.size["height"] >= 24, "wide enough for a finger"
    size = opened.execute_script("return parseFloat(getComputedStyle(document.querySelector('.summary p')).fontSize)")
    assert size >= 14


def test_on_paper_nothing_is_hidden_but_the_contents(opened):
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    opened.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert not opened.find_element("tag name", "nav").is_displayed()
    assert all(part.get_attribute("open") for part in all_of(opened, "main details"))
    resize(opened, 800)  # an A4 sheet within its margins, shrunk by an eighth, as browsers do
    wide = "return [...document.querySelectorAll('table')].filter(table => table.offsetWidth > innerWidth).length"
    assert opened.execute_script(wide) == 0
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    """A page of the quality control of made-up scans."""
    folder = tmp_path_factory.mktemp("controlled")
    files = [folder / f"site.{ending}" for ending in ("tsv", "png", "html")]
    settings = {"min_correlation": 0.5, "min_overlap": 0.8, "outlier_z": 3.5}
    scans = quality(write_chunks(folder, np.random.default_rng(7)), *files[:2], "site", settings, {})
    quality_page(scans, files[2], files[1], "site", settings)
    return files[2]


@pytest.mark.parametrize("width", [1280, 400])
def test_a_page_of_quality_control_fits_and_a_click_takes_a_line_with_its_tabs(browser, controlled, width):
    resize(browser, width)
    browser.get_log("browser")
    browser.get(controlled.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(WIDER) == []
    assert browser.get_log("browser") == []
    assert all(image.get_property("naturalWidth") > 0 for image in all_of(browser, "main img"))
    lines = [line for line in all_of(browser, "td code") if "looked at" in line.get_property("textContent")]
    browser.execute_script("arguments[0].scrollIntoView()", lines[0])
    lines[0].click()
    assert browser.execute_script("return getSelection().toString()").strip() == "site\t006\t\tinclude\tlooked at"


def test_labels_are_shown_as_they_are_written(browser, made_up):
    browser.get(made_up.as_uri())
    text = browser.find_element("tag name", "main").text
    for words in ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "{{ 7 * 7 }} & Co."):
        assert words in text
    assert not all_of(browser, "img[src=x]")
