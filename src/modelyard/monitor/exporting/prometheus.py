"""Figures for Prometheus, by its official client.

Importing this module imports `prometheus_client`, which registers its own process figures in its
global registry; the monitor imports it only when it is asked for.
"""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.utils import floatToGoString

from modelyard.monitor.exporting.figures import Figures
from modelyard.monitor.exporting.names import (
    EXPORTED,
    Exported,
    Kind,
    checked_models,
    samples_of,
)


class MonitorCollector:
    """Shows monitors in a registry of `prometheus_client`; one collector for all of them.

    `registry.register(MonitorCollector(first, second))`. Each scrape asks each source.

    Args:
        sources: Functions that give the figures of a monitor as they are now, each of another
            model.
    """

    def __init__(self, *sources: Callable[[], Figures]) -> None:
        self._sources = list(sources)

    def add(self, source: Callable[[], Figures]) -> None:
        """Show one more monitor from the next scrape on."""
        self._sources.append(source)

    def collect(self) -> Iterator[Metric]:
        """The figures of every monitor as they are now.

        Raises:
            ConfigError: Two monitors of one model.
        """
        yield from _families(checked_models([source() for source in list(self._sources)]))

    def describe(self) -> Iterator[Metric]:
        """Names only, so that a registry refuses a second collector without asking a monitor."""
        yield from _families([])


def to_prometheus_text(figures: Figures | Sequence[Figures], *, openmetrics: bool = False) -> str:
    """The figures of one or several monitors as text that Prometheus scrapes.

    Args:
        figures: Each of another model.
        openmetrics: Whether in the OpenMetrics form
            (`application/openmetrics-text; version=1.0.0`) instead of Prometheus' own
            (`text/plain; version=0.0.4`).

    Raises:
        ConfigError: Two of one model.
    """
    several = checked_models([figures] if isinstance(figures, Figures) else figures)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MonitorCollector(*(_source_of(item) for item in several)))
    generate = generate_openmetrics if openmetrics else generate_latest
    return generate(registry).decode()


def _source_of(figures: Figures) -> Callable[[], Figures]:
    return lambda: figures


def _families(figures: Sequence[Figures]) -> Iterator[Metric]:
    for exported in EXPORTED:
        if exported.kind is Kind.HISTOGRAM:
            yield _latency_family(exported, figures)
        else:
            yield _family(exported, figures)


def _family(exported: Exported, figures: Sequence[Figures]) -> Metric:
    make = CounterMetricFamily if exported.kind is Kind.COUNTER else GaugeMetricFamily
    family = make(exported.name, exported.text, labels=["model", *exported.labels])
    for item in figures:
        for sample in samples_of(exported, item):
            family.add_metric([sample.model_name, *sample.labels], sample.value)
    return family


def _latency_family(exported: Exported, figures: Sequence[Figures]) -> Metric:
    family = HistogramMetricFamily(exported.name, exported.text, labels=["model"])
    for item in figures:
        bounds = [*map(floatToGoString, item.latency_s.bounds), "+Inf"]
        buckets = list(zip(bounds, map(float, item.latency_s.counts), strict=True))
        family.add_metric([item.model_name], buckets, sum_value=item.latency_s.total)
    return family
