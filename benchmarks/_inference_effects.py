"""What each technique of the design document's 13.2 brings, on its models: batches, cache, ..."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.inference_optimizer.backends import make_torchscript
from modelyard.torchtools.inputs import call
from modelyard.torchtools.timing import interleaved_medians

_BATCH = 32
_BUDGET_S = 12.0
_N_ASKED = 20
_SHARE_REPEATED = 0.8
COLUMNS = ["model", "technique", "#time a sample", "#samples a second", "document"]
_CLAIMS = {
    "batches of 32": "-60 %, +500 %",
    "cache, 4 of 5 asked before": "-40 %, +150 %",
    "reduced precision": "-30 %, +100 %",
    "TorchScript": "-20 %, +50 %",
}


def rows(name: str, model: nn.Module, example: torch.Tensor) -> list[list[str]]:
    """Each technique against eager PyTorch at a batch of one, without a cache; in turns.

    Args:
        name: Of the model.
        model: In eval mode, on the CPU.
        example: Two samples or more.
    """
    one = example[:1]
    many = example[torch.arange(_BATCH) % len(example)].clone()
    reduced = InferenceOptimizer(model, device="cpu", use_amp=True, cache_size=0)
    reduced.optimize_for_inference(example, batch_sizes=(1,))
    script = make_torchscript(model, example, torch.device("cpu"))
    calls: dict[str, Callable[[], Any]] = {
        "eager": lambda: call(model, one),
        "batches of 32": lambda: call(model, many),
        "cache, 4 of 5 asked before": _asked(model, example),
        "reduced precision": lambda: reduced.predict(one),
        "TorchScript": lambda: script.run(one),
    }
    samples = {"batches of 32": _BATCH, "cache, 4 of 5 asked before": _N_ASKED}
    times = interleaved_medians(calls, budget_s=_BUDGET_S)
    per_sample = {key: seconds / samples.get(key, 1) for key, seconds in times.items()}
    found = []
    for technique, claim in _CLAIMS.items():
        ratio = per_sample[technique] / per_sample["eager"]
        found.append([name, technique, f"{ratio - 1:+.0%}", f"{1 / ratio - 1:+.0%}", claim])
    return found


def _asked(model: nn.Module, example: torch.Tensor) -> Callable[[], Any]:
    """Ask for inputs of which four in five were asked before, on eager PyTorch."""
    optimizer = InferenceOptimizer(model, device="cpu", backend="eager", cache_size=1000)
    generator = torch.Generator().manual_seed(1)
    n_new = round(_N_ASKED * (1 - _SHARE_REPEATED))
    state = {"round": 0}

    def ask() -> None:
        state["round"] += 1
        new = torch.randn(n_new, *example.shape[1:], generator=generator)
        for turn in range(_N_ASKED // n_new):
            for i in range(n_new):
                optimizer.predict(new[i : i + 1])
            assert turn == 0 or optimizer.get_cache_stats()["hits"] > 0  # noqa: S101 - it is what is measured

    return ask
