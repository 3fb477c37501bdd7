"""The design document's import paths: `from src.models.version_manager import ...`.

Seven alias modules re-export modelyard's classes; nothing is defined here.
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("modelyard") is None:
    # A checkout that was never installed: modelyard lies beside this folder.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
