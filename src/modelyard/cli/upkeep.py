"""`modelyard versions ...`, the second half: save, remove, check, restore, carry elsewhere."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelyard._core.errors import ConfigError, NotFoundError
from modelyard.cli.registry import (
    MODELS,
    AsJson,
    BaseDir,
    DatabaseUrl,
    StorageUrl,
    on_new_registry,
    on_registry,
)
from modelyard.cli.showing import FOUND, megabytes, show_json, show_line, show_table
from modelyard.cli.versions import Minimize, SomeModel, VersionId, check_model

if TYPE_CHECKING:
    from modelyard.version_manager import ModelVersionManager, Problem

# Joined with the first half in `app`.
app = typer.Typer()

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")]


@app.command()
@on_new_registry
def save(
    registry: "ModelVersionManager",
    model: Annotated[
        str,
        typer.Argument(
            help="A file that torch.save(module) wrote, an ONNX file, or package.module:factory."
        ),
    ],
    model_name: Annotated[str, typer.Argument(help="Name of the model.")],
    metric: Annotated[list[str] | None, typer.Option(help="As sharpe=1.8; repeatable.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    parent: Annotated[
        list[str] | None,
        typer.Option(help="Id of what it was made from, as ID or ID:quantized; repeatable."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON file with what the model was made with.")
    ] = None,
    description: Annotated[str, typer.Option(help="Free text.")] = "",
    as_json: AsJson = False,
) -> None:
    """Save a model as a new version. Files are read without running code from them."""
    from modelyard.cli.modules import module_of  # noqa: PLC0415 - brings torch

    version_id = registry.save_model(
        module_of(model),
        model_name,
        _metrics(metric or []),
        None if config is None else _config(config),
        description,
        tag,
        parents=[_parent(text) for text in parent or []],
    )
    if as_json:
        show_json(registry.get_version(version_id))
    else:
        show_line(version_id)


@app.command()
@on_registry
def remove(
    registry: "ModelVersionManager", version_id: VersionId, as_json: AsJson = False
) -> None:
    """Remove a version, unless something needs it; `restore` brings it back until `gc`."""
    registry.remove_version(version_id)
    if as_json:
        show_json({"removed": [version_id]})
        return
    show_line(f"{version_id} is removed; `modelyard versions restore` brings it back until gc")


@app.command()
@on_registry
def restore(
    registry: "ModelVersionManager", version_id: VersionId, as_json: AsJson = False
) -> None:
    """Bring back a removed version."""
    if as_json:
        show_json(registry.restore_version(version_id))
        return
    show_line(f"{registry.restore_version(version_id)['version_id']} is back")


@app.command()
@on_registry
def cleanup(
    registry: "ModelVersionManager",
    model_name: SomeModel = None,
    keep: Annotated[int, typer.Option(min=1, help="How many of each model stay.")] = 10,
    metric: Annotated[
        str | None, typer.Option(help="Keep the best by it, not the newest.")
    ] = None,
    minimize: Minimize = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove old versions; those in use, aliased or younger than a day stay."""
    check_model(registry, model_name)
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
@on_registry
def gc(
    registry: "ModelVersionManager",
    dry_run: DryRun = False,
    grace_hours: Annotated[
        float, typer.Option(min=0, help="How long removed versions can be restored.")
    ] = 24.0,
    as_json: AsJson = False,
) -> None:
    """Free the bytes of versions removed long ago, and what killed saves have left."""
    report = registry.gc(dry_run=dry_run, grace_hours=grace_hours)
    if as_json:
        show_json({**report, "is_dry_run": dry_run})
        return
    would = "would be " if dry_run else ""
    size = megabytes(report["freed_bytes"])
    show_line(f"{len(report['freed'])} blobs of {size} MB {would}freed")
    show_line(
        f"{len(report['condemned'])} blobs {would}condemned: a run after {grace_hours:g} h frees "
        "them unless a save takes them up again"
    )
    show_line(f"{len(report['leftovers'])} files of saves that were cut off {would}taken away")
    for version_id in report["versions"]:
        show_line(f"{version_id} can{'' if dry_run else ' no longer'} be restored")
    if report["unknown_versions"]:
        show_line(
            f"{len(report['unknown_versions'])} versions have files but are not in the database; "
            "`modelyard versions rebuild` takes them in"
        )


@app.command()
@on_registry
def verify(
    registry: "ModelVersionManager",
    model_name: SomeModel = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Write lost or damaged manifests and events anew."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read and hash everything that is stored. Ends with 3 if something stays wrong."""
    report = registry.verify(model_name, repair=repair)
    if as_json:
        show_json(report)
    else:
        size = megabytes(report["n_bytes"])
        show_line(f"{report['n_versions']} versions, {size} MB read")
        _show_problems(report["problems"])
    if not all(problem["is_repaired"] for problem in report["problems"]):
        raise typer.Exit(FOUND)


@app.command()
def rebuild(
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """Restore a lost or damaged database from the manifests. Ends with 3 if not all can be."""
    if storage_url is None and not base_dir.is_dir():
        raise NotFoundError(f"There is no folder {str(base_dir)!r} to rebuild a registry from.")
    from modelyard.version_manager import rebuild_registry  # noqa: PLC0415 - brings torch

    report = rebuild_registry(base_dir, database_url=database_url, storage_url=storage_url)
    if as_json:
        show_json(report)
    else:
        n_versions, n_events = len(report["versions"]), report["n_events"]
        show_line(f"{n_versions} versions and {n_events} events of their history restored")
        _show_problems(report["problems"])
    if report["problems"]:
        raise typer.Exit(FOUND)


@app.command("export")
@on_registry
def export_bundle(
    registry: "ModelVersionManager",
    version_ids: Annotated[list[str], typer.Argument(metavar="VERSION_ID...", help="Which.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    alone: Annotated[
        bool, typer.Option("--alone", help="Without the versions they were made from.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write versions, and those they were made from, to one verified file."""
    path = registry.export_bundle(version_ids, out, with_ancestors=not alone)
    size_bytes = Path(path).stat().st_size
    if as_json:
        show_json({"path": path, "size_bytes": size_bytes})
    else:
        show_line(f"{path}: {megabytes(size_bytes)} MB")


@app.command("import")
@on_new_registry
def import_bundle(
    registry: "ModelVersionManager",
    # Looked for before a registry is made for it.
    file: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="What `versions export` wrote."),
    ],
    rename: Annotated[
        bool, typer.Option("--rename", help="Give versions whose id is taken a free one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take in the versions of a file: all of them or none, every byte verified."""
    ids = registry.import_bundle(file, rename=rename)
    if as_json:
        show_json(ids)
        return
    for there, here in ids.items():
        show_line(here if here == there else f"{here} (was {there})")


def _metrics(texts: Sequence[str]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name in metrics:
            raise ConfigError(f"--metric {name} is given twice.")
        try:
            metrics[name] = float(value)
        except ValueError as error:
            raise ConfigError(f"--metric must be as sharpe=1.8; got {text!r}.") from error
    return metrics


def _parent(text: str) -> str | tuple[str, str]:
    version_id, colon, kind = text.partition(":")
    return (version_id, kind) if colon else version_id


def _config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config {str(file)!r} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"--config {str(file)!r} must hold one JSON object.")
    return config


def _show_problems(problems: "Sequence[Problem]") -> None:
    if not problems:
        show_line("no problems")
        return
    rows = [(p["version_id"], p["is_repaired"], p["problem"]) for p in problems]
    show_table(["version", "repaired", "problem"], rows)
