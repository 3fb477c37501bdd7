"""An experiment as one page: what was found, how sure it is, and what speaks against it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from modelyard.ab_testing.outputs import ComparisonDict, IntervalHistory
from modelyard.reporting import (
    Block,
    Chart,
    KeyFigures,
    Note,
    Report,
    Section,
    Table,
    interval_over_time,
    render,
)

# Looks are drawn from where the interval is at most so many times as wide as at the last one.
_WIDEST = 8.0
_CODES_KIND = {
    "switch": "good",
    "strongly_switch": "good",
    "check_data": "critical",
    "check_assignment": "critical",
    "guardrail_harmed": "critical",
    "guardrail_undecided": "warning",
}


def experiment_report(overview: Mapping[str, Any], *, generated_at: datetime) -> str:
    """One HTML document that needs no network; equal overviews give equal text.

    Args:
        overview: As `export_results` writes it, without the outcomes.
        generated_at: When, with its time zone.
    """
    primary = overview["primary_metric"]
    comparisons: Sequence[ComparisonDict] = overview["comparisons"]
    decisive = [item for item in comparisons if item["metric"] == primary]
    return render(
        Report(
            title=f"Experiment {overview['test_name']}",
            subtitle=f"Compared on {primary}; {overview['status']}; decided by "
            f"{_INFERENCES[overview['inference']]}",
            generated_at=generated_at,
            sections=[
                _result_section(overview, decisive),
                _variant_section(overview),
                _history_section(overview["interval_history"], primary),
                _metric_section(overview),
                _trust_section(overview, decisive),
            ],
        )
    )


_INFERENCES = {
    "always_valid": "a confidence sequence, valid at every look",
    "fixed_horizon": "one test at the planned end",
    "group_sequential": "O'Brien-Fleming bounds at the planned looks",
}


def _result_section(overview: Mapping[str, Any], decisive: Sequence[ComparisonDict]) -> Section:
    blocks: list[Block] = [
        KeyFigures(
            [
                ("Winner", overview["winner"] or "none yet", ""),
                ("Outcomes", _n_outcomes(overview), "all variants together"),
                ("Confidence", f"{overview['confidence_level']:.0%}", "over all looks"),
            ]
        )
    ]
    for item in decisive:
        result = item["result"]
        kind: Any = _CODES_KIND.get(result["recommendation_code"], "info")
        text = f"{item['variant_b']} against {item['variant_a']}: {result['recommendation']}"
        blocks.append(Note(kind, text))
    warnings = dict.fromkeys(text for item in decisive for text in item["warnings"])
    blocks.extend(Note("warning", text) for text in warnings)
    return Section("Result", "", blocks)


def _variant_section(overview: Mapping[str, Any]) -> Section:
    primary = overview["primary_metric"]
    rows = []
    for name, stats in overview["variants"].items():
        metric = stats["metrics"].get(primary, {})
        ci = metric.get("ci", [None, None])
        rows.append(
            [
                name,
                stats["traffic_weight"],
                stats["sample_count"],
                metric.get("mean"),
                metric.get("std"),
                ci[0],
                ci[1],
                overview["probability_to_be_best"][name],
            ]
        )
    columns = [
        "variant",
        "traffic",
        "outcomes",
        "mean",
        "std",
        "lower",
        "upper",
        "best",
    ]
    table = Table(
        columns,
        rows,
        f"Mean of {primary} with its interval at one look; `best` is the chance to be the best, "
        "from a flat prior, and decides nothing.",
        formats={"traffic": ".1%", "best": ".1%"},
        bars=["best"],
    )
    return Section("Variants", "", [table])


def _history_section(history: Mapping[str, IntervalHistory], primary: str) -> Section:
    charts: list[Block] = [
        Chart(
            interval_over_time(
                looks["n"],
                looks["difference"],
                looks["lower"],
                looks["upper"],
                f"{primary}: {pair.split(' vs ')[1]} minus {pair.split(' vs ')[0]}",
                title=f"{pair}: difference with its always-valid interval",
                x_title="outcomes, all variants together",
            ),
            "The true difference lies inside at every look at once, with the stated confidence: "
            "an interval that leaves the zero line out has found a difference.",
        )
        for pair, looks in ((pair, _readable(looks)) for pair, looks in history.items())
    ]
    return Section("How it narrowed", "", charts)


def _readable(looks: IntervalHistory) -> IntervalHistory:
    """Without the first looks, whose intervals are so wide that the later ones look like lines."""
    widths = [upper - lower for lower, upper in zip(looks["lower"], looks["upper"], strict=True)]
    first = next((i for i, width in enumerate(widths) if width <= _WIDEST * widths[-1]), 0)
    return {
        "n": looks["n"][first:],
        "difference": looks["difference"][first:],
        "lower": looks["lower"][first:],
        "upper": looks["upper"][first:],
        "p_value_always_valid": looks["p_value_always_valid"][first:],
    }


def _metric_section(overview: Mapping[str, Any]) -> Section:
    rows = [
        [
            line["metric"],
            line["variant_a"],
            line["variant_b"],
            line["difference"],
            line["p_value_always_valid"],
            line["adjusted_p_value"],
            line["better"],
        ]
        for line in overview["all_metrics"]
    ]
    if not rows:
        return Section("All metrics", "Nothing was recorded yet.")
    columns = ["metric", "a", "b", "b minus a", "p-value", "adjusted", "better"]
    text = (
        "Every pair of variants on every metric. The p-values are always-valid; the adjusted ones "
        "keep the chance of any false difference in the whole table (Holm)."
    )
    marked = [index for index, row in enumerate(rows) if row[-1]]
    return Section("All metrics", text, [Table(columns, rows, highlight=marked)])


def _trust_section(overview: Mapping[str, Any], decisive: Sequence[ComparisonDict]) -> Section:
    blocks: list[Block] = []
    ratio = overview["sample_ratio"]
    if ratio is None:
        blocks.append(
            Note(
                "info",
                "The split was not checked: users are not known. Pass `user_id` to `predict` and "
                "`record_result`.",
            )
        )
    else:
        rows = [[name, count, ratio["expected"][name]] for name, count in ratio["counts"].items()]
        counted = "assigned" if ratio["counted"] == "assigned" else "with an outcome"
        blocks.append(
            Table(
                ["variant", "counted", "expected"],
                rows,
                f"{ratio['n_units']:,} users or requests {counted}; always-valid p-value of the "
                f"split {ratio['p_value_always_valid']:.3g}.",
                formats={"expected": ",.1f"},
            )
        )
    guardrails = [check for item in decisive for check in item["guardrails"]]
    if guardrails:
        blocks.append(
            Table(
                ["guardrail", "variant", "against", "margin", "at worst", "status"],
                [
                    [c["metric"], c["variant"], c["other"], c["margin"], c["worst"], c["status"]]
                    for c in guardrails
                ],
                "How much worse it may be at most, in the metric's unit.",
            )
        )
    blocks.append(_epochs(overview))
    return Section("Can it be believed?", "", blocks)


def _epochs(overview: Mapping[str, Any]) -> Table:
    names = list(dict.fromkeys(n for e in overview["assignment"]["epochs"] for n in e["weights"]))
    rows = [
        [epoch["since"][:19].replace("T", " "), *(epoch["weights"].get(name) for name in names)]
        for epoch in overview["assignment"]["epochs"]
    ]
    return Table(
        ["since (UTC)", *names],
        rows,
        "Weight epochs: variants are compared inside each and then averaged.",
        formats=dict.fromkeys(names, ".1%"),
        whole=["since (UTC)"],
    )


def _n_outcomes(overview: Mapping[str, Any]) -> int:
    return sum(stats["sample_count"] for stats in overview["variants"].values())
