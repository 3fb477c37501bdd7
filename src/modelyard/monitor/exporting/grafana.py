"""A Grafana dashboard of everything exported, made from the table of exported names."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard.monitor.exporting import names
from modelyard.monitor.exporting.json_files import write_file

_MODEL = '{model=~"$model"}'
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT, _N_COLUMNS = 8, 8, 3


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """One picture: a title, a unit as Grafana names it, and queries with their legends."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]


def _rate(exported: names.Exported) -> str:
    return f"rate({exported.series}{_MODEL}[$__rate_interval])"


def _latency_quantile(level: float) -> str:
    return f"histogram_quantile({level}, sum by (model, le) ({_rate(names.LATENCY)}))"


def _now(exported: names.Exported) -> str:
    return f"{exported.series}{_MODEL}"


_PANELS = (
    _Panel(
        title="Predictions",
        unit="reqps",
        queries=[
            (f"sum by (model) ({_rate(names.PREDICTIONS)})", "{{model}}"),
            (_now(names.THROUGHPUT), "{{model}} over the window"),
        ],
    ),
    _Panel(
        title="Predictions by version",
        unit="reqps",
        queries=[(_rate(names.VERSIONS), "{{model}} {{version}}")],
    ),
    _Panel(
        title="Errors",
        unit="percentunit",
        queries=[
            (f"{_rate(names.ERRORS)} / {_rate(names.PREDICTIONS)}", "{{model}}"),
            (_now(names.ERROR_RATE), "{{model}} over the window"),
        ],
    ),
    _Panel(
        title="Latency",
        unit="s",
        queries=[
            (_latency_quantile(level), f"{{{{model}}}} {level}") for level in (0.5, 0.95, 0.99)
        ],
    ),
    _Panel(
        title="Latency of the window",
        unit="s",
        queries=[(_now(names.WINDOW_LATENCY), "{{model}} {{level}}")],
    ),
    _Panel(
        title="Drift, in standard deviations of the baseline",
        unit="short",
        queries=[
            (_now(names.DRIFT_SCORE), "{{model}} {{kind}}"),
            (_now(names.DRIFT_THRESHOLD), "{{model}} {{kind}} threshold"),
        ],
    ),
    _Panel(
        title="Drift: detected and calibrated",
        unit="bool",
        queries=[
            (_now(names.DRIFTED), "{{model}} {{kind}} detected"),
            (_now(names.CALIBRATED), "{{model}} {{kind}} calibrated"),
        ],
    ),
    _Panel(
        title="Active alerts",
        unit="short",
        queries=[(_now(names.ALERTS), "{{model}} {{alert}} {{severity}}")],
    ),
    _Panel(
        title="Business metrics",
        unit="short",
        queries=[(_now(names.METRIC_MEAN), "{{model}} {{metric}}")],
    ),
    _Panel(
        title="Odd values",
        unit="short",
        queries=[(_rate(names.ODD_VALUES), "{{model}} {{kind}}")],
    ),
    _Panel(
        title="Delivery of alerts",
        unit="short",
        queries=[
            (_rate(names.FAILED_DELIVERIES), "{{model}} {{sink}} failures a second"),
            (_now(names.WAITING_DELIVERIES), "{{model}} {{sink}} waiting"),
        ],
    ),
    _Panel(
        title="Age of the last evaluation",
        unit="s",
        queries=[(_now(names.EVALUATION_AGE), "{{model}}")],
    ),
)


def dashboard(*, title: str = "modelyard") -> dict[str, Any]:
    """A Grafana dashboard of everything exported, as its JSON model.

    It asks for a Prometheus data source and offers a choice of models.
    """
    return {
        "title": title,
        "uid": "modelyard",
        "tags": ["modelyard"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {
                    "name": "model",
                    "type": "query",
                    "datasource": _DATASOURCE,
                    "query": f"label_values({names.PREDICTIONS.series}, model)",
                    "includeAll": True,
                    "multi": True,
                    "refresh": 2,
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": [_panel(index, panel) for index, panel in enumerate(_PANELS)],
    }


def write_dashboard(path: str | Path, *, title: str = "modelyard") -> str:
    """Write the dashboard as a JSON file that Grafana imports; the folder is made.

    Returns:
        The path.

    Raises:
        StorageError: The path cannot be written.
    """
    return write_file(path, json.dumps(dashboard(title=title), indent=2) + "\n")


def _panel(index: int, panel: _Panel) -> dict[str, Any]:
    row, column = divmod(index, _N_COLUMNS)
    return {
        "id": index + 1,
        "title": panel.title,
        "type": "timeseries",
        "datasource": _DATASOURCE,
        "gridPos": {
            "x": column * _WIDTH,
            "y": row * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _DATASOURCE,
                "expr": query,
                "legendFormat": legend,
            }
            for number, (query, legend) in enumerate(panel.queries)
        ],
    }
