"""An experiment that survives, and that two processes share."""

import subprocess
import sys

import pytest
from sqlalchemy import func, select

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError, ExperimentExistsError
from modelyard.ab_testing import ABTest, ModelVariant, persistence
from modelyard.ab_testing.ledger import Ledger
from modelyard.storage import open_store
from modelyard.storage.tables import experiment_result


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path)
    yield opened
    opened.close()


def experiment(store, names="ab", **options):
    variants = [ModelVariant(name, lambda x: x) for name in names]
    return ABTest("t", variants, "m", store=store, **options)


def n_rows(store):
    with store.database.reading() as connection:
        return connection.execute(select(func.count()).select_from(experiment_result)).scalar()


def test_a_running_name_is_taken_unless_resumed(store):
    first = experiment(store)
    with pytest.raises(ExperimentExistsError, match="resume=True"):
        experiment(store)
    first.record_result("a", {"m": 1.0})
    first.flush()
    assert experiment(store, resume=True).get_variant_stats()["a"]["sample_count"] == 1


def test_resuming_with_other_settings_is_refused(store):
    experiment(store)
    with pytest.raises(ConfigError, match="variants"):
        experiment(store, names="abc", resume=True)
    with pytest.raises(ConfigError, match="paired"):
        experiment(store, paired=True, resume=True)


@pytest.mark.parametrize("n_rows_at_once", [2, 3, 4, 1000])
def test_a_long_experiment_is_taken_up_a_part_at_a_time(store, monkeypatch, n_rows_at_once):
    first = experiment(store, paired=True)
    for i in range(11):
        first.record_paired({"a": {"m": float(i)}, "b": {"m": float(2 * i)}})
    first.flush()
    monkeypatch.setattr(persistence, "_ROWS_AT_ONCE", n_rows_at_once)
    parts, take = [], Ledger._take

    def noted(ledger, news):
        parts.append(len(news.results))
        take(ledger, news)

    monkeypatch.setattr(Ledger, "_take", noted)
    again = experiment(store, paired=True, resume=True)
    assert max(parts) <= n_rows_at_once
    assert sum(parts) == 22
    assert again.compare_variants("a", "b") == first.compare_variants("a", "b")


def test_everything_flushed_is_found_again(store):
    first = experiment(store)
    first.update_traffic_weights({"a": 0.2, "b": 0.8})
    for i in range(50):
        first.record_result("ab"[i % 2], {"m": float(i), "bad": float("nan")})
    first.flush()
    again = experiment(store, resume=True)
    assert again.get_variant_stats() == first.get_variant_stats()
    assert again.compare_variants("a", "b") == first.compare_variants("a", "b")
    for i in range(300):
        assert again.select_variant(str(i)).name == first.select_variant(str(i)).name


def test_pairs_are_found_again_as_pairs(store):
    first = experiment(store, paired=True)
    for i in range(20):
        first.record_paired({"a": {"m": i}, "b": {"m": i + 0.1 * (i % 3)}})
    first.flush()
    again = experiment(store, paired=True, resume=True)
    assert again.compare_variants("a", "b") == first.compare_variants("a", "b")


def test_two_objects_share_results_weights_and_the_end(store):
    clock = ManualClock()
    one = experiment(store, clock=clock)
    two = experiment(store, clock=clock, resume=True)
    one.record_result("a", {"m": 1.0})
    two.record_result("a", {"m": 3.0})
    one.flush()
    two.flush()
    one.flush()
    for side in (one, two):
        assert side.get_variant_stats()["a"]["metrics"]["m"]["mean"] == 2.0
    one.update_traffic_weights({"a": 0.0, "b": 1.0})
    clock.advance(1.0)
    assert two.get_variant_stats()["b"]["traffic_weight"] == 1.0
    assert two.select_variant("anyone").name == "b"
    two.stop_test()
    one.flush()
    assert one.status == "stopped"


def test_an_outcome_retried_in_another_process_counts_once(store):
    one = experiment(store)
    two = experiment(store, resume=True)
    for side in (one, two):
        side.predict(1, variant_name="a", request_id="r")
        side.record_outcome("r", {"m": 1.0})
    one.flush()
    two.flush()
    one.flush()
    assert n_rows(store) == 1
    assert [side.get_variant_stats()["a"]["sample_count"] for side in (one, two)] == [1, 1]


def test_results_are_stored_after_a_second_or_at_once(store):
    clock = ManualClock()
    batched = experiment(store, clock=clock)
    batched.record_result("a", {"m": 1.0})
    assert n_rows(store) == 0
    clock.advance(1.0)
    batched.record_result("a", {"m": 1.0})
    assert n_rows(store) == 2
    sync = experiment(store, clock=clock, resume=True, durability="sync")
    sync.record_result("a", {"m": 1.0})
    assert n_rows(store) == 3


@pytest.mark.slow
def test_two_processes_lose_nothing(store, tmp_path):
    experiment(store)
    code = (
        "from modelyard.ab_testing import ABTest, ModelVariant\n"
        "from modelyard.storage import open_store\n"
        f"store = open_store({str(tmp_path)!r})\n"
        "test = ABTest('t', [ModelVariant('a', abs), ModelVariant('b', abs)], 'm',\n"
        "              store=store, resume=True)\n"
        "for i in range(300):\n"
        "    test.record_result('a', {'m': float(i)})\n"
        "    if i % 50 == 0: test.flush()\n"
        "test.flush()\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    stats = experiment(store, resume=True).get_variant_stats()
    assert stats["a"]["sample_count"] == 600
    assert stats["a"]["metrics"]["m"]["mean"] == pytest.approx(149.5)
