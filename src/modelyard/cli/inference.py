"""`modelyard bench`: which backend is fastest for a model on this machine, and by how much."""

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import typer

from modelyard._core.errors import ConfigError
from modelyard._core.files import make_folder, write_text
from modelyard.cli.options import shape_of
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


def bench(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A version's id, an ONNX file, a module's file, or package.module:factory.",
        ),
    ],
    input_shape: Annotated[
        str | None,
        typer.Option(help="As 1,263; by default the example input saved with the version."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Largest batch to measure.")] = 32,
    backend: Annotated[str, typer.Option(help="Only this one, or auto for all.")] = "auto",
    use_amp: Annotated[
        bool, typer.Option("--use-amp", help="Admit reduced precision: bfloat16, float16.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option(help="Allowed difference from eager, as part of the output's size.")
    ] = 1e-5,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    iterations: Annotated[int, typer.Option(help="Calls of the winner that are timed.")] = 200,
    keep: Annotated[
        bool, typer.Option("--keep", help="Store the choice with the version, as `tuning`.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="HTML page to write, with the plot.")] = None,
    imports: Imports = None,
    base_dir: BaseDir = MODELS,
    database_url: DatabaseUrl = None,
    storage_url: StorageUrl = None,
    as_json: AsJson = False,
) -> None:
    """Measure every backend that gives the model's answers, and show the table."""
    shape = None if input_shape is None else shape_of(input_shape)
    if html is not None:
        _check_page(html)
    model, name, example = model_of(source, base_dir, database_url, storage_url, imports=imports)
    if keep and name != source:
        raise ConfigError(f"--keep stores the choice with a version; {source!r} is none.")
    from modelyard.inference_optimizer import InferenceOptimizer  # noqa: PLC0415 - brings torch
    from modelyard.torchtools.inputs import resolve_example, tensors_of  # noqa: PLC0415 - as above

    given = resolve_example(model, None if shape is not None else example, shape=shape)
    optimizer = InferenceOptimizer(
        model,
        device=device,
        batch_size=batch_size,
        use_amp=use_amp,
        tolerance=tolerance,
        backend=backend,
        cache_size=0,
    )
    found = optimizer.optimize_for_inference(given)
    benchmark = optimizer.benchmark(num_iterations=iterations)
    told: dict[str, Any] = {
        "model": name,
        "inputs": [list(tensor.shape[1:]) for tensor in tensors_of(given)],
        "optimization": found,
        "benchmark": benchmark,
    }
    if keep:
        registry = open_registry(base_dir, database_url, storage_url)
        registry.attach(source, "tuning", optimizer.tuning_record())
    if html is not None:
        _write_page(html, name, found, benchmark)
        told["report"] = str(html)
    if as_json:
        show_json(told)
        return
    show_line(optimizer.explain())
    show_line(
        f"{found['backend']}, one sample: median {benchmark['median_latency_ms']:.4g} ms, "
        f"p99 {benchmark['p99_latency_ms']:.4g} ms, {benchmark['throughput_qps']:.4g} a second"
    )
    if html is not None:
        show_line(f"Report: {html}")


def _check_page(path: Path) -> None:
    """Refuse what cannot be written, before anything is measured."""
    if path.is_dir():
        raise ConfigError(f"--html must name a file; {str(path)!r} is a folder.")
    try:
        make_folder(path.parent)
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"--html {str(path)!r} cannot be written: {error}")


def _write_page(path: Path, name: str, found: Any, benchmark: Any) -> None:
    from modelyard.inference_optimizer.report import report_of  # noqa: PLC0415 - brings torch
    from modelyard.reporting import render  # noqa: PLC0415 - brings plotly

    page = render(report_of(name, found, benchmark, generated_at=datetime.now(UTC)))
    try:
        write_text(path, page)
    except OSError as error:
        raise _unwritable(path, error) from error
