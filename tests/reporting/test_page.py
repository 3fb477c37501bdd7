"""The page: self-contained, safe with any text, the same for the same report."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from modelyard._core.errors import ConfigError
from modelyard.reporting import Chart, KeyFigures, Note, Report, Section, Table, render


class Tags(HTMLParser):
    """Collects tags with their attributes, and text outside scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self._skips = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._skips = tag in {"script", "style"}

    def handle_endtag(self, tag):
        self._skips = False

    def handle_data(self, data):
        if not self._skips and data.strip():
            self.text.append(data.strip())

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def page(report):
    return render(report)


def one_section(*blocks, text=""):
    at = datetime(2026, 1, 31, tzinfo=UTC)
    return Report("Title", "", at, [Section("Section", text, blocks)])


def table_cells(*rows, **options):
    page = render(one_section(Table(["a", "b"], rows, **options)))
    return re.findall(r"<td( class=\"number\")?>([^<]*)</td>", page)


def test_nothing_is_loaded_from_anywhere(page):
    for tag, attrs in Tags(page).tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attrs.get(name, "")
            assert value.startswith(("#", "data:")) or not value, (tag, attrs)
    styles = "".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    assert "url(" not in styles
    assert "@import" not in styles


def test_policy_forbids_network_and_foreign_scripts(page):
    (policy,) = [
        attrs["content"]
        for attrs in Tags(page).named("meta")
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    scripts = next(part for part in policy.split(";") if "script-src" in part)
    assert "unsafe" not in scripts
    assert scripts.count("sha256-") == 2


def test_plotly_is_embedded_once(page):
    assert page.count("* plotly.js v") == 1


def test_equal_reports_give_equal_pages(report, page):
    assert render(report) == page


def test_text_from_outside_is_never_markup():
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    report = Report(
        evil,
        evil,
        datetime(2026, 1, 31, tzinfo=UTC),
        [
            Section(
                evil,
                evil,
                [
                    Table([evil], [[evil]], evil),
                    KeyFigures([(evil, evil, evil)]),
                    Note("info", evil),
                    Chart({"data": [{"name": evil}], "layout": {"title": {"text": evil}}}, evil),
                ],
            )
        ]
        * 2,
    )
    found = Tags(render(report))
    assert not found.named("img")
    # Plotly, the drawing script, and the JSON of two charts.
    assert len(found.named("script")) == 4


def test_every_row_has_as_many_cells_as_there_are_columns(page):
    body = page[page.index("<table>") : page.index("</table>")]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.DOTALL)
    assert {len(re.findall(r"<t[hd]", row)) for row in rows} == {3}
    assert body.count('class="highlight"') == 1


def test_row_of_another_length_is_refused():
    with pytest.raises(ConfigError, match="Row 1 has 1 values for 2 columns"):
        Table(["a", "b"], [[1, 2], [3]])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "—"),
        (float("nan"), "—"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (-2.5, "\u22122.5"),
        ("text", "text"),
    ],
)
def test_values_as_a_reader_wants_them(value, shown):
    assert table_cells(["x", value])[1][1] == shown


def test_numbers_are_aligned_right_also_beside_missing_ones():
    cells = table_cells(["x", 1.5], ["y", None])
    assert [bool(number) for number, _ in cells] == [False, True, False, True]


def test_formats_win_over_the_default():
    assert table_cells(["x", 0.256], formats={"b": ".1%"})[1][1] == "25.6%"


def test_empty_table_says_so():
    assert "no rows" in render(one_section(Table(["a"], [])))


def test_unknown_kind_of_note_is_refused():
    with pytest.raises(ConfigError, match="Unknown note kind 'oops'"):
        Note("oops", "text")


def test_paragraphs_and_code():
    page = render(one_section(text="One `a < b`.\n\nTwo."))
    assert "<p>One <code>a &lt; b</code>.</p>" in page
    assert "<p>Two.</p>" in page


def test_contents_lead_to_the_sections(report, page):
    anchors = [attrs["href"] for attrs in Tags(page).named("a")]
    ids = {f"#{attrs['id']}" for attrs in Tags(page).named("section")}
    assert len(anchors) == len(report.sections)
    assert set(anchors) == ids


def test_time_is_shown_in_utc(report):
    late = datetime.fromisoformat("2026-01-31T23:30:00-05:00")
    assert "2026-02-01 04:30 UTC" in render(replace(report, generated_at=late))


def test_figure_with_an_unserialisable_value_names_the_place():
    with pytest.raises(ConfigError, match=r"figure\.data\[0\]"):
        render(one_section(Chart({"data": [{"x": object()}], "layout": {}})))


def test_bars_are_as_long_as_their_numbers():
    page = render(
        one_section(Table(["a", "b"], [["x", -4.0], ["y", 1.0], ["z", None]], bars=["b"]))
    )
    assert re.findall(r"--length: (\d+)%", page) == ["100", "25"]


def test_a_column_of_text_has_no_bars():
    page = render(one_section(Table(["a"], [["x"], ["y"]], bars=["a"])))
    assert "--length: " not in page.replace("var(--length)", "")


def test_whole_columns_are_not_broken():
    page = render(one_section(Table(["at", "b"], [["2024-01-01", "x"]], whole=["at"])))
    assert '<td class="whole">2024-01-01</td><td>x</td>' in page
