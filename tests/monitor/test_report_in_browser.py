"""The page of a monitor in a real browser: every chart drawn, nothing wider than the screen."""

from pathlib import Path

import pytest
from report_helpers import eventful, monitor_of

from modelyard.monitor.report import write_report

CHROMIUM = "/usr/bin/chromium"
LONG = "a_very_long_name_of_a_feature_that_goes_on_and_on_and_on_and_on_for_ever_and_ever"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    if not Path(CHROMIUM).exists():
        pytest.fail(f"{CHROMIUM} is missing: apt-get install -y chromium")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    full = eventful(feature_names=["<b>x</b>", f"{LONG}_1", f"{LONG}_2"])
    return {
        "full": write_report(full, folder / "full.html"),
        "empty": write_report(monitor_of(), folder / "empty.html"),
    }


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["full", "empty"])
def test_every_chart_is_drawn_within_the_screen(browser, paths, name, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(paths[name].as_uri())
    page.wait_for_function(
        "[...document.querySelectorAll('.chart')].every(chart => chart.querySelector('svg'))"
    )
    n_charts = page.locator(".chart").count()
    has_scrollbar = page.evaluate(
        "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )
    page.close()
    assert not complaints
    assert requests == [paths[name].as_uri()]
    assert not has_scrollbar
    assert n_charts == (8 if name == "full" else 0)
