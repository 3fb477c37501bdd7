"""What was handed in, as numbers. Nothing in it can make this raise.

Done without any lock: it may take long, or run code of the caller's.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard._core.errors import ConfigError
from modelyard.monitor.recording.arrays import as_rows
from modelyard.monitor.recording.labels import Labels

# Thirty years: longer ones are no latencies, and sums of them would overflow.
MAX_LATENCY_S = 1e9


# One prediction as it was read: rows of outputs and latency in seconds (NaN for one that cannot be
# used), rows of features; then whether there was no prediction, no features, an unknown feature.
# Rows are None where there are none, or none that could be read. A plain tuple, unpacked at once:
# one with names takes as long to make as the rest of the reading.
Reading = tuple[NDArray[Any] | None, float, NDArray[Any] | None, bool, bool, bool]


class Reader:
    """Knows the names and labels of what it has read.

    Args:
        feature_names: In which order features come that are given by name; by default that of the
            first ones.
    """

    def __init__(self, feature_names: tuple[str, ...] = ()) -> None:
        self.feature_names = feature_names
        self.prediction_labels, self.feature_labels = Labels(), Labels()

    def read(self, prediction: Any, latency_s: Any, features: Any) -> Reading:
        """One prediction."""
        rows: NDArray[Any] | None
        columns: NDArray[Any] | None
        is_unknown = False
        # An array of floats needs no looking at: the common case, at a third of the cost.
        if (
            type(prediction) is np.ndarray
            and prediction.dtype.kind == "f"
            and prediction.ndim == 1
            and len(prediction)
        ):
            rows = prediction
        else:
            rows = None if prediction is None else as_rows(prediction, self.prediction_labels)
        if type(features) is np.ndarray and features.dtype.kind == "f" and features.ndim == 1:
            columns = features
        elif features is None:
            columns = None
        else:
            if isinstance(features, Mapping):
                features, is_unknown = self.in_order(features)
            columns = as_rows(features, self.feature_labels)
        if type(latency_s) is not float or not 0.0 <= latency_s < MAX_LATENCY_S:
            latency_s = seconds(latency_s)
        return rows, latency_s, columns, prediction is None, features is None, is_unknown

    def in_order(self, features: Mapping[Any, Any]) -> tuple[Any, bool]:
        """Features by name as a row, missing ones None, and whether there was an unknown one.

        What cannot be read stays as it is: no row can be made of it.
        """
        try:
            given = {str(name): value for name, value in features.items()}
        except Exception:  # noqa: BLE001 - whatever is handed in must not stop the caller's loop
            return features, False
        if not self.feature_names:
            self.feature_names = tuple(given)
        is_unknown = not given.keys() <= set(self.feature_names)
        return [given.get(name) for name in self.feature_names], is_unknown

    def past(self, given: Any, labels: Labels) -> Any:
        """Past rows as numbers, text as codes; what is none stays as it is, to be refused."""
        if given is None or isinstance(given, str):
            return given
        rows = as_rows(given.to_numpy() if hasattr(given, "to_numpy") else given, labels)
        return given if rows is None else rows

    def past_features(self, given: Any) -> Any:
        """Past features, shape (n, features): a table, a data frame, or a list of mappings.

        Raises:
            ConfigError: A data frame that lacks a feature.
        """
        columns = getattr(given, "columns", None)
        if columns is not None:
            given = self._framed_in_order(given, [str(name) for name in columns])
        elif isinstance(given, Sequence) and not isinstance(given, str):
            given = [self.in_order(row)[0] if isinstance(row, Mapping) else row for row in given]
        return self.past(given, self.feature_labels)

    def _framed_in_order(self, frame: Any, names: list[str]) -> Any:
        values = frame.to_numpy() if hasattr(frame, "to_numpy") else np.asarray(frame)
        if not self.feature_names:
            self.feature_names = tuple(names)
        missing = [name for name in self.feature_names if name not in names]
        if missing:
            raise ConfigError(
                f"The data lack the features {', '.join(missing)}; they have {', '.join(names)}."
            )
        return values[:, [names.index(name) for name in self.feature_names]]

    def tables(self, predictions: Any, features: Any) -> tuple[list[NDArray[Any] | None], ...]:
        """The rows of several predictions, and of their features if there are any.

        All together where they are of one kind; else one by one, None for what cannot be read.
        """
        if features is not None and not hasattr(features, "shape"):
            features = [
                self.in_order(row)[0] if isinstance(row, Mapping) else row for row in features
            ]
        return (
            _table(predictions, self.prediction_labels),
            [] if features is None else _table(features, self.feature_labels),
        )


def seconds(latency_s: Any) -> float:
    """A latency as it can be used; NaN for one that cannot."""
    try:
        value = float(latency_s)
    except Exception:  # noqa: BLE001 - whatever is handed in must not stop the caller's loop
        return math.nan
    return value if 0.0 <= value < MAX_LATENCY_S else math.nan


def _table(rows: Any, labels: Labels) -> list[NDArray[Any] | None]:
    """One array with all rows, or one for each."""
    table = as_rows(rows, labels)
    if table is not None and len(table) == len(rows):
        return [table.reshape(len(table), -1)]
    found = [as_rows(row, labels) for row in rows]
    return [None if one is None else one.reshape(-1) for one in found]
