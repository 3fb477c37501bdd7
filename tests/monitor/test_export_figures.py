"""Figures for Prometheus, OpenTelemetry and Grafana, read back by the receivers' own parsers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from modelyard._core.errors import ConfigError, StorageError
from modelyard.monitor.exporting.figures import (
    DriftFigures,
    Figures,
    Histogram,
)
from modelyard.monitor.exporting.grafana import dashboard, write_dashboard
from modelyard.monitor.exporting.names import EXPORTED, Kind
from modelyard.monitor.exporting.opentelemetry import observe
from modelyard.monitor.exporting.prometheus import MonitorCollector, to_prometheus_text
from modelyard.monitor.exporting.prometheus_rules import (
    RuleLimits,
    prometheus_rules,
    write_prometheus_rules,
)
from modelyard.monitor.recording.buckets import BOUNDS_S


def figures(model_name="ppo", **more):
    values = {
        "n_predictions": 4,
        "n_errors": 1,
        "latency_s": Histogram.of([0.002, 0.004, 0.03, 20.0], BOUNDS_S),
        "latency_quantiles_s": {0.5: 0.003, 0.99: 0.03},
        "throughput_per_s": 12.5,
        "error_rate": 0.25,
        "drift": {
            "prediction": DriftFigures(
                score=0.4, effective_threshold=0.3, is_drifted=True, is_calibrated=True
            ),
            "feature": DriftFigures(
                score=None, effective_threshold=0.3, is_drifted=False, is_calibrated=False
            ),
        },
        "active_alerts": {("error_rate", "critical"): 1, ("rollback", "warning"): 2},
        "odd_values": {"bad_latency": 3},
        "metrics": {"sharpe": 1.25},
        "versions": {"ppo_v1": 3, "ppo_v2": 1},
        "failed_deliveries": {"webhook": 7},
        "waiting_deliveries": {"webhook": 2},
        "evaluation_age_s": 1.5,
        **more,
    }
    return Figures(model_name=model_name, **values)


def read(text, parse=text_string_to_metric_families):
    """Every sample of an exposition, by name and labels, and its families."""
    families = list(parse(text))
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    assert len(samples) == sum(len(family.samples) for family in families)
    return samples, {family.name: family for family in families}


# Histograms


def test_a_histogram_counts_values_at_most_each_bound():
    histogram = Histogram.of([0.5, 1.0, 1.5, 99.0], [1.0, 2.0])
    assert list(histogram.counts) == [2, 3, 4]
    assert histogram.total == 102.0


@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_histogram_counts_every_value_once(values):
    histogram = Histogram.of(values, BOUNDS_S)
    assert histogram.counts[-1] == len(values)
    for bound, count in zip(histogram.bounds, histogram.counts[:-1], strict=True):
        assert count == sum(value <= bound for value in values)


@pytest.mark.parametrize(
    ("bounds", "counts", "message"),
    [
        ([1.0, 1.0], [0, 0, 0], "must ascend"),
        ([1.0, float("inf")], [0, 0, 0], "must ascend and be finite"),
        ([1.0], [2, 1], "must be cumulative"),
        ([1.0], [1], "must be cumulative"),
        ([1.0], [-1, 1], "must be cumulative"),
    ],
)
def test_a_histogram_that_cannot_be_is_refused(bounds, counts, message):
    with pytest.raises(ConfigError, match=message):
        Histogram(bounds=bounds, counts=counts, total=0.0)


# Prometheus


@pytest.mark.parametrize(
    ("openmetrics", "parse"),
    [(False, text_string_to_metric_families), (True, openmetrics_families)],
)
def test_the_text_is_read_back_by_the_official_parser(openmetrics, parse):
    samples, families = read(to_prometheus_text(figures(), openmetrics=openmetrics), parse)
    ppo = ("model", "ppo")
    assert samples["modelyard_predictions_total", ppo] == 4
    assert samples["modelyard_prediction_errors_total", ppo] == 1
    assert samples["modelyard_window_latency_seconds", ("level", "0.99"), ppo] == 0.03
    assert samples["modelyard_drift_score", ("kind", "prediction"), ppo] == 0.4
    assert samples["modelyard_drift_detected", ("kind", "feature"), ppo] == 0
    assert samples[
        "modelyard_alerts_active", ("alert", "rollback"), ppo, ("severity", "warning")
    ] == (2)
    assert samples["modelyard_version_predictions_total", ppo, ("version", "ppo_v2")] == 1
    assert families["modelyard_predictions"].type == "counter"
    assert families["modelyard_drift_score"].documentation.startswith("How far")


def test_the_histogram_is_cumulative_with_sum_count_and_infinity():
    samples, _ = read(to_prometheus_text(figures()))
    name = "modelyard_prediction_latency_seconds"
    ppo = ("model", "ppo")
    assert samples[f"{name}_bucket", ("le", "0.0025"), ppo] == 1
    assert samples[f"{name}_bucket", ("le", "10.0"), ppo] == 3
    assert samples[f"{name}_bucket", ("le", "+Inf"), ppo] == 4
    assert samples[f"{name}_count", ppo] == 4
    assert samples[f"{name}_sum", ppo] == pytest.approx(20.036)


def test_what_is_not_known_has_no_sample():
    none = figures(
        throughput_per_s=None,
        error_rate=float("nan"),
        evaluation_age_s=None,
        metrics={"sharpe": float("inf")},
    )
    samples, _ = read(to_prometheus_text(none))
    names = {name for name, *_ in samples}
    assert ("modelyard_drift_score", ("kind", "feature"), ("model", "ppo")) not in samples
    assert not names & {
        "modelyard_window_predictions_per_second",
        "modelyard_window_error_ratio",
        "modelyard_evaluation_age_seconds",
        "modelyard_business_metric_mean",
    }


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20),
    st.booleans(),
)
def test_any_text_is_a_label(text, openmetrics):
    # Lines of the text form end at a line feed only; what Python also splits at stays inside.
    given_figures = figures(metrics={text: 1.0})
    exposed = to_prometheus_text(given_figures, openmetrics=openmetrics)
    wanted = text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    assert (
        f'modelyard_business_metric_mean{{metric="{wanted}",model="ppo"}} 1.0\n' in exposed
        or f'modelyard_business_metric_mean{{model="ppo",metric="{wanted}"}} 1.0\n' in exposed
    )


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", "été", "{le='1'}", "\\n", ""])
def test_a_label_is_read_back_as_it_was(text):
    samples, _ = read(to_prometheus_text(figures(metrics={text: 1.0})))
    assert samples["modelyard_business_metric_mean", ("metric", text), ("model", "ppo")] == 1.0


def test_several_monitors_in_one_registry():
    registry = CollectorRegistry(auto_describe=True)
    collector = MonitorCollector(lambda: figures("a"))
    registry.register(collector)
    collector.add(lambda: figures("b", n_predictions=9))
    samples, families = read(generate_latest(registry).decode())
    assert samples["modelyard_predictions_total", ("model", "a")] == 4
    assert samples["modelyard_predictions_total", ("model", "b")] == 9
    # The parser leaves out a family without samples; none is named twice.
    assert len(families) == len(EXPORTED)


def test_a_scrape_shows_the_figures_of_its_moment():
    registry = CollectorRegistry()
    n_asked = []

    def source():
        n_asked.append(1)
        return figures(n_predictions=len(n_asked))

    registry.register(MonitorCollector(source))
    assert n_asked == []
    for number in (1, 2):
        samples, _ = read(generate_latest(registry).decode())
        assert samples["modelyard_predictions_total", ("model", "ppo")] == number


def test_a_second_collector_in_a_registry_is_refused():
    registry = CollectorRegistry()
    registry.register(MonitorCollector(lambda: figures("a")))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(MonitorCollector(lambda: figures("b")))


def test_two_monitors_of_one_model_are_refused():
    with pytest.raises(ConfigError, match="Two monitors of model 'ppo'"):
        to_prometheus_text([figures(), figures()])


def test_names_follow_prometheus_rules():
    for exported in EXPORTED:
        assert re.fullmatch(r"modelyard_[a-z_]+", exported.name)
        assert not exported.name.endswith("_total")
        assert "_ms" not in exported.name
        if exported.unit == "s":
            assert exported.name.endswith("_seconds")
        assert not {"model", "le", "quantile"} & set(exported.labels)


@pytest.mark.slow
def test_the_client_is_not_imported_with_the_monitor():
    code = (
        "import sys, modelyard.monitor, modelyard.monitor.exporting.names;"
        "assert 'prometheus_client' not in sys.modules; assert 'opentelemetry' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# OpenTelemetry


def points_of(reader):
    (resource,) = reader.get_metrics_data().resource_metrics
    (scope,) = resource.scope_metrics
    return {
        metric.name: (
            metric,
            {
                tuple(sorted(point.attributes.items())): point.value
                for point in metric.data.data_points
            },
        )
        for metric in scope.metrics
    }


@pytest.fixture
def reader_and_meter():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    yield reader, provider.get_meter("test")
    provider.shutdown()


def test_opentelemetry_sees_every_figure_of_every_monitor(reader_and_meter):
    reader, meter = reader_and_meter
    observe(meter, [lambda: figures("a"), lambda: figures("b", n_predictions=9)])
    found = points_of(reader)
    metric, points = found["modelyard.predictions"]
    assert (metric.unit, metric.description) == ("{prediction}", "Predictions recorded.")
    assert points == {(("model", "a"),): 4, (("model", "b"),): 9}
    assert found["modelyard.drift.score"][1] == {
        (("kind", "prediction"), ("model", name)): 0.4 for name in "ab"
    }
    assert set(found) == {
        exported.otel_name for exported in EXPORTED if exported.kind is not Kind.HISTOGRAM
    } | {"modelyard.prediction.latency.sum", "modelyard.prediction.latency.bucket"}


def test_opentelemetry_gets_the_latencies_as_counters(reader_and_meter):
    reader, meter = reader_and_meter
    observe(meter, [figures])
    found = points_of(reader)
    (total,) = found["modelyard.prediction.latency.sum"][1].values()
    assert total == pytest.approx(20.036)
    buckets = found["modelyard.prediction.latency.bucket"][1]
    assert buckets[("le", "0.0025"), ("model", "ppo")] == 1
    assert buckets[("le", "+Inf"), ("model", "ppo")] == 4


# Dashboard and rules

_NAME = re.compile(r"modelyard_\w+")
_SERIES = {exported.series for exported in EXPORTED}


def queries_of(board):
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_the_dashboard_asks_for_all_that_is_exported_and_nothing_else():
    asked = {name for query in queries_of(dashboard()) for name in _NAME.findall(query)}
    assert asked == _SERIES


def test_the_docs_name_what_is_exported_with_its_labels():
    page = Path(__file__).resolve().parents[2] / "docs" / "alerts.md"
    rows = re.findall(r"^\| `(modelyard_\w+)` \| (.*?) ?\|", page.read_text("utf-8"), re.MULTILINE)
    told = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert told == {
        exported.series.removesuffix("_bucket"): set(exported.labels)
        | ({"le"} if exported.kind is Kind.HISTOGRAM else set())
        for exported in EXPORTED
    }


def test_every_name_in_dashboard_and_rules_is_in_the_text():
    exposed = set(_NAME.findall(to_prometheus_text(figures())))
    assert set(_NAME.findall(json.dumps(dashboard()))) <= exposed
    assert set(_NAME.findall(prometheus_rules())) <= exposed & _SERIES


def test_labels_in_legends_are_labels_of_the_series():
    labels = {exported.series: {"model", *exported.labels} for exported in EXPORTED}
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            names = _NAME.findall(target["expr"])
            asked = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert asked <= set.intersection(*(labels[name] for name in names))


def test_panels_do_not_overlap_and_have_ids_of_their_own():
    panels = dashboard()["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_the_dashboard_is_a_file_of_json(tmp_path):
    path = write_dashboard(tmp_path / "new" / "modelyard.json", title="mine")
    assert json.loads(Path(path).read_text(encoding="utf-8")) == dashboard(title="mine")


def test_the_rules_are_yaml_with_the_limits(tmp_path):
    path = write_prometheus_rules(
        tmp_path / "rules.yaml", RuleLimits(latency_p99_ms=20.0, error_rate=0.01, for_s=60)
    )
    (group,) = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["groups"]
    rules = {rule["alert"]: rule for rule in group["rules"]}
    assert rules["ModelyardLatency"]["expr"].endswith("> 0.02")
    assert rules["ModelyardErrorRate"]["expr"].endswith("> 0.01")
    assert rules["ModelyardErrorRate"]["for"] == "60s"
    assert rules["ModelyardAlertCritical"]["labels"] == {"severity": "critical"}
    assert all(rule["annotations"]["summary"] for rule in rules.values())


@pytest.mark.parametrize(
    "limits", [{"error_rate": 0}, {"latency_p99_ms": -1}, {"for_s": 0}, {"evaluation_age_s": 0}]
)
def test_a_limit_is_above_zero(limits):
    with pytest.raises(ConfigError, match="must be above 0"):
        RuleLimits(**limits)


def test_a_path_that_cannot_be_written_is_an_error_of_its_own(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Give a file in a folder"):
        write_dashboard(tmp_path / "file" / "x.json")
