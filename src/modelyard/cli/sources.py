"""Where commands take a model from: the registry, a file, a function."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelyard._core.errors import ConfigError, NotFoundError
from modelyard.cli.registry import open_registry

if TYPE_CHECKING:
    from modelyard.version_manager import ModelVersionManager


Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import", help="A module with classes of the model, imported first; again for more."
    ),
]


def model_of(
    source: str,
    base_dir: Path,
    database_url: str | None,
    storage_url: str | None,
    *,
    imports: list[str] | None = None,
) -> tuple[Any, str, Any]:
    """The model of a version, file or factory, a name for it, the example saved with it.

    Raises:
        ConfigError: A module of `imports` cannot be imported.
    """
    _import(imports or [])
    file = Path(source)
    if file.is_file() or ":" in source:
        from modelyard.cli.modules import module_of  # noqa: PLC0415 - brings torch

        own_name = file.stem if file.is_file() else source.rpartition(":")[2]
        return module_of(source), own_name, None
    registry = open_registry(base_dir, database_url, storage_url)
    return registry.load_model(source), source, _example_of(registry, source)


def _import(names: list[str]) -> None:
    """Import modules, as whose owner the user vouches for their classes."""
    if not names:
        return
    from modelyard.pipeline.loading import imported  # noqa: PLC0415 - brings torch

    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(f"--import takes a module such as package.policies, got {name!r}.")
        try:
            imported(name)
        except ImportError as error:
            raise ConfigError(f"--import {name} cannot be imported: {error}.") from error


def _example_of(registry: "ModelVersionManager", version_id: str) -> Any:
    """The input saved with a version, or None."""
    try:
        return registry.read_artifact(version_id, "example_input")
    except NotFoundError:
        return None
