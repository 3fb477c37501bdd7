"""The design document's three models at its sizes: what int8 and other backends give here.

Writes the tables between the markers in `docs/benchmarks.md`. Every latency of a model is taken
in turns in one run, on one thread, at a batch of one; what counts is the ratio to eager PyTorch.

    python benchmarks/document_models.py            # all three
    python benchmarks/document_models.py policy     # one
"""

import sys
from typing import Any

import torch
from _tables import machine, table, write
from torch import nn

from modelyard.compression import ModelCompressor
from modelyard.inference_optimizer.backends import make_onnxruntime, make_torchscript
from modelyard.torchtools.inputs import call, synthetic_like
from modelyard.torchtools.layers import MB, size_mb
from modelyard.torchtools.parity import differences, worst
from modelyard.torchtools.timing import MS_PER_S, interleaved_medians
from modelyard.trading import build_models, presets

_SHAPES = {"policy": (2, 263), "transformer": (2, 64, 155), "ts2vec": (2, 256, 4)}
_BUDGET_S = 12.0
_COLUMNS = ["model", "how", "#size (MB)", "#latency (ms)", "#speed-up", "#relative error"]


def main(names: list[str]) -> None:
    """Measure the models named and write the page."""
    torch.set_num_threads(1)
    models = build_models(presets.document(), seed=0)
    rows = [row for name in names for row in measure(name, getattr(models, name))]
    text = f"Measured on {machine()}, one thread.\n\n{table(_COLUMNS, [*map(as_line, rows)])}"
    print(text)
    write("document_models", text)


def measure(name: str, model: nn.Module) -> list[dict[str, Any]]:
    """Eager, TorchScript, ONNX Runtime and int8 of one model, timed in turns."""
    example = torch.randn(_SHAPES[name], generator=torch.Generator().manual_seed(0))
    compressor = ModelCompressor(model.eval(), example_input=example)
    stats = compressor.dynamic_quantization()
    int8 = compressor.model
    device = torch.device("cpu")
    onnxruntime = make_onnxruntime(model, example, device)
    torchscript = make_torchscript(model, example, device)
    runs = {
        "eager PyTorch": lambda x: call(model, x),
        "TorchScript": torchscript.run,
        "ONNX Runtime": onnxruntime.run,
        stats["recipe"].replace("_", " "): lambda x: call(int8, x),
    }
    one = example[:1]
    times = interleaved_medians(
        {how: (lambda run=run: run(one)) for how, run in runs.items()}, budget_s=_BUDGET_S
    )
    inputs = synthetic_like(example, 16, seed=9)
    expected = call(model, inputs)
    sizes = dict.fromkeys(runs, size_mb(model)) | {list(runs)[-1]: int8.graph.numel() / MB}
    return [
        {
            "model": name,
            "how": how,
            "size_mb": sizes[how],
            "latency_ms": times[how] * MS_PER_S,
            "speedup": times["eager PyTorch"] / times[how],
            "error": worst(differences(expected, run(inputs))).relative_rms,
        }
        for how, run in runs.items()
    ]


def as_line(row: dict[str, Any]) -> list[str]:
    """One row of the table."""
    return [
        row["model"],
        row["how"],
        f"{row['size_mb']:.1f}",
        f"{row['latency_ms']:.2f}",
        f"{row['speedup']:.1f} x",
        f"{row['error']:.1e}",
    ]


if __name__ == "__main__":
    main(sys.argv[1:] or list(_SHAPES))
