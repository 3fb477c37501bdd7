"""Whether ONNX Runtime survives a graph: tried in another process, where a crash harms nobody."""

import subprocess
import sys
import tempfile
from pathlib import Path

# As a user would load it: every optimisation on, the usual threads.
_SCRIPT = (
    "import sys, onnxruntime as ort;"
    "options = ort.SessionOptions();"
    "options.log_severity_level = 4;"
    "ort.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider'])"
)
_TIMEOUT_S = 120.0
# Windows gives a crash's status as an unsigned number from here on.
_FIRST_WINDOWS_CRASH = 0xC0000000


def does_crash(graph: bytes) -> bool:
    """Whether loading the graph, with all optimisations, kills the process that does it.

    An ordinary error is no crash: whoever loads the graph gets to see it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(graph)
        ended = subprocess.run(  # noqa: S603 - this interpreter, on a script of ours
            [sys.executable, "-c", _SCRIPT, str(path)],
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    return is_crash(ended.returncode)


def is_crash(returncode: int) -> bool:
    """Whether a process ended by a signal rather than by itself."""
    return returncode < 0 or returncode >= _FIRST_WINDOWS_CRASH
