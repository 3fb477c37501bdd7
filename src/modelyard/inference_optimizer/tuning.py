"""Choosing a backend by measuring: equal answers first, then time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from modelyard.inference_optimizer.backends import (
    Backend,
    Maker,
    make_autocast,
    make_bfloat16,
    make_eager,
    make_onnxruntime,
    make_torchscript,
)
from modelyard.inference_optimizer.records import Candidate
from modelyard.torchtools.inputs import Inputs, synthetic_like, with_batch
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.parity import Difference, differences, worst
from modelyard.torchtools.timing import MS_PER_S, interleaved_medians

BACKENDS = ("eager", "torchscript", "onnxruntime", "bfloat16", "autocast")
# Reduced precision is off by about 2^-8 of the output's size.
REDUCED_PRECISION_TOLERANCE = 5e-2

_TIMING_BUDGET_S = 0.4
_NEEDED_GAIN = 0.95  # a smaller gain over eager is noise


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What measuring found.

    Attributes:
        by_batch: Backend for each measured batch size.
        made: Every backend that gives eager's answers, by name.
        candidates: Every backend tried, with its figures.
    """

    by_batch: Mapping[int, Backend]
    made: Mapping[str, Backend]
    candidates: list[Candidate]


def makers_for(model: nn.Module, device: torch.device, *, use_amp: bool) -> dict[str, Maker]:
    """Backends worth trying for this module on this device, eager left out."""
    if isinstance(model, OnnxModule):
        return {}  # its graph runs in ONNX Runtime already
    makers: dict[str, Maker] = {"torchscript": make_torchscript}
    if device.type == "cpu":
        makers["onnxruntime"] = make_onnxruntime
        if use_amp:
            makers["bfloat16"] = make_bfloat16
    elif use_amp:
        makers["autocast"] = make_autocast
    return makers


def chosen(
    model: nn.Module,
    example: Inputs,
    device: torch.device,
    makers: Mapping[str, Maker],
    *,
    batch_sizes: Sequence[int],
    tolerance: float,
    seed: int,
) -> Choice:
    """Make every backend, drop those whose answers differ from eager's, time the rest in turns.

    Args:
        model: In eval mode, on `device`.
        example: An input it runs on.
        device: What runs.
        makers: Candidates besides eager.
        batch_sizes: Those that matter.
        tolerance: Bound on the difference from eager, as part of the output's size.
        seed: Of the inputs on which answers are compared.
    """
    eager = make_eager(model, example, device)
    lost: dict[str, Candidate] = {}
    running = {"eager": eager}
    gaps = {"eager": 0.0}
    samples = _samples(example, batch_sizes, seed)
    for name, make in makers.items():
        try:
            backend = make(model, example, device)
            gap = _gap(eager, backend, samples)
        except Exception as error:  # noqa: BLE001 - converters and compilers raise anything
            lost[name] = _lost(name, f"could not run: {' '.join(str(error).split())[:300]}", None)
            continue
        allowed = max(tolerance, REDUCED_PRECISION_TOLERANCE) if _is_reduced(name) else tolerance
        if not gap.is_within(rtol=allowed, atol=allowed):
            reason = f"differs from eager by {gap.max_abs:.3g}; the tolerance is {allowed:g}"
            lost[name] = _lost(name, reason, gap.max_abs)
            continue
        running[name], gaps[name] = backend, gap.max_abs
    times = {n: _times(running, example, n) for n in batch_sizes}
    winners = {n: _winner(by_name) for n, by_name in times.items()}
    measured = [_measured(name, gaps[name], times, winners) for name in running]
    return Choice(
        by_batch={n: running[name] for n, name in winners.items()},
        made=running,
        candidates=[*measured, *lost.values()],
    )


def _is_reduced(name: str) -> bool:
    return name in {"bfloat16", "autocast"}


def _samples(example: Inputs, batch_sizes: Sequence[int], seed: int) -> list[Inputs]:
    own = [with_batch(example, n) for n in batch_sizes]
    return own + [synthetic_like(example, n, seed=seed + n) for n in (*batch_sizes, 3)]


def _gap(eager: Backend, backend: Backend, samples: Sequence[Inputs]) -> Difference:
    gaps = [
        gap for inputs in samples for gap in differences(eager.run(inputs), backend.run(inputs))
    ]
    return worst(gaps)


def _times(backends: Mapping[str, Backend], example: Inputs, n: int) -> dict[str, float]:
    inputs = with_batch(example, n)

    def call_of(backend: Backend) -> Callable[[], object]:
        return lambda: backend.run(inputs)

    calls = {name: call_of(backend) for name, backend in backends.items()}
    return interleaved_medians(calls, budget_s=_TIMING_BUDGET_S)


def _winner(times: Mapping[str, float]) -> str:
    fastest = min(times, key=lambda name: times[name])
    return fastest if times[fastest] < _NEEDED_GAIN * times["eager"] else "eager"


def _measured(
    name: str,
    gap: float,
    times: Mapping[int, Mapping[str, float]],
    winners: Mapping[int, str],
) -> Candidate:
    won = [n for n, winner in winners.items() if winner == name]
    if won:
        reason = f"fastest at batch {', '.join(map(str, won))}"
    else:
        reason = "slower than " + ", ".join(f"{w} at batch {n}" for n, w in winners.items())
    return {
        "name": name,
        "is_chosen": bool(won),
        "reason": reason,
        "max_abs_diff": gap,
        "latency_ms": {str(n): by_name[name] * MS_PER_S for n, by_name in times.items()},
        "speedup": {str(n): by_name["eager"] / by_name[name] for n, by_name in times.items()},
    }


def _lost(name: str, reason: str, gap: float | None) -> Candidate:
    return {
        "name": name,
        "is_chosen": False,
        "reason": reason,
        "max_abs_diff": gap,
        "latency_ms": {},
        "speedup": {},
    }
