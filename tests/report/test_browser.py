"""The demo's report as a reader meets it: opened in Chromium, offline, every table and figure looked at."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "results/demo/report.html"
SCREENSHOTS = ROOT / "results/demo/screenshots"
ARGUMENTS = """--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run
    --disable-background-networking --disable-component-update --disable-sync --window-size=1600,1000"""

NEEDED = REPORT.exists() and shutil.which("chromium") and shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not NEEDED, reason="`make test-report` makes the demo's report and installs Chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with the report open, without network."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (*ARGUMENTS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(60)
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    driver.get(REPORT.as_uri())
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def results(browser: Any) -> dict[str, str]:
    """Return the MIME type of every result in the report."""
    script = "return Object.fromEntries(Object.keys(results).map(path => [path, getResultMimeType(path)]))"
    found: dict[str, str] = browser.execute_script(script)
    return found


def show(browser: Any, path: str, content: str) -> None:
    """Show a result as a click on its eye does."""
    view = "app.setView({content: arguments[1], contentPath: results[arguments[0]].data_uri, resultPath: arguments[0]})"
    browser.execute_script(view, path, content)


@contextlib.contextmanager
def looking_at(browser: Any, frame: str, name: str) -> Iterator[None]:
    """Look into a frame, and leave a picture of the page."""
    browser.switch_to.frame(browser.find_element("css selector", frame))
    try:
        yield
    finally:
        browser.switch_to.default_content()
        picture(browser, name)


def picture(browser: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(SCREENSHOTS / f"{name}.png"))


def test_it_opens_with_the_results_first(browser: Any) -> None:
    menu = browser.find_element("css selector", "nav, #app").text
    assert menu.index("1. Results") < menu.index("2. Outliers in the encoder") < menu.index("5. Provenance")
    table = browser.find_element("css selector", "iframe.opening")
    assert table.rect["y"] < 800, "the table is not in the first screen"
    assert table.rect["width"] > 800
    with looking_at(browser, "iframe.opening", "start"):
        assert "FID" in [cell.text for cell in browser.find_elements("css selector", "table th")]


def test_every_figure_loads(browser: Any, results: dict[str, str]) -> None:
    figures = [path for path, kind in results.items() if kind.startswith("image/")]
    assert len(figures) >= 10
    for path in figures:
        show(browser, path, "img")
        width = browser.execute_async_script(
            "const [path, done] = arguments; const image = new Image(); image.src = results[path].data_uri;"
            "image.decode().then(() => done(image.naturalWidth), () => done(0))",
            path,
        )
        assert width > 200, path
        top = browser.execute_script("return document.querySelector('.p-3 > img').getBoundingClientRect().top")
        assert top >= 0, f"{path}: its top is cut off"
        picture(browser, Path(path).stem)


@pytest.mark.parametrize(("name", "expected"), [("table1", "FID"), ("provenance", "GPU-hours")])
def test_tables_are_tables(browser: Any, results: dict[str, str], name: str, expected: str) -> None:
    path = next(path for path, kind in results.items() if kind == "text/html" and Path(path).stem == name)
    show(browser, path, "html")
    with looking_at(browser, "iframe", name):
        assert expected in [cell.text for cell in browser.find_elements("css selector", "table th")]
        first = [cell.text for cell in browser.find_elements("css selector", "tbody td:first-child")]
        assert "dit-siglip2b-dsr" in first


@pytest.mark.parametrize("width", [1200, 1400])
def test_the_table_is_whole_beside_a_wide_menu(browser: Any, results: dict[str, str], width: int) -> None:
    size = browser.get_window_size()
    browser.set_window_size(width, 900)
    menu = browser.find_elements("xpath", "//nav//span[text()='1. Results']")
    if menu:
        menu[0].click()
    show(browser, next(path for path in results if Path(path).name == "table1.html"), "html")
    with looking_at(browser, "iframe", f"table1-{width}"):
        last = browser.find_element("css selector", "table th:last-child")
        assert last.text == "Reference"
        assert last.rect["x"] + last.rect["width"] <= browser.execute_script("return innerWidth")
    browser.set_window_size(size["width"], size["height"])


def test_every_result_has_a_caption(browser: Any, results: dict[str, str]) -> None:
    for path in results:
        assert len(browser.execute_script("return results[arguments[0]].caption || ''", path)) > 80, path


def test_nothing_was_fetched_and_nothing_went_wrong(browser: Any) -> None:
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in fetched if not name.startswith(("data:", "blob:"))] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
