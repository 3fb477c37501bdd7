"""What a model does in production: latency, errors, drift, quality, alerts."""

from modelyard.monitor.alerting.rules import AlertRule
from modelyard.monitor.alerting.sinks import CallbackSink, JsonLinesSink, LogSink
from modelyard.monitor.alerting.webhook import WebhookSink
from modelyard.monitor.monitor import ModelMonitor
from modelyard.monitor.recording.health import Health, MetricWindow

__all__ = [
    "AlertRule",
    "CallbackSink",
    "Health",
    "JsonLinesSink",
    "LogSink",
    "MetricWindow",
    "ModelMonitor",
    "WebhookSink",
]
