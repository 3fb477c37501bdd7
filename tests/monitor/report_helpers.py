"""Monitors with something to report, and the plain text of a page."""

from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np

from modelyard._core.clock import ManualClock
from modelyard.monitor import ModelMonitor

START = datetime(2024, 1, 1, tzinfo=UTC)
WINDOW = 250


def monitor_of(clock=None, **options):
    options = {"window_size": WINDOW, "background": False, **options}
    return ModelMonitor("ppo", clock=clock or ManualClock(START), **options)


def record(monitor, clock, n, *, n_features=3, shift=0.0, latency_s=0.001, error=False, seed=0):
    rng = np.random.default_rng(seed)
    for row in rng.normal(size=(n, n_features)):
        row[-1] += shift
        monitor.record_prediction(
            None if error else [row[-1] + 0.1 * row[0], row[0]], latency_s, row, error=error
        )
        clock.advance(60.0)


def eventful(**options):
    """Six calm windows, one with errors, two in which the last feature has moved."""
    clock = ManualClock(START)
    monitor = monitor_of(clock, **options)
    record(monitor, clock, WINDOW)
    monitor.set_baseline()
    record(monitor, clock, 5 * WINDOW, seed=1)
    record(monitor, clock, WINDOW // 2, error=True, seed=2)
    record(monitor, clock, WINDOW, seed=3)
    record(monitor, clock, 2 * WINDOW, shift=2.0, seed=4)
    return monitor


class Page(HTMLParser):
    """Tags of a page, and the text people read."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self._skips = [], [], False
        self.feed(page)
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._skips = tag in {"script", "style"}

    def handle_endtag(self, tag):
        self._skips = False

    def handle_data(self, data):
        if not self._skips and data.strip():
            self.words.append(data.strip())
