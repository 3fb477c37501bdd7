"""`modelyard demo` and `modelyard run`: the whole lifecycle with one command."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from modelyard.cli.showing import show_line

Out = Annotated[Path, typer.Option("--out", help="Folder for registry, files and report.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same models and metrics.")]


def demo(
    quick: Annotated[bool, typer.Option("--quick", help="A short form, under 90 s.")] = False,
    seed: Seed = 0,
    out: Out = Path("modelyard-demo"),
) -> None:
    """Run the lifecycle on real market data: train, compress, compare, watch, roll out."""
    from modelyard.demo import run_demo  # noqa: PLC0415 - brings torch and the trading chain

    report = run_demo(out, quick=quick, seed=seed, console=Console())
    show_line(f"Report: {report}")


def run(
    config: Annotated[Path, typer.Option("--config", help="The YAML file with the settings.")],
    model: Annotated[
        str | None, typer.Option("--model", help="package:factory, or a model's file.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Samples in order of time: .npz with an array `inputs` (and perhaps `targets`), "
            ".npy, .csv or .parquet.",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="What is to be predicted: a column or array of the data.")
    ] = None,
    seed: Seed = 0,
    out: Out = Path("modelyard-run"),
    base_dir: Annotated[
        Path | None,
        typer.Option("--base-dir", help="A registry that gets the two versions besides."),
    ] = None,
) -> None:
    """Run the lifecycle on a model and data of your own, in a registry of its own."""
    from modelyard._core.config import load_config  # noqa: PLC0415 - brings pydantic
    from modelyard._core.errors import ConfigError  # noqa: PLC0415 - stands with the line above

    settings = load_config(config)
    if (model is None and settings.model is None) or (data is None and settings.data is None):
        raise ConfigError(
            f"{config} names no model and data: pass --model package:factory (or a file) and "
            "--data FILE, or add the sections model: and data: to it. To see a whole run on real "
            "market data first: modelyard demo"
        )
    from modelyard.pipeline import run_from_files  # noqa: PLC0415 - brings torch

    report = run_from_files(
        config,
        model,
        data,
        out,
        seed=seed,
        console=Console(),
        target=target,
        base_dir=base_dir,
    )
    show_line(f"Report: {report}")
