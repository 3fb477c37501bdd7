"""The rules of a strategy: what is taken and what is refused."""

import pytest

from modelyard._core.errors import ConfigError
from modelyard.update_strategy import UpdateSettings, UpdateTrigger
from modelyard.update_strategy.triggers import as_trigger


def test_the_documents_example_is_the_default():
    given = {
        "performance_threshold": 0.8,
        "drift_threshold": 0.3,
        "error_rate_threshold": 0.05,
        "min_samples": 1000,
        "cooldown_hours": 24,
        "auto_rollback": True,
        "rollback_threshold": 0.7,
    }
    assert (
        UpdateSettings.from_config(given) == UpdateSettings() == UpdateSettings.from_config(None)
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cooldown": 1}, "Unknown setting 'cooldown'"),
        ({"performance_threshold": 80}, "performance_threshold must lie strictly between 0 and 1"),
        ({"rollback_threshold": 1.0}, "rollback_threshold must lie strictly"),
        ({"error_rate_threshold": float("nan")}, "error_rate_threshold must lie strictly"),
        ({"drift_threshold": 0}, "drift_threshold must be above 0"),
        ({"min_samples": "many"}, "min_samples must be a whole number, got 'many'"),
        ({"min_samples": True}, "min_samples must be a whole number, got True"),
        ({"step_min_samples": 1000.5}, "step_min_samples must be a whole number, got 1000.5"),
        ({"key_metric": 5}, "key_metric must be the name of a metric, got 5"),
        ({"min_samples": 0}, "min_samples must be above 0"),
        ({"step_min_samples": -1}, "step_min_samples must be above 0"),
        ({"cooldown_hours": -1}, "cooldown_hours must be 0 or more"),
        ({"transition_minutes": None}, "transition_minutes must be a number, got None"),
        ({"drift_threshold": "x"}, "drift_threshold must be a number, got 'x'"),
        ({"performance_threshold": [0.8]}, "performance_threshold must be a number"),
        ({"error_margin": "0.1"}, "error_margin must be a number, got '0.1'"),
        ({"update_windows": 5}, "update_windows must be a list, got 5"),
        ({"steps": ["10", 100]}, "steps must be numbers, got"),
        ({"steps": 100}, "steps must be a list, got 100"),
        ({"update_windows": "sat,sun"}, "update_windows must be a list, got 'sat,sun'"),
        ({"steps": [[10], 100]}, "steps must be numbers, got"),
        ({"approval_steps": [[50]]}, "approval_steps must be numbers, got"),
        ({"auto_rollback": "no"}, "auto_rollback must be True or False"),
        ({"allow_uncalibrated_drift": 1}, "allow_uncalibrated_drift must be True or False"),
        ({"steps": 50}, "steps must be a list, got 50"),
        ({"steps": []}, "steps must rise to 100"),
        ({"steps": [50, 10, 100]}, "steps must rise to 100"),
        ({"steps": [0, 100]}, "steps must rise to 100"),
        ({"steps": [10, 50]}, "steps must rise to 100"),
        ({"steps": [10, 10, 100]}, "steps must rise to 100"),
        ({"key_metric_direction": "up"}, "must be 'higher' or 'lower'"),
        ({"schedule": "at night"}, "no cron expression"),
        ({"schedule": 3}, "no cron expression"),
        ({"schedule": "0 3 31 2 *"}, "schedule '0 3 31 2 .' never comes round"),
        ({"schedule": "0 0 31 4,6 *"}, "never comes round"),
        ({"schedule": "* * * * * *"}, "no cron expression of five fields"),
        ({"latency_floor_ms": float("nan")}, "latency_floor_ms must be 0 or more"),
        ({"latency_floor_ms": -1}, "latency_floor_ms must be 0 or more"),
        ({"latency_floor_ms": "x"}, "latency_floor_ms must be a number, got 'x'"),
        ({"latency_margin": float("inf")}, "latency_margin must be finite"),
        ({"transition_minutes": True}, "transition_minutes must be a number, got True"),
        ({"error_margin": True}, "error_margin must be a number"),
        ({"steps": [True, 100]}, "steps must be numbers"),
        ({"key_metric": ""}, "key_metric must be the name of a metric"),
    ],
)
def test_each_rule_has_its_message(given, said):
    with pytest.raises(ConfigError, match=said):
        UpdateSettings.from_config(given)


@pytest.mark.parametrize("schedule", ["0 3 * * 1-5", "0 0 29 2 *", "@daily"])
def test_a_schedule_that_comes_round_is_taken(schedule):
    assert UpdateSettings(schedule=schedule).schedule == schedule


@pytest.mark.parametrize(
    ("metric", "given", "direction"),
    [
        ("sharpe", None, 1.0),
        ("max_dd", None, -1.0),
        ("val_loss", None, -1.0),
        ("sharpe", "lower", -1.0),
        ("max_dd", "higher", 1.0),
        (None, None, 1.0),
    ],
)
def test_the_direction_is_given_or_told_by_the_name(metric, given, direction):
    settings = UpdateSettings(key_metric=metric, key_metric_direction=given)
    assert settings.direction() == direction


def test_a_drawdown_below_zero_is_the_better_the_larger():
    settings = UpdateSettings(key_metric="max_dd")
    assert settings.direction((-0.05, -0.2)) == 1.0
    assert settings.direction((0.05, 0.2)) == -1.0
    given = UpdateSettings(key_metric="max_dd", key_metric_direction="lower")
    assert given.direction((-0.05, -0.2)) == -1.0


def test_steps_share_the_transition_time():
    settings = UpdateSettings(steps=(20.0, 100.0), transition_minutes=5.0)
    assert settings.shares == (0.2, 1.0)
    assert settings.step_s == 150.0


@pytest.mark.parametrize("trigger", list(UpdateTrigger))
def test_a_trigger_is_known_by_its_value(trigger):
    assert as_trigger(trigger) is as_trigger(trigger.value) is trigger


def test_an_unknown_trigger_names_those_there_are():
    with pytest.raises(ConfigError, match="performance_degradation, distribution_drift"):
        as_trigger("boredom")
