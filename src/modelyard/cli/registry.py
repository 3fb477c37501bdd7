"""The options by which a command finds its registry."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelyard._core.errors import NotFoundError

if TYPE_CHECKING:
    from modelyard.version_manager import ModelVersionManager

BaseDir = Annotated[Path, typer.Option("--base-dir", help="Folder of the registry.")]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="MODELYARD_DATABASE_URL",
        help="SQLAlchemy URL of the database, instead of the folder's own.",
    ),
]
StorageUrl = Annotated[
    str | None,
    typer.Option(
        "--storage-url",
        envvar="MODELYARD_STORAGE_URL",
        help="Object store of the bytes: s3://, gs://, az://, file://.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Plain JSON instead of a table.")]

MODELS = Path("models")

PLACES = [
    inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation, default=default
    )
    for name, annotation, default in (
        ("base_dir", BaseDir, MODELS),
        ("database_url", DatabaseUrl, None),
        ("storage_url", StorageUrl, None),
    )
]


def on_registry(command: Callable[..., None]) -> Callable[..., None]:
    """A command that gets the registry its options name as first argument, which must exist."""
    return _with_registry(command, is_made=False)


def on_new_registry(command: Callable[..., None]) -> Callable[..., None]:
    """A command as `on_registry` makes it, but of a registry that is made where there is none."""
    return _with_registry(command, is_made=True)


def _with_registry(command: Callable[..., None], *, is_made: bool) -> Callable[..., None]:
    @functools.wraps(command)
    def run(
        *,
        base_dir: Path,
        database_url: str | None,
        storage_url: str | None,
        **arguments: Any,
    ) -> None:
        registry = open_registry(base_dir, database_url, storage_url, is_made=is_made)
        command(registry, **arguments)

    # What typer looks at: the command's own parameters but the registry, then the options.
    own = list(inspect.signature(command).parameters.values())[1:]
    parameters = [*own, *PLACES]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # as functools sets it
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def open_registry(
    base_dir: Path,
    database_url: str | None,
    storage_url: str | None,
    *,
    is_made: bool = False,
) -> "ModelVersionManager":
    """The registry that the options name.

    Args:
        base_dir: Its folder.
        database_url: URL of its database, if not in the folder.
        storage_url: URL of its bytes, if not in the folder.
        is_made: Whether to make one where there is none.

    Raises:
        NotFoundError: There is none. Looking at a folder that was mistyped must not make one.
    """
    if not is_made and database_url is None and not (base_dir / "registry.db").is_file():
        if next(base_dir.glob("*/*/manifest.json"), None) is not None:
            raise NotFoundError(
                f"The database in {str(base_dir)!r} is gone, but versions are there. `modelyard "
                f"versions rebuild --base-dir {base_dir}` restores it from their manifests."
            )
        raise NotFoundError(
            f"There is no registry in {str(base_dir)!r}. Name its folder with --base-dir; saving "
            "a model makes one, and so does `modelyard demo`."
        )
    from modelyard.version_manager import ModelVersionManager  # noqa: PLC0415 - brings torch

    return ModelVersionManager(base_dir, database_url=database_url, storage_url=storage_url)
