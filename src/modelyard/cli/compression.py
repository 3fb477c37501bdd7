"""`modelyard compress`: a smaller, faster model from a version, a file or a function."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelyard._core.errors import ConfigError, QuantizationError
from modelyard.cli.options import axes_of, shape_of
from modelyard.cli.registry import (
    MODELS,
    AsJson,
    BaseDir,
    DatabaseUrl,
    StorageUrl,
    open_registry,
)
from modelyard.cli.showing import show_json, show_line
from modelyard.cli.sources import Imports, model_of

if TYPE_CHECKING:
    from modelyard.compression import ModelCompressor
    from modelyard.pipeline.samples import UserData

_FEWEST_TO_JUDGE = 8
METHODS = ("dynamic", "static", "weight-only", "prune", "search")


def compress(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A version's id, a module's file, or package.module:factory."
        ),
    ],
    method: Annotated[
        str,
        typer.Option(help="dynamic, static, weight-only, prune, or search for the fastest."),
    ] = "dynamic",
    dtype: Annotated[
        str,
        typer.Option(help="Of the weights: int8; of weight-only also bf16, int8_blocks, int4."),
    ] = "int8",
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Samples to calibrate with and measure on: .npz with an array `inputs` (and "
            "perhaps `targets`), .npy, .csv or .parquet."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="What is to be predicted: a column or array of the samples.")
    ] = None,
    prune: Annotated[float, typer.Option(help="Share to prune before quantizing, 0 to 1.")] = 0.0,
    prune_method: Annotated[
        str,
        typer.Option(
            help="l1_unstructured, random_unstructured, ln_structured, or structured, which "
            "removes channels."
        ),
    ] = "l1_unstructured",
    max_error: Annotated[
        float, typer.Option(help="Largest relative error of an output; 0.1 is 10 %.")
    ] = 0.1,
    calibration_method: Annotated[
        str, typer.Option(help="minmax, percentile, entropy, or auto: these in turn.")
    ] = "auto",
    keep_float: Annotated[
        list[str] | None, typer.Option(help="A layer that stays in float; again for more.")
    ] = None,
    max_drop: Annotated[
        float, typer.Option(help="Of search: largest loss of the metric; 0.01 is 1 %.")
    ] = 0.01,
    target_size: Annotated[
        float | None, typer.Option(help="Of search: largest size in MB.")
    ] = None,
    min_speedup: Annotated[float | None, typer.Option(help="Of search: as 2 for twice.")] = None,
    time_budget: Annotated[float, typer.Option(help="Of search: seconds.")] = 600.0,
    input_shape: Annotated[
        str | None,
        typer.Option(help="As 1,263; by default the example input saved with the version."),
    ] = None,
    dynamic: Annotated[
        list[str] | None,
        typer.Option(help="A size that varies, as input:1=time; again for another."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="ONNX file to write; it ends in .onnx.")] = None,
    save_as: Annotated[
        str | None, typer.Option(help="Save the result in the registry under this model name.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="HTML page to write.")] = None,
    imports: Imports = None,
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a model smaller and faster, its error measured; refused where that is too large."""
    _check(method, out, prune, max_error)
    shape = None if input_shape is None else shape_of(input_shape)
    axes = axes_of(dynamic or [])
    model, own_name, example = model_of(
        source, base_dir, database_url, storage_url, imports=imports
    )
    data = _data_in(calibration, target)
    compressor = _compressor(model, shape, example, data, axes)
    if prune:
        compressor.prune_model(prune, prune_method)
        compressor.make_pruning_permanent()
    told: dict[str, Any] = {"model": own_name, "method": method}
    told |= _applied(
        compressor,
        method,
        data,
        dtype=dtype,
        max_error=max_error,
        calibration_method=calibration_method,
        keep_float=keep_float or [],
        search_options={
            "max_metric_drop": max_drop,
            "target_size_mb": target_size,
            "min_speedup": min_speedup,
            "time_budget_s": time_budget,
        },
    )
    told["error_to_original"] = _checked_error(compressor, max_error, is_search=method == "search")
    stats = compressor.get_compression_stats()
    told |= {
        "original_size_mb": stats["original_size_mb"],
        "compressed_size_mb": stats["compressed_size_mb"],
    }
    if out is not None:
        told["path"] = _written(compressor, out)
    if report is not None:
        told["report"] = _reported(compressor, report)
    if save_as is not None:
        registry = open_registry(base_dir, database_url, storage_url, is_made=True)
        is_version = not Path(source).is_file() and ":" not in source
        told["version_id"] = registry.save_model(
            compressor.model,
            save_as,
            description=f"{method} of {own_name}",
            parents=[(source, "quantized" if stats["is_quantized"] else "compressed")]
            if is_version
            else [],
            example_input=example,
        )
    if as_json:
        show_json(told)
    else:
        show_line(_summary(told))


def _check(method: str, out: Path | None, prune: float, max_error: float) -> None:
    if method not in METHODS:
        raise ConfigError(f"--method {method!r} is not one of {', '.join(METHODS)}.")
    if out is not None and out.suffix != ".onnx":
        raise ConfigError(f"--out {str(out)!r} must end in .onnx.")
    if not max_error > 0:  # NaN neither
        raise ConfigError(f"--max-error must be above 0, got {max_error}. 0.1 is 10 %.")
    if method == "prune" and not prune:
        raise ConfigError("--method prune needs --prune, the share to take: 0.3 is 30 %.")
    if method == "search" and prune:
        raise ConfigError("search prunes by itself: leave --prune out.")


def _data_in(path: Path | None, target: str | None) -> "UserData | None":
    if path is None:
        return None
    from modelyard.pipeline.samples import load_user_data  # noqa: PLC0415 - brings torch

    return load_user_data(path, target=target)


def _compressor(
    model: Any,
    shape: tuple[int, ...] | None,
    example: Any,
    data: "UserData | None",
    axes: dict[str, dict[int, str]] | None,
) -> "ModelCompressor":
    from modelyard.compression import ModelCompressor  # noqa: PLC0415 - brings torch
    from modelyard.torchtools.inputs import resolve_example  # noqa: PLC0415 - as above

    if shape is not None:
        example = resolve_example(model, shape=shape)
    elif example is None and data is not None:
        example = data.inputs[:2]
    return ModelCompressor(
        model,
        example_input=example,
        validation_data=None if data is None else data.inputs,
        dynamic_axes=axes,
    )


def _applied(
    compressor: "ModelCompressor",
    method: str,
    data: "UserData | None",
    *,
    dtype: str,
    max_error: float,
    calibration_method: str,
    keep_float: list[str],
    search_options: dict[str, Any],
) -> dict[str, Any]:
    """Quantize or search; what came of it."""
    import torch  # noqa: PLC0415 - slow to import

    if method == "prune":
        return {}
    if method == "search":
        return _searched(compressor, data, max_error=max_error, options=search_options)
    options: dict[str, Any] = {"max_error": max_error, "layers_to_keep_float": keep_float}
    if method == "weight-only":
        return {**compressor.weight_only_quantization(dtype, **options)}
    kinds = {"int8": torch.qint8, "uint8": torch.quint8}
    if dtype not in kinds:
        raise ConfigError(f"--dtype of {method} must be int8 or uint8, got {dtype!r}.")
    if method == "dynamic":
        return {**compressor.dynamic_quantization(kinds[dtype], **options)}
    if data is None:
        raise ConfigError("static takes its ranges from samples: pass --calibration FILE.")
    compressor.quantize_model(kinds[dtype], calibration_method=calibration_method, **options)
    return {**compressor.calibrate_quantization(data.inputs)}


def _searched(
    compressor: "ModelCompressor",
    data: "UserData | None",
    *,
    max_error: float,
    options: dict[str, Any],
) -> dict[str, Any]:
    from modelyard.compression.scoring import score_of  # noqa: PLC0415 - brings torch

    if data is None:
        raise ConfigError("search needs samples to judge by: pass --calibration FILE.")
    # Ranges from the first half, the verdict on the second, as in time.
    half = len(data.inputs) // 2
    if half < _FEWEST_TO_JUDGE:
        raise ConfigError(
            f"search needs {2 * _FEWEST_TO_JUDGE} samples or more, half to calibrate with and "
            f"half to judge by; there are {len(data.inputs)}."
        )
    score = score_of(
        compressor.original_model,
        data.inputs[half:],
        None if data.targets is None else data.targets[half:],
    )
    found = compressor.search(
        score.of,
        maximize=score.is_maximized,
        calibration_data=data.inputs[:half],
        max_error=max_error,
        **options,
    )
    return {"metric": score.name, **found}


def _checked_error(
    compressor: "ModelCompressor", max_error: float, *, is_search: bool
) -> float | None:
    """The error against the original, pruning included.

    Raises:
        QuantizationError: It is over the limit; of a search, the metric decides.
    """
    error = compressor.error_to_original()
    if is_search or (error is not None and error <= max_error):
        return error
    told = "more than can be said" if error is None else f"{error:.1%}"
    raise QuantizationError(
        f"The answers differ from the original's by {told} (relative error), more than "
        f"--max-error {max_error:.1%}: pruning without training afterwards breaks models. Prune "
        "less, raise --max-error, or prune and train in Python with prune_gradually. Nothing was "
        "written."
    )


def _written(compressor: "ModelCompressor", out: Path) -> str:
    from modelyard.export import ModelExporter  # noqa: PLC0415 - brings torch
    from modelyard.torchtools.conversion import (  # noqa: PLC0415 - as above
        DEFAULT_OPSET,
        opset_of_bytes,
    )
    from modelyard.torchtools.onnx_module import OnnxModule  # noqa: PLC0415 - as above

    model = compressor.model
    opset = opset_of_bytes(model.graph_bytes) if isinstance(model, OnnxModule) else DEFAULT_OPSET
    try:
        return ModelExporter(out.parent).export_to_onnx(
            model, out.stem, opset_version=opset, example_input=compressor.example_input
        )
    except OSError as error:
        raise ConfigError(f"--out {str(out)!r} cannot be written: {error}") from error


def _reported(compressor: "ModelCompressor", path: Path) -> str:
    try:
        compressor.report(path)
    except OSError as error:
        raise ConfigError(f"--report {str(path)!r} cannot be written: {error}") from error
    return str(path)


def _summary(told: dict[str, Any]) -> str:
    parts = [f"{told['original_size_mb']:.3g} to {told['compressed_size_mb']:.3g} MB"]
    if "speedup" in told:
        parts.append(f"{told['speedup']:.1f} times as fast")
    if "max_error" in told:
        on = told["validated_on"].replace("_", " ")
        parts.append(f"error {told['max_error']:.2%} on {on} (limit {told['error_limit']:.0%})")
    if told["error_to_original"] not in {None, told.get("max_error")}:
        parts.append(f"{told['error_to_original']:.2%} from the original")
    if told.get("layers_kept_float"):
        parts.append(f"in float: {', '.join(told['layers_kept_float'])}")
    if "best" in told:
        parts.append(f"of {len(told['candidates'])} ways")
    how = told.get("best") or told.get("recipe") or told["method"]
    lines = [f"{told['model']}, {how}: {', '.join(parts)}"]
    lines += [f"{key}: {told[key]}" for key in ("path", "version_id", "report") if key in told]
    return "\n".join(lines)
