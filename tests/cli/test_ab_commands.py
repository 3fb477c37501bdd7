"""`modelyard ab`: experiments that a process has stored, and planning."""

import json

import numpy as np
import pytest

from modelyard.ab_testing import ABTest, ModelVariant


@pytest.fixture
def stored(registry):
    """An experiment of two models with a clear winner."""
    variants = [ModelVariant(name, lambda x: x) for name in ("old", "new")]
    test = ABTest("v1_or_v2", variants, "sharpe", store=registry.store)
    rng = np.random.default_rng(0)
    for i in range(400):
        name = test.select_variant(f"u{i}").name
        metrics = {"sharpe": rng.normal(2.0 * (name == "new")), "max_dd": rng.random()}
        test.record_result(name, metrics, user_id=f"u{i}")
    test.flush()
    return test


@pytest.mark.usefixtures("stored")
def test_list_and_status_say_what_runs_and_who_wins(run):
    assert "v1_or_v2" in run("ab", "list").output
    assert [one["status"] for one in json.loads(run("ab", "list", "--json").output)] == ["running"]
    shown = run("ab", "status", "v1_or_v2").output
    assert "winner: new" in shown
    found = json.loads(run("ab", "status", "v1_or_v2", "--json").output)
    assert found["winner"] == "new"
    assert sum(one["sample_count"] for one in found["variants"].values()) == 400


@pytest.mark.slow
@pytest.mark.usefixtures("stored")
def test_compare_gives_the_recommendation_and_any_metric(run):
    shown = run("ab", "compare", "v1_or_v2").output
    assert "strongly recommended" in shown
    assert "Warning: The experiment has covered" in shown
    (found,) = json.loads(
        run("ab", "compare", "v1_or_v2", "new", "old", "--metric", "max_dd", "--json").output
    )
    assert (found["variant_a"], found["metric"]) == ("new", "max_dd")


@pytest.mark.usefixtures("stored")
def test_report_and_export_write_files(run, tmp_path):
    page, table = tmp_path / "page.html", tmp_path / "rows.csv"
    assert str(page) in run("ab", "report", "v1_or_v2", "--out", str(page)).output
    assert "always-valid" in page.read_text()
    run("ab", "export", "v1_or_v2", str(table))
    assert len(table.read_text().splitlines()) == 401


def test_pause_resume_and_stop_reach_the_running_process(run, stored):
    assert "is paused" in run("ab", "pause", "v1_or_v2").output
    stored.flush()
    assert stored.status == "paused"
    run("ab", "resume", "v1_or_v2")
    stored.flush()
    assert stored.status == "running"
    assert "winner: new" in run("ab", "stop", "v1_or_v2").output
    stored.flush()
    assert stored.status == "stopped"
    stopped = run("ab", "pause", "v1_or_v2", exit_code=1)
    assert "was stopped" in stopped.stderr


@pytest.mark.usefixtures("stored")
def test_an_unknown_experiment_is_answered_with_those_there_are(run):
    assert "v1_or_v2" in run("ab", "status", "other", exit_code=1).stderr


@pytest.mark.parametrize(
    ("options", "total"),
    [
        (["--std", "1", "--inference", "fixed_horizon"], 3140),
        (["--std", "1"], None),
        (["--base-rate", "0.2"], None),
        (["--sharpe", "1.0", "--correlation", "0.5"], None),
    ],
)
def test_a_plan_says_how_many_outcomes_it_takes(run, options, total):
    shown = run("ab", "plan", "--effect", "0.1", *options, "--per-day", "100", "--json")
    found = json.loads(shown.output)
    assert found["samples_total"] > 0
    assert found["days"] == pytest.approx(found["samples_total"] / 100)
    if total is not None:
        assert found["samples_total"] == total


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--std", "1", "--base-rate", "0.1"],
        ["--std", "1", "--share", "1"],
        ["--std", "1", "--per-day", "0"],
        ["--std", "1", "--inference", "guess"],
        ["--std", "-1"],
        ["--base-rate", "0.95"],
        ["--std", "1", "--power", "1"],
    ],
)
def test_a_plan_that_makes_no_sense_says_why(run, options):
    assert run("ab", "plan", "--effect", "0.1", *options, exit_code=1).stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--sharpe", "1", "--share", "0.1"], "--share"),
        (["--sharpe", "1", "--share", "0.5"], "--share"),
        (["--std", "1", "--correlation", "0.9"], "--correlation"),
        (["--base-rate", "0.2", "--correlation", "0.9"], "--correlation"),
        (["--std", "1", "--periods-per-year", "12"], "--periods-per-year"),
    ],
)
def test_an_option_of_another_kind_of_plan_is_refused(run, options, told):
    assert told in run("ab", "plan", "--effect", "0.1", *options, exit_code=1).stderr


@pytest.mark.parametrize("inference", ["always_valid", "fixed_horizon", "group_sequential"])
@pytest.mark.parametrize(
    "options",
    [
        ["--effect", "1e-300", "--std", "1"],
        ["--effect", "1e-300", "--base-rate", "0.1"],
        ["--effect", "0.1", "--std", "1e300"],
        ["--effect", "0.1", "--std", "1e-300"],
        ["--effect", "1e300", "--sharpe", "1"],
        ["--effect", "1e300", "--sharpe", "1e200"],
    ],
)
def test_an_effect_out_of_all_proportion_is_refused_without_a_traceback(run, options, inference):
    refused = run("ab", "plan", *options, "--inference", inference, exit_code=1).stderr
    assert "out of proportion" in refused
    assert "Traceback" not in refused


def test_the_share_and_the_returns_a_year_count_where_they_are_given(run):
    def samples(*options):
        found = json.loads(run("ab", "plan", "--effect", "0.1", *options, "--json").output)
        return found["samples_control"], found["samples_treatment"]

    control, treatment = samples("--std", "1", "--share", "0.1")
    assert control == pytest.approx(9 * treatment, rel=0.01)
    assert samples("--sharpe", "1") == samples("--sharpe", "1", "--periods-per-year", "252")
    assert samples("--sharpe", "1", "--periods-per-year", "12") < samples("--sharpe", "1")
