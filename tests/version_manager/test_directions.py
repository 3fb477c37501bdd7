"""Which version is better: by the metric's name, by what the caller says, by turned signs."""

import pytest


@pytest.fixture
def with_metrics(save):
    def save_all(metric, values):
        return [save(metrics={metric: value}) for value in values]

    return save_all


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "modelyard"]


def test_the_best_by_a_loss_is_asked_for_with_a_warning(registry, with_metrics, caplog):
    low, high = with_metrics("val_loss", [0.1, 0.9])
    assert registry.get_best_version("ppo", "val_loss")["version_id"] == high
    assert "Pass maximize=False" in warnings_in(caplog)[0]
    caplog.clear()
    assert registry.get_best_version("ppo", "val_loss", maximize=False)["version_id"] == low
    assert not warnings_in(caplog)


@pytest.mark.parametrize("metric", ["sharpe", "bananas"])
def test_the_largest_is_the_best_without_a_word_where_the_name_says_so_or_nothing(
    registry, with_metrics, caplog, metric
):
    _, high = with_metrics(metric, [0.1, 0.9])
    assert registry.get_best_version("ppo", metric)["version_id"] == high
    assert not warnings_in(caplog)


def test_a_drawdown_below_zero_is_the_better_the_larger(registry, with_metrics, caplog):
    small, large = with_metrics("max_dd", [-0.05, -0.5])
    compared = registry.compare_versions(small, large)
    assert compared["metrics"]["max_dd"]["better"] == small
    assert registry.get_statistics("ppo")["metrics"]["max_dd"]["best"] == small
    assert registry.get_best_version("ppo", "max_dd")["version_id"] == small
    assert not warnings_in(caplog)


def test_a_positive_drawdown_is_the_better_the_smaller(registry, with_metrics):
    small, large = with_metrics("max_dd", [0.05, 0.5])
    assert registry.compare_versions(small, large)["metrics"]["max_dd"]["better"] == small
    assert registry.get_statistics("ppo")["metrics"]["max_dd"]["best"] == small


@pytest.mark.parametrize(
    ("metric", "values", "maximize", "is_warned"),
    [
        ("val_loss", [0.1, 0.9], True, True),
        ("sharpe", [0.1, 0.9], False, True),
        ("bananas", [0.1, 0.9], False, False),
        ("inference_ms", [5.0, 9.0], False, False),
        ("max_dd", [-0.1, -0.9], True, False),
        ("max_dd", [-0.1, -0.9], False, True),
    ],
)
def test_a_cleanup_warns_where_the_name_says_the_other_way(
    registry, with_metrics, caplog, metric, values, maximize, is_warned
):
    with_metrics(metric, values)
    registry.cleanup_old_versions("ppo", 1, metric, maximize=maximize, dry_run=True)
    assert bool(warnings_in(caplog)) is is_warned


def test_of_drawdowns_below_zero_the_best_may_be_none_at_all(registry, with_metrics, caplog):
    none, _ = with_metrics("max_dd", [0.0, -0.5])
    assert registry.get_best_version("ppo", "max_dd")["version_id"] == none
    assert not warnings_in(caplog)
    registry.get_best_version("ppo", "max_dd", maximize=False)
    assert "Pass maximize=True" in warnings_in(caplog)[0]
