"""Whether the service does what was asked of it: latency, throughput, hit rate, use of the GPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from modelyard.torchtools.timing import MS_PER_S


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a service should reach; None for what does not matter.

    Attributes:
        p99_latency_ms: Of a call, at most.
        throughput_qps: Samples a second, more than that.
        hit_rate: Of the cache, 0 to 1, more than that.
        gpu_utilization: Share of time the GPU is busy, 0 to 1, more than that.
    """

    p99_latency_ms: float | None = 100.0
    throughput_qps: float | None = 100.0
    hit_rate: float | None = 0.8
    gpu_utilization: float | None = 0.7


class TargetCheck(TypedDict):
    """One target and what was measured.

    Attributes:
        name: As in `Targets`.
        target: The limit.
        value: What was measured; None if nothing was.
        is_met: None where that cannot be told.
        reason: Why not, or why it cannot be told; empty if it is met.
    """

    name: str
    target: float
    value: float | None
    is_met: bool | None
    reason: str


def checked(
    targets: Targets, stats: Mapping[str, Any], cache: Mapping[str, Any]
) -> list[TargetCheck]:
    """Each target beside what was measured.

    Args:
        targets: What to reach.
        stats: As `get_performance_stats` gives them.
        cache: As `get_cache_stats` gives them.
    """
    found = [
        _latency(targets.p99_latency_ms, stats["p99_latency_ms"]),
        _throughput(targets.throughput_qps, stats),
        _hit_rate(targets.hit_rate, cache),
        _gpu(targets.gpu_utilization, stats["gpu_utilization"]),
    ]
    return [check for check in found if check is not None]


def _latency(target: float | None, value: float | None) -> TargetCheck | None:
    if target is None:
        return None
    if value is None:
        return _untold("p99_latency_ms", target, "nothing was predicted yet")
    return _told("p99_latency_ms", target, value, is_met=value < target)


def _throughput(target: float | None, stats: Mapping[str, Any]) -> TargetCheck | None:
    if target is None:
        return None
    value, mean_ms = stats["throughput_qps"], stats["mean_latency_ms"]
    if value > target:
        return _told("throughput_qps", target, value, is_met=True)
    if mean_ms is None:
        return _untold("throughput_qps", target, "nothing was predicted yet")
    # A service that is asked 5 times a second answers 5, whatever it could.
    could = MS_PER_S / mean_ms if mean_ms > 0 else float("inf")
    if could > target:
        reason = f"so few were asked for; one caller after another could get {could:.0f}/s"
        return _untold("throughput_qps", target, reason, value)
    return _told("throughput_qps", target, value, is_met=False)


def _hit_rate(target: float | None, cache: Mapping[str, Any]) -> TargetCheck | None:
    if target is None:
        return None
    if cache["max_size"] == 0:
        return _untold("hit_rate", target, "the cache is off")
    if cache["hits"] + cache["misses"] == 0:
        return _untold("hit_rate", target, "nothing was looked up yet")
    return _told("hit_rate", target, cache["hit_rate"], is_met=cache["hit_rate"] > target)


def _gpu(target: float | None, value: float | None) -> TargetCheck | None:
    if target is None:
        return None
    if value is None:
        return _untold(
            "gpu_utilization",
            target,
            "there is no GPU, or NVML is missing: pip install 'modelyard[gpu]'",
        )
    return _told("gpu_utilization", target, value, is_met=value > target)


def _told(name: str, target: float, value: float, *, is_met: bool) -> TargetCheck:
    reason = "" if is_met else f"{value:.4g} against {target:g}"
    return {"name": name, "target": target, "value": value, "is_met": is_met, "reason": reason}


def _untold(name: str, target: float, reason: str, value: float | None = None) -> TargetCheck:
    return {"name": name, "target": target, "value": value, "is_met": None, "reason": reason}
