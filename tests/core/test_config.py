"""The configuration file: what it takes, and how it says what is wrong."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from modelyard._core.config import ModelIntegrationConfig, load_config
from modelyard._core.errors import ConfigError

SECTIONS = """
version_management:
  base_dir: "models"
  auto_cleanup: true
  keep_best_n: 10

compression:
  pruning:
    amount: 0.3
    method: "l1_unstructured"
  quantization:
    dtype: "qint8"
    backend: "fbgemm"
  distillation:
    temperature: 3.0
    alpha: 0.5

inference_optimization:
  device: "cuda"
  batch_size: 32
  use_amp: true
  cache_size: 1000
  max_latency_ms: 100

ab_testing:
  min_samples: 100
  confidence_level: 0.95
  primary_metric: "sharpe_ratio"
  bandit_algorithm: "ucb"

monitoring:
  window_size: 1000
  log_dir: "logs/monitoring"
  alert_thresholds:
    latency_p99_ms: 100
    error_rate: 0.05
    prediction_drift: 0.3
    feature_drift: 0.3

update_strategy:
  performance_threshold: 0.8
  drift_threshold: 0.3
  error_rate_threshold: 0.05
  min_samples: 1000
  cooldown_hours: 24
  auto_rollback: true
  rollback_threshold: 0.7
"""
SHIPPED = Path(__file__).parents[2] / "config" / "model_integration.yaml"


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def loaded(text):
        Path("c.yaml").write_text(text, encoding="utf-8")
        return load_config("c.yaml")

    return loaded


@pytest.fixture
def complaint(load):
    def said(text):
        with pytest.raises(ConfigError) as caught:
            load(text)
        return str(caught.value)

    return said


# What is taken


def test_the_documents_sections_load_unchanged(load):
    config = load(SECTIONS)
    assert config.version_management.keep_best_n == 10
    assert config.version_management.auto_cleanup is True
    assert config.compression.pruning.amount == 0.3
    assert config.compression.quantization.dtype == "qint8"
    assert config.compression.distillation.temperature == 3.0
    assert config.inference_optimization.device == "cuda"
    assert config.inference_optimization.max_latency_ms == 100.0
    assert config.ab_testing.bandit_algorithm == "ucb"
    assert config.monitoring.log_dir == "logs/monitoring"
    assert config.monitoring.alert_thresholds.latency_p99_ms == 100.0
    assert config.update_strategy.rollback_threshold == 0.7


def test_the_file_in_the_repository_has_the_documents_keys_and_values(load):
    shipped, asked = load_config(SHIPPED), load(SECTIONS)
    assert shipped == asked
    assert shipped.model_dump(exclude_unset=True) == asked.model_dump(exclude_unset=True)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "monitoring:\n", "compression:\n  pruning:\n"]
)
def test_what_is_left_out_has_its_default(load, text):
    assert load(text) == ModelIntegrationConfig()


def test_one_key_leaves_the_others_at_their_defaults(load):
    config = load("monitoring: {window_size: 50}")
    assert config.monitoring.window_size == 50
    assert config.monitoring.alert_thresholds.error_rate == 0.05


def test_whole_numbers_do_for_numbers_and_powers_of_ten_are_numbers(load):
    config = load("update_strategy: {cooldown_hours: 1, drift_threshold: 3e-1, steps: [5, 100]}")
    assert config.update_strategy.cooldown_hours == 1.0
    assert config.update_strategy.drift_threshold == 0.3
    assert config.update_strategy.steps == (5.0, 100.0)


def test_an_alert_can_be_switched_off(load):
    text = "monitoring: {alert_thresholds: {error_rate: null}}"
    assert load(text).monitoring.alert_thresholds.error_rate is None


@pytest.mark.parametrize("source", ["factory: 'my.models:make'", "file: model.pt"])
def test_model_and_data_may_be_named(load, source):
    config = load(f"model: {{{source}}}\ndata: {{file: d.csv, target: close}}")
    assert (config.model.factory, config.model.file) in {
        ("my.models:make", None),
        (None, "model.pt"),
    }
    assert config.data.model_dump() == {"file": "d.csv", "target": "close"}


def test_a_loaded_configuration_cannot_be_changed(load):
    with pytest.raises(ValueError, match="frozen"):
        load("").monitoring.window_size = 3


# What the sections are for


def test_the_sections_are_accepted_by_the_classes(load, tmp_path):
    from modelyard import ABTest, InferenceOptimizer, ModelMonitor, ModelVariant
    from modelyard.update_strategy import UpdateSettings
    from modelyard.version_manager import ModelVersionManager

    config = load(SECTIONS.replace('"cuda"', '"cpu"'))
    assert ModelVersionManager(**config.version_management.options()).base_dir == Path("models")
    assert ModelMonitor("ppo", **config.monitoring.options()).window_size == 1000
    assert InferenceOptimizer(**config.inference_optimization.options()).batch_size == 32
    variants = [ModelVariant(name, lambda x: x) for name in "ab"]
    assert ABTest("t", variants, **config.ab_testing.options()).primary_metric == "sharpe_ratio"
    assert UpdateSettings.from_config(config.update_strategy.options()) == UpdateSettings()


def test_the_update_rules_are_those_of_the_strategy_with_its_defaults():
    from modelyard.update_strategy import UpdateSettings

    defaults = {item.name: item.default for item in fields(UpdateSettings)}
    assert ModelIntegrationConfig().update_strategy.options() == defaults


# What is refused


@pytest.mark.parametrize(
    ("section", "key", "value", "rule"),
    [
        ("inference_optimization", "batch_size", "many", "a whole number, got 'many'"),
        ("inference_optimization", "batch_size", '"32"', "a whole number, got '32'"),
        ("inference_optimization", "batch_size", "32.5", "a whole number, got 32.5"),
        ("inference_optimization", "batch_size", "true", "a whole number, got true"),
        ("inference_optimization", "batch_size", "0", "at least 1, got 0"),
        ("inference_optimization", "use_amp", "1", "true or false, got 1"),
        ("inference_optimization", "device", "0", "text, got 0"),
        ("ab_testing", "confidence_level", "95", "below 1, got 95"),
        ("ab_testing", "min_samples", "", "a whole number, got null"),
        ("ab_testing", "bandit_algorithm", "ucb2", "or 'ada_ucb', got 'ucb2'"),
        ("update_strategy", "cooldown_hours", ".inf", "a finite number, got inf"),
        ("update_strategy", "cooldown_hours", "-1", "at least 0, got -1"),
        ("update_strategy", "steps", "10", "a list, got 10"),
        ("update_strategy", "update_windows", "mon-fri", "a list, got 'mon-fri'"),
        ("monitoring", "alert_thresholds", "3", "a section of keys, got 3"),
    ],
)
def test_a_wrong_value_names_its_line_key_and_rule(complaint, section, key, value, rule):
    said = complaint(f"# a comment\n{section}:\n  # another\n  {key}: {value}\n")
    assert said.startswith(f"c.yaml:4: {section}.{key} must be ")
    assert said.endswith(rule)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("monitorin:\n  a: 1", "c.yaml:1: monitorin is unknown. Did you mean monitoring?"),
        (
            "monitoring:\n  window_sise: 3",
            "c.yaml:2: monitoring.window_sise is unknown. Did you mean window_size?",
        ),
        (
            "monitoring:\n  alert_thresholds:\n    latency_p9_ms: 3",
            "c.yaml:3: monitoring.alert_thresholds.latency_p9_ms is unknown. Did you mean latency",
        ),
        (
            "compression:\n  pruning:\n    zzz: 1",
            "c.yaml:3: compression.pruning.zzz is unknown. Known are: amount, method.",
        ),
        ("data:\n  target: x", "c.yaml:1: data.file is missing."),
        (
            "data:\n  path: x\n  file: y",
            "c.yaml:2: data.path is unknown. Known are: file, target.",
        ),
        ("model: {}", "c.yaml:1: model must have one of factory and file, got {}"),
        (
            "model:\n  factory: make",
            'c.yaml:2: model.factory must name a function as "package.module:function", got ',
        ),
        (
            "- 1\n",
            "c.yaml:1: the file must consist of sections such as monitoring: {window_size: 1000}.",
        ),
        (
            "update_strategy:\n  steps:\n    - 10\n    - half",
            "c.yaml:4: update_strategy.steps.1 must be a number, got 'half'",
        ),
        ("a: [1\nb: 2", "c.yaml:2: this is no YAML: expected ',' or ']', but got ':'."),
        (
            "ab_testing:\n  min_samples: 1\n  min_samples: 2",
            "c.yaml:3: ab_testing.min_samples stands twice, first on line 2. Keep one of them.",
        ),
        (
            "monitoring: {}\nab_testing: {}\nmonitoring: {}",
            "c.yaml:3: monitoring stands twice, first on line 1. Keep one of them.",
        ),
        (
            "x: !!python/object/apply:os.getcwd []",
            "c.yaml:1: this is no YAML: could not determine",
        ),
    ],
)
def test_each_mistake_has_its_sentence(complaint, text, said):
    assert complaint(text).startswith(said)


def test_all_mistakes_are_listed_in_the_order_of_the_file(complaint):
    text = "monitoring:\n  window_size: x\nab_testing:\n  foo: 1\n  min_samples: -1\n"
    assert [line.split(" ")[:2] for line in complaint(text).splitlines()] == [
        ["c.yaml:2:", "monitoring.window_size"],
        ["c.yaml:4:", "ab_testing.foo"],
        ["c.yaml:5:", "ab_testing.min_samples"],
    ]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml' cannot be read"):
        load_config(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(ConfigError, match=r"latin\.yaml' cannot be read"):
        load_config(tmp_path / "latin.yaml")


def test_modelyard_itself_needs_neither_yaml_nor_pydantic():
    code = "import modelyard, sys; print({'yaml', 'pydantic'} & set(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "set()"
