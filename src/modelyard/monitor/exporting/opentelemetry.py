"""Figures for OpenTelemetry: observable instruments on a meter of yours."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from modelyard._core.extras import require
from modelyard.monitor.exporting.figures import Figures
from modelyard.monitor.exporting.names import (
    EXPORTED,
    LATENCY,
    Exported,
    Kind,
    checked_models,
    samples_of,
)

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

_Source = Callable[[], Figures]


def observe(meter: "Meter", sources: Sequence[_Source]) -> None:
    """Make an instrument of each exported metric; each collection asks the sources.

    OpenTelemetry has no histogram that is observed. The latencies are therefore two counters,
    `modelyard.prediction.latency.sum` (seconds) and `modelyard.prediction.latency.bucket` (by
    `le`, the upper bound in seconds, cumulative), beside the window's quantiles.

    Args:
        meter: From `opentelemetry.metrics.get_meter(...)`; call this once for it.
        sources: Functions that give the figures of a monitor as they are now, each of another
            model.

    Raises:
        MissingDependencyError: `opentelemetry-api` is not installed.
    """
    observation = require("opentelemetry.metrics", extra="otel").Observation
    for exported in EXPORTED:
        if exported.kind is Kind.HISTOGRAM:
            continue
        create = (
            meter.create_observable_counter
            if exported.kind is Kind.COUNTER
            else meter.create_observable_gauge
        )
        create(
            exported.otel_name,
            callbacks=[_callback(sources, _samples_reader(exported), observation)],
            unit=exported.unit,
            description=exported.text,
        )
    for ending, unit, read in (("sum", LATENCY.unit, _sum), ("bucket", "{prediction}", _buckets)):
        meter.create_observable_counter(
            f"{LATENCY.otel_name}.{ending}",
            callbacks=[_callback(sources, read, observation)],
            unit=unit,
            description=LATENCY.text,
        )


_Reading = tuple[float, dict[str, str]]
_Reader = Callable[[Figures], Iterable[_Reading]]


def _callback(
    sources: Sequence[_Source], read: _Reader, observation: Any
) -> "Callable[[CallbackOptions], Iterable[Observation]]":
    def observe_now(_options: "CallbackOptions") -> "Iterator[Observation]":
        for figures in checked_models([source() for source in sources]):
            for value, attributes in read(figures):
                yield observation(value, attributes)

    return observe_now


def _samples_reader(exported: Exported) -> _Reader:
    def read(figures: Figures) -> Iterator[_Reading]:
        for sample in samples_of(exported, figures):
            own = dict(zip(exported.labels, sample.labels, strict=True))
            yield sample.value, {"model": sample.model_name, **own}

    return read


def _sum(figures: Figures) -> Iterator[_Reading]:
    yield figures.latency_s.total, {"model": figures.model_name}


def _buckets(figures: Figures) -> Iterator[_Reading]:
    histogram = figures.latency_s
    bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    for bound, count in zip(bounds, histogram.counts, strict=True):
        yield count, {"model": figures.model_name, "le": bound}
