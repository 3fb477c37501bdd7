"""`modelyard versions ...`: look at the registry and move its aliases; `upkeep` has the rest."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelyard._core.errors import NotFoundError
from modelyard.cli.registry import AsJson, on_registry
from modelyard.cli.showing import as_text, megabytes, show_json, show_line, show_pairs, show_table

if TYPE_CHECKING:
    from modelyard.version_manager import ModelVersionManager
    from modelyard.version_manager.records import Comparison, LineageNode, Version

app = typer.Typer(no_args_is_help=True, help="Save, find, compare, move and keep versions.")

VersionId = Annotated[str, typer.Argument(help="Id such as ppo_v20231120_120000.")]
ModelName = Annotated[str, typer.Argument(help="Name of the model.")]
SomeModel = Annotated[str | None, typer.Argument(help="Only this model.")]
Tag = Annotated[str, typer.Argument(help="Letters, digits, '.', '_', '-'.")]
Minimize = Annotated[bool, typer.Option("--minimize", help="The smaller value is the better.")]


def check_model(registry: "ModelVersionManager", model_name: str | None) -> None:
    """See that something was saved under this name, if one is given.

    Raises:
        NotFoundError: Nothing ever was: it is mistyped.
    """
    if model_name is None or registry.list_versions(model_name, limit=1):
        return
    if not registry.get_history(model_name):  # of what was removed there is still a history
        known = ", ".join(sorted(registry.get_statistics()["versions_by_model"])) or "none"
        raise NotFoundError(f"Nothing was ever saved as {model_name!r}. Models: {known}.")


@app.command("list")
@on_registry
def list_versions(
    registry: "ModelVersionManager",
    model_name: SomeModel = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only with this tag; repeatable.")] = None,
    sort_by: Annotated[str, typer.Option(help="timestamp, size_bytes or a metric.")] = "timestamp",
    ascending: Annotated[
        bool, typer.Option("--ascending", help="Smallest or oldest first.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    offset: Annotated[int, typer.Option(min=0, help="How many to pass over first.")] = 0,
    as_json: AsJson = False,
) -> None:
    """List versions, newest first."""
    check_model(registry, model_name)
    found = registry.list_versions(model_name, tag, sort_by, ascending, limit=limit, offset=offset)
    if as_json:
        show_json(found)
    else:
        _show_versions(found)


@app.command()
@on_registry
def show(
    registry: "ModelVersionManager",
    version_id: VersionId,
    as_json: AsJson = False,
) -> None:
    """Show everything about one version."""
    found = registry.get_version(version_id)
    if as_json:
        show_json(found)
    else:
        show_pairs({**found, "environment": _shortened(found["environment"])})


@app.command()
@on_registry
def compare(
    registry: "ModelVersionManager",
    version_id1: VersionId,
    version_id2: VersionId,
    metric: Annotated[list[str] | None, typer.Option(help="Only this; repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions: metrics, config, size, lineage."""
    found = registry.compare_versions(version_id1, version_id2, metric)
    if as_json:
        show_json(found)
    else:
        _show_comparison(found)


@app.command()
@on_registry
def best(
    registry: "ModelVersionManager",
    model_name: ModelName,
    metric: Annotated[str, typer.Argument(help="Name of the metric that decides.")],
    minimize: Annotated[
        bool | None,
        typer.Option(
            "--minimize/--maximize", help="Which value is the better; by default the name says."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the version with the best value of a metric."""
    if minimize is None:
        minimize = _is_less_better(registry, model_name, metric)
    found = registry.get_best_version(model_name, metric, not minimize)
    if as_json:
        show_json(found)
    else:
        _show_versions([found])


def _is_less_better(registry: "ModelVersionManager", model_name: str, metric: str) -> bool:
    """Whether the smaller value of a metric is the better one, by its name and its values."""
    from modelyard.stats.direction import is_lower_better  # noqa: PLC0415 - for this alone

    found = registry.get_statistics(model_name)["metrics"].get(metric)
    return is_lower_better(metric, [found["min"], found["max"]] if found else [])


@app.command()
@on_registry
def rollback(
    registry: "ModelVersionManager",
    version_id: VersionId,
    as_json: AsJson = False,
) -> None:
    """Make a version production again, after its files have been verified."""
    found = registry.rollback_to_version(version_id)
    if as_json:
        show_json(found)
    else:
        before = found["previous_version_id"] or "nothing"
        show_line(f"production of {found['model_name']} is {version_id} (was {before})")


@app.command()
@on_registry
def tag(
    registry: "ModelVersionManager",
    version_id: VersionId,
    tag: Tag,
    as_json: AsJson = False,
) -> None:
    """Add a tag to a version."""
    _tell_tags(registry.tag_version(version_id, tag), as_json=as_json)


@app.command()
@on_registry
def untag(
    registry: "ModelVersionManager",
    version_id: VersionId,
    tag: Tag,
    as_json: AsJson = False,
) -> None:
    """Take a tag off a version."""
    _tell_tags(registry.untag_version(version_id, tag), as_json=as_json)


@app.command()
@on_registry
def alias(
    registry: "ModelVersionManager",
    model_name: ModelName,
    alias: Annotated[str, typer.Argument(help="production, candidate or a name of your own.")],
    version_id: VersionId,
    as_json: AsJson = False,
) -> None:
    """Point an alias to a version."""
    found = registry.set_alias(model_name, alias, version_id)
    if as_json:
        show_json(found)
    else:
        before = found["previous_version_id"] or "nothing"
        show_line(f"{alias} of {model_name} is {version_id} (was {before})")


@app.command()
@on_registry
def history(
    registry: "ModelVersionManager",
    model_name: SomeModel = None,
    version_id: Annotated[str | None, typer.Option(help="Only of this version.")] = None,
    alias: Annotated[str | None, typer.Option(help="Only moves of this alias.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show who did what, oldest first."""
    check_model(registry, model_name)
    records = registry.get_history(model_name, version_id=version_id, alias=alias)
    if as_json:
        show_json(records)
        return
    columns = ["version", "at", "action", "actor", "detail"]
    rows = [(r["version_id"], r["at"], r["action"], r["actor"], r["detail"]) for r in records]
    show_table(columns, rows, whole=3)


@app.command()
@on_registry
def lineage(
    registry: "ModelVersionManager",
    version_id: VersionId,
    as_json: AsJson = False,
) -> None:
    """Show what a version was made from and what was made from it, as a tree."""
    found = registry.get_lineage(version_id)
    if as_json:
        show_json(found)
        return
    from modelyard.version_manager import lineage_tree  # noqa: PLC0415 - brings torch

    def told(node: "LineageNode") -> str:
        mark = "> " if node["version_id"] == version_id else ""
        state = " [removed]" if node["is_removed"] else ""
        metrics = f"  {as_text(node['metrics'])}" if node["metrics"] else ""
        return f"{mark}{node['version_id']}{state}{metrics}"

    for line in lineage_tree(found, told):
        show_line(line)


@app.command()
@on_registry
def statistics(
    registry: "ModelVersionManager",
    model_name: SomeModel = None,
    as_json: AsJson = False,
) -> None:
    """Show counts, sizes and the range of each metric."""
    check_model(registry, model_name)
    found = registry.get_statistics(model_name)
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


def _shortened(environment: "dict[str, Any]") -> "dict[str, Any]":
    """An environment without the packages that a model's answers do not depend on."""
    from modelyard.version_manager.environment import WATCHED  # noqa: PLC0415 - brings torch

    packages = environment.get("packages", {})
    shown = {name: packages[name] for name in WATCHED if name in packages}
    rest = f"and {len(packages) - len(shown)} packages that --json lists"
    return {**environment, "packages": shown, "": rest}


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
