"""What is written for others: JSON, CSV, Parquet, a page."""

import csv
import json

import numpy as np
import pytest

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError
from modelyard.ab_testing import ABTest, Metric, ModelVariant
from modelyard.storage import open_store


@pytest.fixture(params=["memory", "store"])
def test(request, tmp_path):
    store = open_store(tmp_path / "s") if request.param == "store" else None
    variants = [ModelVariant(name, lambda x: x) for name in "ab"]
    made = ABTest(
        "t",
        variants,
        "m",
        store=store,
        clock=ManualClock(),
        metrics=[Metric(name="guard", margin=0.5)],
    )
    rng = np.random.default_rng(0)
    for i in range(300):
        name = made.select_variant(f"u{i}").name
        values = {"m": rng.normal(name == "b"), "guard": rng.normal(), "<b>bad</b>": None}
        made.record_result(name, values, user_id=f"u{i}")
    yield made
    if store is not None:
        store.close()


def test_every_outcome_is_a_row_of_the_table(test, tmp_path):
    path = tmp_path / "new" / "r.csv"
    assert test.export_results(path) == str(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300
    assert rows[7]["user_id"] == "u7"
    stats = test.get_variant_stats()["a"]["metrics"]["m"]
    values = [float(row["metric_m"]) for row in rows if row["variant"] == "a"]
    assert np.mean(values) == pytest.approx(stats["mean"])
    assert rows[0]["metric_<b>bad</b>"] == ""


def test_parquet_holds_the_same_as_csv(test, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    test.export_results(tmp_path / "r.parquet")
    table = parquet.read_table(tmp_path / "r.parquet").to_pydict()
    test.export_results(tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["metric_m"]) for row in rows] == table["metric_m"]
    assert list(rows[0]) == list(table)


def test_json_holds_statistics_and_outcomes(test, tmp_path):
    test.export_results(tmp_path / "r.json")
    plain = json.loads((tmp_path / "r.json").read_text())
    assert len(plain["outcomes"]) == 300
    assert plain["winner"] == test.get_winner()
    assert plain["assignment"]["runs"] == [["a", 5000], ["b", 5000]]


def test_another_ending_is_refused(test, tmp_path):
    with pytest.raises(ConfigError, match=r"\.csv"):
        test.export_results(tmp_path / "r.xlsx")


def test_the_page_tells_the_verdict_and_quotes_what_was_handed_in(test, tmp_path):
    page = test.report(tmp_path / "deep" / "page.html").read_text()
    result = test.compare_variants("a", "b")["result"]
    assert result["recommendation"].split(" (")[0] in page
    assert "guard" in page
    assert "<b>bad</b>" not in page.split("</script>")[-1]


def test_a_page_of_nothing_yet_can_be_written(tmp_path):
    variants = [ModelVariant(name, lambda x: x) for name in "ab"]
    page = ABTest("t", variants, "m").report(tmp_path / "page.html").read_text()
    assert "none yet" in page
