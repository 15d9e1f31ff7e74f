"""The page in a real browser: headless Chromium with no network, driven by selenium.

Skips where Chromium and its driver are not installed (`apt-get install chromium chromium-driver`).
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from supernet.report import page
from supernet.report.collect import collect
from tests.conftest import Command

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no browser: apt-get install chromium chromium-driver"
)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run",
         "--window-size=1200,900")  # fmt: skip
POINTS = (
    "[...document.querySelectorAll('[data-figure^=front] .point')]"
    ".filter((point) => point.getClientRects().length).length"
)
DARK, LIGHT = "dark", "light"


class Browser:
    """A page that is open."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, file: Path, *, width: int = 1200, scheme: str = LIGHT) -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        self.driver.get(file.resolve().as_uri())

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def all(self, query: str) -> list[Any]:
        return self.driver.find_elements("css selector", query)

    def column(self, table: str, number: int) -> list[str]:
        return self.js(
            "return [...document.querySelectorAll(arguments[0] + ' tbody tr')]"
            ".map((row) => row.cells[arguments[1]].dataset.value)", table, number,
        )  # fmt: skip

    def requests(self) -> list[str]:
        """Return what was asked for beyond the file itself and what lies in it."""
        messages = (json.loads(row["message"])["message"]
                    for row in self.driver.get_log("performance"))  # fmt: skip
        urls = (m["params"]["request"]["url"] for m in messages
                if m["method"] == "Network.requestWillBeSent")  # fmt: skip
        return [url for url in urls if not url.startswith(("file:", "data:", "blob:"))]

    def at(self, element: Any) -> tuple[float, float]:
        box = self.js(
            "arguments[0].scrollIntoView({block: 'center'});"
            "const b = arguments[0].getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]", element,
        )  # fmt: skip
        return box[0], box[1]

    def mouse(self, element: Any, *kinds: str) -> None:
        x, y = self.at(element)
        for kind in kinds:
            event = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
            if kind == "mouseMoved":
                event |= {"button": "none", "clickCount": 0}
            self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def until(self, code: str) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(self.driver, 20)
        return wait.until(lambda _: self.js(f"return {code}"), f"never true: {code}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        driver.get("about:blank")
        driver.get_log("performance")  # of the browser's own first page
        yield Browser(driver)
    finally:
        driver.quit()


@pytest.fixture
def file(filled: Path) -> Path:
    page.write(collect([filled], "supernet report runs/tiny"), Path("report.html"))
    return Path("report.html")


def marks(browser: Browser) -> Sequence[Any]:
    return browser.all("[data-figure^=front] .point")


def quiet(browser: Browser) -> None:
    """Nothing in the console, nothing on the network."""
    assert browser.driver.get_log("browser") == []
    assert browser.requests() == []


def test_the_page_opens_without_a_network(browser: Browser, file: Path) -> None:
    browser.open(file)
    for chart in browser.all(".chart"):
        assert browser.js("return !!arguments[0].querySelector('.main-svg')", chart)
    assert len(marks(browser)) >= 12, "six networks, predicted and measured"
    quiet(browser)


def test_a_front_of_1_000_points_is_drawn(browser: Browser, filled: Path) -> None:
    path = filled / "front-onnxruntime.json"
    rows = json.loads(path.read_text())
    more = [
        {**rows[0], "budget_ms": ms, "predicted_ms": ms, "predicted_top1": 0.1 + ms / 4}
        for ms in (1 + n / 1000 for n in range(1000))
    ]
    path.write_text(json.dumps(more))
    page.write(collect([filled], "supernet report runs/tiny"), Path("large.html"))
    browser.open(Path("large.html"))
    assert len(marks(browser)) >= 1_000
    quiet(browser)


def test_points_say_what_they_are_and_give_their_command(browser: Browser, file: Path) -> None:
    browser.open(file)
    mark = marks(browser)[-1]
    browser.mouse(mark, "mouseMoved")
    text = browser.until("document.querySelector('[data-figure^=front] .hovertext')?.textContent")
    assert "stage 1:" in text
    assert "ms" in text
    browser.mouse(mark, "mouseMoved", "mousePressed", "mouseReleased")
    command = browser.until("document.querySelector('#detail:not([hidden]) code')?.textContent")
    assert command.startswith("supernet extract runs/tiny --table runs/tiny/tables/")
    (button,) = browser.all("#detail .copy")
    browser.mouse(button, "mouseMoved", "mousePressed", "mouseReleased")
    assert browser.until("document.querySelector('#detail .copy').textContent === 'copied'")
    quiet(browser)


def test_a_searched_point_gives_a_command_that_works(
    browser: Browser, file: Path, command: Command
) -> None:
    browser.open(file)
    browser.js(
        "document.querySelector('[data-figure^=front]')"
        ".emit('plotly_click', {points: [{customdata: 'p0.1'}]})"
    )
    (button,) = browser.all("#detail .copy")
    browser.mouse(button, "mouseMoved", "mousePressed", "mouseReleased")
    browser.until("document.querySelector('#detail .copy').textContent === 'copied'")
    text = browser.js("return document.querySelector('#detail code').textContent")
    done = command(*shlex.split(text)[1:])
    assert done.code == 0, f"{text}\n{done.err}"
    quiet(browser)


def test_devices_can_be_left_out(browser: Browser, file: Path) -> None:
    browser.open(file)
    shown = "[...document.querySelectorAll('#networks tbody tr')].filter((r) => !r.hidden).length"
    before = browser.js(f"return {POINTS}")
    assert browser.js(f"return {shown}") == 6
    browser.js("document.querySelector('.filter input').click()")
    assert browser.js(f"return {shown}") == 3
    assert browser.until(f"{POINTS} < {before}")
    cards = browser.js("return [...document.querySelectorAll('.card')].filter((c) => !c.hidden)"
                       ".map((c) => c.dataset.device)")  # fmt: skip
    assert set(cards) == {"torch-fp32-1thread"}
    browser.js("document.querySelector('.filter input').click()")
    assert browser.until(f"{POINTS} === {before}")
    quiet(browser)


def test_tables_are_sorted_by_numbers_and_by_names(browser: Browser, file: Path) -> None:
    browser.open(file)
    for number in (0, 3, 7):
        head = f"document.querySelectorAll('#networks th button')[{number}].click()"
        browser.js(head)
        up = browser.column("#networks", number)
        key = str if number == 0 else float
        assert up == sorted(up, key=key)
        browser.js(head)
        assert browser.column("#networks", number) == sorted(up, key=key, reverse=True)
    quiet(browser)


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_a_phone_shows_it_all_without_scrolling_sideways(
    browser: Browser, file: Path, scheme: str
) -> None:
    browser.open(file, width=390, scheme=scheme)
    assert browser.js("return document.documentElement.scrollWidth") <= 390
    wide = browser.js("return [...document.querySelectorAll('.chart .main-svg')]"
                      ".map((svg) => svg.getBoundingClientRect().right)")  # fmt: skip
    assert max(wide) <= 390
    ground = browser.js("return getComputedStyle(document.body).backgroundColor")
    ink = browser.js("return getComputedStyle(document.querySelector('.xtick text')).fill")
    brightness = [sum(map(int, colour[4:-1].split(",")[:3])) / 3 for colour in (ground, ink)]
    assert (brightness[0] < 60 and brightness[1] > 180) == (scheme == DARK)
    quiet(browser)


def test_it_can_be_printed(browser: Browser, file: Path) -> None:
    browser.open(file, scheme=DARK)
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
    assert len(printed["data"]) > 10_000
    ground = browser.js(
        "return getComputedStyle(document.documentElement).getPropertyValue('--ink')"
    )
    assert ground, "and the page is as it was"
    quiet(browser)
