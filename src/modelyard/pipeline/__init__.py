"""The whole lifecycle of a trained model: compress, save, export, serve, test, watch, roll out.

`run_lifecycle` drives it for any `ModelSource`; each stage is also a function of its own.
"""

from modelyard.pipeline.compress import Compressed, CompressionPlan, compress_source
from modelyard.pipeline.experiment import ExperimentOutcome, compare_paired
from modelyard.pipeline.files import run_from_files
from modelyard.pipeline.lifecycle import LifecycleResult, LifecycleSettings, run_lifecycle
from modelyard.pipeline.progress import Progress, RichProgress, SilentProgress
from modelyard.pipeline.rollout import FaultyModel, RolloutOutcome, roll_out
from modelyard.pipeline.serve import Served, export_and_optimize
from modelyard.pipeline.source import ModelSource, Stream
from modelyard.pipeline.watch import WatchOutcome, watch_stream

__all__ = [
    "Compressed",
    "CompressionPlan",
    "ExperimentOutcome",
    "FaultyModel",
    "LifecycleResult",
    "LifecycleSettings",
    "ModelSource",
    "Progress",
    "RichProgress",
    "RolloutOutcome",
    "Served",
    "SilentProgress",
    "Stream",
    "WatchOutcome",
    "compare_paired",
    "compress_source",
    "export_and_optimize",
    "roll_out",
    "run_from_files",
    "run_lifecycle",
    "watch_stream",
]
