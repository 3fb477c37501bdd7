"""`modelyard versions ...`: look at the registry and move its aliases."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelyard.cli.registry import (
    MODELS,
    AsJson,
    BaseDir,
    DatabaseUrl,
    StorageUrl,
    open_registry,
)
from modelyard.cli.showing import megabytes, show_json, show_line, show_pairs, show_table

if TYPE_CHECKING:
    from modelyard.version_manager.records import Comparison, Version

app = typer.Typer(no_args_is_help=True, help="Look at versions and move aliases.")

VersionId = Annotated[str, typer.Argument(help="Id such as ppo_v20231120_120000.")]
ModelName = Annotated[str, typer.Argument(help="Name of the model.")]
SomeModel = Annotated[str | None, typer.Argument(help="Only this model.")]
Tag = Annotated[str, typer.Argument(help="Letters, digits, '.', '_', '-'.")]
Minimize = Annotated[bool, typer.Option("--minimize", help="The smaller value is the better.")]


@app.command("list")
def list_versions(
    model_name: SomeModel = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only with this tag; repeatable.")] = None,
    sort_by: Annotated[str, typer.Option(help="timestamp, size_bytes or a metric.")] = "timestamp",
    ascending: Annotated[
        bool, typer.Option("--ascending", help="Smallest or oldest first.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """List versions, newest first."""
    registry = open_registry(base_dir, database_url, storage_url)
    found = registry.list_versions(model_name, tag, sort_by, ascending)[:limit]
    if as_json:
        show_json(found)
    else:
        _show_versions(found)


@app.command()
def show(
    version_id: VersionId,
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show everything about one version."""
    found = open_registry(base_dir, database_url, storage_url).get_version(version_id)
    if as_json:
        show_json(found)
    else:
        show_pairs(found)


@app.command()
def compare(
    version_id1: VersionId,
    version_id2: VersionId,
    metric: Annotated[list[str] | None, typer.Option(help="Only this; repeatable.")] = None,
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions: metrics, config, size, lineage."""
    registry = open_registry(base_dir, database_url, storage_url)
    found = registry.compare_versions(version_id1, version_id2, metric)
    if as_json:
        show_json(found)
    else:
        _show_comparison(found)


@app.command()
def best(
    model_name: ModelName,
    metric: Annotated[str, typer.Argument(help="Name of the metric that decides.")],
    minimize: Minimize = False,
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """Find the version with the best value of a metric."""
    registry = open_registry(base_dir, database_url, storage_url)
    found = registry.get_best_version(model_name, metric, not minimize)
    if as_json:
        show_json(found)
    else:
        _show_versions([found])


@app.command()
def rollback(
    version_id: VersionId,
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a version production again, after its files have been verified."""
    found = open_registry(base_dir, database_url, storage_url).rollback_to_version(version_id)
    if as_json:
        show_json(found)
    else:
        before = found["previous_version_id"] or "nothing"
        show_line(f"production of {found['model_name']} is {version_id} (was {before})")


@app.command()
def tag(
    version_id: VersionId,
    tag: Tag,
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """Add a tag to a version."""
    registry = open_registry(base_dir, database_url, storage_url)
    _tell_tags(registry.tag_version(version_id, tag), as_json=as_json)


@app.command()
def untag(
    version_id: VersionId,
    tag: Tag,
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """Take a tag off a version."""
    registry = open_registry(base_dir, database_url, storage_url)
    _tell_tags(registry.untag_version(version_id, tag), as_json=as_json)


@app.command()
def alias(
    model_name: ModelName,
    alias: Annotated[str, typer.Argument(help="production, candidate or a name of your own.")],
    version_id: VersionId,
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias to a version."""
    registry = open_registry(base_dir, database_url, storage_url)
    found = registry.set_alias(model_name, alias, version_id)
    if as_json:
        show_json(found)
    else:
        before = found["previous_version_id"] or "nothing"
        show_line(f"{alias} of {model_name} is {version_id} (was {before})")


@app.command()
def history(
    model_name: SomeModel = None,
    version_id: Annotated[str | None, typer.Option(help="Only of this version.")] = None,
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show who did what, oldest first."""
    registry = open_registry(base_dir, database_url, storage_url)
    records = registry.get_history(model_name, version_id=version_id)
    if as_json:
        show_json(records)
        return
    columns = ["version", "at", "action", "actor", "detail"]
    rows = [(r["version_id"], r["at"], r["action"], r["actor"], r["detail"]) for r in records]
    show_table(columns, rows, whole=3)


@app.command()
def cleanup(
    model_name: SomeModel = None,
    keep: Annotated[int, typer.Option(min=1, help="How many of each model stay.")] = 10,
    metric: Annotated[
        str | None, typer.Option(help="Keep the best by it, not the newest.")
    ] = None,
    minimize: Minimize = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """Remove old versions; those in use, aliased or younger than a day stay."""
    registry = open_registry(base_dir, database_url, storage_url)
    ids = registry.cleanup_old_versions(
        model_name, keep, metric, maximize=not minimize, dry_run=dry_run
    )
    if as_json:
        show_json({"removed": [] if dry_run else ids, "would_remove": ids if dry_run else []})
        return
    show_line(f"{len(ids)} {'would be removed' if dry_run else 'removed'}")
    for version_id in ids:
        show_line(version_id)


@app.command()
def statistics(
    model_name: SomeModel = None,
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show counts, sizes and the range of each metric."""
    found = open_registry(base_dir, database_url, storage_url).get_statistics(model_name)
    if as_json:
        show_json(found)
        return
    show_pairs(
        {
            "versions": found["total_versions"],
            "by model": found["versions_by_model"],
            "size MB": megabytes(found["total_size_bytes"]),
            "stored MB": megabytes(found["stored_size_bytes"]),
            "by day": found["versions_per_day"],
        }
    )
    rows = [
        (name, m["count"], m["min"], m["mean"], m["max"], m["best"])
        for name, m in found["metrics"].items()
    ]
    show_table(["metric", "count", "min", "mean", "max", "best"], rows)


def _show_versions(found: "list[Version]") -> None:
    columns = ["version", "model", "saved", "aliases", "tags", "MB", "metrics"]
    rows: list[tuple[Any, ...]] = [
        (
            version["version_id"],
            version["model_name"],
            version["datetime"][:19],
            version["aliases"],
            version["tags"],
            megabytes(version["size_bytes"]),
            version["metrics"],
        )
        for version in found
    ]
    show_table(columns, rows, whole=3)


def _show_comparison(found: "Comparison") -> None:
    names = found["version_id1"], found["version_id2"]
    rows: list[tuple[Any, ...]] = [
        (f"{name}", m["value1"], m["value2"], m["difference"], m["relative_change"], m["better"])
        for name, m in found["metrics"].items()
    ]
    size = found["size_bytes"]
    rows.append(("size_bytes", size["value1"], size["value2"], None, None, None))
    rows += [
        (f"config.{key}", pair["value1"], pair["value2"], None, None, None)
        for key, pair in found["config"].items()
    ]
    show_table(["", *names, "difference", "relative", "better"], rows, whole=3)
    show_line(f"lineage: {found['lineage']}")


def _tell_tags(version: "Version", *, as_json: bool) -> None:
    if as_json:
        show_json(version)
    else:
        show_line(f"{version['version_id']}: {', '.join(version['tags']) or 'no tags'}")
