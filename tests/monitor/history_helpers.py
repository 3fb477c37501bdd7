"""Windows as a monitor records them, for the tests of its history."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from modelyard.monitor.history.summaries import WindowSummary
from modelyard.monitor.recording.health import Health, health_of

START = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, eq=False)
class Recording:
    health: Health
    predictions: np.ndarray
    features: np.ndarray
    latencies_s: np.ndarray
    duration_s: float


@dataclass(frozen=True, eq=False)
class Records:
    arrays: dict
    meta: dict = field(default_factory=dict)
    n_records: int = 0


def recording_of(latencies_s, errors=None, predictions=None, metrics=None, duration_s=1.0):
    latencies_s = np.asarray(latencies_s, dtype=float)
    errors = np.zeros(len(latencies_s)) if errors is None else np.asarray(errors, dtype=float)
    rows = np.zeros((len(latencies_s), 1)) if predictions is None else np.asarray(predictions)
    values = {name: np.asarray(item, dtype=float) for name, item in (metrics or {}).items()}
    return Recording(
        health_of(latencies_s, errors, values), rows, rows.copy(), latencies_s, duration_s
    )


def verdict(score, *, threshold=0.3, is_drifted=None, calibrated=True):
    drifted = score is not None and score > threshold if is_drifted is None else is_drifted
    return {
        "score": score,
        "effective_threshold": threshold,
        "is_drifted": drifted,
        "calibrated": calibrated,
    }


def window_at(days, *, n=4, latency_s=0.01, error=False, score=0.1, **more):
    """A window that ended so many days after the start."""
    ended_at = START + timedelta(days=days)
    data = recording_of([latency_s] * n, [float(error)] * n, **more)
    return WindowSummary.of(
        data,
        started_at=(ended_at - timedelta(seconds=1)).isoformat(),
        ended_at=ended_at.isoformat(),
        drift={"prediction": verdict(score)},
    )


def assert_same(a, b):
    """The same but for rounding, which in sums of squares of a million is a thousandth."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, float) and isinstance(b, float):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-3)
    else:
        assert a == b
