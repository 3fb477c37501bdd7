"""A copy of a window, for whoever works something out from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.recording.health import Health, health_of


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowData:
    """A copy of the window at one moment.

    Attributes:
        predictions: shape (n, outputs), oldest first.
        features: shape (n, features), oldest first.
        duration_s: Seconds from its first prediction to its last.
        latencies_s: shape (n,), oldest first; NaN where there was none that could be used.
        errors: shape (n,), 1 where a prediction failed, else 0.
        partners: Of each row of features, the place of the row of predictions that it goes with;
            negative where there is none any more, shape (n,).
        last_s: When the last prediction came, by the monotonic clock; None before the first.
        n_since: Predictions since the last row of `prediction` and `feature` came.
        metrics: The last values of each metric.
    """

    predictions: NDArray[np.float64]
    features: NDArray[np.float64]
    duration_s: float
    latencies_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    errors: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    partners: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))
    last_s: float | None = None
    n_since: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @cached_property
    def health(self) -> Health:
        """Latency, errors and metrics: worked out when asked for, not while predictions wait."""
        return health_of(self.latencies_s, self.errors, self.metrics)

    def without_newest(self, n: int) -> "WindowData":
        """The window as it was `n` predictions ago, less what was older then.

        Rows of outputs and features go in the same proportion; metrics stay as they are.
        """
        n_records = len(self.errors)
        share = min(n, n_records) / max(n_records, 1)
        errors, latencies_s = self.errors[: n_records - n], self.latencies_s[: n_records - n]
        predictions, features = (
            rows[: len(rows) - math.ceil(share * len(rows))]
            for rows in (self.predictions, self.features)
        )
        return WindowData(
            predictions=predictions,
            features=features,
            duration_s=self.duration_s * (1.0 - share),
            latencies_s=latencies_s,
            errors=errors,
            partners=self.partners[: len(features)],
            last_s=self.last_s,
            n_since=self.n_since,
            metrics=self.metrics,
        )

    def without_rows(self) -> "WindowData":
        """The window without its outputs and features."""
        predictions, features = (rows[:0] for rows in (self.predictions, self.features))
        return replace(
            self,
            predictions=predictions.copy(),
            features=features.copy(),
            partners=self.partners[:0],
        )

    def paired(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rows of predictions and of features that came together, oldest first."""
        n = min(len(self.partners), len(self.features))
        partners = self.partners[len(self.partners) - n :]
        features = self.features[len(self.features) - n :]
        known = (partners >= 0) & (partners < len(self.predictions))
        return self.predictions[partners[known]], features[known]
