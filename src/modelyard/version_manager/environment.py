"""What a version was made with: Python, packages, machine, commit."""

import contextlib
import functools
import getpass
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3

# A difference in these can change what a loaded model answers.
WATCHED = ("modelyard", "torch", "numpy", "onnxruntime", "safetensors")
_GIT_TIMEOUT_S = 5
_GIT_HOLDS_S = 5


def current_environment() -> dict[str, Any]:
    """Versions and machine of this process, and the commit it works on.

    Git is asked at most every 5 s: it takes longer than to save a small model.
    """
    try:
        folder = str(Path.cwd())
    except FileNotFoundError:  # somebody has deleted it
        commit, is_dirty = None, False
    else:
        commit, is_dirty = _git_state(folder, int(time.monotonic() // _GIT_HOLDS_S))
    return {**_of_this_process(), "git_commit": commit, "git_dirty": is_dirty}


def digest_of(facts: Mapping[str, Any]) -> str:
    """What an environment is called in the database."""
    return blake3(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def current_user() -> str:
    """Name of the user this process runs as; the number where the system knows no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under any number
        return f"uid {os.getuid()}"


@functools.lru_cache(maxsize=8)
def _git_state(folder: str, _period: int) -> tuple[str | None, bool]:
    """The commit, and whether files that git knows have changed since; once a period."""
    dirty = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return _git(folder, "rev-parse", "HEAD"), bool(dirty)


@functools.lru_cache(maxsize=1)
def _of_this_process() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "packages": _packages(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "n_cpus": os.cpu_count(),
    }


def differences(
    saved: Mapping[str, Any], now: Mapping[str, Any], *, class_name: str | None = None
) -> list[str]:
    """What differs between two environments and can change a model's answers, in words.

    Args:
        saved: The environment a version was saved in.
        now: This one.
        class_name: Full name of the model's class; the package it comes from is compared too.
    """
    watched = [*WATCHED, *_packages_of(class_name)]
    packages_saved, packages_now = saved.get("packages", {}), now["packages"]
    pairs = [
        ("Python", _minor(saved.get("python")), _minor(now["python"])),
        *((name, packages_saved.get(name), packages_now.get(name)) for name in watched),
        ("machine", saved.get("machine"), now["machine"]),
        ("processor", saved.get("processor"), now["processor"]),
        ("GPU", saved.get("gpu"), now["gpu"]),
    ]
    return [
        f"{what} {then} then, {here or 'none'} now"
        for what, then, here in pairs
        # What was not written down, or not there, cannot be compared.
        if then is not None and then != here
    ]


def _packages() -> dict[str, str]:
    """Name and version of everything installed."""
    found = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    return dict(sorted((name, version) for name, version in found.items() if name))


def _packages_of(class_name: str | None) -> list[str]:
    if class_name is None or class_name.startswith(("torch.", "modelyard.", "__main__.")):
        return []
    return metadata.packages_distributions().get(class_name.partition(".")[0], [])


def _minor(version: str | None) -> str | None:
    return version if version is None else ".".join(version.split(".")[:2])


def _processor() -> str | None:
    """The processor's name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _git(folder: str, *arguments: str) -> str | None:
    """Git's answer, or None outside a repository or without git."""
    try:
        answer = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", "-C", folder, *arguments],  # noqa: S607 - whichever git the user has
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
