"""Quantization under a limit: a result is measured, mended by layers left in float, or refused."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from modelyard._core.errors import ModelyardError, QuantizationError
from modelyard.torchtools.quantization.error import Reference, error_of
from modelyard.torchtools.quantization.failures import failure_told
from modelyard.torchtools.quantization.layers import Source, is_portable, n_narrow
from modelyard.torchtools.quantization.recipes import Recipe
from modelyard.torchtools.quantization.weights import with_int8_weights

# A tenth of this is usual for int8; recipes that destroy a model are at .35 and more.
DEFAULT_MAX_ERROR = 0.1
# Enough to tell layers apart; the verdict is always on all of the data.
_RANKING_BATCHES = 2

_REMEDY = (
    "Nothing was changed. Pass data the model is used on (validation_data, calibration_data), "
    "keep more layers in float, or raise max_error."
)

_logger = logging.getLogger("modelyard")


@dataclass(frozen=True, kw_only=True)
class LayerDecision:
    """What became of one layer.

    Attributes:
        layer: Name of the module.
        is_quantized: Whether the recipe was applied to it.
        reason: Why not: "asked", "breaks the limit", "not of a kind the recipe acts on"; empty
            where it was.
        is_stored_small: Whether it is computed in float, but from weights stored in 8 bits.
        error_alone: Relative error where this layer alone is quantized; None where the layers did
            not have to be ranked.
    """

    layer: str
    is_quantized: bool
    reason: str
    is_stored_small: bool
    error_alone: float | None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A recipe that was tried.

    Attributes:
        recipe: Its name.
        error: Relative error with every layer quantized that may be; None where it failed.
        outcome: What came of it, in words.
    """

    recipe: str
    error: float | None
    outcome: str


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A graph that kept its error under the limit.

    Attributes:
        data: The serialised graph.
        recipe: Name of the recipe.
        error: Largest relative error of an output (see `error.relative_error`).
        decisions: One a layer that has weights.
        attempts: Every recipe tried, this one last.
        is_portable: Whether only standard ONNX operators are used.
    """

    data: bytes
    recipe: str
    error: float
    decisions: list[LayerDecision]
    is_portable: bool
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def layers_kept_float(self) -> list[str]:
        """Layers left in float because asked, or because they broke the limit."""
        return sorted(
            decision.layer
            for decision in self.decisions
            if decision.reason in {"asked", "breaks the limit"}
        )


class OverLimitError(QuantizationError):
    """A recipe changes the answers by more than the limit.

    Attributes:
        closest: The smallest relative error that was reached.
        attempts: What was tried.
    """

    def __init__(self, message: str, *, closest: float, attempts: Sequence[Attempt]) -> None:
        super().__init__(message)
        self.closest = closest
        self.attempts = list(attempts)


def first_within(
    source: Source,
    choices: Sequence[Sequence[Recipe]],
    reference: Reference,
    *,
    max_error: float,
    keep_float: Sequence[str] = (),
) -> Quantized:
    """The first of the choices whose error can be kept under the limit.

    Args:
        source: The float graph.
        choices: In order of preference; each one or more recipes that come to the same in size
            and speed (see `quantized_within`).
        reference: Inputs and float outputs that the error is measured on.
        max_error: Largest relative error allowed.
        keep_float: Modules that stay in float in any case, by name or beginning of it.

    Raises:
        QuantizationError: None of them can, saying which came closest; or there is nothing they
            act on.
        ConfigError: A name in `keep_float` that no layer has.
    """
    attempts: list[Attempt] = []
    failures: list[QuantizationError] = []
    for recipes in choices:
        try:
            result = quantized_within(
                source, recipes, reference, max_error=max_error, keep_float=keep_float
            )
        except QuantizationError as error:
            attempts += _told(recipes, error)
            failures.append(error)
        else:
            return replace(result, attempts=[*attempts, *result.attempts])
    raise _refusal(attempts, failures, max_error)


def quantized_within(
    source: Source,
    recipes: Sequence[Recipe],
    reference: Reference,
    *,
    max_error: float,
    keep_float: Sequence[str] = (),
) -> Quantized:
    """The first recipe under the limit; else the closest one, with layers left in float.

    The layers are ranked by the error each causes when it alone is quantized; the fewest that
    bring the error under the limit, worst first, stay in float. At most half of them may. Their
    weights are still stored in 8 bits where the limit allows that.

    Args:
        source: The float graph.
        recipes: Ways to quantize it that come to the same in size and speed.
        reference: Inputs and float outputs that the error is measured on.
        max_error: Largest relative error allowed.
        keep_float: Modules that stay in float in any case, by name or beginning of it.

    Raises:
        QuantizationError: The error stays over the limit; or there is nothing to act on.
        ConfigError: A name in `keep_float` that no layer has.
    """
    asked = source.named(keep_float)
    attempts: list[Attempt] = []
    failures: list[QuantizationError] = []
    for recipe in recipes:
        try:
            data, error = _tried(source, recipe, reference, asked)
        except QuantizationError as failure:
            attempts.append(Attempt(recipe=recipe.name, error=None, outcome=str(failure)))
            failures.append(failure)
            continue
        if not asked and n_narrow(data) <= source.n_narrow:
            raise QuantizationError(
                f"Nothing could be quantized: the model has no float32 layer large enough that "
                f"{recipe.name} acts on. Nothing was changed."
            )
        is_within = error <= max_error
        outcome = "chosen" if is_within else f"over the limit of {_percent(max_error)}"
        attempts.append(Attempt(recipe=recipe.name, error=error, outcome=outcome))
        if is_within:
            result = _result(source, recipe, data, error, asked=asked)
            return replace(result, attempts=attempts)
    measured = [
        (attempt.error, recipe)
        for attempt, recipe in zip(attempts, recipes, strict=True)
        if attempt.error is not None
    ]
    if not measured:
        raise failures[0]
    error, recipe = min(measured, key=lambda pair: pair[0])
    harm = layer_errors(source, recipe, reference.first(_RANKING_BATCHES), keep_float=asked)
    ranked = sorted(harm, key=lambda layer: harm[layer], reverse=True)
    found = _fewest_in_float(source, recipe, reference, ranked, asked, max_error)
    if isinstance(found, float):
        closest = min(error, found)
        raise OverLimitError(
            f"{recipe.name} changes the outputs by {_percent(closest)} at the least (relative "
            f"error); the limit is {_percent(max_error)}. {_REMEDY}",
            closest=closest,
            attempts=attempts,
        )
    data, error, kept = found
    stored = with_int8_weights(data, only=frozenset(source.names_now(kept)))
    stored_error = error_of(stored, reference)
    is_stored_small = stored_error <= max_error and len(stored) < len(data)
    if is_stored_small:
        data, error = stored, stored_error
    result = _result(
        source,
        recipe,
        data,
        error,
        asked=asked,
        kept=kept,
        harm=harm,
        is_stored_small=is_stored_small,
    )
    mended = Attempt(recipe=recipe.name, error=error, outcome="chosen with layers in float")
    return replace(result, attempts=[*attempts, mended])


def layer_errors(
    source: Source, recipe: Recipe, reference: Reference, *, keep_float: frozenset[str]
) -> dict[str, float]:
    """The relative error that each layer causes when it alone is quantized.

    Args:
        source: The float graph.
        recipe: How a layer is quantized.
        reference: What the error is measured on.
        keep_float: Nodes that are not looked at.
    """
    every = frozenset(source.layers)
    layers = _nodes_by_layer(source, recipe, keep_float)
    _logger.info("Ranking %d layers by the error each causes in %s.", len(layers), recipe.name)
    return {
        layer: _tried(source, recipe, reference, every - nodes)[1]
        for layer, nodes in layers.items()
    }


def _fewest_in_float(
    source: Source,
    recipe: Recipe,
    reference: Reference,
    ranked: Sequence[str],
    asked: frozenset[str],
    max_error: float,
) -> tuple[bytes, float, frozenset[str]] | float:
    """The graph with the fewest of the worst layers in float, or the least error reached."""
    nodes = _nodes_by_layer(source, recipe, asked)
    closest = math.inf

    def tried(n_kept: int) -> tuple[bytes, float, frozenset[str]]:
        kept = frozenset().union(*(nodes[layer] for layer in ranked[:n_kept]))
        return (*_tried(source, recipe, reference, asked | kept), kept)

    fails, holds, best = 0, 1, None
    while holds <= len(ranked) // 2:
        found = tried(holds)
        closest = min(closest, found[1])
        if found[1] <= max_error:
            best = found
            break
        fails, holds = holds, 2 * holds
    if best is None:
        return closest
    while holds - fails > 1:
        middle = (fails + holds) // 2
        found = tried(middle)
        fails, holds, best = (
            (fails, middle, found) if found[1] <= max_error else (middle, holds, best)
        )
    return best


def _nodes_by_layer(
    source: Source, recipe: Recipe, without: frozenset[str]
) -> dict[str, frozenset[str]]:
    kinds = source.operators
    found: dict[str, set[str]] = {}
    for node, layer in source.layers.items():
        if node not in without and kinds[node] in recipe.operators:
            found.setdefault(layer or node, set()).add(node)
    return {layer: frozenset(nodes) for layer, nodes in found.items()}


def _tried(
    source: Source, recipe: Recipe, reference: Reference, keep_float: frozenset[str]
) -> tuple[bytes, float]:
    try:
        data = recipe(source, keep_float)
        return data, error_of(data, reference)
    except ModelyardError:
        raise
    except Exception as error:
        raise QuantizationError(failure_told(source, recipe, error)) from error


def _result(
    source: Source,
    recipe: Recipe,
    data: bytes,
    error: float,
    *,
    asked: frozenset[str],
    kept: frozenset[str] = frozenset(),
    harm: dict[str, float] | None = None,
    is_stored_small: bool = False,
) -> Quantized:
    return Quantized(
        data=data,
        recipe=recipe.name,
        error=error,
        decisions=_decisions(
            source,
            recipe,
            asked=asked,
            kept=kept,
            harm=harm or {},
            is_stored_small=is_stored_small,
        ),
        is_portable=is_portable(data),
    )


def _decisions(
    source: Source,
    recipe: Recipe,
    *,
    asked: frozenset[str],
    kept: frozenset[str],
    harm: dict[str, float],
    is_stored_small: bool,
) -> list[LayerDecision]:
    kinds = source.operators
    reasons: dict[str, set[str]] = {}
    for node, layer in source.layers.items():
        if node in asked:
            reason = "asked"
        elif node in kept:
            reason = "breaks the limit"
        else:
            is_fit = kinds[node] in recipe.operators
            reason = "" if is_fit else "not of a kind the recipe acts on"
        reasons.setdefault(layer or node, set()).add(reason)
    return [
        LayerDecision(
            layer=layer,
            is_quantized="" in why,
            reason="" if "" in why else min(why),
            is_stored_small=is_stored_small and "breaks the limit" in why,
            error_alone=harm.get(layer),
        )
        for layer, why in reasons.items()
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _told(recipes: Sequence[Recipe], error: QuantizationError) -> list[Attempt]:
    if isinstance(error, OverLimitError):
        return error.attempts
    return [Attempt(recipe=recipes[0].name, error=None, outcome=str(error))]


def _refusal(
    attempts: Sequence[Attempt], failures: Sequence[QuantizationError], max_error: float
) -> QuantizationError:
    if len(failures) == 1:
        return failures[0]
    measured = [(a.error, a.recipe) for a in attempts if a.error is not None]
    if not measured:
        return failures[0]
    error, recipe = min(measured)
    told = "; ".join(f"{name}: {_percent(its)}" for its, name in measured)
    return OverLimitError(
        f"No recipe keeps the outputs within {_percent(max_error)}: {recipe} came closest "
        f"with {_percent(error)} (relative error; {told}). {_REMEDY}",
        closest=error,
        attempts=attempts,
    )
