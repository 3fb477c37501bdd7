"""A choice of backends that is kept, to be used again on equal hardware."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard.inference_optimizer.backends import Settings
from modelyard.torchtools.inputs import Inputs, tensors_of

_FORMAT = 1

Form = tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Winner:
    """A backend by name and settings.

    Attributes:
        name: Its family.
        settings: What else it is made with.
        latency_ms: Median of a call when it was chosen.
        eager_latency_ms: Eager's, in the same turns.
    """

    name: str
    settings: Settings
    latency_ms: float
    eager_latency_ms: float


@dataclass(frozen=True, kw_only=True)
class TuningRecord:
    """What measuring found, and what for.

    Attributes:
        hardware: Processor, GPU, versions and threads.
        form: Of the input: by tensor its name, dtype and shape without the batch.
        device: What ran.
        tolerance: Bound on the difference from eager.
        is_reduced_admitted: Whether reduced precision was admitted beyond the tolerance.
        asked: "auto", or the backend that was asked for.
        batch_sizes: Those that were asked about.
        winners: By batch size measured.
        chunk_size: Samples a call for answering many.
    """

    hardware: Mapping[str, str]
    form: Form
    device: str
    tolerance: float
    is_reduced_admitted: bool
    asked: str
    batch_sizes: tuple[int, ...]
    winners: Mapping[int, Winner]
    chunk_size: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            **asdict(self),
            "format": _FORMAT,
            "form": [[name, dtype, list(shape)] for name, dtype, shape in self.form],
            "batch_sizes": list(self.batch_sizes),
            "winners": {str(n): asdict(winner) for n, winner in self.winners.items()},
        }

    @classmethod
    def from_dict(cls, value: Any) -> "TuningRecord":
        """The record that `to_dict` wrote.

        Raises:
            ConfigError: A part is missing, or is not what it should be; the message names it.
        """
        if not isinstance(value, Mapping):
            raise ConfigError(f"A saved choice is a dict, got {type(value).__name__}.")
        if value.get("format") != _FORMAT:
            raise ConfigError(
                f"A saved choice of format {value.get('format')!r} cannot be read, only of "
                f"{_FORMAT}: call optimize_for_inference again."
            )
        try:
            return _read(value)
        except KeyError as error:
            raise ConfigError(f"A saved choice lacks {error}.") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"A saved choice is damaged: {error}") from error

    def differences(self, other: "TuningRecord") -> list[str]:
        """What this record holds for and `other` does not, in words; empty where both agree."""
        named = {
            "input": (self.form, other.form),
            "device": (self.device, other.device),
            "tolerance": (self.tolerance, other.tolerance),
            "use of reduced precision": (self.is_reduced_admitted, other.is_reduced_admitted),
            "backend asked for": (self.asked, other.asked),
            "batch sizes": (self.batch_sizes, other.batch_sizes),
        }
        keys = dict.fromkeys([*self.hardware, *other.hardware])
        named |= {key: (self.hardware.get(key), other.hardware.get(key)) for key in keys}
        return [f"{name} was {a!r} and is {b!r}" for name, (a, b) in named.items() if a != b]


def form_of(inputs: Inputs) -> Form:
    """Names, dtypes and shapes without the batch."""
    names = list(inputs) if isinstance(inputs, dict) else []
    tensors = tensors_of(inputs)
    names += [""] * (len(tensors) - len(names))
    return tuple(
        (name, str(tensor.dtype), tuple(tensor.shape[1:]))
        for name, tensor in zip(names, tensors, strict=False)
    )


def _read(value: Mapping[str, Any]) -> TuningRecord:
    winners = {int(n): _read_winner(one) for n, one in value["winners"].items()}
    if not winners:
        raise ValueError("it names no winner")
    chunk_size = int(value["chunk_size"])
    if chunk_size < 1 or min(winners) < 1:
        raise ValueError("batch sizes are 1 or more")
    return TuningRecord(
        hardware={str(key): str(item) for key, item in value["hardware"].items()},
        form=tuple((str(n), str(d), tuple(map(int, shape))) for n, d, shape in value["form"]),
        device=str(value["device"]),
        tolerance=float(value["tolerance"]),
        is_reduced_admitted=bool(value["is_reduced_admitted"]),
        asked=str(value["asked"]),
        batch_sizes=tuple(map(int, value["batch_sizes"])),
        winners=winners,
        chunk_size=chunk_size,
    )


def _read_winner(value: Mapping[str, Any]) -> Winner:
    settings = value["settings"]
    if not all(isinstance(item, str | int) for item in settings.values()):
        raise TypeError(f"settings hold texts and whole numbers, got {settings!r}")
    return Winner(
        name=str(value["name"]),
        settings={str(key): item for key, item in settings.items()},
        latency_ms=_read_duration(value["latency_ms"]),
        eager_latency_ms=_read_duration(value["eager_latency_ms"]),
    )


def _read_duration(value: Any) -> float:
    duration = float(value)
    if not 0 < duration < math.inf:
        raise ValueError(f"a latency is a number above 0, got {value!r}")
    return duration
