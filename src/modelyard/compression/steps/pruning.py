"""Steps that take weights away."""

from collections.abc import Sequence
from typing import Any

from modelyard._core.errors import ConfigError, InputError
from modelyard.compression import pruning, quantization, structured
from modelyard.compression.output_layers import last_layer, output_layers
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
                share of the model's parameters removed, as near as whole channels come to it.
            method: `l1_unstructured`, `random_unstructured`, `ln_structured` (weights become
                zero, sizes stay) or `structured` (channels are removed, size and time shrink;
                fine-tune or distil afterwards).
            layers_to_prune: Names, patterns such as `encoder.*`, or modules; None for every
                Linear, Conv and attention projection (`ln_structured`: but those that make the
                outputs, where there are others).
            scope: "layer" takes the share in each layer, "global" over all together;
                `structured` takes "layer" alone.
            layers_to_keep: Layers to leave as they are; for `structured`, whose outputs keep
                their width, as those of the layers that make the outputs always do.

        Raises:
            ConfigError: A value out of range, an unknown method or layer, layers that share
                a weight and would part by losing channels.
            ExampleInputRequiredError: `structured` needs an input and none can be inferred.
            InputError: `structured`: the model does not run with fewer channels.
        """
        quantization.refuse_graph(self._float_model)
        wanted = self._names_of(layers_to_prune)
        kept = self._names_of(layers_to_keep) or []
        if method == "structured":
            if scope != "layer":
                raise ConfigError(
                    f"scope {scope!r} is for weights: method 'structured' takes 'layer' alone."
                )
            self._float_model, stats = structured.pruned(
                self._float_model, self._inputs(), amount=amount, wanted=wanted, keep=kept
            )
            self._masks = pruning.masks_of_zeros(self._float_model, self._masks)
        else:
            if method == "ln_structured" and wanted is None:
                kept = [*kept, *self._making_outputs(kept)]
            masks, stats = pruning.prune_(
                self._float_model,
                wanted,
                method=method,
                amount=amount,
                scope=scope,
                seed=self._seed,
                keep=kept,
            )
            self._masks = pruning.combined(self._masks, masks)
        self._quantized = None
        self._note("prune", stats)
        return stats

    def _names_of(self, layers: Sequence[Any] | None) -> list[str] | None:
        return pruning.layer_names(self.original_model, layers, changed=self._float_model)

    def _making_outputs(self, kept: Sequence[str]) -> list[str]:
        """The layers whose channels are the outputs', unless nothing else is left to prune."""
        model = self._float_model
        try:
            names = output_layers(model, self._inputs())
        except InputError:  # no input to be had: the last layer there is
            names = last_layer(model)
        made = {
            t.layer for t in pruning.all_targets(model) for name in names if t.is_meant_by(name)
        }
        left = {target.layer for target in pruning.find_targets(model, None, keep=kept)} - made
        return sorted(made) if left else []

    def make_pruning_permanent(self) -> None:
        """Fold the masks in: the zeros stay, later training may change them."""
        self._masks = {}
        self._note("make_pruning_permanent", {})
