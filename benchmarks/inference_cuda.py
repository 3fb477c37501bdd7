"""Backends on a GPU: the design document's three models, in full and in reduced precision.

Writes the table between the markers in `docs/benchmarks.md`. Needs a GPU; every latency waits for
the GPU and is taken in turns. In the table inputs come from the CPU's memory and answers stay on
the GPU; below it are calls of `predict` whose answers come back as arrays.

    python benchmarks/inference_cuda.py
"""

import sys
import time
from typing import Any

import numpy as np
import torch
from _tables import machine, table, write

from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.inference_optimizer.backends import label_of
from modelyard.inference_optimizer.devices import finished
from modelyard.trading import build_models, presets

_SHAPES = {"policy": (2, 263), "transformer": (2, 64, 155), "ts2vec": (2, 256, 4)}
_SIZES = (1, 32)
_COLUMNS = [
    "model",
    "backend",
    "#batch 1 (ms)",
    "#speed-up",
    "#batch 32 (ms)",
    "#speed-up",
    "#off by",
    "verdict",
]


def main() -> None:
    """Measure all three and write the page."""
    if not torch.cuda.is_available():
        sys.exit("There is no GPU here.")
    rows, notes = [], []
    models = build_models(presets.document(), seed=0)
    for name, shape in _SHAPES.items():
        model = getattr(models, name)
        example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        torch.cuda.reset_peak_memory_stats()
        optimizer = InferenceOptimizer(model, device="cuda", use_amp=True, cache_size=0)
        found = optimizer.optimize_for_inference(example, batch_sizes=_SIZES, budget_s=6.0)
        print(optimizer.explain(), flush=True)
        rows += [_line(name, row) for row in found["candidates"]]
        notes.append(_note(name, optimizer, example[:1].numpy()))
        model.cpu()
    text = (
        f"Measured on {torch.cuda.get_device_name()}, {machine()}, TF32 as PyTorch has it by "
        f"default.\n\n{table(_COLUMNS, rows)}\n\n" + "\n".join(notes)
    )
    print(text)
    write("inference_cuda", text)


def _line(name: str, row: Any) -> list[str]:
    def figures(n: int) -> list[str]:
        key = str(n)
        if key not in row["latency_ms"]:
            return ["", ""]
        return [f"{row['latency_ms'][key]:.3f}", f"{row['speedup'][key]:.2f} x"]

    gap = "" if row["max_abs_diff"] is None else f"{row['max_abs_diff']:.1e}"
    served = f"serves batch {', '.join(map(str, row['chosen_at']))}" if row["chosen_at"] else ""
    told = served or ("" if row["latency_ms"] else row["reason"][:120])
    label = label_of(row["name"], row["settings"])
    return [name, label, *figures(1), *figures(32), gap, told]


def _note(name: str, optimizer: InferenceOptimizer, array: Any) -> str:
    """What a call from and to the CPU takes, and the memory of the GPU."""
    for _ in range(20):
        optimizer.predict(array)
    times = []
    for _ in range(300):
        started = time.perf_counter()
        finished(optimizer.predict(array))
        times.append(time.perf_counter() - started)
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    stats = optimizer.get_performance_stats()
    use = stats["gpu_utilization"]
    return (
        f"- {name}: `predict` of an array {p50:.3f} ms at the median, {p99:.3f} ms at the 99th "
        f"percentile; at most {stats['gpu_memory_mb']:.0f} MB allocated on the GPU while "
        f"measuring; GPU utilisation by NVML {'unknown' if use is None else f'{use:.0%}'}."
    )


if __name__ == "__main__":
    main()
