"""`modelyard export` and `modelyard inspect`: ONNX files."""

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
    open_registry,
)
from modelyard.cli.showing import show_json, show_line, show_pairs

if TYPE_CHECKING:
    from modelyard.version_manager import ModelVersionManager


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="VERSION_OR_FILE", help="A version's id, an ONNX file, or a module's file."
        ),
    ],
    target_dir: Annotated[Path, typer.Option(help="Folder for the file.")] = MODELS / "onnx",
    opset: Annotated[int, typer.Option(help="The opset the file has in the end.")] = 14,
    input_shape: Annotated[
        str | None,
        typer.Option(help="As 1,263; by default the example input saved with the version."),
    ] = None,
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """Write a version as an ONNX file, whole and verified or not at all."""
    shape = None if input_shape is None else _shape_of(input_shape)
    file = Path(source)
    if file.is_file():
        from modelyard.cli.modules import module_in  # noqa: PLC0415 - brings torch

        model, name, example = module_in(file), file.stem, None
    else:
        registry = open_registry(base_dir, database_url, storage_url)
        model, name = registry.load_model(source), source
        example = None if shape is not None else _example_of(registry, source)
    from modelyard.export import ModelExporter  # noqa: PLC0415 - brings torch

    exporter = ModelExporter(target_dir)
    path = exporter.export_to_onnx(model, name, shape, opset, example_input=example)
    info = exporter.get_model_info(path)
    if as_json:
        show_json({"path": path, **info})
    else:
        show_line(f"{path}: {info['file_size_mb']:.3f} MB, opset {info['opset_version']}")


def inspect(
    file: Annotated[Path, typer.Argument(help="An ONNX file.")],
    as_json: AsJson = False,
) -> None:
    """Show what an ONNX file holds: inputs, outputs, operators, size."""
    from modelyard.export import ModelExporter  # noqa: PLC0415 - brings torch

    info = ModelExporter().get_model_info(file)
    if as_json:
        show_json(info)
    else:
        show_pairs(info)


def _shape_of(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(size) for size in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ConfigError(
            f"--input-shape must be whole numbers of 1 or more such as 1,263; got {text!r}."
        )
    return shape


def _example_of(registry: "ModelVersionManager", version_id: str) -> Any:
    """The input saved with a version, or None."""
    try:
        return registry.read_artifact(version_id, "example_input")
    except NotFoundError:
        return None
