"""The backtest: honest accounting, baselines in the same shape, no view of the future."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import torch

from modelyard._core.errors import InputError
from modelyard.trading import (
    PolicyNetwork,
    TradingEnvironment,
    backtest,
    buy_and_hold,
    compare_with_baselines,
    random_policy,
)


@pytest.fixture
def paths(new_path):
    late = new_path(30, seed=2, symbol="LATE", first_day="2001-01-21")
    return {"SYN": new_path(50, seed=1), "LATE": late}


@pytest.fixture
def policy():
    torch.manual_seed(0)
    return PolicyNetwork(hidden_sizes=(16,)).eval()


def test_buy_and_hold_earns_the_stock_less_one_entry(new_path):
    path = new_path(40)
    result = backtest(buy_and_hold, {"SYN": path}, cost_rate=0.001)
    assert result.equity[-1] == pytest.approx(0.999 * np.prod(1 + path.next_returns))


def test_the_backtest_is_the_environment_played_with_the_policys_actions(new_path, policy):
    path = new_path(20)
    environment = TradingEnvironment([path], episode_days=20)
    observation, _ = environment.reset(seed=0)
    seen, returns, is_truncated = [], [], False
    while not is_truncated:
        seen.append(observation)
        with torch.inference_mode():
            action = policy(torch.from_numpy(observation[None])).argmax()
        observation, reward, _, is_truncated, _ = environment.step(np.int64(action.item()))
        returns.append(np.expm1(reward / 100))
    result = backtest(policy, {"SYN": path})
    assert np.array_equal(result.states, np.array(seen))
    assert result.returns == pytest.approx(np.array(returns))


def test_a_stock_that_is_not_there_yet_has_no_return(paths, policy):
    result = backtest(policy, paths)
    assert result.stock_returns.shape == (50, 2)
    assert np.isnan(result.stock_returns[:20, 1]).all()
    assert (result.actions[:20, 1] == -1).all()
    assert np.isfinite(result.stock_returns[20:]).all()
    assert result.returns[:20] == pytest.approx(result.stock_returns[:20, 0])
    assert result.returns[20:] == pytest.approx(result.stock_returns[20:].mean(axis=1))


def test_states_come_with_their_days_and_stocks(paths, policy):
    result = backtest(policy, paths)
    assert result.states.shape == (80, 263)
    assert (np.diff(result.state_dates) >= np.timedelta64(0)).all()
    of_late = result.state_symbols == "LATE"
    assert np.array_equal(result.states[of_late][:, :256], paths["LATE"].states)
    assert result.dates[0] == result.state_dates[0] + np.timedelta64(1, "D")


def test_what_comes_later_changes_no_earlier_action(new_path, policy):
    path = new_path(40)
    states, returns = path.states.copy(), path.next_returns.copy()
    states[25:] *= -1
    returns[25:] += 0.1
    changed = replace(path, states=states, next_returns=returns)
    before, after = backtest(policy, {"SYN": path}), backtest(policy, {"SYN": changed})
    assert np.array_equal(before.actions[:25], after.actions[:25])
    assert np.array_equal(before.returns[:25], after.returns[:25])


def test_baselines_stand_beside_the_strategy_over_the_same_days(paths, policy):
    results = compare_with_baselines(policy, paths, rng=np.random.default_rng(0))
    assert list(results) == ["strategy", "buy_and_hold", "random"]
    for result in results.values():
        assert np.array_equal(result.dates, results["strategy"].dates)
        assert set(result.metrics) == {"sharpe", "cagr", "max_dd", "win_rate"}
    assert (results["buy_and_hold"].actions[20:] == 3).all()


def test_the_random_policy_repeats_with_its_seed(paths):
    first, second = (backtest(random_policy(np.random.default_rng(4)), paths) for _ in range(2))
    assert np.array_equal(first.actions, second.actions)
    assert set(first.actions[20:].ravel()) == {0, 1, 2, 3}


def test_a_period_is_cut_by_when_the_return_is_earned(new_path):
    cut = new_path(30).between(start=date(2001, 1, 5), end=date(2001, 1, 10))
    assert str(cut.dates[0]) == "2001-01-05"
    assert str(cut.next_dates[-1]) == "2001-01-10"
    assert len(cut) == 5


def test_no_days_at_all_is_an_error(new_path, policy):
    empty = new_path(30).between(start=date(2020, 1, 1))
    with pytest.raises(InputError, match="No path has a day"):
        backtest(policy, {"SYN": empty})
