"""The account's rule, the environment around it, and that neither sees the future."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_stable_baselines3

from modelyard._core.errors import ConfigError, InputError
from modelyard.trading import ACCOUNT_FEATURES, TradingEnvironment
from modelyard.trading.account import account_features, new_accounts, step_accounts

days = st.lists(
    st.tuples(st.floats(0, 1), st.floats(-0.6, 0.6), st.floats(0, 0.02)), min_size=1, max_size=30
)


def play(environment, actions, *, seed=1):
    seen, rewards = [environment.reset(seed=seed)[0]], []
    for action in actions:
        observation, reward, _, is_truncated, info = environment.step(np.int64(action))
        seen.append(observation)
        rewards.append(reward)
        if is_truncated:
            break
    return np.array(seen), np.array(rewards), info


@pytest.fixture
def environment(new_path):
    return TradingEnvironment([new_path(60), new_path(40, seed=1)], episode_days=20)


def test_the_environment_passes_both_libraries_checks(environment):
    check_gymnasium(environment, skip_render_check=True)
    check_stable_baselines3(environment)


def test_rewards_add_up_to_the_log_of_the_equity(environment):
    _, rewards, info = play(environment, [3, 1, 2, 0] * 10)
    assert len(rewards) == 20
    assert rewards.sum() / 100 == pytest.approx(np.log(info["equity"]))


def test_the_same_seed_gives_the_same_episode(environment):
    first, second = (play(environment, [1, 2, 3, 0] * 5, seed=5) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


def test_what_comes_later_does_not_reach_the_observation(new_path):
    path = new_path(20)
    states, returns = path.states.copy(), path.next_returns.copy()
    states[11:] *= -1
    returns[10:] += 0.3
    actions = [3, 0, 1, 2] * 5
    before, _, _ = play(TradingEnvironment([path], episode_days=20), actions)
    changed = replace(path, states=states, next_returns=returns)
    after, _, _ = play(TradingEnvironment([changed], episode_days=20), actions)
    assert np.array_equal(before[:11], after[:11])
    assert not np.array_equal(before[11], after[11])


def test_no_path_long_enough_and_impossible_options_are_refused(new_path):
    with pytest.raises(InputError, match="50 days"):
        TradingEnvironment([new_path(40)], episode_days=50)
    with pytest.raises(ConfigError, match="basis points"):
        TradingEnvironment([new_path(40)], episode_days=20, cost_rate=10.0)


def test_one_day_by_hand():
    after = step_accounts(new_accounts(1), np.array([0.5]), np.array([0.1]), cost_rate=0.01)
    net_return = (1 - 0.005) * 1.05 - 1
    assert after.equity[0] == pytest.approx(1 + net_return)
    assert after.exposure[0] == pytest.approx(0.55 / 1.05)
    assert after.position_return[0] == pytest.approx(np.log(1.1))
    assert after.turnover[0] == pytest.approx(0.06 * 0.5)
    features = dict(zip(ACCOUNT_FEATURES, account_features(after)[0], strict=True))
    assert features["last_return"] == pytest.approx(20 * net_return, rel=1e-6)
    assert features["days_since_trade"] == 0.0


@given(days)
def test_costs_never_help_and_cash_never_moves(history):
    with_costs, without, idle = new_accounts(1), new_accounts(1), new_accounts(1)
    for target, stock_return, cost_rate in history:
        moved = np.array([stock_return])
        with_costs = step_accounts(with_costs, np.array([target]), moved, cost_rate=cost_rate)
        without = step_accounts(without, np.array([target]), moved, cost_rate=0.0)
        idle = step_accounts(idle, np.zeros(1), moved, cost_rate=cost_rate)
    assert with_costs.equity[0] <= without.equity[0] * (1 + 1e-9)
    assert idle.equity[0] == 1.0


@given(days)
def test_account_features_stay_in_their_range(history):
    accounts = new_accounts(1)
    for target, stock_return, cost_rate in history:
        accounts = step_accounts(
            accounts, np.array([target]), np.array([stock_return]), cost_rate=cost_rate
        )
        features = account_features(accounts)
        assert features.shape == (1, len(ACCOUNT_FEATURES))
        assert (np.abs(features) <= 1.0).all()


@given(st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=30))
def test_holding_everything_earns_the_stock_less_one_entry(returns):
    accounts = new_accounts(1)
    for stock_return in returns:
        accounts = step_accounts(accounts, np.ones(1), np.array([stock_return]), cost_rate=0.001)
    expected = 0.999 * np.prod(1 + np.array(returns))
    assert accounts.equity[0] == pytest.approx(expected, rel=1e-9)
