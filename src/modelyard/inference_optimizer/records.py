"""The shapes of what the optimizer tells."""

from typing import TypedDict

from modelyard.torchtools.timing import LatencySummary


class Candidate(TypedDict):
    """One backend that was tried.

    Attributes:
        name: Its family: "eager", "torchscript", "onnxruntime", "openvino", ...
        settings: What else it was made with, as `{"graph_level": "all", "threads": 1}`.
        is_chosen: Whether it serves any batch size now.
        chosen_at: The measured batch sizes that it serves.
        reason: Why it was chosen, or why it lost.
        max_abs_diff: Largest difference from eager; None if it did not run.
        latency_ms: Median of a call by batch size; empty if it was not timed.
        speedup: Over eager, by batch size.
    """

    name: str
    settings: dict[str, str | int]
    is_chosen: bool
    chosen_at: list[int]
    reason: str
    max_abs_diff: float | None
    latency_ms: dict[str, float]
    speedup: dict[str, float]


class Optimization(TypedDict):
    """What `optimize_for_inference` found.

    Attributes:
        backend: The one chosen for a batch of one.
        backend_by_batch: The one chosen by batch size.
        candidates: All that were tried.
        reason: What else is to be said: why eager was kept without trying others, which batch
            sizes were not measured, why a saved choice was not used; else an empty text.
        tolerance: Bound on the difference from eager, relative to the output's size.
        device: What runs.
        chunk_size: Samples a call at which many are answered fastest.
        is_reused: Whether a saved choice was used, and nothing timed.
        hardware: Processor, GPU, versions and threads that the choice holds for.
    """

    backend: str
    backend_by_batch: dict[str, str]
    candidates: list[Candidate]
    reason: str
    tolerance: float
    device: str
    chunk_size: int
    is_reused: bool
    hardware: dict[str, str]


class Benchmark(LatencySummary):
    """Latency of single calls without the cache.

    Attributes:
        memory_mb: Resident memory of the process, on a GPU the peak allocated there.
    """

    memory_mb: float


class PerformanceStats(TypedDict):
    """What the calls since the start took; latencies within 1 %, None before the first.

    Attributes:
        throughput_qps: Samples per second over the last minute, or since the first call.
        total_predictions: Samples answered, cached ones included.
        device: What runs.
        backend: What serves a batch of one.
        gpu_utilization: Share of time the GPU is busy; None without one.
        memory_mb: Resident memory of the process, 10^6 bytes.
        gpu_memory_mb: Peak of what PyTorch allocated on the GPU; None without one.
    """

    p50_latency_ms: float | None
    p95_latency_ms: float | None
    p99_latency_ms: float | None
    mean_latency_ms: float | None
    throughput_qps: float
    total_predictions: int
    device: str
    backend: str
    gpu_utilization: float | None
    memory_mb: float
    gpu_memory_mb: float | None


class CacheStats(TypedDict):
    """How the cache does; `hit_rate` is hits over look-ups, 0 before the first."""

    hits: int
    misses: int
    hit_rate: float
    size: int
    max_size: int
    evictions: int
