"""What a model does in production: latency, errors, drift, alerts."""

from modelyard.monitor.health import Health, MetricWindow
from modelyard.monitor.monitor import ModelMonitor

__all__ = ["Health", "MetricWindow", "ModelMonitor"]
