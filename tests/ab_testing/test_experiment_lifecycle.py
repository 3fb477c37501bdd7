"""Variants that come and go, testers and holdouts, pauses, and taking up what is stored."""

import logging

import numpy as np
import pytest

from modelyard._core.clock import ManualClock
from modelyard._core.errors import (
    ConfigError,
    ExperimentNotFoundError,
    ExperimentStoppedError,
    VariantNotFoundError,
)
from modelyard.ab_testing import ABTest, Metric, ModelVariant, stored_experiments
from modelyard.routing import slot_of
from modelyard.storage import open_store


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path)
    yield opened
    opened.close()


def variants(names="ab"):
    return [ModelVariant(name, lambda x, name=name: (name, x)) for name in names]


def experiment(names="ab", **options) -> ABTest:
    return ABTest("t", variants(names), "m", cycle_s=0.0, **options)


def owners(test, n=4000):
    return [test.select_variant(f"u{i}").name for i in range(n)]


def test_an_added_variant_takes_its_share_and_moves_nobody_else():
    test = experiment()
    before = owners(test)
    test.add_variant(ModelVariant("c", lambda x: x, 0.5))
    after = owners(test)
    moved = {(x, y) for x, y in zip(before, after, strict=True) if x != y}
    assert moved == {("a", "c"), ("b", "c")}
    assert after.count("c") / 4000 == pytest.approx(1 / 3, abs=0.03)
    assert test.names == ("a", "b", "c")


def test_a_removed_variants_users_alone_move_and_its_record_stays(tmp_path):
    test = experiment("abc")
    test.record_result("c", {"m": 1.0})
    before = owners(test)
    test.remove_variant("c")
    after = owners(test)
    assert all(x in (y, "c") for x, y in zip(before, after, strict=True))
    assert "c" not in after
    with pytest.raises(VariantNotFoundError):
        test.record_result("c", {"m": 1.0})
    path = tmp_path / "r.csv"
    test.export_results(path)
    assert ",c,0," in path.read_text()
    with pytest.raises(ConfigError, match="left to compare"):
        test.remove_variant("b")


def test_a_name_that_is_taken_cannot_be_added():
    with pytest.raises(ConfigError, match="already"):
        experiment().add_variant(ModelVariant("a", lambda x: x))


def test_testers_see_their_variant_and_do_not_count():
    test = experiment(forced={"qa": "b", 7: "a"})
    assert test.select_variant("qa").name == "b"
    assert test.select_variant(7).name == "a"
    _, name = test.predict(1.0, "qa", request_id="r")
    test.record_outcome("r", {"m": 1.0})
    test.record_result(name, {"m": 1.0}, user_id="qa")
    stats = test.get_variant_stats()
    assert [stats[n]["sample_count"] for n in "ab"] == [0, 0]
    assert [stats[n]["assigned"] for n in "ab"] == [0, 0]
    with pytest.raises(VariantNotFoundError):
        experiment(forced={"qa": "z"})


def test_users_kept_out_stay_out_whatever_the_weights_are():
    test = experiment(holdout_share=0.2)
    users = [f"u{i}" for i in range(3000)]
    held = [u for u in users if test.is_held_out(u)]
    assert len(held) / 3000 == pytest.approx(0.2, abs=0.03)
    assert all((slot_of("t/holdout", "", u) < 2000) == (u in set(held)) for u in users)
    assert {test.select_variant(u).name for u in held} == {"a"}
    test.update_traffic_weights({"a": 0.0, "b": 1.0})
    assert {test.select_variant(u).name for u in held} == {"a"}
    assert {test.select_variant(u).name for u in users if u not in held} == {"b"}


def test_outcomes_of_users_kept_out_are_in_no_comparison(tmp_path):
    test = experiment(holdout_share=0.5)
    user = next(u for u in map(str, range(99)) if test.is_held_out(u))
    test.record_result("a", {"m": 1.0}, user_id=user)
    _, name = test.predict(1.0, user, request_id="r")
    test.record_outcome("r", {"m": 2.0})
    assert name == "a"
    assert test.get_variant_stats()["a"]["sample_count"] == 0
    test.export_results(tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text().count("(held out)") == 2


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_holdout_must_be_a_share(share):
    with pytest.raises(ConfigError, match="holdout_share"):
        experiment(holdout_share=share)


def test_while_paused_everybody_gets_the_control_and_only_earlier_requests_count():
    test = experiment()
    user = next(u for u in map(str, range(99)) if test.select_variant(u).name == "b")
    test.predict(0.0, user, request_id="before")
    test.pause()
    assert test.status == "paused"
    assert test.select_variant(user).name == "a"
    test.record_result("b", {"m": 1.0})
    test.predict(0.0, user, request_id="during")
    test.record_outcome("during", {"m": 1.0})
    test.record_outcome("before", {"m": 1.0})
    assert test.get_variant_stats()["b"]["sample_count"] == 1
    assert test.get_variant_stats()["a"]["sample_count"] == 0
    test.resume()
    assert test.select_variant(user).name == "b"
    test.stop_test()
    for change in (test.pause, test.resume):
        with pytest.raises(ExperimentStoppedError):
            change()


def test_a_stored_experiment_is_loaded_as_it_was_made(store):
    made = experiment(
        "abc",
        store=store,
        metrics=[
            Metric(name="m", kind="sharpe", periods_per_year=252.0),
            Metric(name="dd", margin=0.1),
        ],
        min_samples=40,
        confidence_level=0.9,
        n_tuned=123.0,
        salt="s",
        forced={"qa": "c"},
        holdout_share=0.1,
        lower_is_better=["dd"],
    )
    rng = np.random.default_rng(0)
    for _ in range(60):
        for name in "abc":
            made.record_result(name, {"m": rng.normal(), "dd": rng.normal()}, user_id="u1")
    made.update_traffic_weights({"a": 0.2, "b": 0.3, "c": 0.5})
    made.flush()
    loaded = ABTest.load("t", store=store, models={"a": lambda x: 2 * x})
    assert loaded.compare_variants("a", "b") == made.compare_variants("a", "b")
    assert loaded.compare_variants("a", "b", "dd") == made.compare_variants("a", "b", "dd")
    assert owners(loaded, 500) == owners(made, 500)
    assert loaded.predict(3.0, variant_name="a") == (6.0, "a")
    with pytest.raises(ConfigError, match="without its model"):
        loaded.predict(3.0, variant_name="b")
    with pytest.raises(ExperimentNotFoundError, match="There are: t"):
        ABTest.load("u", store=store)
    with pytest.raises(VariantNotFoundError):
        ABTest.load("t", store=store, models={"z": lambda x: x})
    assert [one["test_name"] for one in stored_experiments(store)] == ["t"]


def test_a_pause_and_a_new_variant_reach_the_other_process(store, caplog):
    clock = ManualClock()
    ours = experiment(store=store, clock=clock)
    theirs = experiment(store=store, clock=clock, resume=True)
    theirs.add_variant(ModelVariant("c", lambda x: x, 1.0))
    theirs.pause()
    clock.advance(1.1)
    ours.get_variant_stats()  # any call takes in the news
    assert (ours.status, ours.names) == ("paused", ("a", "b", "c"))
    theirs.resume()
    clock.advance(1.1)
    ours.get_variant_stats()
    with caplog.at_level(logging.WARNING):
        # There is no model of it here, so the control answers.
        answered = {name for i in range(300) for _, name in [ours.predict(0.0, f"u{i}")]}
    assert answered == {"a", "b"}
    assert any("add_variant" in record.message for record in caplog.records)
    ours.add_variant(ModelVariant("c", lambda x: x, 1.0))
    assert "c" in {ours.predict(0.0, f"u{i}")[1] for i in range(300)}
    assert owners(ours, 300) == owners(theirs, 300)


def test_an_experiment_of_before_is_taken_up_but_not_loaded(store):
    from sqlalchemy import update

    from modelyard.storage.tables import experiment as table

    experiment(store=store)
    old = {"variants": ["a", "b"], "primary_metric": "m", "paired": False, "assignment": "user"}
    with store.database.writing() as connection:
        connection.execute(update(table).values(settings=old))
    assert experiment(store=store, resume=True).names == ("a", "b")
    with pytest.raises(ConfigError, match="resume=True"):
        ABTest.load("t", store=store)


def test_blocks_of_time_are_what_is_independent():
    clock = ManualClock()
    test = experiment(clock=clock, assignment="time_block", block_s=60.0, min_samples=10)
    for i in range(600):
        _, _name = test.predict(0.0, request_id=str(i))
        test.record_outcome(str(i), {"m": float(i % 7)})
        clock.advance(10.0)
    found = test.compare_variants("a", "b")["statistics"]
    assert found["n_a"] + found["n_b"] == 600
    assert found["n_units_a"] + found["n_units_b"] == 100


def test_outcomes_of_nobody_are_warned_about_where_it_matters_whose_they_are(caplog):
    experiment().record_result("a", {"m": 1.0})
    assert not caplog.records
    test = experiment(holdout_share=0.1)
    test.record_result("a", {"m": 1.0})
    test.record_result("a", {"m": 1.0}, user_id="u")
    assert [("user_id" in record.message) for record in caplog.records] == [True]
