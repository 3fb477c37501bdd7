"""The picture of a graph in a real browser, opened as a file."""

from pathlib import Path

import pytest
from torch import nn

from modelyard.export import ModelExporter

CHROMIUM = "/usr/bin/chromium"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    if not Path(CHROMIUM).exists():
        pytest.fail(f"{CHROMIUM} is missing: apt-get install -y chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_hottest_operator_is_a_click_away_and_nothing_overlaps(
    browser, tmp_path, scheme, width
):
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    exporter = ModelExporter(tmp_path)
    path = Path(exporter.visualize(exporter.export_to_onnx(model, "encoder", (1, 5, 8))))
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    link = page.locator("a").first
    target = link.get_attribute("href")
    link.click()
    assert page.locator(f"{target} rect").is_visible()
    boxes = page.locator("svg g").evaluate_all(
        "all => all.map(g => g.getBoundingClientRect()).map(r => [r.x, r.y, r.width, r.height])"
    )
    for i, (x, y, w, h) in enumerate(boxes):
        for u, v, _, _ in boxes[i + 1 :]:
            assert abs(x - u) >= w - 1 or abs(y - v) >= h - 1
    wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth + 1")
    assert not wide
    assert complaints == []
    assert len(requests) == 1
    page.close()
