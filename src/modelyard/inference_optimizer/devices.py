"""What runs: a CPU or a GPU, and how busy it is."""

import logging
import os
from typing import Any

import psutil
import torch

from modelyard._core.errors import ConfigError
from modelyard.torchtools.layers import MB

_logger = logging.getLogger("modelyard")


def device_named(name: str) -> torch.device:
    """The device of this name; the CPU, with a warning, where there is no GPU.

    Raises:
        ConfigError: An unknown name, or a device that is not here or computes nothing.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device {name!r} is unknown: use 'auto', 'cpu' or 'cuda'.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        _logger.warning("device=%r, but there is no CUDA GPU here: running on the CPU.", name)
        return torch.device("cpu")
    _check_is_here(device)
    return device


def _check_is_here(device: torch.device) -> None:
    if device.type == "cpu":
        return
    if device.type == "cuda":  # not tried, which would start CUDA before there is a model
        n = torch.cuda.device_count()
        if device.index is not None and device.index >= n:
            raise ConfigError(f"device {str(device)!r} is not here: there are {n} GPUs.")
        return
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:  # "meta" holds no numbers
        raise ConfigError(
            f"device {str(device)!r} cannot compute here: use 'auto', 'cpu' or 'cuda'."
        ) from error


def finished(answer: Any) -> Any:
    """Wait for the GPU, so that a timed call includes its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return answer


def gpu_utilization(device: torch.device) -> float | None:
    """Share of time the GPU is busy, 0 to 1; None without one, or without NVML."""
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.utilization(device) / 100.0
    except (RuntimeError, ModuleNotFoundError):
        return None  # NVML is not installed


def memory_mb(device: torch.device) -> float:
    """Resident memory of the process, on a GPU the peak allocated there; 10^6 bytes."""
    if device.type == "cuda":
        return gpu_memory_mb(device) or 0.0
    return float(psutil.Process(os.getpid()).memory_info().rss) / MB


def gpu_memory_mb(device: torch.device) -> float | None:
    """Peak of what PyTorch allocated on the GPU, 10^6 bytes; None without one."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / MB
