"""What was recorded since a mark, in columns: kept so that a crash loses little, and merged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.recording.labels import Labels
from modelyard.monitor.recording.requests import NO_PREDICTION
from modelyard.monitor.recording.windows import OddCounts, Window

_METRIC = "metric/"


@dataclass(frozen=True, kw_only=True, eq=False)
class Delta:
    """Records in columns.

    Attributes:
        arrays: `latency_s`, `error`, `at` (Unix time), `prediction` and `feature` (a row each),
            `metric/<name>`, `outcome/prediction` and `outcome/truth`; oldest first, at most a
            window of each.
        meta: Plain values: how many records there were in all, odd values, versions, the labels
            in these rows.
    """

    arrays: Mapping[str, NDArray[np.float64]]
    meta: Mapping[str, Any]

    @property
    def n_records(self) -> int:
        """Predictions that were recorded, those that are no longer kept included."""
        return int(self.meta["n_records"])


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How much a window held at one moment."""

    n_records: int = 0
    n_errors: int = 0
    n_predictions: int = 0
    n_features: int = 0
    n_ids_given: int = 0
    n_ids_made: int = 0
    n_outcomes: int = 0
    metrics: Mapping[str, int] = field(default_factory=dict)
    odd: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)


def mark_of(window: Window) -> Mark:
    """The mark of now."""
    return Mark(
        n_records=window.n_records,
        n_errors=window.n_errors,
        n_predictions=window.predictions.n_added,
        n_features=window.features.n_added,
        n_ids_given=window.requests.n_given,
        n_ids_made=window.requests.n_made,
        n_outcomes=window.outcomes.n_added,
        metrics={name: series.n_added for name, series in window.metrics.items()},
        odd=window.odd_counts(),
        versions=dict(window.versions),
    )


def delta_since(window: Window, mark: Mark, *, now_s: float, now: float) -> Delta:
    """What was recorded since `mark`.

    Args:
        window: Where.
        mark: Of an earlier moment.
        now_s: The monotonic clock's time, in which the window keeps times.
        now: The same moment as Unix time.
    """
    arrays: dict[str, NDArray[np.float64]] = {}
    n_new = window.n_records - mark.n_records
    if n_new:
        latencies_s, errors, times_s = window.records(newest=n_new)
        arrays |= {"latency_s": latencies_s, "error": errors, "at": now - (now_s - times_s)}
    for name, rows, before in (
        ("prediction", window.predictions, mark.n_predictions),
        ("feature", window.features, mark.n_features),
    ):
        if rows.n_added > before:
            arrays[name] = rows.values(newest=rows.n_added - before)
    for name, series in window.metrics.items():
        n = series.n_added - mark.metrics.get(name, 0)
        if n:
            arrays[_METRIC + name] = series.values(newest=n)
    n_outcomes = window.outcomes.n_added - mark.n_outcomes
    if n_outcomes:
        predictions, truths = window.outcomes.pairs(newest=n_outcomes)
        arrays |= {"outcome/prediction": predictions, "outcome/truth": truths}
    meta = {
        "n_records": n_new,
        "requests": _requests_to_plain(window, mark),
        "n_errors": window.n_errors - mark.n_errors,
        "odd": _grown(window.odd_counts(), mark.odd),
        "versions": _grown(window.versions, mark.versions),
        "feature_names": list(window.reader.feature_names),
        "labels": {
            "prediction": _labels_to_plain(
                window.reader.prediction_labels, arrays.get("prediction")
            ),
            "feature": _labels_to_plain(window.reader.feature_labels, arrays.get("feature")),
            "outcome": _labels_to_plain(window.outcomes.labels, arrays.get("outcome/truth")),
        },
    }
    return Delta(arrays=arrays, meta=meta)


def take(window: Window, delta: Delta, *, now_s: float, now: float) -> None:
    """Add records from elsewhere or from before to a window, as if they had been recorded here.

    Args:
        window: Where to.
        delta: What `delta_since` gave.
        now_s: As `delta_since`.
        now: As `delta_since`.
    """
    arrays, meta = delta.arrays, delta.meta
    if "error" in arrays:
        window.add_records(
            arrays["latency_s"], arrays["error"], now_s - (now - arrays["at"]), n=delta.n_records
        )
    window.n_errors += int(meta["n_errors"]) - int(arrays.get("error", np.zeros(1)).sum())
    _take_all_labels(window, meta["labels"])
    window.add_rows(arrays.get("prediction"), arrays.get("feature"))
    _take_requests(window, meta.get("requests", ()))
    _take_values(window, arrays)
    for name, n in meta["odd"].items():
        if hasattr(OddCounts, name):
            setattr(window.odd, name, getattr(window.odd, name) + int(n))
    for version, n in meta["versions"].items():
        window.versions[version] = window.versions.get(version, 0) + int(n)
    if meta["feature_names"] and not window.reader.feature_names:
        window.reader.feature_names = tuple(meta["feature_names"])


def _take_values(window: Window, arrays: Mapping[str, NDArray[np.float64]]) -> None:
    """Outcomes and business metrics."""
    if "outcome/truth" in arrays:
        pairs = zip(arrays["outcome/prediction"], arrays["outcome/truth"], strict=True)
        for prediction, truth in pairs:
            window.outcomes.add(prediction, truth)
    for name, values in arrays.items():
        if name.startswith(_METRIC):
            window.series_of(name.removeprefix(_METRIC)).extend(values)


def _requests_to_plain(window: Window, mark: Mark) -> list[list[Any]]:
    """The newest requests without an outcome: each id, and how many answers ago its answer was."""
    n_answers = window.predictions.n_added
    newest = window.requests.newest(
        n_given=min(window.requests.n_given - mark.n_ids_given, window.size),
        n_made=min(window.requests.n_made - mark.n_ids_made, window.size),
    )
    return [
        [request_id, NO_PREDICTION if position == NO_PREDICTION else n_answers - position]
        for request_id, position in newest[-window.size :]
    ]


def _take_requests(window: Window, plain: Sequence[Sequence[Any]]) -> None:
    n_answers = window.predictions.n_added
    for request_id, n_ago in plain:
        has_answer = n_ago != NO_PREDICTION
        window.requests.add(
            str(request_id), n_answers - int(n_ago) if has_answer else NO_PREDICTION
        )


def _grown(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    grown = {name: n - before.get(name, 0) for name, n in now.items()}
    return {name: n for name, n in grown.items() if n}


def _labels_to_plain(labels: Labels, rows: NDArray[np.float64] | None) -> dict[str, Any]:
    """The labels in these rows: each delta can be read alone, and none holds a whole table."""
    columns = sorted(labels.columns)
    codes: set[float] = set()
    if rows is not None and len(rows):
        known = [column for column in columns if column < rows.shape[1]]
        codes = set(rows[:, known].ravel().tolist())
    by_code = labels.by_code
    return {
        "by_code": [[code, by_code[code]] for code in sorted(codes & by_code.keys())],
        "columns": columns,
    }


def _take_all_labels(window: Window, plain: Mapping[str, Any]) -> None:
    _take_labels(window.reader.prediction_labels, plain["prediction"])
    _take_labels(window.reader.feature_labels, plain["feature"])
    if "outcome" in plain:  # not stored before there was a use for them
        _take_labels(window.outcomes.labels, plain["outcome"])


def _take_labels(labels: Labels, plain: Mapping[str, Any]) -> None:
    labels.by_code.update({float(code): str(label) for code, label in plain["by_code"]})
    labels.columns.update(int(column) for column in plain["columns"])
