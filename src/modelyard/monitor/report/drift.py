"""What has moved, how far, since when, and what it comes from."""

from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.monitor.drift.columns import SIGNIFICANCE
from modelyard.monitor.outputs import DistributionDict, DriftDict, ExplanationDict
from modelyard.monitor.report.figures import drift_figure
from modelyard.monitor.report.view import MonitorView, ranked
from modelyard.reporting import (
    Block,
    Chart,
    Note,
    Ranked,
    Section,
    Table,
    quantile_histograms,
    ranked_bars,
)

_MOST_BARS = 15
_MOST_ROWS = 30
# Of an output's shift, below which a feature's part is not drawn.
_LEAST_SHARE = 0.01
_COLUMNS = ["score", "limit", "p-value", "adjusted", "drifted"]


def prediction_section(view: MonitorView) -> Section:
    """Drift of the predictions: over time, by output, and which features explain it."""
    drift = view.prediction_drift
    blocks = _over_time(view, "prediction", drift)
    columns = ranked(drift)
    if len(columns) > 1:
        blocks.append(_table("output", columns))
    names = {column["index"]: column["name"] for column in columns}
    blocks += _distributions("outputs", view.outputs, names)
    explained = drift.get("explained_by")
    if explained:
        output = names.get(explained["output"], f"output {explained['output']}")
        blocks += _explanation(explained, output)
    elif drift["is_drifted"]:
        blocks.append(Note("info", "Features do not explain it, or too few were recorded."))
    return Section("Prediction drift", drift["reason"], blocks)


def feature_section(view: MonitorView) -> Section:
    """Drift of the features: over time, ranked, and the distributions that moved most."""
    drift = view.feature_drift
    blocks = _over_time(view, "feature", drift)
    columns = ranked(drift)
    names = {column["index"]: column["name"] for column in columns}
    if columns:
        blocks.append(_bars(columns, unit=_unit(drift)))
        blocks.append(_table("feature", columns))
    blocks += _distributions("features", view.features, names)
    return Section("Feature drift", drift["reason"], blocks)


def change_section(view: MonitorView) -> Section:
    """When streams began to change."""
    rows = [
        [
            _second(change["began_at"]),
            _second(change["detected_at"]),
            change["stream"].replace("_", " "),
            change["name"],
            change["direction"],
            change["shift"],
        ]
        for change in view.changes[:_MOST_ROWS]
    ]
    text = (
        "The first change of each stream's mean since the baseline was set: when it began, by "
        "estimate, and when it was certain."
    )
    if not rows:
        return Section("Change points", f"{text}\n\nNone so far.")
    table = Table(
        ["began", "certain", "stream", "name", "direction", "shift"],
        rows,
        _of_all(len(rows), len(view.changes), "changes")
        + "The shift is in the stream's own unit.",
        whole=["began", "certain"],
    )
    return Section("Change points", text, [table])


def _over_time(view: MonitorView, kind: str, drift: DriftDict) -> list[Block]:
    name = f"drift.{kind}"
    points, limits = view.history.get(name, ()), view.history.get(f"{name}.threshold", ())
    if all(point["value"] is None for point in points):
        return []
    figure = drift_figure(
        {f"{kind.capitalize()}s": (points, limits)},
        unit=_unit(drift),
        title=f"{kind.capitalize()} drift of each window against its limit",
    )
    return [Chart(figure, _history_caption(drift))]


def _history_caption(drift: DriftDict) -> str:
    if drift["calibrated"] and drift["effective_threshold"] > drift["threshold"]:
        limit = "The limit is calibrated: from how windows differ when nothing has changed."
    elif drift["calibrated"]:
        limit = (
            "The limit is the threshold: windows differ less when nothing has changed, or their "
            "values do not depend on one another."
        )
    else:
        limit = (
            "The limit is not calibrated yet: it takes a baseline, or a past, of several windows."
        )
    return f"Score of the column furthest over its limit. {limit}"


def _unit(drift: DriftDict) -> str:
    return "standard deviations" if drift["method"].startswith("wasserstein") else drift["method"]


def _bars(columns: Sequence[Any], *, unit: str) -> Chart:
    shown = columns[:_MOST_BARS]
    figure = ranked_bars(
        [
            Ranked(
                name=column["name"],
                value=column["drift_score"],
                limit=column["threshold"],
                is_over=column["is_drifted"],
            )
            for column in shown
        ],
        unit=unit,
        over="drifted",
        within="not drifted",
        title="Features that moved most",
    )
    return Chart(figure, _of_all(len(shown), len(columns), "features") + "Marks are limits.")


def _table(what: str, columns: Sequence[Any]) -> Table:
    shown = columns[:_MOST_ROWS]
    return Table(
        [what, *_COLUMNS],
        [
            [
                column["name"],
                column["drift_score"],
                column["threshold"],
                column["p_value"],
                column["adjusted_p_value"],
                column["is_drifted"],
            ]
            for column in shown
        ],
        _of_all(len(shown), len(columns), f"{what}s")
        + f"Drifted: over its limit, and its adjusted p-value below {SIGNIFICANCE:g}.",
        highlight=[i for i, column in enumerate(shown) if column["is_drifted"]],
        formats={"score": ".3g", "limit": ".3g", "p-value": ".2g", "adjusted": ".2g"},
        bars=["score"],
    )


def _distributions(
    what: str, found: Sequence[DistributionDict], names: Mapping[int, str]
) -> list[Block]:
    columns = {
        names.get(one["index"], one["name"]): {
            "baseline": one["reference"],
            "window": one["window"],
        }
        for one in found
        if one["reference"] and one["window"]
    }
    if not columns:
        return []
    figure = quantile_histograms(columns, title=f"Baseline and window: the {what} that moved most")
    return [Chart(figure, "Share of the values in equal bins; the outermost 1 % may lie outside.")]


def _explanation(explained: ExplanationDict, output: str) -> list[Block]:
    least = _LEAST_SHARE * abs(explained["shift"])
    figure = ranked_bars(
        [
            Ranked(one["name"], one["contribution"])
            for one in explained["features"]
            if abs(one["contribution"]) >= least
        ],
        unit="standard deviations of the output",
        within="contribution",
        title=f"Which features the drift of {output} comes from",
    )
    caption = (
        f"The output moved by {explained['shift']:+.3g}. The features explain "
        f"{explained['r_squared']:.0%} of it in the window: so far can the split be believed. "
        "Features that add less than 1 % are left out."
    )
    return [Chart(figure, caption)]


def _of_all(n_shown: int, n: int, what: str) -> str:
    return f"The first {n_shown} of {n:,} {what}. " if n_shown < n else ""


def _second(moment: str) -> str:
    return moment[:19].replace("T", " ")
