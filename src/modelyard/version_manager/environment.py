"""What a version was made with: Python, packages, machine, commit."""

import functools
import getpass
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("modelyard", "torch", "numpy", "onnx", "onnxruntime", "safetensors")
_GIT_TIMEOUT_S = 5


def current_environment() -> dict[str, Any]:
    """Versions and machine of this process; looked up once per working folder."""
    return dict(_environment_in(str(Path.cwd())))


def current_user() -> str:
    """Name of the user this process runs as; the number where the system knows no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under any number
        return f"uid {os.getuid()}"


@functools.lru_cache(maxsize=8)
def _environment_in(folder: str) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "packages": {name: _version_of(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "n_cpus": os.cpu_count(),
        "git_commit": _git(folder, "rev-parse", "HEAD"),
        "git_dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
    }


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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
