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
        difference: `value2 - value1`; None where it overflows.
        relative_change: `difference / |value1|`; None where `value1` is 0 or it overflows.
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
        total_size_bytes: All files of all versions added up.
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
    alias: str | None


class GcReport(TypedDict):
    """What `gc` did, or would do.

    Attributes:
        versions: Removed versions whose files went: they cannot be restored any more.
        freed: Digests of blobs whose bytes went.
        freed_bytes: How many bytes those were.
        condemned: Digests of blobs that nothing needs; a run after the grace time frees them.
        leftovers: Files of saves that were cut off.
        unknown_versions: Versions that have a manifest but are not in the database. They are
            left alone; `rebuild` takes them in.
    """

    versions: list[str]
    freed: list[str]
    freed_bytes: int
    condemned: list[str]
    leftovers: list[str]
    unknown_versions: list[str]


class Problem(TypedDict):
    """Something wrong with a stored version.

    Attributes:
        version_id: Whose, or None for what belongs to the registry.
        problem: What, with path, expected and found.
        is_repaired: Whether it was put right.
    """

    version_id: str | None
    problem: str
    is_repaired: bool


class VerifyReport(TypedDict):
    """What `verify` found.

    Attributes:
        n_versions: Versions looked at.
        n_bytes: Bytes of theirs that were read and hashed.
        problems: What was wrong.
    """

    n_versions: int
    n_bytes: int
    problems: list[Problem]


class RebuildReport(TypedDict):
    """What `rebuild` restored.

    Attributes:
        versions: Ids taken into the database.
        n_events: Events of the history that were taken in and done again.
        problems: What could not be restored, and why.
    """

    versions: list[str]
    n_events: int
    problems: list[Problem]


class LineageNode(TypedDict):
    """A version in a lineage graph.

    Attributes:
        version_id: Its id.
        model_name: Its model; None for one that is not in this registry.
        metrics: Value by name.
        is_removed: Whether it was removed, or is not here.
    """

    version_id: str
    model_name: str | None
    metrics: dict[str, float | None]
    is_removed: bool


class LineageEdge(TypedDict):
    """`child` was made from `parent`, by `kind`."""

    parent: str
    child: str
    kind: str


class Lineage(TypedDict):
    """Where a version comes from and what was made from it.

    Attributes:
        version_id: The version asked for.
        nodes: It, all its ancestors and all its descendants, oldest first.
        edges: How each came from which.
    """

    version_id: str
    nodes: list[LineageNode]
    edges: list[LineageEdge]
