"""`modelyard export` and `modelyard inspect`: models as files for other runtimes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelyard._core.errors import ConfigError
from modelyard.cli.options import axes_of, pair_of, shape_of
from modelyard.cli.registry import (
    MODELS,
    AsJson,
    BaseDir,
    DatabaseUrl,
    StorageUrl,
)
from modelyard.cli.showing import show_json, show_line, show_pairs
from modelyard.cli.sources import Imports, model_of

if TYPE_CHECKING:
    from modelyard.export import Exported


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A version's id, an ONNX file, a module's file, or package.module:factory.",
        ),
    ],
    target: Annotated[
        str, typer.Option(help="onnx, torch_export, torchscript or openvino.")
    ] = "onnx",
    target_dir: Annotated[Path, typer.Option(help="Folder for the file.")] = MODELS / "onnx",
    name: Annotated[
        str | None, typer.Option(help="The file's name without ending; by default the model's.")
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="The opset in the end; 14, or that of an ONNX file.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16 or int8.")] = "fp32",
    input_shape: Annotated[
        str | None,
        typer.Option(help="As 1,263; by default the example input saved with the version."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Shapes of the design document: ts2vec, transformer, ppo.")
    ] = None,
    dynamic: Annotated[
        list[str] | None,
        typer.Option(help="A size that varies, as input:1=time; again for another."),
    ] = None,
    fixed: Annotated[bool, typer.Option("--fixed", help="No size varies.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Samples to compare on and calibrate int8 with: .npz, .npy, .csv or .parquet."
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="A text for the file, as desk=rates; again for more.")
    ] = None,
    imports: Imports = None,
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """Write a model for another runtime, whole and verified or not at all."""
    shape = None if input_shape is None else shape_of(input_shape)
    axes = _axes(dynamic or [], is_fixed=fixed)
    texts = dict(pair_of(text, option="--metadata", like="desk=rates") for text in metadata or [])
    model, own_name, example = model_of(
        source, base_dir, database_url, storage_url, imports=imports
    )
    from modelyard.export import ModelExporter  # noqa: PLC0415 - brings torch

    exported = ModelExporter(target_dir).export(
        model,
        name or own_name,
        target,
        input_shape=shape,
        example_input=None if shape is not None or preset is not None else example,
        preset=preset,
        opset_version=_opset_of(model, opset),
        dynamic_axes=axes,
        precision=precision,
        validation_data=_samples_in(data),
        metadata=texts,
    )
    if as_json:
        show_json(_told(exported))
    else:
        show_line(_summary(exported))


def inspect(
    file: Annotated[Path, typer.Argument(help="An ONNX file.")],
    graph: Annotated[
        Path | None, typer.Option(help="Draw the graph as an HTML page, by this name.")
    ] = None,
    profile: Annotated[
        bool, typer.Option(help="With --graph, run it to see where the time goes.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Show what an ONNX file holds: inputs, outputs, operators, size, metadata."""
    from modelyard.export import ModelExporter  # noqa: PLC0415 - brings torch

    exporter = ModelExporter()
    info: dict[str, Any] = dict(exporter.get_model_info(file))
    if graph is not None:
        info["graph"] = exporter.visualize(file, graph, profile=profile)
    if as_json:
        show_json(info)
    else:
        show_pairs(info)


def _opset_of(model: Any, wanted: int | None) -> int:
    from modelyard.torchtools.conversion import (  # noqa: PLC0415 - brings torch
        DEFAULT_OPSET,
        opset_of_bytes,
    )
    from modelyard.torchtools.onnx_module import OnnxModule  # noqa: PLC0415 - as above

    if wanted is not None:
        return wanted
    return opset_of_bytes(model.graph_bytes) if isinstance(model, OnnxModule) else DEFAULT_OPSET


def _samples_in(path: Path | None) -> Any:
    if path is None:
        return None
    from modelyard.pipeline.samples import load_user_data  # noqa: PLC0415 - brings torch

    return load_user_data(path).inputs


def _axes(texts: list[str], *, is_fixed: bool) -> dict[str, dict[int, str]] | None:
    if is_fixed and texts:
        raise ConfigError("--fixed says that no size varies; leave out --dynamic.")
    return {} if is_fixed else axes_of(texts)


def _told(exported: "Exported") -> dict[str, Any]:
    """What was written as plain values, with what an ONNX file holds."""
    from modelyard.export import ModelExporter  # noqa: PLC0415 - brings torch

    verification = exported.verification
    told: dict[str, Any] = {
        "path": str(exported.path),
        "target": exported.target,
        "opset": exported.opset,
        "precision": exported.precision,
        "route": exported.route,
        "size_bytes": exported.size_bytes,
        "verification": None if verification is None else vars(verification),
        "details": exported.details,
    }
    if exported.target == "onnx":
        told |= ModelExporter().get_model_info(exported.path)
    return told


def _summary(exported: "Exported") -> str:
    parts = [f"{exported.size_bytes / 1e6:.3f} MB", exported.precision]
    if exported.opset is not None:
        parts.append(f"opset {exported.opset}")
    verification = exported.verification
    if verification is not None:
        parts.append(
            f"differs by {verification.max_abs_diff:.1e} at the most over "
            f"{verification.n_samples} samples"
        )
    return f"{exported.path}: {', '.join(parts)}"
