"""What is normal: the distributions and the health that later windows are compared with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard.monitor.changes import Norm
from modelyard.monitor.drift.references import Reference
from modelyard.monitor.recording.health import Health


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Everything that is normal about a model.

    Attributes:
        set_at: When it was set, ISO 8601.
        predictions: None if there were too few.
        features: None if there were too few.
        health: Latency, errors and metrics at the time; None if nothing had been recorded.
        source: Where it is from: `window`, `data`, `history` or `version`.
        feature_names: In the order of the features; empty where they have none.
        labels: What codes of categories stand for.
        norms: How the block means of each stream wander.
    """

    set_at: str
    predictions: Reference | None
    features: Reference | None
    health: Health | None
    source: str = "window"
    feature_names: tuple[str, ...] = ()
    labels: Mapping[float, str] = field(default_factory=dict)
    norms: Mapping[str, Norm] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """All of it as plain values, so that it can travel with a version."""
        return {
            "set_at": self.set_at,
            "predictions": None if self.predictions is None else self.predictions.to_plain(),
            "features": None if self.features is None else self.features.to_plain(),
            "health": None if self.health is None else self.health.to_plain(),
            "source": self.source,
            "feature_names": list(self.feature_names),
            "labels": [[code, label] for code, label in self.labels.items()],
            "norms": {name: norm.to_plain() for name, norm in self.norms.items()},
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Baseline":
        """The baseline that `to_plain` described.

        Raises:
            ConfigError: It did not.
        """
        try:
            predictions, features, health = (
                plain["predictions"],
                plain["features"],
                plain["health"],
            )
            return cls(
                set_at=plain["set_at"],
                predictions=None if predictions is None else Reference.from_plain(predictions),
                features=None if features is None else Reference.from_plain(features),
                health=None if health is None else Health.from_plain(health),
                source=plain.get("source", "window"),
                feature_names=tuple(str(name) for name in plain.get("feature_names", ())),
                labels={float(code): str(label) for code, label in plain.get("labels", ())},
                norms={
                    name: Norm.from_plain(norm) for name, norm in plain.get("norms", {}).items()
                },
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"This is not a baseline of a monitor ({error!r}). "
                "Give load_baseline what baseline_state returned."
            ) from error
