"""Charts and self-contained HTML reports from plain values.

Functions turn numbers into Plotly figures (plain dicts; None, NaN and infinities are gaps, and
nothing to draw gives a figure that says "no data"), and `page` turns figures, tables and text
into one HTML file that needs no network::

    report = Report(
        title="Lifecycle of one model",
        subtitle="Five stocks, 2000 to 2013",
        generated_at=datetime(2026, 1, 31, 12, 0, tzinfo=UTC),
        sections=[
            Section("Results", "Unseen years only.", [Chart(equity_curves(curves), "Costs paid.")])
        ],
    )
    Path("report.html").write_text(render(report), encoding="utf-8")
"""

from modelyard.reporting.comparisons import (
    backend_latencies,
    compression_overview,
    metric_bars,
    trade_offs,
)
from modelyard.reporting.distributions import histogram, quantile_histograms
from modelyard.reporting.drift import drift_over_time, scores_against_limits
from modelyard.reporting.figures import Figure
from modelyard.reporting.page import (
    Block,
    Chart,
    KeyFigures,
    Note,
    Report,
    Section,
    Table,
    render,
)
from modelyard.reporting.rankings import Ranked, ranked_bars
from modelyard.reporting.series import (
    TimePanel,
    equity_curves,
    interval_over_time,
    training_curves,
    values_over_time,
)
from modelyard.reporting.timeline import Lasting, timeline
from modelyard.reporting.traffic import traffic_shares

__all__ = [
    "Block",
    "Chart",
    "Figure",
    "KeyFigures",
    "Lasting",
    "Note",
    "Ranked",
    "Report",
    "Section",
    "Table",
    "TimePanel",
    "backend_latencies",
    "compression_overview",
    "drift_over_time",
    "equity_curves",
    "histogram",
    "interval_over_time",
    "metric_bars",
    "quantile_histograms",
    "ranked_bars",
    "render",
    "scores_against_limits",
    "timeline",
    "trade_offs",
    "traffic_shares",
    "training_curves",
    "values_over_time",
]
