"""What was said when, by whom it was seen, and what is taken for normal."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from modelyard.monitor.alerting.alerts import AlertDict
from modelyard.monitor.report.view import MonitorView
from modelyard.reporting import Block, Chart, Lasting, Note, Section, Table, timeline

_MOST_DRAWN = 300
_MOST_ROWS = 50
_COLORS = (("critical", "#D55E00"), ("warning", "#E69F00"), ("info", "#56B4E9"))


def alert_section(view: MonitorView) -> Section:
    """Alerts as a timeline and a table, newest first."""
    alerts = list(reversed(view.alerts))
    blocks: list[Block] = []
    if view.undelivered:
        waiting = Counter(item["sink"] for item in view.undelivered)
        told = ", ".join(f"{n} for `{sink}`" for sink, n in waiting.items())
        blocks.append(Note("warning", f"Not delivered yet: {told}."))
    if not alerts:
        return Section("Alerts", "There were none.", blocks)
    drawn = alerts[:_MOST_DRAWN]
    blocks.append(
        Chart(
            timeline(_lasting(drawn, view.generated_at), _COLORS, title="When alerts were active"),
            f"The newest {len(drawn)} of {len(alerts):,}." if len(drawn) < len(alerts) else "",
        )
    )
    blocks.append(_table(alerts))
    return Section("Alerts", "", blocks)


def baseline_section(view: MonitorView) -> Section:
    """Every baseline, newest first."""
    rows = [
        [
            _second(str(one["at"])),
            one["actor"],
            one["source"],
            one["n"],
            "forced" if one["forced"] else "",
            one["reason"],
        ]
        for one in list(reversed(view.baseline_history))[:_MOST_ROWS]
    ]
    text = f"The baseline is: {view.summary['baseline']}."
    if not rows:
        return Section("Baseline", f"{text} None was ever set.")
    columns = ["set at", "by", "from", "rows", "forced", "reason"]
    table = Table(columns, rows, "Newest first.", highlight=[0], whole=["set at"])
    return Section("Baseline", text, [table])


def _lasting(alerts: Sequence[AlertDict], now: datetime) -> list[Lasting]:
    return [
        Lasting(
            row=alert["name"],
            kind=alert["severity"],
            start=alert["first_seen"],
            end=alert["resolved_at"] or now.isoformat(),
            text=alert["message"],
        )
        for alert in alerts
    ]


def _table(alerts: Sequence[AlertDict]) -> Table:
    shown = alerts[:_MOST_ROWS]
    return Table(
        ["severity", "alert", "state", "first seen", "times", "message"],
        [
            [
                alert["severity"],
                alert["name"],
                _state(alert),
                _minute(alert["first_seen"]),
                alert["count"],
                alert["message"].removeprefix(f"{alert['name']}: "),
            ]
            for alert in shown
        ],
        f"The newest {len(shown)} of {len(alerts):,}." if len(shown) < len(alerts) else "",
        highlight=[i for i, alert in enumerate(shown) if alert["is_active"]],
        whole=["first seen"],
    )


def _state(alert: AlertDict) -> str:
    """What became of it, in words."""
    words = []
    if alert["acknowledged_by"]:
        words.append(f"seen by {alert['acknowledged_by']}")
    if alert["is_active"]:
        words.insert(0, "active")
    elif alert["resolved_by"]:
        words.append(f"resolved by {alert['resolved_by']}")
    else:
        words.append("over")
    return ", ".join(words)


def _second(moment: str) -> str:
    return moment[:19].replace("T", " ")


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")
