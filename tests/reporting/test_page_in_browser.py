"""The page in a real browser, opened as a file."""

from pathlib import Path

import pytest

from modelyard.reporting import render

CHROMIUM = "/usr/bin/chromium"
WIDTHS_PX = (1280, 390)

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


@pytest.fixture
def report_path(tmp_path, report):
    path = tmp_path / "report.html"
    path.write_text(render(report), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", WIDTHS_PX)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_draws_every_chart_without_a_request_or_an_error(
    browser, report_path, report, width, scheme
):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report_path.as_uri())
    page.wait_for_function(
        "[...document.querySelectorAll('.chart')].every(chart => chart.querySelector('svg'))"
    )
    n_charts = page.locator(".chart").count()
    has_scrollbar = page.evaluate(
        "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )
    page.close()
    assert not complaints
    assert requests == [report_path.as_uri()]
    assert n_charts == len(report.sections[1].blocks)
    assert not has_scrollbar


def test_foreign_script_does_not_run(browser, report_path):
    page = browser.new_page()
    text = report_path.read_text(encoding="utf-8")
    report_path.write_text(text.replace("</main>", "<script>window.pwned = 1</script></main>"))
    page.goto(report_path.as_uri())
    assert page.evaluate("window.pwned === undefined")
    page.close()
