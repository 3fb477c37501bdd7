"""What a measurement holds for: this machine, these versions, so many threads."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

# Instructions on which the choice of a backend turns.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
_PACKAGES = ("torch", "onnxruntime", "openvino")
_CPUINFO = Path("/proc/cpuinfo")


def hardware_of(device: torch.device) -> dict[str, str]:
    """Processor, its cores and instructions, GPU, versions and threads: what times depend on."""
    model, flags = _processor()
    return {
        "processor": model,
        "cores": str(os.cpu_count() or 0),
        "instructions": " ".join(flag for flag in _FLAGS if flag in flags),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        "torch_threads": str(torch.get_num_threads()),
        **{name: _version(name) for name in _PACKAGES},
    }


def _processor() -> tuple[str, set[str]]:
    """Name and flags; without flags where the system does not list them in a file."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return platform.processor() or platform.machine(), set()
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    found = {key.strip(): value.strip() for key, value in pairs}
    name = found.get("model name") or platform.processor() or platform.machine()
    return name, set((found.get("flags") or found.get("Features") or "").split())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
