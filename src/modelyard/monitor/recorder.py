"""Recording: what a prediction costs its caller, and nothing more."""

import logging
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError
from modelyard._core.forking import call_after_fork
from modelyard._core.ids import checked_name
from modelyard._core.worker import worker
from modelyard.monitor.arguments import as_number, at_least_one, names_of
from modelyard.monitor.recording.arrays import as_rows
from modelyard.monitor.recording.requests import NO_PREDICTION
from modelyard.monitor.recording.windows import Window

_logger = logging.getLogger(__name__)

_FEWEST_OPEN = 10_000


class Recorder:
    """Keeps the window; `ModelMonitor` adds everything that is worked out from it.

    One lock, `_lock`, guards all state and is held for copies only.

    Args:
        model_name: Whose predictions.
        window_size: Predictions in the window.
        evaluate_every: Predictions of a block: after each, verdicts are due.
        feature_names: In which order features come that are given by name.
        background: Whether a thread does what is due; otherwise recording does.
        clock: Tells the time.
    """

    def __init__(
        self,
        model_name: str,
        *,
        window_size: int,
        evaluate_every: int,
        feature_names: Sequence[str] | None,
        background: bool,
        clock: Clock | None,
    ) -> None:
        self.model_name = checked_name(model_name, what="model_name")
        self.window_size = at_least_one(window_size, what="window_size")
        self._evaluate_every = at_least_one(evaluate_every, what="evaluate_every")
        self._clock = clock or SystemClock()
        self._is_background = background
        self._lock = Lock()
        n_open = max(_FEWEST_OPEN, 10 * window_size)
        self._window = Window(
            window_size,
            n_kept=n_open,
            block_size=self._evaluate_every,
            feature_names=names_of(feature_names, what="feature_names"),
        )
        self._n_before = 0
        self._is_stored = False
        call_after_fork(self._after_fork)

    def record_prediction(
        self,
        prediction: Any,
        latency: float,
        features: Any = None,
        error: bool = False,  # noqa: FBT001, FBT002 - the document's signature
        *,
        request_id: str | None = None,
        version_id: str | None = None,
    ) -> str:
        """Record one prediction.

        What cannot be used (NaN, another width, no numbers at all) is counted in the summary's
        `odd_values` and raises an `info` alert, never an error.

        Args:
            prediction: Number, label, list, array or tensor, shape (outputs,) or (batch, outputs).
                None for a failed one.
            latency: Seconds.
            features: Same forms, shape (features,) or (batch, features), at most 4,096 wide; or
                a mapping from names to numbers and labels.
            error: Whether it failed.
            request_id: Yours; a new one is made if there is none.
            version_id: Which version answered, for the summary's counts.

        Returns:
            The request id, for `record_outcome`.
        """
        now_s = self._clock.monotonic_s()
        is_error = error if type(error) is bool else truth_of(error)
        window = self._window
        reading = window.reader.read(prediction, latency, features)
        with self._lock:
            position = window.record(reading, error=is_error, now_s=now_s)
            if request_id is None:
                request_id = window.requests.add_new(position)
            else:
                if type(request_id) is not str:
                    request_id = text_of(request_id)
                window.requests.add(request_id, position)
            if version_id is not None:
                version = version_id if type(version_id) is str else text_of(version_id)
                window.versions[version] = window.versions.get(version, 0) + 1
            is_due = window.is_anything_full()
            if is_due:
                self._close_what_is_full()
        if is_due or self._is_stored:
            self._after_record(is_due=is_due)
        return request_id

    def record_batch(
        self,
        predictions: Any,
        latency: Any,
        features: Any = None,
        errors: Any = None,
        *,
        request_ids: Sequence[str] | None = None,
        version_id: str | None = None,
    ) -> list[str]:
        """Record several predictions at once, one in each row.

        Args:
            predictions: Array or tensor, shape (n,) or (n, outputs).
            latency: Seconds of each, shape (n,), or one number that holds for all.
            features: shape (n, features).
            errors: Which failed, shape (n,); none by default.
            request_ids: Yours, n of them; new ones are made if there are none.
            version_id: Which version answered.

        Returns:
            The request ids.

        Raises:
            ConfigError: Lengths that do not go together.
        """
        table, latencies_s, failed, columns = _batch(predictions, latency, errors, features)
        n = len(failed)
        given = None if request_ids is None else _ids(request_ids, n)
        now_s = self._clock.monotonic_s()
        window = self._window
        tables = window.reader.tables(table, columns)
        with self._lock:
            position = window.predictions.n_added
            window.record_batch(tables, latencies_s, errors=failed, now_s=now_s)
            has_answers = window.predictions.n_added - position == n
            positions = [position + i if has_answers else NO_PREDICTION for i in range(n)]
            if given is None:
                ids = [window.requests.add_new(one) for one in positions]
            else:
                ids = given
                for request_id, one in zip(given, positions, strict=True):
                    window.requests.add(request_id, one)
            if version_id is not None:
                window.versions[version_id] = window.versions.get(version_id, 0) + n
            is_due = window.is_anything_full()
            if is_due:
                self._close_what_is_full()
        if is_due or self._is_stored:
            self._after_record(is_due=is_due)
        return ids

    def record_outcome(self, request_id: str, metrics: Any) -> None:
        """Record what came of a prediction, when it is known. A second outcome is ignored.

        Args:
            request_id: What `record_prediction` returned.
            metrics: Numbers by name, such as `{"return": 0.01}`; or the outcome itself, which is
                compared with what was predicted: a number, a list of them, or a label.

        Raises:
            RequestNotFoundError: No such prediction among those remembered (ten windows, 10,000
                at least).
            ConfigError: A metric that is no number, or an outcome that is neither.
        """
        values: dict[str, float] = {}
        if isinstance(metrics, Mapping):
            values = {name: as_number(name, value) for name, value in metrics.items()}
            truth = None
        else:
            truth = self._window.outcomes.truth_of(metrics)
        with self._lock:
            position = self._window.requests.finish(
                request_id if type(request_id) is str else text_of(request_id)
            )
            if position is None:
                return
            for name, value in values.items():
                self._window.record_metric(name, value)
            if truth is not None:
                self._window.outcomes.add(self._window.predictions.at(position), truth)
        self._after_record(is_due=False)

    def record_metric(self, name: str, value: float) -> None:
        """Record one value of a business metric such as `sharpe`.

        Args:
            name: Of the metric.
            value: In its unit; what is not finite is counted only.

        Raises:
            ConfigError: The value is no number.
        """
        number = as_number(name, value)
        with self._lock:
            self._window.record_metric(name, number)
        self._after_record(is_due=False)

    @property
    def total_predictions(self) -> int:
        """Predictions recorded so far, those of before a restart included (with a store)."""
        return self._n_before + self._window.n_records

    def work(self) -> None:
        """Do what is due; overridden by what there is to do."""

    def _close_what_is_full(self) -> None:
        """Close block and window where full; the lock is held."""
        window = self._window
        if window.is_block_full():
            window.close_block(at=self._clock.now().timestamp())
        if window.is_full():
            self._close_window()

    def _close_window(self) -> None:
        """Called with the lock held when a window is full."""
        self._window.close()

    def _after_record(self, *, is_due: bool) -> None:
        """Have done what is due, with no lock held."""
        if is_due:
            self._ask()

    def _after_fork(self) -> None:
        """In the child of a fork: locks nobody holds, and ids that are not the parent's."""
        self._lock = Lock()
        self._window.requests.after_fork()

    def _ask(self) -> None:
        if self._is_background:
            worker("monitors").ask(self)
            return
        try:
            self.work()
        except Exception:
            # Whoever records must go on.
            _logger.exception("Monitor %r could not be evaluated.", self.model_name)


def text_of(value: Any) -> str:
    """What was given as an id, as text; whatever it is, this does not raise."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever is handed in must not stop the caller's loop
        return f"unreadable {type(value).__qualname__}"


def truth_of(value: Any) -> bool:
    """Whether a flag is set; one that is neither true nor false tells of an error."""
    try:
        return bool(value)
    except Exception:  # noqa: BLE001 - as above
        return True


def _batch(
    predictions: Any, latency: Any, errors: Any, features: Any
) -> tuple[Any, NDArray[np.float64], NDArray[np.float64], Any]:
    """Predictions and features with a row each, latencies and errors of one length."""
    predictions, features = _unframed(predictions), _unframed(features)
    try:
        n = len(predictions)
    except TypeError as error:
        raise ConfigError(
            f"predictions must have a row for each prediction, got {type(predictions).__name__}."
        ) from error
    if n == 0:
        raise ConfigError("A batch holds one prediction at least, got none.")
    if features is not None and (not hasattr(features, "__len__") or len(features) != n):
        raise ConfigError(f"features must have a row for each of the {n} predictions.")
    return _rows_of(predictions), _latencies(latency, n), _flags(errors, n), _rows_of(features)


def _ids(given: Sequence[str], n: int) -> list[str]:
    if len(given) != n:
        raise ConfigError(f"{len(given)} request_ids for {n} predictions.")
    return [str(one) for one in given]


def _unframed(given: Any) -> Any:
    """A data frame or a series as an array."""
    return given.to_numpy() if hasattr(given, "to_numpy") else given


def _rows_of(given: Any) -> Any:
    """Something with a row for each prediction: flat ones are columns."""
    if given is None:
        return None
    if getattr(given, "ndim", None) == 1:
        return given.reshape(-1, 1)
    if hasattr(given, "shape"):
        return given
    rows = list(given)
    is_flat = all(isinstance(row, str) or not hasattr(row, "__len__") for row in rows)
    return [[row] for row in rows] if is_flat else rows


def _latencies(latency: Any, n: int) -> NDArray[np.float64]:
    rows = as_rows(_unframed(latency))
    if rows is None or rows.size not in (1, n):
        raise ConfigError(f"latency is one number of seconds or {n} of them.")
    return np.array(np.broadcast_to(np.asarray(rows, np.float64).reshape(-1), (n,)))


def _flags(errors: Any, n: int) -> NDArray[np.float64]:
    if errors is None:
        return np.zeros(n)
    rows = as_rows(_unframed(errors))
    if rows is None or rows.shape != (n,):
        raise ConfigError(f"errors says of each of the {n} predictions whether it failed.")
    return np.array(np.asarray(rows) != 0, dtype=np.float64)
