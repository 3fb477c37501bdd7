import subprocess
import sys
import threading

import numpy as np
import pytest

from modelyard._core.clock import ManualClock
from modelyard.ab_testing import MultiArmedBandit
from modelyard.ab_testing.bandits.log import read_log
from modelyard.ab_testing.bandits.rows import BanditRows
from modelyard.storage import open_store

ABC = ("a", "b", "c")


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def open_bandit(store):
    """A function that opens the same bandit as another process would."""
    clock = ManualClock()

    def make(algorithm="ucb", **options):
        return MultiArmedBandit(ABC, algorithm, store=store, name="router", clock=clock, **options)

    return make


def rewards_of(bandit):
    stats = bandit.get_statistics()
    return {name: stats["values"][name] * n for name, n in stats["counts"].items()}


def test_each_learns_what_the_other_saw(open_bandit):
    one, two = open_bandit(), open_bandit()
    one.update("a", 1.0)
    two.update("b", 2.0)
    two.update("a", 5.0)
    for bandit in (one, two, one):
        bandit.flush()
    assert rewards_of(one) == rewards_of(two) == {"a": 6.0, "b": 2.0, "c": 0.0}
    assert rewards_of(open_bandit()) == rewards_of(one)


@pytest.mark.parametrize("seed", range(5))
def test_no_reward_is_lost_or_counted_twice_however_flushes_fall(open_bandit, seed):
    rng = np.random.default_rng(seed)
    bandits = [open_bandit(), open_bandit()]
    n = 0
    for _ in range(150):
        place = int(rng.integers(len(bandits)))
        bandit = bandits[place]
        action = rng.random()
        if action < 0.6:
            bandit.update(bandit.select_variant(), float(rng.normal()))
            n += 1
        elif action < 0.7:
            bandit.select_variant()
        elif action < 0.9:
            bandit.flush()
        elif action < 0.95:
            bandit.flush()  # a restart after a clean end
            bandits[place] = open_bandit()
        elif len(bandits) < 4:
            bandits.append(open_bandit())
    for bandit in (*bandits, *bandits):
        bandit.flush()
    for bandit in (*bandits, open_bandit()):
        assert bandit.get_statistics()["total"] == n


def test_a_reward_may_arrive_where_the_choice_was_not_made(open_bandit):
    one, two = open_bandit(), open_bandit()
    name = one.select_variant("r1")
    one.flush()
    two.flush()
    assert two.get_statistics()["pending"][name] == 1
    two.update(name, 4.0, request_id="r1")
    two.flush()
    one.flush()
    for bandit in (one, two):
        stats = bandit.get_statistics()
        assert (stats["values"][name], stats["pending"][name]) == (4.0, 0)
        assert [entry["reward"] for entry in bandit.choices()] == [4.0]


def test_a_reward_of_a_choice_that_was_stored_meanwhile_is_found(open_bandit):
    one, two = open_bandit(), open_bandit()
    name = one.select_variant("r1")
    one.flush()
    two.update(name, 4.0, request_id="r1")  # two has not flushed since
    assert two.get_statistics()["values"][name] == 4.0


def test_a_reward_that_both_get_counts_once(open_bandit):
    one, two = open_bandit(), open_bandit()
    name = one.select_variant("r1")
    one.flush()
    two.flush()
    for bandit in (one, two):
        bandit.update(name, 4.0, request_id="r1")
    for bandit in (one, two, one):
        bandit.flush()
    for bandit in (one, two, open_bandit()):
        stats = bandit.get_statistics()
        assert (stats["counts"][name], stats["duplicates"]) == (1, 1)


def test_what_a_process_has_stored_itself_is_not_read_again(open_bandit, store):
    bandit = open_bandit()
    for _ in range(20):
        bandit.update(bandit.select_variant(), 1.0)
        bandit.flush()
    _, chunks = BanditRows(store, "router").load(1)
    assert len(chunks) <= 2
    assert open_bandit(log_size=1).get_statistics() == bandit.get_statistics()


@pytest.mark.parametrize(
    "options", [{}, {"epsilon_decay": 0.5}, {"window": 50}, {"discount": 0.9}]
)
def test_choices_that_wait_are_listed_again_when_as_much_has_happened(store, options):
    clock = ManualClock()

    def opened():
        return MultiArmedBandit(
            ABC, "epsilon_greedy", store=store, name="many", clock=clock, seed=0, **options
        )

    bandit = opened()
    bandit.select_many(2000)
    bandit.flush()
    state = store.load_snapshot("bandit", "many")
    for i in range(20):
        clock.advance(2.0)
        bandit.update(bandit.select_variant(), float(i % 3))
    clock.advance(2.0)
    bandit.get_statistics()
    assert store.load_snapshot("bandit", "many") == state
    killed = opened()
    for again in (killed, opened()):
        assert again.get_statistics() == bandit.get_statistics()
        assert again.choices() == bandit.choices()
    assert killed.select_many(20) == bandit.select_many(20)
    killed.update("a", 5.0)
    bandit.update("a", 5.0)
    assert killed.choices() == bandit.choices()
    bandit.flush()
    assert store.load_snapshot("bandit", "many") != state


def test_variants_come_and_go_for_all(open_bandit):
    one, two = open_bandit(), open_bandit()
    one.add_variant("d")
    one.remove_variant("a")
    two.update("a", 2.0)
    two.flush()
    assert two.names == ("b", "c", "d")
    one.flush()
    assert one.get_statistics()["removed"]["a"]["value"] == 2.0
    assert two.get_statistics()["removed"]["a"]["value"] == 2.0
    assert open_bandit().names == ("b", "c", "d")


def test_a_variant_that_both_add_or_remove_does_so_once(open_bandit):
    one, two = open_bandit(), open_bandit()
    one.add_variant("d")
    two.flush()
    two.remove_variant("d")
    one.flush()
    assert one.names == two.names == ABC


def test_two_that_took_up_the_same_state_draw_apart_once_they_know(open_bandit):
    options = {"algorithm": "thompson_sampling"}
    open_bandit(seed=0, **options).flush()
    one, two = open_bandit(**options), open_bandit(**options)
    for bandit in (one, two):
        bandit.update("a", 0.5)
        bandit.update("b", 0.7)
    for bandit in (one, two, one):
        bandit.flush()
    draws = [bandit._learner.rng.random(4).tolist() for bandit in (one, two)]
    assert draws[0] != draws[1]


def test_one_alone_goes_on_with_the_same_draws(open_bandit):
    bandit = open_bandit("thompson_sampling", seed=0)
    alone = MultiArmedBandit(ABC, "thompson_sampling", seed=0)
    rng = np.random.default_rng(0)
    for i in range(100):
        name = bandit.select_variant()
        assert alone.select_variant() == name
        reward = float(rng.normal())
        bandit.update(name, reward)
        alone.update(name, reward)
        if i % 10 == 0:
            bandit.flush()


def test_the_store_keeps_every_choice_of_all(open_bandit, tmp_path):
    one, two = open_bandit(log_size=5), open_bandit(log_size=5)
    for i in range(10):
        one.update(one.select_variant(), float(i))
        two.select_variant(f"r{i}")
    one.flush()
    two.flush()
    two.update("a", 7.0, request_id="r0")
    log = read_log(two.export_choices(tmp_path / "log.jsonl"))
    assert len(log) == 20
    assert [entry["reward"] for entry in log[:10]] == [float(i) for i in range(10)]
    by_id = {entry["request_id"]: entry for entry in log[10:]}
    assert by_id["r0"]["reward"] == 7.0
    assert not by_id["r1"]["has_reward"]
    assert len(two.choices()) == 5


def test_threads_and_flushes_lose_nothing(store):
    bandit = MultiArmedBandit(["a", "b"], store=store, name="busy")

    def work():
        for i in range(100):
            bandit.update(bandit.select_variant(), float(i))
            if i % 20 == 0:
                bandit.flush()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bandit.flush()
    again = MultiArmedBandit(["a", "b"], store=store, name="busy")
    assert again.get_statistics()["total"] == 400
    assert again.get_statistics()["pending"] == {"a": 0, "b": 0}
    assert sum(entry["has_reward"] for entry in again.choices()) == 400


@pytest.mark.slow
def test_postgresql_keeps_a_bandit_too(postgres_url, tmp_path):
    store = open_store(tmp_path, database_url=postgres_url)
    one, two = (MultiArmedBandit(["a", "b"], store=store, name="router") for _ in range(2))
    name = one.select_variant("r1")
    one.update("b", float("nan"))
    one.flush()
    two.update(name, 4.0, request_id="r1")
    for bandit in (two, one):
        bandit.flush()
    again = MultiArmedBandit(["a", "b"], store=store, name="router")
    for bandit in (one, two, again):
        stats = bandit.get_statistics()
        assert stats["values"][name] == 4.0
        assert stats["non_finite_counts"]["b"] == 1
    store.close()


PROCESS = """
import sys
from modelyard.ab_testing import MultiArmedBandit
from modelyard.storage import open_store
bandit = MultiArmedBandit(["a", "b"], store=open_store(sys.argv[1]), name="router", seed=1)
for i in range(200):
    bandit.update(bandit.select_variant(), 1.0)
    if i % 25 == 0:
        bandit.flush()
bandit.flush()
"""


@pytest.mark.slow
def test_two_processes_at_once_lose_nothing(tmp_path):
    open_store(tmp_path).close()
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    store = open_store(tmp_path)
    bandit = MultiArmedBandit(["a", "b"], store=store, name="router")
    assert bandit.get_statistics()["total"] == 400
    store.close()
