"""What a model does in production: latency, errors, drift, alerts."""

from modelyard.monitor.monitor import ModelMonitor
from modelyard.monitor.recording.health import Health, MetricWindow

__all__ = ["Health", "MetricWindow", "ModelMonitor"]
