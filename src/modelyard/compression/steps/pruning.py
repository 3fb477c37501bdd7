"""Steps that take weights away."""

from collections.abc import Sequence
from typing import Any

from modelyard.compression import pruning, quantization, structured
from modelyard.compression.records import PruningStats
from modelyard.compression.steps.state import CompressorState


class PruningSteps(CompressorState):
    """Taking weights away; see `ModelCompressor`."""

    def prune_model(
        self,
        amount: float = 0.3,
        method: str = "l1_unstructured",
        layers_to_prune: Sequence[Any] | None = None,
        *,
        scope: str = "layer",
        layers_to_keep: Sequence[Any] | None = None,
    ) -> PruningStats:
        """Take weights away. Drops an earlier quantized result.

        Args:
            amount: Share of the targeted weights that are zero afterwards; for `structured` the
                share of the model's parameters removed.
            method: `l1_unstructured`, `random_unstructured`, `ln_structured` (weights become
                zero, sizes stay) or `structured` (channels are removed, size and time shrink;
                fine-tune or distil afterwards).
            layers_to_prune: Names, patterns such as `encoder.*`, or modules; None for every
                Linear, Conv and attention projection.
            scope: "layer" takes the share in each layer, "global" over all together.
            layers_to_keep: For `structured`: layers that keep their width, besides the last.

        Raises:
            ConfigError: A value out of range, an unknown method or layer.
            ExampleInputRequiredError: `structured` needs an input and none can be inferred.
            InputError: `structured`: the model does not run with fewer channels.
        """
        quantization.refuse_graph(self._float_model)
        wanted = pruning.layer_names(self.original_model, layers_to_prune)
        if method == "structured":
            kept = pruning.layer_names(self.original_model, layers_to_keep)
            self._float_model, stats = structured.pruned(
                self._float_model, self._inputs(), amount=amount, wanted=wanted, keep=kept or []
            )
            self._masks = {}
        else:
            masks, stats = pruning.prune_(
                self._float_model,
                wanted,
                method=method,
                amount=amount,
                scope=scope,
                seed=self._seed,
            )
            self._masks |= masks
        self._quantized = None
        self._note("prune", stats)
        return stats

    def make_pruning_permanent(self) -> None:
        """Fold the masks in: the zeros stay, later training may change them."""
        self._masks = {}
        self._note("make_pruning_permanent", {})
