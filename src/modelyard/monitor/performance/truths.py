"""Outcomes as the predictions they are compared with need them, and why they cannot be."""

from collections.abc import Mapping, Sequence

import numpy as np

from modelyard.monitor.performance.kinds import PredictionKind
from modelyard.monitor.performance.measured import Rows
from modelyard.monitor.performance.realised import are_chances, are_positions, chances_of
from modelyard.monitor.recording.labels import code_of

_N_SHOWN = 3


def numbers_of(
    kind: PredictionKind,
    truths: Rows,
    labels: Mapping[float, str],
    output_names: Sequence[str],
    *,
    n_outputs: int,
) -> Rows:
    """Outcomes with text as what predictions of this kind are compared with.

    Args:
        kind: Of chances, text is the place of its class; of numbers it is none, NaN; classes
            that are text are compared by their codes.
        truths: shape (n, k), text as its code.
        labels: Text by code, as far as known.
        output_names: In the order of the chances. One name alone, of a single chance, is that of
            the second of two classes; any other text is then the first.
        n_outputs: Of a prediction.
    """
    if kind is PredictionKind.CLASS:
        return truths
    is_chance = kind is PredictionKind.PROBABILITIES
    is_single = is_chance and n_outputs == len(output_names) == 1
    numbers = dict.fromkeys(labels, 0.0 if is_single else np.nan)
    if is_chance:
        numbers |= {code_of(name): float(i + is_single) for i, name in enumerate(output_names)}
    found = [numbers.get(value, value) for value in truths.ravel().tolist()]
    return np.array(found, np.float64).reshape(truths.shape)


def problem_of(
    kind: PredictionKind, predictions: Rows, truths: Rows, lost_labels: Sequence[str]
) -> str:
    """Why outcomes cannot be compared with what was predicted; empty where all can.

    Args:
        kind: What the predictions are.
        predictions: shape (n, outputs).
        truths: shape (n, k), as `numbers_of` gives them.
        lost_labels: Outcomes that are text and have no number.
    """
    if len(predictions) == 0:
        return ""
    if lost_labels:
        return _of_labels(kind, lost_labels)
    if kind is PredictionKind.PROBABILITIES:
        return _of_chances(predictions, truths)
    return _of_numbers(predictions, truths)


def _of_labels(kind: PredictionKind, labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label) for label in sorted(labels)[:_N_SHOWN])
    shown += ", ..." if len(labels) > _N_SHOWN else ""
    if kind is PredictionKind.PROBABILITIES:
        return (
            f"Outcomes are labels that name no output ({shown}): "
            "give output_names= in the order of the chances."
        )
    return (
        f"Outcomes are labels ({shown}) and predictions are numbers. Say what the numbers are: "
        "prediction_kind='probabilities' with output_names= in the order of the chances."
    )


def _of_chances(predictions: Rows, truths: Rows) -> str:
    n, n_outputs, width = len(predictions), predictions.shape[1], truths.shape[1]
    if width != 1:
        return f"Outcomes hold {width} values; of chances the outcome is one class."
    n_odd = int((~are_chances(predictions)).sum())
    if n_odd:
        return f"{n_odd} of {n} predictions with an outcome are no chances from 0 to 1."
    n_classes = chances_of(predictions[:1]).shape[1]
    n_odd = int((~are_positions(truths[:, 0], n_classes)).sum())
    if n_odd:
        return (
            f"{n_odd} of {n} outcomes are no class: a whole number from 0 to {n_classes - 1}, "
            f"or a label that output_names= holds ({n_outputs} chances)."
        )
    return ""


def _of_numbers(predictions: Rows, truths: Rows) -> str:
    n, n_outputs, width = len(predictions), predictions.shape[1], truths.shape[1]
    if n_outputs != width:
        return (
            f"Predictions have {n_outputs} outputs and outcomes {width} values: they cannot be "
            "compared. Give as many values as outputs, one prediction a call."
        )
    is_known = np.isfinite(predictions).all(axis=1) & np.isfinite(truths).all(axis=1)
    if not is_known.all():
        n_odd = int((~is_known).sum())
        return f"{n_odd} of {n} predictions or their outcomes hold NaN or infinity."
    return ""
