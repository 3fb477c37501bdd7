"""Rollouts as one page: who got which traffic when, and on which numbers it was decided."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from modelyard.reporting import Block, Chart, KeyFigures, Note, Report, Section, Table, render
from modelyard.reporting import traffic_shares as traffic_chart
from modelyard.update_strategy.explaining import explained
from modelyard.update_strategy.records import UpdateRecord

_S_PER_MINUTE = 60.0
_NOTE_OF = {
    "promoted": "good",
    "rolled_back": "critical",
    "gone_back": "warning",
    "aborted": "warning",
    "paused": "warning",
}


def rollout_report(
    model_name: str, records: Sequence[UpdateRecord], *, generated_at: datetime
) -> str:
    """One HTML document that needs no network; equal records give equal text.

    Args:
        model_name: Whose rollouts they are.
        records: As `rollout_history` gives them, newest first.
        generated_at: When, with its time zone.
    """
    return render(
        Report(
            title=f"Rollouts of {model_name}",
            subtitle=f"The last {len(records)}, newest first; times in UTC",
            generated_at=generated_at,
            sections=[_overview(records), *(_section(record) for record in records)],
        )
    )


def _overview(records: Sequence[UpdateRecord]) -> Section:
    ended = [_outcome(record) for record in records]
    n_promoted = ended.count("promoted")
    n_back = ended.count("rolled_back") + ended.count("gone_back")
    figures = KeyFigures(
        [
            ("Promoted", n_promoted, ""),
            ("Rolled back", n_back, ""),
            ("Others", len(ended) - n_promoted - n_back, ""),
        ]
    )
    rows = [
        [
            record["started_at"][:19].replace("T", " "),
            record["old_version_id"],
            record["new_version_id"],
            record["trigger"],
            _outcome(record),
        ]
        for record in records
    ]
    columns = ["begun", "from", "to", "trigger", "status"]
    return Section("All of them", "", [figures, Table(columns, rows, whole=["begun"])])


def _outcome(record: UpdateRecord) -> str:
    """How it ended; one that went back by hand was no promotion."""
    is_back = record["is_rollback"] and record["status"] == "promoted"
    return "gone_back" if is_back else record["status"]


def _section(record: UpdateRecord) -> Section:
    outcome = _outcome(record)
    kind: Any = _NOTE_OF.get(outcome, "info")
    blocks: list[Block] = [Note(kind, f"{outcome}: {record['reason']}")]
    blocks.append(Chart(_timeline(record), "Each number marks an event; the table tells them."))
    blocks.append(
        Table(
            ["", "what happened"],
            [[str(i), text] for i, text in enumerate(explained(record)[1:], start=1)],
        )
    )
    checks = [check for event in record["events"] for check in event["detail"].get("checks", [])]
    if checks:
        blocks.append(_checks(checks))
    title = f"{record['new_version_id']}, {record['started_at'][:16].replace('T', ' ')}"
    return Section(title, "", blocks)


def _checks(checks: Sequence[Mapping[str, Any]]) -> Table:
    keys = ("what", "worse_by", "at_least", "at_most", "margin", "answer")
    return Table(
        ["compared", "worse by", "at least", "at most", "allowed", "answer"],
        [[check[key] for key in keys] for check in checks],
        "The candidate against the stable version of the same time, with always-valid intervals. "
        "Latencies as logarithms of their ratio.",
    )


def _timeline(record: UpdateRecord) -> Any:
    started = datetime.fromisoformat(record["started_at"])
    versions = dict.fromkeys(
        version for event in record["events"] for version in event["detail"]["shares"]
    )
    times = [
        (datetime.fromisoformat(event["at"]) - started).total_seconds() / _S_PER_MINUTE
        for event in record["events"]
    ]
    shares = {
        version: [event["detail"]["shares"].get(version, 0.0) for event in record["events"]]
        for version in versions
    }
    marks = [
        (at, event["action"].replace("_", " "))
        for at, event in zip(times, record["events"], strict=True)
    ]
    return traffic_chart(times, shares, marks, title="Traffic")
