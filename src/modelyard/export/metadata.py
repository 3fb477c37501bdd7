"""Texts in an exported file: where the model is from, what its inputs were like, what was proved.

Values that are no text are stored as JSON, and a list of their keys beside them, so that what is
read is what was written.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch

from modelyard._core.errors import ConfigError, ConversionError
from modelyard._core.plain import to_plain, without_non_finite
from modelyard.torchtools.conversion import LARGEST_FILE_BYTES
from modelyard.torchtools.inputs import Inputs, tensors_of
from modelyard.torchtools.layers import MB

# What the exporter says of its own work; nobody else may.
OWN_KEYS = ("precision", "verification", "input_statistics")
_JSON_KEYS = "json_keys"
_MOST_FEATURES = 1024


def as_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as texts for a file.

    Raises:
        ConfigError: A value JSON cannot hold, or two keys that are one as text.
    """
    if len({str(key) for key in values}) < len(values):
        raise ConfigError("metadata has two keys that are one as text.")
    texts, in_json = {}, []
    for key, value in values.items():
        if isinstance(value, str):
            texts[str(key)] = value
        else:
            plain = without_non_finite(to_plain(value, where=f"metadata.{key}"))
            texts[str(key)] = json.dumps(plain, sort_keys=True)
            in_json.append(str(key))
    return {**texts, _JSON_KEYS: json.dumps(sorted(in_json))} if in_json else texts


def as_values(texts: Mapping[str, str]) -> dict[str, Any]:
    """Texts of a file as the values they were written from. Other tools' texts stay texts."""
    values: dict[str, Any] = dict(texts)
    try:
        in_json = json.loads(values.get(_JSON_KEYS, "[]"))
        decoded = {key: json.loads(values[key]) for key in in_json if key in values}
    except (ValueError, TypeError):
        return values
    values.pop(_JSON_KEYS, None)
    return values | decoded


def checked_metadata(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The user's own entries.

    Raises:
        ConfigError: No mapping, or a key that the exporter writes itself.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"metadata must be a dict of texts or plain values, got {given!r}.")
    if taken := sorted({*OWN_KEYS, _JSON_KEYS} & set(given)):
        raise ConfigError(f"metadata may not hold {', '.join(taken)}: the exporter writes it.")
    return dict(given)


def input_statistics(names: Sequence[str], batches: Sequence[Inputs]) -> dict[str, Any]:
    """Mean, standard deviation, range and quantiles of each input over batches.

    For inputs whose last axis has at most 1,024 sizes, also the means and standard deviations of
    each feature, as a monitor's baseline wants them. Inputs of whole numbers get their range.
    """
    columns = zip(*(tensors_of(batch) for batch in batches), strict=True)
    return {name: _statistics(list(tensors)) for name, tensors in zip(names, columns, strict=True)}


def _statistics(tensors: Sequence[torch.Tensor]) -> dict[str, Any]:
    flat = torch.cat([tensor.detach().cpu().reshape(-1) for tensor in tensors])
    n_samples = sum(tensor.shape[0] if tensor.ndim else 1 for tensor in tensors)
    found: dict[str, Any] = {"n_samples": n_samples}
    if flat.numel() == 0:
        return found
    values = flat.double()
    found |= {"min": float(values.min()), "max": float(values.max())}
    if not flat.is_floating_point():
        return found
    q01, q50, q99 = (_quantile(values, share) for share in (0.01, 0.5, 0.99))
    found |= {
        "mean": float(values.mean()),
        "std": float(values.std(correction=0)),
        "q01": q01,
        "q50": q50,
        "q99": q99,
    }
    width = tensors[0].shape[-1] if tensors[0].ndim > 1 else 0
    if 0 < width <= _MOST_FEATURES and all(t.shape[-1] == width for t in tensors):
        rows = torch.cat([tensor.detach().cpu().double().reshape(-1, width) for tensor in tensors])
        found["feature_means"] = rows.mean(0).tolist()
        found["feature_stds"] = rows.std(0, correction=0).tolist()
    return found


def _quantile(values: torch.Tensor, share: float) -> float:
    # kthvalue, not quantile: that one takes at most 16 million numbers.
    rank = min(values.numel(), max(1, math.ceil(share * values.numel())))
    return float(values.kthvalue(rank).values)


def merged(before: Mapping[str, str], texts: Mapping[str, str]) -> dict[str, str]:
    """Texts that a file has, with others over them."""
    values = as_values(before) | as_values(texts)
    return as_texts(values)


def with_metadata(data: bytes, texts: Mapping[str, str]) -> bytes:
    """A serialised graph with texts in it.

    Raises:
        ConversionError: It is too large for one file.
    """
    if texts:
        model = onnx.load_from_string(data)
        before = {entry.key: entry.value for entry in model.metadata_props}
        onnx.helper.set_model_props(model, merged(before, texts))
        data = model.SerializeToString()
    if len(data) > LARGEST_FILE_BYTES:
        raise ConversionError(
            f"The graph has {len(data) / MB:.0f} MB; one ONNX file holds at most "
            f"{LARGEST_FILE_BYTES / MB:.0f} MB. Compress the model first."
        )
    return data
