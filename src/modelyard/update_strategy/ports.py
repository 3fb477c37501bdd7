"""What a strategy needs of the parts around it, each as small as it can be."""

from collections.abc import Mapping
from typing import Any, Protocol

from modelyard.storage import Store


class Registry(Protocol):
    """Knows versions and which of them is production. `ModelVersionManager` is one."""

    @property
    def store(self) -> Store:
        """Where rollouts are kept."""
        ...

    def get_version(self, version_id: str) -> Mapping[str, Any]:
        """What is known about a version; an error if there is none."""
        ...

    def list_versions(self, model_name: str | None = ...) -> list[Any]:
        """Versions that are not removed, newest first."""
        ...

    def get_by_alias(self, model_name: str, alias: str = ...) -> Mapping[str, Any]:
        """The version an alias points to; an error if there is none."""
        ...

    def get_history(self, model_name: str | None = ...) -> list[Any]:
        """The audit, oldest first."""
        ...

    def set_alias(
        self,
        model_name: str,
        alias: str,
        version_id: str,
        *,
        expected_version_id: str | None = ...,
        action: str = ...,
        actor: str | None = ...,
    ) -> Mapping[str, Any]:
        """Point an alias to a version."""
        ...

    def verify_version(self, version_id: str) -> object:
        """An error if a file of a version is missing or damaged."""
        ...

    def read_artifact(self, version_id: str, name: str) -> Any:
        """Something that travels with a version; a `LookupError` if it has none of this name."""
        ...

    def load_model(self, version_id: str, model_class: Any = ..., load_full: bool = ...) -> Any:  # noqa: FBT001 - as the registry has it
        """The module of a version."""
        ...


class MetricLike(Protocol):
    """Mean and number of a metric's last values."""

    @property
    def mean(self) -> float:
        """Their mean."""
        ...

    @property
    def n(self) -> int:
        """How many there are."""
        ...

    @property
    def std(self) -> float:
        """Their standard deviation; NaN below two."""
        ...


class HealthLike(Protocol):
    """How a model has been doing over its last predictions. `monitor.Health` is one."""

    @property
    def n_predictions(self) -> int:
        """Predictions in the window."""
        ...

    @property
    def n_errors(self) -> int:
        """Failed ones among them."""
        ...

    @property
    def error_rate(self) -> float:
        """Their share; NaN without predictions."""
        ...

    @property
    def latency_median_ms(self) -> float:
        """NaN without a latency."""
        ...

    @property
    def latency_p95_ms(self) -> float:
        """NaN without a latency."""
        ...

    @property
    def latency_p99_ms(self) -> float:
        """NaN without a latency."""
        ...

    @property
    def latency_log_error(self) -> float:
        """Standard error of the logarithm of the median; NaN where it is not known."""
        ...

    @property
    def metrics(self) -> Mapping[str, MetricLike]:
        """The last values of each recorded metric, by name."""
        ...


class DriftWatcher(Protocol):
    """Knows whether answers and inputs have moved. `ModelMonitor` is one."""

    @property
    def baseline_status(self) -> str:
        """Whether there is a baseline to compare with: then it is "set"."""
        ...

    def detect_prediction_drift(self) -> Mapping[str, Any]:
        """Whether its answers have moved."""
        ...

    def detect_feature_drift(self) -> Mapping[str, Any]:
        """Whether its inputs have moved."""
        ...


class Watcher(DriftWatcher, Protocol):
    """Watches one model. `ModelMonitor` is one."""

    @property
    def model_name(self) -> str:
        """Which model."""
        ...

    @property
    def total_predictions(self) -> int:
        """Predictions recorded so far."""
        ...

    def health(self) -> HealthLike:
        """How it is doing now."""
        ...

    def baseline_health(self) -> HealthLike | None:
        """How it was doing when the baseline was set."""
        ...

    def set_baseline(self) -> None:
        """Make the present the baseline, or arm it."""
        ...

    def raise_alert(self, name: str, *, severity: str, message: str) -> None:
        """Make something known to whoever watches the alerts."""
        ...


class ServingTarget(Protocol):
    """Serves several versions at once and splits the traffic. `Deployment` is one."""

    @property
    def window_size(self) -> int:
        """Predictions of each version that its numbers look at."""
        ...

    def add_version(self, version_id: str) -> None:
        """Load a version, prove that it answers, give it no traffic yet."""
        ...

    def set_shares(self, shares: Mapping[str, float], *, stable: str) -> None:
        """Split the traffic at once; `stable` answers what another fails to."""
        ...

    def retire(self, version_id: str) -> None:
        """Forget a version that has no traffic."""
        ...

    def set_shadow(self, version_id: str | None) -> None:
        """Have a version answer copies of requests, or none."""
        ...

    def shadow_health(self, version_id: str) -> HealthLike | None:
        """How a version is doing on copies of requests; None if it gets none."""
        ...

    def set_stable_only(self, *, is_on: bool) -> None:
        """Have the stable version answer everything, or follow the shares again."""
        ...

    def measure_anew(self) -> None:
        """Forget what was measured side by side so far."""
        ...

    def shares(self) -> Mapping[str, float]:
        """The split of the traffic; empty while nothing is served."""
        ...

    def versions(self) -> list[str]:
        """What is loaded."""
        ...

    def n_answers(self, version_id: str) -> int:
        """How many requests a version has taken, failed ones included."""
        ...

    def health(self, version_id: str) -> HealthLike:
        """How one version is doing."""
        ...

    def health_since_split(self, version_id: str) -> HealthLike | None:
        """How one version is doing since the shares last changed; None without a part in it."""
        ...

    def health_beside(self, version_id: str) -> HealthLike | None:
        """How one version is doing since the last one joined; None without a part in it."""
        ...

    def monitor(self, version_id: str) -> DriftWatcher:
        """What watches one version."""
        ...


class SwapTarget(Protocol):
    """Serves one model that can be exchanged. `InferenceOptimizer` is one."""

    @property
    def model(self) -> Any:
        """The module that is served, or None."""
        ...

    def set_model(self, model: Any) -> None:
        """Serve another module at once."""
        ...

    def swap(self, model: Any, example_input: Any = ...) -> Any:
        """Serve another module once it has been made ready, which may take seconds.

        Without an example, one that the optimizer has or finds is used.
        """
        ...
