"""What a monitor knows as one page: plain values in (`view`), HTML out (`page`)."""

from modelyard.monitor.report.figures import history_figure
from modelyard.monitor.report.page import monitor_report, write_report
from modelyard.monitor.report.view import MonitorView, view_of

__all__ = [
    "MonitorView",
    "history_figure",
    "monitor_report",
    "view_of",
    "write_report",
]
