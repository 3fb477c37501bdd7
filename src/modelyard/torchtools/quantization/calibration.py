"""Ranges of activations, taken from data, for static int8."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime.quantization as ort_quantization
from onnxruntime.quantization.calibrate import HistogramCollector, create_calibrator

from modelyard._core.errors import ConfigError
from modelyard.torchtools.inputs import Inputs, tensors_of
from modelyard.torchtools.onnx_module import as_array
from modelyard.torchtools.silence import quiet

# By name: how, and what ONNX Runtime is told. Its symmetric ranges would waste half the steps of
# unsigned activations that are never negative.
_METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "minmax": (ort_quantization.CalibrationMethod.MinMax, {}),
    "percentile": (
        ort_quantization.CalibrationMethod.Percentile,
        {"percentile": 99.99, "symmetric": False},
    ),
    "entropy": (ort_quantization.CalibrationMethod.Entropy, {"symmetric": False}),
}
METHODS = tuple(_METHODS)
# Enough to tell usual values apart beside one 10,000 times as large; the search for the least loss
# looks at every two bins, which takes seconds at some thousands.
_MOST_BINS = {"percentile": 131_072, "entropy": 2048}


def check_method(method: str) -> None:
    """Refuse a calibration method that is not known.

    Raises:
        ConfigError: It is not one of `METHODS`.
    """
    if method not in _METHODS:
        raise ConfigError(f"calibration_method {method!r} is not one of {', '.join(METHODS)}.")


class Calibration:
    """Data that ranges are taken from, with the ranges taken last. Not thread-safe.

    Args:
        batches: Data like the model will see.
        method: As in `ranges_of`.

    Raises:
        ConfigError: The method is not known.
    """

    def __init__(self, batches: Sequence[Inputs], method: str = "minmax") -> None:
        check_method(method)
        self.batches = batches
        self.method = method
        self._last: tuple[bytes, Any] | None = None

    def ranges(self, graph: bytes, operators: Sequence[str]) -> Any:
        """What `ranges_of` gives, taken once a graph."""
        if self._last is None or self._last[0] != graph:
            taken = ranges_of(graph, self.batches, operators, method=self.method)
            self._last = (graph, taken)
        return self._last[1]


def ranges_of(
    graph: bytes, batches: Sequence[Inputs], operators: Sequence[str], *, method: str
) -> Any:
    """Ranges of what flows in and out of the operators, as ONNX Runtime's quantizer takes them.

    Args:
        graph: A prepared float graph.
        batches: Data like the model will see.
        operators: Operator types that are looked at.
        method: "minmax" (all values seen), "percentile" (all but the farthest 0.01 %) or
            "entropy" (least loss of information; Migacz, 2017).
    """
    kind, options = _METHODS[method]
    with tempfile.TemporaryDirectory() as folder, quiet():
        source = Path(folder) / "source.onnx"
        source.write_bytes(graph)
        calibrator = create_calibrator(
            source,
            list(operators),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=kind,
            extra_options=options,
        )
        if method in _MOST_BINS:
            calibrator.collector = _collector_like(calibrator, _MOST_BINS[method])
        names = [value.name for value in onnx.load_from_string(graph).graph.input]
        for batch in batches:  # one by one: it keeps every activation of what it is given at once
            calibrator.collect_data(_OneBatch(names, batch))
        return calibrator.compute_data()


def _collector_like(calibrator: Any, most_bins: int) -> "_BoundedHistograms":
    """What a calibrator would make for itself, with bounded histograms."""
    return _BoundedHistograms(
        most_bins,
        method=calibrator.method,
        symmetric=calibrator.symmetric,
        num_bins=calibrator.num_bins,
        num_quantized_bins=calibrator.num_quantized_bins,
        percentile=calibrator.percentile,
        scenario=calibrator.scenario,
    )


class _BoundedHistograms(HistogramCollector):  # type: ignore[misc]  # untyped library
    """Histograms whose bins widen where a far larger value comes.

    ONNX Runtime's keep the width that the first batch gave them and grow: to gigabytes and hours
    for one outlier.
    """

    def __init__(self, most_bins: int, **options: Any) -> None:
        super().__init__(**options)
        self._most_bins = most_bins

    def merge_histogram(
        self, old_histogram: Any, data_arr: Any, new_min: Any, new_max: Any, new_threshold: Any
    ) -> Any:
        """As ONNX Runtime's, the old one widened first."""
        counts, edges, low, high, threshold = old_histogram
        while threshold > 0 and len(counts) * float(new_threshold / threshold) > self._most_bins:
            counts, threshold = with_wider_bins(counts, threshold)
            edges = np.linspace(-threshold, threshold, len(counts) + 1, dtype=edges.dtype)
        return super().merge_histogram(
            (counts, edges, low, high, threshold), data_arr, new_min, new_max, new_threshold
        )


def with_wider_bins(counts: np.ndarray[Any, Any], threshold: Any) -> tuple[Any, Any]:
    """A histogram of bins twice as wide, and where it ends now.

    Args:
        counts: Of an even number of bins of one width, half of them on each side of 0.
        threshold: Where the last bin ends.
    """
    half = len(counts) // 2
    if half % 2:  # bins go in pairs from 0 outwards
        counts = np.pad(counts, 1)
        threshold = threshold * (half + 1) / half
    return counts.reshape(-1, 2).sum(axis=1), threshold


class _OneBatch(ort_quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped library
    """Feeds one batch by input name."""

    def __init__(self, names: Sequence[str], batch: Inputs) -> None:
        arrays = map(as_array, tensors_of(batch))
        self._batch: dict[str, np.ndarray[Any, Any]] | None = dict(zip(names, arrays, strict=True))

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """The batch, then None, as ONNX Runtime asks for it."""
        batch, self._batch = self._batch, None
        return batch
