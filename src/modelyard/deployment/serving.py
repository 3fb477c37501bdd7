"""A version made ready to answer: loaded, proved, warmed, with what serves and what watches it."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from modelyard._core.clock import Clock
from modelyard._core.errors import InputError, IntegrityError
from modelyard.deployment.forms import Forms, LastAnswer
from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.inference_optimizer.tuning import TuningRecord
from modelyard.monitor import ModelMonitor
from modelyard.torchtools.answers import numbers_in
from modelyard.torchtools.inputs import as_inputs
from modelyard.torchtools.layers import size_bytes

_logger = logging.getLogger("modelyard")

_LONGEST_NAME = 120
# Answers to the example before the first request: caches, kernels and threads are made then.
_N_WARM_UP = 3
_QUICK_DTYPES = frozenset({torch.float32, torch.float64})
_FEW_NUMBERS = 16


class VersionSource(Protocol):
    """Where versions come from. `ModelVersionManager` is one."""

    def get_version(self, version_id: str) -> Mapping[str, Any]:
        """What is known about a version, its `model_name` among it; a `LookupError` if nothing."""
        ...

    def load_model(self, version_id: str, model_class: Any = ..., load_full: bool = ...) -> Any:  # noqa: FBT001 - as the registry has it
        """The module of a version."""
        ...

    def read_artifact(self, version_id: str, name: str) -> Any:
        """Something that travels with it."""
        ...

    def read_attachment(self, version_id: str, name: str) -> Any:
        """Something that was added to it later; a `LookupError` if nothing was."""
        ...


@dataclass(frozen=True, kw_only=True)
class Served:
    """One version that can answer, with what serves and what watches it.

    Attributes:
        version_id: Which one.
        optimizer: What serves it.
        monitor: What watches it.
        size_bytes: Of its parameters and buffers.
        forms: Of the inputs it has answered.
        tells_outputs: Whether a signature is stored that describes its outputs.
        last_answer: The form of its last answer, noted while it is stable and another one with
            traffic has to answer in the same.
    """

    version_id: str
    optimizer: InferenceOptimizer
    monitor: ModelMonitor
    size_bytes: int
    forms: Forms = field(default_factory=Forms)
    tells_outputs: bool = False
    last_answer: LastAnswer = field(default_factory=LastAnswer)


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes versions ready to answer; the attributes are the deployment's arguments."""

    source: VersionSource
    window_size: int
    thresholds: Mapping[str, float | None] | None
    cache_size: int
    optimize: bool
    clock: Clock
    store: Any

    def loaded(self, version_id: str, model: Any) -> Any:
        """The module of a version, unless it is there already."""
        return self.source.load_model(version_id, load_full=True) if model is None else model

    def made(self, version_id: str, module: Any) -> Served:
        """A version that has answered the example saved with it, a few times.

        Raises:
            InputError: It does not run on it, or answers with NaN or infinity.
        """
        example = self._example_of(version_id)
        try:
            optimizer = self._warmed(version_id, module, example)
        except SystemExit as failure:
            raise InputError(str(ended_by(failure, version_id))) from failure
        monitor = ModelMonitor(
            monitor_name(version_id),
            window_size=self.window_size,
            alert_thresholds=self.thresholds,
            clock=self.clock,
            store=self.store,
        )
        self._give_baseline(monitor, version_id)
        served = Served(
            version_id=version_id,
            optimizer=optimizer,
            monitor=monitor,
            size_bytes=size_of(module),
            tells_outputs=self._tells_outputs(version_id),
        )
        if example is not None:
            served.forms.add(example)
        return served

    def _warmed(self, version_id: str, module: Any, example: Any) -> InferenceOptimizer:
        optimizer = InferenceOptimizer(module, cache_size=self.cache_size, clock=self.clock)
        if example is not None:
            # A version that cannot answer must not get traffic.
            refuse_non_finite(optimizer.predict(example), version_id)
        if self.optimize:
            optimizer.optimize_for_inference(example, reuse=self._tuning_of(version_id))
        if example is not None:
            for _ in range(_N_WARM_UP):
                optimizer.predict(example)
        return optimizer

    def _tells_outputs(self, version_id: str) -> bool:
        try:
            signature = self.source.get_version(version_id).get("signature")
        except LookupError:  # the module was brought along
            return False
        return bool(signature and signature.get("outputs"))

    def _example_of(self, version_id: str) -> Any:
        try:
            return as_inputs(self.source.read_artifact(version_id, "example_input"))
        except LookupError:
            return None

    def _give_baseline(self, monitor: ModelMonitor, version_id: str) -> None:
        """Have a monitor that knows no baseline take the one that is stored with the version."""
        if monitor.baseline_status != "none":
            return
        try:
            state = self.source.read_attachment(version_id, "baseline")
            monitor.load_baseline(state, actor="deployment")
        except LookupError:
            return  # none was stored with it
        except (ValueError, IntegrityError) as error:
            _logger.warning(
                "The baseline stored with %s cannot be used, so that its drift is not judged "
                "until another is set: %s",
                version_id,
                error,
            )

    def _tuning_of(self, version_id: str) -> Any:
        """The choice of backends that was stored with the version; None if none can be read."""
        try:
            found = self.source.read_attachment(version_id, "tuning")
            TuningRecord.from_dict(found)
        except LookupError:
            return None
        except (ValueError, IntegrityError) as error:
            _logger.warning(
                "The tuning stored with %s cannot be used, so that its backends are measured "
                "anew: %s",
                version_id,
                error,
            )
            return None
        return found


def ended_by(failure: SystemExit, version_id: str) -> RuntimeError:
    """The error that a model's try to end the process is taken for."""
    error = RuntimeError(f"{version_id} tried to end the process: sys.exit({failure.code!r}).")
    error.__cause__ = failure
    return error


def refuse_non_finite(output: Any, version_id: str) -> None:
    """Check an answer.

    Raises:
        InputError: It holds NaN or infinity.
    """
    array = output
    if type(output) is torch.Tensor and output.dtype in _QUICK_DTYPES and output.is_cpu:
        array = output.detach().numpy()
    # A sum takes a tenth of the time of a look at each number. It is not finite where one of them
    # is not, and seldom otherwise. A few numbers are quicker added in Python, many as squares.
    if type(array) is np.ndarray and array.dtype.char in "fd":
        is_short = array.size <= _FEW_NUMBERS
        total = sum(array.ravel().tolist()) if is_short else np.vdot(array, array)
        if math.isfinite(total):
            return
    if not all(bool(tensor.isfinite().all()) for tensor in numbers_in(output)):
        raise InputError(f"{version_id} answered with NaN or infinity.")


def size_of(module: Any) -> int:
    """Bytes of a module's parameters and buffers; 0 for what has none."""
    return size_bytes(module) if hasattr(module, "parameters") else 0


def monitor_name(version_id: str) -> str:
    """Each version's windows and alerts are stored under its own name, of at most 120 letters."""
    return version_id[-_LONGEST_NAME:].lstrip("._-")
