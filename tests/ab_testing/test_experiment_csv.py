"""An experiment's CSV, read back as the docs say."""

import json

import pytest

from modelyard.ab_testing import ABTest, ModelVariant


def test_pandas_reads_back_what_was_recorded_with_the_options_of_the_docs(tmp_path):
    pandas = pytest.importorskip("pandas")
    test = ABTest("t", [ModelVariant(name, abs) for name in ("NA", "b")], "m")
    for i, user in enumerate(("007", "NA", "", "null", "1e5", None)):
        test.record_result("NA", {"m": (i + 1) / 3.0}, user_id=user, request_id=f"0{i}")
    test.export_results(tmp_path / "r.csv")
    test.export_results(tmp_path / "r.json")
    table = pandas.read_csv(
        tmp_path / "r.csv",
        converters=dict.fromkeys(["variant", "user_id", "request_id"], str),
        float_precision="round_trip",
    )
    outcomes = json.loads((tmp_path / "r.json").read_text())["outcomes"]
    for key in ("variant", "request_id"):
        assert list(table[key]) == [outcome[key] for outcome in outcomes]
    assert list(table["user_id"]) == [outcome["user_id"] or "" for outcome in outcomes]
    assert list(table["metric_m"]) == [outcome["metrics"]["m"] for outcome in outcomes]
