"""The configuration file: every key, its rule, and errors that name key and line.

`load_config("config/model_integration.yaml")` gives sections that are handed to the classes::

    config = load_config(path)
    manager = ModelVersionManager(**config.version_management.options())
    monitor = ModelMonitor("ppo", **config.monitoring.options())
    strategy = UpdateStrategy(manager, monitor, config=config.update_strategy.options())

Only this module knows pydantic; inside modelyard settings are frozen dataclasses.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    field_validator,
    model_validator,
)

from modelyard._core.errors import ConfigError
from modelyard._core.yaml_lines import Document, parsed

_Share = Annotated[float, Field(gt=0.0, lt=1.0)]
_Positive = Annotated[float, Field(gt=0.0)]
_Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    """A part of the file: no unknown key, no value that only looks like the type wanted."""

    # "model" is a section's name here; pydantic would keep such names for itself.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        # A section whose keys are all commented out is None in YAML.
        return {} if value is None else value

    def options(self) -> dict[str, Any]:
        """The keys by name, as keyword arguments of the class that the section is for."""
        return self.model_dump()


class VersionManagement(_Section):
    """Options of `ModelVersionManager`."""

    base_dir: str = "models"
    database_url: str | None = None
    storage_url: str | None = None
    auto_cleanup: bool = False
    keep_best_n: _Count = 10


class Pruning(_Section):
    """Options of `ModelCompressor.prune_model`; `amount` is a share, 0 to 1."""

    amount: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
    method: Literal["l1_unstructured", "random_unstructured", "ln_structured", "structured"] = (
        "l1_unstructured"
    )


class Quantization(_Section):
    """Options of `ModelCompressor.quantize_model`; `dtype` is the name of a torch dtype."""

    dtype: Literal["qint8", "quint8"] = "qint8"
    backend: Literal["fbgemm", "x86", "onednn", "qnnpack"] = "fbgemm"


class Distillation(_Section):
    """Options of `ModelCompressor.knowledge_distillation`."""

    temperature: _Positive = 3.0
    alpha: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    epochs: _Count = 10


class Compression(_Section):
    """How models are made smaller."""

    pruning: Pruning = Pruning()
    quantization: Quantization = Quantization()
    distillation: Distillation = Distillation()


class InferenceOptimization(_Section):
    """Options of `InferenceOptimizer`."""

    device: str = "auto"
    batch_size: _Count = 32
    use_amp: bool = False
    cache_size: Annotated[int, Field(ge=0)] = 1000
    max_latency_ms: _Positive | None = None


class ABTesting(_Section):
    """Options of `ABTest`, and the algorithm of `MultiArmedBandit`."""

    min_samples: _Count = 100
    confidence_level: _Share = 0.95
    primary_metric: str = "sharpe_ratio"
    bandit_algorithm: Literal[
        "epsilon_greedy", "ucb", "thompson_sampling", "ucb_tuned", "kl_ucb", "ada_ucb"
    ] = "ucb"

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `ABTest`; `bandit_algorithm` belongs to another class."""
        return self.model_dump(exclude={"bandit_algorithm"})


class AlertThresholds(_Section):
    """Over which values the monitor raises alerts; null switches one off."""

    latency_p99_ms: _Positive | None = 100.0
    error_rate: _Positive | None = 0.05
    prediction_drift: _Positive | None = 0.3
    feature_drift: _Positive | None = 0.3


class Monitoring(_Section):
    """Options of `ModelMonitor`."""

    window_size: _Count = 1000
    log_dir: str | None = None
    alert_thresholds: AlertThresholds = AlertThresholds()


class UpdateRules(_Section):
    """The `config` of `UpdateStrategy`; `update_strategy.UpdateSettings` explains each key."""

    performance_threshold: _Share = 0.8
    drift_threshold: _Positive = 0.3
    error_rate_threshold: _Share = 0.05
    min_samples: _Count = 1000
    cooldown_hours: Annotated[float, Field(ge=0.0)] = 24.0
    auto_rollback: bool = True
    rollback_threshold: _Share = 0.7
    key_metric: str | None = None
    key_metric_direction: Literal["higher", "lower"] | None = None
    schedule: str | None = None
    transition_minutes: Annotated[float, Field(ge=0.0)] = 5.0
    # A list in YAML is no tuple; its items are checked strictly all the same.
    steps: Annotated[tuple[float, ...], Strict(strict=False)] = (10.0, 50.0, 100.0)
    step_min_samples: _Count = 50
    latency_floor_ms: Annotated[float, Field(ge=0.0)] = 0.5
    allow_uncalibrated_drift: bool = False
    rollback_cooldown_hours: Annotated[float, Field(ge=0.0)] = 72.0
    max_consecutive_rollbacks: _Count = 3
    update_windows: Annotated[tuple[str, ...], Strict(strict=False)] = ()
    timezone: str = "UTC"
    shadow_minutes: Annotated[float, Field(ge=0.0)] = 0.0
    approval_steps: Annotated[tuple[float, ...], Strict(strict=False)] = ()
    bake_minutes: Annotated[float, Field(ge=0.0)] = 10.0
    error_margin: _Share | None = None
    latency_margin: _Positive = 0.5
    confidence_level: _Share = 0.95
    require_key_metric: bool = False
    key_metric_margin: _Positive = 0.1


class ModelSource(_Section):
    """Where `modelyard run` takes the model from: a function that makes it, or a file."""

    factory: str | None = None
    file: str | None = None

    @field_validator("factory")
    @classmethod
    def _names_a_function(cls, value: str | None) -> str | None:
        module, colon, function = (value or "").partition(":")
        if value is not None and not (module and colon and function):
            raise ValueError('must name a function as "package.module:function"')
        return value

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if (self.factory is None) == (self.file is None):
            raise ValueError("must have one of factory and file")
        return self


class DataSource(_Section):
    """Where `modelyard run` takes the data from; `target` names what is to be predicted."""

    file: str
    target: str | None = None


class ModelIntegrationConfig(_Section):
    """The whole file. A section or key that is left out has its class's default."""

    version_management: VersionManagement = VersionManagement()
    compression: Compression = Compression()
    inference_optimization: InferenceOptimization = InferenceOptimization()
    ab_testing: ABTesting = ABTesting()
    monitoring: Monitoring = Monitoring()
    update_strategy: UpdateRules = UpdateRules()
    model: ModelSource | None = None
    data: DataSource | None = None


def load_config(path: str | Path) -> ModelIntegrationConfig:
    """The configuration in a YAML file.

    Args:
        path: The file, such as `config/model_integration.yaml`. Paths in it are left as written.

    Raises:
        ConfigError: The file cannot be read, is no YAML, or has unknown keys or values that break
            their rule. Every mistake is named with its line.
    """
    name = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration file {name!r} cannot be read: {error}.") from error
    document = parsed(text, name=name)
    try:
        return ModelIntegrationConfig.model_validate(document.value)
    except ValidationError as error:
        mistakes = [_told(dict(item), document) for item in error.errors(include_url=False)]
        told = [f"{name}:{line}: {sentence}" for line, sentence in sorted(mistakes)]
        raise ConfigError("\n".join(told)) from error


def _told(mistake: Mapping[str, Any], document: Document) -> tuple[int, str]:
    """The line of a mistake, and a sentence about it."""
    place = tuple(mistake["loc"])
    line = document.line_of(place)
    dotted = ".".join(str(part) for part in place)
    if mistake["type"] == "extra_forbidden":
        return line, f"{dotted} is unknown. {_hint(place)}"
    if mistake["type"] == "missing":
        return line, f"{dotted} is missing."
    if not dotted:
        return line, "the file must consist of sections such as monitoring: {window_size: 1000}."
    return line, f"{dotted} {_rule_of(mistake)}, got {_shown(mistake['input'])}"


def _rule_of(mistake: Mapping[str, Any]) -> str:
    rules = {
        "int_type": "must be a whole number",
        "float_type": "must be a number",
        "finite_number": "must be a finite number",
        "bool_type": "must be true or false",
        "string_type": "must be text",
        "model_type": "must be a section of keys",
        "tuple_type": "must be a list",
    }
    limits = {
        "greater_than": ("above", "gt"),
        "greater_than_equal": ("at least", "ge"),
        "less_than": ("below", "lt"),
        "less_than_equal": ("at most", "le"),
    }
    context = mistake.get("ctx", {})
    kind = mistake["type"]
    if kind in limits:
        word, key = limits[kind]
        return f"must be {word} {context[key]:g}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "value_error":
        return str(context["error"])
    return rules.get(kind, str(mistake["msg"]))


def _hint(place: Sequence[str | int]) -> str:
    known = _keys_at(place[:-1])
    near = difflib.get_close_matches(str(place[-1]), known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(known)}."


def _keys_at(place: Sequence[str | int]) -> list[str]:
    section: type[BaseModel] = ModelIntegrationConfig
    kinds: dict[str, type[BaseModel]] = {"model": ModelSource, "data": DataSource}
    for part in place:
        section = kinds.get(str(part)) or type(section.model_fields[str(part)].default)
    return list(section.model_fields)


def _shown(value: Any) -> str:
    words = {True: "true", False: "false", None: "null"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)
