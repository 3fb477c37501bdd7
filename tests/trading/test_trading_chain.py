"""The whole chain: repeatable, blind to the held-out part, polite to the process it runs in."""

import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from modelyard._core.errors import MissingDependencyError
from modelyard.trading import (
    FEATURE_NAMES,
    STAGES,
    calibration_states,
    compare_with_baselines,
    held_out_sequences,
    load_stocks,
    market_states,
    presets,
    train_chain,
    training_sequences,
)
from modelyard.trading.rows import HORIZON_DAYS, market_rows, training_rows

MODELS = ("ts2vec", "transformer", "head", "policy")


def weights_of(chain):
    models = (getattr(chain.models, name) for name in MODELS)
    return [weight for model in models for weight in model.state_dict().values()]


def same_weights(one, other):
    pairs = zip(weights_of(one), weights_of(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def legacy_state():
    return np.random.get_state()[1].tolist()  # noqa: NPY002 - the one stable-baselines3 seeds


def with_other_future(stock, day, *, factor=1.7):
    later = stock.dates > np.datetime64(day)
    names = ("open", "high", "low", "close")
    prices = {
        name: np.where(later, getattr(stock, name) * factor, getattr(stock, name))
        for name in names
    }
    return replace(stock, **prices)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_bit_for_bit(tiny_settings, tiny_stocks, tiny_chain):
    assert same_weights(tiny_chain, train_chain(tiny_settings, seed=7, stocks=tiny_stocks))
    assert not same_weights(tiny_chain, train_chain(tiny_settings, seed=8, stocks=tiny_stocks))


def test_the_held_out_part_reaches_no_weight_and_no_scaler(tiny_settings, tiny_stocks, tiny_chain):
    end = tiny_settings.train_end
    stocks = {name: with_other_future(stock, end) for name, stock in tiny_stocks.items()}
    other = train_chain(tiny_settings, seed=7, stocks=stocks)
    assert same_weights(tiny_chain, other)
    for name in ("bar_scaler", "input_scaler", "target_scaler"):
        assert np.array_equal(getattr(tiny_chain, name).mean, getattr(other, name).mean)
        assert np.array_equal(getattr(tiny_chain, name).std, getattr(other, name).std)


def test_a_future_bar_changes_no_earlier_input_of_the_transformer(tiny_stocks, tiny_chain):
    stock = tiny_stocks["ONE"]
    changed = with_other_future(stock, stock.dates[400])
    before, after = (
        market_rows(tiny_chain.models.ts2vec, each, tiny_chain.bar_scaler)
        for each in (stock, changed)
    )
    n_past = 401 - 255
    assert np.array_equal(before.inputs[:n_past], after.inputs[:n_past])
    assert not np.array_equal(before.inputs[n_past], after.inputs[n_past])


def test_training_leaves_global_generators_and_threads_as_they_were(tiny_settings, tiny_stocks):
    torch.set_num_threads(2)
    before = (random.getstate(), legacy_state(), torch.random.get_rng_state())
    train_chain(tiny_settings, seed=1, stocks=tiny_stocks)
    assert random.getstate() == before[0]
    assert legacy_state() == before[1]
    assert torch.equal(torch.random.get_rng_state(), before[2])
    assert torch.get_num_threads() == 2


def test_targets_of_training_days_are_settled_before_the_cut(tiny_settings, tiny_chain):
    rows = tiny_chain.rows["ONE"]
    last = training_rows(rows, train_end=tiny_settings.train_end)[-1]
    assert rows.dates[last + HORIZON_DAYS] == np.datetime64(tiny_settings.train_end)


def test_progress_names_each_stage_and_ends_at_one(tiny_settings, tiny_stocks):
    told = []
    train_chain(
        tiny_settings,
        seed=1,
        stocks=tiny_stocks,
        progress=lambda stage, share: told.append((stage, share)),
    )
    assert tuple(dict.fromkeys(stage for stage, _ in told)) == STAGES
    assert dict(told) == dict.fromkeys(STAGES, 1.0)


@pytest.mark.slow
def test_market_states_of_the_same_stocks_are_those_of_the_training(tiny_stocks, tiny_chain):
    told = []
    paths = market_states(tiny_chain, tiny_stocks, progress=told.append)
    assert told == [0.5, 1.0]
    for symbol, path in paths.items():
        known = tiny_chain.paths[symbol]
        assert np.array_equal(path.dates, known.dates)
        assert path.states == pytest.approx(known.states, abs=1e-5)


def test_a_stock_with_a_short_history_is_left_out(new_stock, tiny_chain):
    assert market_states(tiny_chain, {"NEW": new_stock(260)}) == {}
    assert market_states(tiny_chain, {"NEW": new_stock(100)}) == {}


def test_training_and_held_out_parts_do_not_overlap(tiny_settings, tiny_chain):
    cut = np.datetime64(tiny_settings.train_end)
    for symbol, path in tiny_chain.training_paths().items():
        assert path.next_dates[-1] <= cut
        assert tiny_chain.held_out_paths()[symbol].dates[0] > cut


def test_data_for_compression_have_the_models_shapes(tiny_chain):
    rng = np.random.default_rng(0)
    assert calibration_states(tiny_chain, n_states=50, rng=rng).shape == (50, 263)
    for draw in (training_sequences, held_out_sequences):
        sequences, targets = draw(tiny_chain, n_sequences=20, rng=rng)
        assert sequences.shape == (20, 64, 155)
        assert targets.shape == (20, 3)
        assert torch.isfinite(sequences).all()
        assert torch.isfinite(targets).all()


def test_the_policy_is_ppos_actor_without_its_chance(tiny_chain):
    states = calibration_states(tiny_chain, n_states=10, rng=np.random.default_rng(0))
    with torch.inference_mode():
        assert torch.equal(tiny_chain.models.policy(states), tiny_chain.models.policy(states))
    assert not tiny_chain.models.policy.training
    assert tiny_chain.policy_hyper_parameters["total_timesteps"] == 64


def test_curves_have_a_point_for_each_step(tiny_settings, tiny_chain):
    curves = tiny_chain.curves
    assert curves.ts2vec_loss.shape == (tiny_settings.ts2vec_training.n_iterations,)
    assert curves.transformer_loss.shape == (tiny_settings.transformer_training.n_iterations,)
    assert curves.policy_episode_return.shape == (1,)


@pytest.mark.slow
def test_importing_the_package_needs_nothing_of_the_extra():
    code = (
        "import sys, modelyard.trading; "
        "heavy = {'stable_baselines3', 'gymnasium', 'bokeh_sampledata', 'pandas'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_extra_training_fails_at_once_and_names_the_cure(monkeypatch, tiny_settings):
    monkeypatch.setitem(sys.modules, "modelyard.trading.policy_training", None)
    with pytest.raises(MissingDependencyError, match=r"modelyard\[trading\]"):
        train_chain(tiny_settings, seed=0)


def test_an_unknown_name_is_an_attribute_error():
    import modelyard.trading

    with pytest.raises(AttributeError, match="nonsense"):
        _ = modelyard.trading.nonsense


@pytest.mark.slow
def test_the_quick_preset_trains_on_the_real_stocks():
    chain = train_chain(presets.quick(), seed=0)
    assert set(chain.paths) == {"AAPL", "GOOG", "IBM", "MSFT"}
    results = compare_with_baselines(
        chain.models.policy, chain.held_out_paths(), rng=np.random.default_rng(0)
    )
    days = results["strategy"].dates
    assert str(days[0]) == "2007-01-04"
    assert str(days[-1]) == "2013-03-01"
    # The market as it was, whatever the policy does: halved in 2008, Sharpe under one.
    assert results["buy_and_hold"].metrics["max_dd"] == pytest.approx(0.518, abs=0.005)
    assert results["buy_and_hold"].metrics["sharpe"] == pytest.approx(0.69, abs=0.01)
    assert np.isfinite(results["strategy"].returns).all()
    assert chain.rows["IBM"].inputs.shape[1] == 128 + len(FEATURE_NAMES)
    assert len(load_stocks()["FB"]) < 319
