"""Where a baseline comes from: the window, data from elsewhere, or windows of the past."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard._core.errors import ConfigError
from modelyard.monitor.changes import Norm, block_means_of, norm_of
from modelyard.monitor.drift.baseline import Baseline
from modelyard.monitor.drift.methods import ColumnMethod
from modelyard.monitor.drift.references import (
    Reference,
    reference_of,
    reference_of_data,
    reference_of_sketches,
)
from modelyard.monitor.recording.blocks import BlockMeans
from modelyard.monitor.recording.data import WindowData
from modelyard.monitor.recording.health import Health


@dataclass(frozen=True, kw_only=True)
class BaselineRule:
    """How baselines are made.

    Attributes:
        min_samples: Rows that are needed.
        window_size: Rows of a window.
        block_size: Predictions of a block.
        methods: Those whose limits are calibrated.
        categorical_predictions: Outputs that hold categories.
        categorical_features: Features that do.
        feature_names: In the order of the features, if they have names.
        labels: What their codes stand for.
    """

    min_samples: int
    window_size: int
    block_size: int
    methods: tuple[ColumnMethod, ...]
    categorical_predictions: Collection[int] = ()
    categorical_features: Collection[int] = ()
    feature_names: tuple[str, ...] = ()
    labels: Mapping[float, str] = field(default_factory=dict)


def baseline_of_window(
    data: WindowData, blocks: BlockMeans, rule: BaselineRule, *, set_at: str
) -> Baseline:
    """The baseline that one window gives; a part with fewer than `min_samples` rows has none.

    Args:
        data: The window.
        blocks: Means of the last blocks, those of the window and those before it.
        rule: How.
        set_at: When, ISO 8601.
    """
    predictions, features = (
        reference_of(rows, categorical=categorical) if len(rows) >= rule.min_samples else None
        for rows, categorical in (
            (data.predictions, rule.categorical_predictions),
            (data.features, rule.categorical_features),
        )
    )
    return Baseline(
        set_at=set_at,
        predictions=predictions,
        features=features,
        health=data.health,
        source="window",
        feature_names=rule.feature_names,
        labels=rule.labels,
        norms=_norms(blocks, rule, n_records=data.health.n_predictions,
                     predictions=predictions, features=features),
    )  # fmt: skip


def baseline_of_data(
    predictions: Any,
    features: Any,
    rule: BaselineRule,
    *,
    old: Baseline | None,
    health: Health | None,
    set_at: str,
) -> Baseline:
    """The baseline that data give; a part that is not given stays as it was.

    Args:
        predictions: Past predictions, oldest first, or None.
        features: The same for features.
        rule: How.
        old: The baseline there is.
        health: Of the window, if anything was recorded.
        set_at: When, ISO 8601.

    Raises:
        ConfigError: Data that hold no (finite) numbers, or too few rows.
    """
    references: dict[str, Reference | None] = {
        "prediction": old.predictions if old else None,
        "feature": old.features if old else None,
    }
    norms = dict(old.norms) if old else {}
    for name, what, given, categorical in (
        ("prediction", "predictions", predictions, rule.categorical_predictions),
        ("feature", "features", features, rule.categorical_features),
    ):
        if given is None:
            continue
        reference, rows = reference_of_data(
            given,
            what=what,
            min_samples=rule.min_samples,
            block_size=rule.window_size,
            categorical=categorical,
            methods=rule.methods,
        )
        references[name] = reference
        means = block_means_of(rows, rule.block_size)
        norms |= _named(name, _norm(means, len(means), reference, rule.block_size))
    return Baseline(
        set_at=set_at,
        predictions=references["prediction"],
        features=references["feature"],
        health=health or (old.health if old else None),
        source="data",
        feature_names=rule.feature_names,
        labels=rule.labels,
        norms=norms,
    )


def baseline_of_past(
    sketches: Mapping[str, Sequence[NDArray[np.float64]]],
    rule: BaselineRule,
    *,
    health: Health,
    set_at: str,
) -> Baseline:
    """The baseline that full windows of the past give.

    Args:
        sketches: Under `prediction` and `feature`, each window's, shape (columns, levels).
        rule: How.
        health: Of these windows.
        set_at: When, ISO 8601.

    Raises:
        ConfigError: None of the windows has a distribution.
    """
    predictions, features = (
        reference_of_sketches(
            sketches[name], n_each=rule.window_size, categorical=categorical, methods=rule.methods
        )
        for name, categorical in (
            ("prediction", rule.categorical_predictions),
            ("feature", rule.categorical_features),
        )
    )
    if predictions is None and features is None:
        raise ConfigError(
            "The windows of that time have no distributions any more: they are kept of the newest "
            "20 windows only. Give set_baseline the data themselves, or a later time."
        )
    return Baseline(
        set_at=set_at,
        predictions=predictions,
        features=features,
        health=health,
        source="history",
        feature_names=rule.feature_names,
        labels=rule.labels,
    )


def _norms(
    blocks: BlockMeans,
    rule: BaselineRule,
    *,
    n_records: int,
    predictions: Reference | None,
    features: Reference | None,
) -> dict[str, Norm]:
    n_normal = n_records // rule.block_size
    norms: dict[str, Norm] = {}
    for name, reference in (("prediction", predictions), ("feature", features)):
        means = blocks.means.get(name)
        if reference is not None and means is not None and means.shape[1] == reference.width:
            norms |= _named(name, _norm(means, n_normal, reference, rule.block_size))
    latency = blocks.means.get("latency_ms")
    if latency is not None:
        known = latency[np.isfinite(latency)]
        floor = 1e-3 * float(np.abs(known).mean()) if known.size else 1.0
        norms |= _named("latency_ms", norm_of(latency, n_normal=n_normal, floor=max(floor, 1e-9)))
    errors = blocks.means.get("error_rate")
    if errors is not None:
        # A rate of none has no spread: one error more than there were stands in.
        n = max(n_normal, 1) * rule.block_size
        rate = (float(np.nansum(errors[-max(n_normal, 1) :])) * rule.block_size + 1.0) / (n + 2.0)
        floor = math.sqrt(rate * (1.0 - rate) / rule.block_size)
        norms |= _named("error_rate", norm_of(errors, n_normal=n_normal, floor=floor))
    return norms


def _norm(
    means: NDArray[np.float64], n_normal: int, reference: Reference, block_size: int
) -> Norm | None:
    floor = np.nan_to_num(reference.std / math.sqrt(block_size), nan=math.inf)
    return norm_of(means, n_normal=n_normal, floor=floor)


def _named(name: str, norm: Norm | None) -> dict[str, Norm]:
    return {} if norm is None else {name: norm}
