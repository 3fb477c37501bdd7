"""Where commands take a model from: the registry, a file, a function."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard._core.errors import NotFoundError
from modelyard.cli.registry import open_registry

if TYPE_CHECKING:
    from modelyard.version_manager import ModelVersionManager


def model_of(
    source: str, base_dir: Path, database_url: str | None, storage_url: str | None
) -> tuple[Any, str, Any]:
    """The model of a version, file or factory, a name for it, the example saved with it."""
    file = Path(source)
    if file.is_file() or ":" in source:
        from modelyard.cli.modules import module_of  # noqa: PLC0415 - brings torch

        own_name = file.stem if file.is_file() else source.rpartition(":")[2]
        return module_of(source), own_name, None
    registry = open_registry(base_dir, database_url, storage_url)
    return registry.load_model(source), source, _example_of(registry, source)


def _example_of(registry: "ModelVersionManager", version_id: str) -> Any:
    """The input saved with a version, or None."""
    try:
        return registry.read_artifact(version_id, "example_input")
    except NotFoundError:
        return None
