"""The shapes of what the registry tells: versions, comparisons, statistics."""

from typing import Any, NotRequired, TypedDict


class Version(TypedDict):
    """A stored version of a model, as every call that tells of versions gives it.

    Attributes:
        version_id: `ppo_v20231120_120000`, with `_2`, `_3`... within one second.
        model_name: The model it is a version of.
        timestamp: `20231120_120000`, UTC.
        datetime: The same moment in ISO 8601.
        metrics: Value by name; None where it was NaN or infinite.
        non_finite_metrics: Names of those.
        config: What was passed at save.
        description: What was passed at save.
        tags: Sorted.
        path: Folder of the version's files, or its URL in a remote store.
        sha256: Of the weights.
        size_bytes: Of the weights as stored.
        format: How the module is stored.
        parents: Ids of the versions it was made from.
        aliases: Names that point to it, such as `production`.
        can_load_full: Whether `load_model(load_full=True)` can rebuild the module.
        cannot_load_full_reason: Why not, else None.
        class_name: Full name of the module's class.
        signature: Names, shapes and dtypes of the inputs, if known.
        environment: Python, packages, machine and commit at save.
        previous_version_id: Only from `rollback_to_version` and `set_alias`: what the alias
            pointed to before.
    """

    version_id: str
    model_name: str
    timestamp: str
    datetime: str
    metrics: dict[str, float | None]
    non_finite_metrics: list[str]
    config: dict[str, Any]
    description: str
    tags: list[str]
    path: str
    sha256: str
    size_bytes: int
    format: str
    parents: list[str]
    aliases: list[str]
    can_load_full: bool
    cannot_load_full_reason: str | None
    class_name: str
    signature: dict[str, Any] | None
    environment: dict[str, Any]
    previous_version_id: NotRequired[str | None]


class MetricComparison(TypedDict):
    """One metric of two versions.

    Attributes:
        value1: Of the first; None where absent or not finite.
        value2: Of the second.
        difference: `value2 - value1`.
        relative_change: `difference / |value1|`; None where `value1` is 0.
        better: Id of the better version by the metric's direction; None when equal or unknown.
    """

    value1: float | None
    value2: float | None
    difference: float | None
    relative_change: float | None
    better: str | None


class Comparison(TypedDict):
    """Two versions side by side.

    Attributes:
        version_id1, version_id2: The two.
        metrics: By metric name.
        config: Keys that differ: `{"key": {"value1": ..., "value2": ...}}`.
        size_bytes: Weights of both, and the ratio second to first.
        lineage: How the two are related, in words: "same version", "B was made from A", "both
            come from C" or "unrelated".
    """

    version_id1: str
    version_id2: str
    metrics: dict[str, MetricComparison]
    config: dict[str, dict[str, Any]]
    size_bytes: dict[str, float | None]
    lineage: str


class MetricStatistics(TypedDict):
    """One metric over many versions; `best` is the id with the best value by direction."""

    count: int
    min: float
    mean: float
    max: float
    best: str


class Statistics(TypedDict):
    """The registry, or one model, in numbers.

    Attributes:
        total_versions: Versions that are not removed.
        versions_by_model: Their number by model.
        total_size_bytes: Weights of all versions added up.
        stored_size_bytes: Bytes really stored: equal blobs count once.
        metrics: By metric name.
        versions_per_day: Number of saves by day (`2023-11-20`).
    """

    total_versions: int
    versions_by_model: dict[str, int]
    total_size_bytes: int
    stored_size_bytes: int
    metrics: dict[str, MetricStatistics]
    versions_per_day: dict[str, int]


class AuditRecord(TypedDict):
    """One line of the append-only history."""

    seq: int
    at: str
    model_name: str
    version_id: str | None
    action: str
    actor: str
    detail: dict[str, Any]
