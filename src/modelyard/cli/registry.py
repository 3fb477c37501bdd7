"""The options by which a command finds its registry."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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


def open_registry(
    base_dir: Path, database_url: str | None, storage_url: str | None
) -> "ModelVersionManager":
    """The registry that the options name.

    Raises:
        NotFoundError: There is none. Looking at a folder that was mistyped must not make one.
    """
    if database_url is None and not (base_dir / "registry.db").is_file():
        raise NotFoundError(
            f"There is no registry in {str(base_dir)!r}. Name its folder with --base-dir; saving "
            "a model makes one, and so does `modelyard demo`."
        )
    from modelyard.version_manager import ModelVersionManager  # noqa: PLC0415 - brings torch

    return ModelVersionManager(base_dir, database_url=database_url, storage_url=storage_url)
