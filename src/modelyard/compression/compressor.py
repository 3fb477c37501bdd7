"""`ModelCompressor`: prune, quantize and distil a model, the original always at hand."""

import copy
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from modelyard._core.errors import InputError
from modelyard._core.files import make_folder, write_text
from modelyard.compression import pruning, quantization, search, structured
from modelyard.compression.evaluation import evaluated, name_of, side_by_side
from modelyard.compression.records import CompressionStats, Evaluation, SearchResult
from modelyard.compression.report import Story, report_of
from modelyard.compression.steps.quantizing import QuantizingSteps
from modelyard.compression.steps.training import TrainingSteps
from modelyard.compression.training import DistillationPlan, distil_
from modelyard.reporting import render
from modelyard.stats.direction import contradicts_name
from modelyard.torchtools.conversion.preparation import plain_copy
from modelyard.torchtools.layers import n_parameters, size_mb, unwrapped
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.quantization import DEFAULT_MAX_ERROR

_logger = logging.getLogger("modelyard")


class ModelCompressor(QuantizingSteps, TrainingSteps):
    """Makes a smaller copy of a model, step by step.

    The model given is never changed. Quantizing always starts from the float (perhaps pruned)
    model, so steps may come in any order and again. Not thread-safe.

    Args:
        model: The trained module.
        example_input: Tensor, or tuple or dict of tensors, batch first. Needed where none can be
            inferred from the layers.
        validation_data: What errors are measured on: a tensor of samples, or an iterable of
            batches. Without it, seeded normal inputs stand in and results say "synthetic".
        dynamic_axes: Sizes that may vary in quantized models, by input and axis, as
            `{"input": {0: "batch_size", 1: "time"}}`; the batch alone by default. Names are those
            that `ModelExporter` gives: `input`, or of several the arguments of `forward`.
        store: Taken as every class with state takes it; a compressed model is stored by saving it.
        clock: Dates the report.
        seed: Of random pruning, synthetic inputs and distillation.

    Attributes:
        original_model: The module given, untouched.
        original_size: Its weights in MB (10^6 bytes).
        model: The compressed one so far.
        distillation_history: One entry an epoch of the last distillation.
        training_history: One entry an epoch of the last fine-tuning.
        example_input: An input that the model is known to run on.

    Raises:
        ConfigError: `model` is no module.
    """

    def search(
        self,
        eval_fn: Callable[[nn.Module], Any],
        *,
        max_metric_drop: float = 0.01,
        target_size_mb: float | None = None,
        min_speedup: float | None = None,
        time_budget_s: float = 600.0,
        train_loader: Iterable[Any] | None = None,
        calibration_data: Any = None,
        amounts: Sequence[float] = (0.0, 0.3, 0.5),
        epochs: int = 5,
        maximize: bool = True,
        portable: bool = True,
        max_error: float = DEFAULT_MAX_ERROR,
        layers_to_keep: Sequence[Any] | None = None,
        progress: search.Progress = None,
    ) -> SearchResult:
        """Try ways to compress the original, and apply the fastest that keeps every limit.

        Structured pruning at several amounts, mended by distillation, times the recipes of
        quantization. What cannot win any more is left out: amounts beyond one that lost too much
        already, files over the size wanted, and what there is no time for.

        Args:
            eval_fn: `eval_fn(model) -> float`, the metric, on held-out data. It judges; use other
                data for what you report in the end.
            max_metric_drop: Largest loss of the metric, as a share of the original's size (0.01
                is 1 %); where the original's is 0, in its own unit.
            target_size_mb: Largest size in MB (10^6 bytes); None for any.
            min_speedup: Least time of the original over that of the result for one sample.
            time_budget_s: Nothing is begun after so long, and training is cut short.
            train_loader: Batches to mend pruned models with. Without them pruning is not tried.
            calibration_data: For static ranges; by default the validation data.
            amounts: Shares of the parameters to remove; 0 is always tried.
            epochs: Of the mending, each amount.
            maximize: Whether more of the metric is better.
            portable: Whether only standard ONNX operators may be used; without it blocks of 8 and
                4 bits are tried too.
            max_error: Largest relative error that quantizing may add.
            layers_to_keep: Layers that keep their width, besides the last.
            progress: None for lines in a terminal, False for nothing, or called with each
                candidate.

        Returns:
            Every candidate, the Pareto front, and which was applied.

        Raises:
            CompressionError: Nothing keeps the limits, saying what came closest. Nothing changes.
            ConfigError: A value out of range.
            InputError: `eval_fn` gives no finite number for the original.
        """
        limits = search.SearchLimits(
            max_metric_drop=max_metric_drop,
            target_size_mb=target_size_mb,
            min_speedup=min_speedup,
            max_error=max_error,
            is_maximized=maximize,
        )
        pruning.check_amounts(amounts)
        if contradicts_name(name_of(eval_fn), (), maximize=maximize):
            _logger.warning(
                "search(%s, maximize=%s): by its name the other way is better. Pass maximize=%s "
                "if that was meant.",
                name_of(eval_fn),
                maximize,
                not maximize,
            )
        plan = DistillationPlan(alpha=1.0, epochs=epochs, seed=self._seed)
        if train_loader is not None and iter(train_loader) is train_loader:
            raise InputError(
                "train_loader can be read only once, but every amount is trained for several "
                "epochs: pass a list or a DataLoader."
            )
        batches, source = self._validation_batches()
        calibration = batches
        if calibration_data is not None:
            calibration = self._batches_of(calibration_data, "calibration_data")
        kept = pruning.layer_names(self.original_model, layers_to_keep) or []
        ends = time.monotonic() + time_budget_s

        def smaller(model: nn.Module, amount: float) -> nn.Module:
            pruned, _ = structured.pruned(
                model, self._inputs(), amount=amount, wanted=None, keep=kept
            )
            distil_(
                pruned,
                self.original_model,
                train_loader or (),
                plan,
                progress=False,
                deadline=lambda: time.monotonic() > ends,
            )
            return pruned

        found = search.searched(
            plain_copy(self.original_model),
            example=self._inputs(),
            dynamic_axes=self._dynamic_axes,
            batches=batches,
            is_real=source != quantization.SYNTHETIC,
            eval_fn=eval_fn,
            limits=limits,
            time_budget_s=time_budget_s,
            amounts=(0.0, *amounts) if train_loader is not None else (0.0,),
            make=smaller,
            recipes=lambda graph: quantization.search_choices(
                graph, batches, calibration, max_error=max_error, portable=portable
            ),
            progress=progress,
        )
        self._float_model, self._masks = found.level.model, {}
        best = found.best.model
        self._quantized = best if isinstance(best, OnnxModule) else None
        self._search, self._quantization = found.told, None
        self._note(
            "search", {"best": found.best.name, "n_candidates": len(found.told["candidates"])}
        )
        return found.told

    def get_compression_stats(self) -> CompressionStats:
        """The whole way from the original to the present model."""
        compressed_mb = size_mb(self.model)
        return {
            "original_size_mb": self.original_size,
            "compressed_size_mb": compressed_mb,
            "compression_ratio": self.original_size / compressed_mb if compressed_mb else 1.0,
            "original_params": n_parameters(self.original_model),
            "compressed_params": n_parameters(self._float_model),
            "sparsity": pruning.sparsity(self._float_model),
            "is_quantized": self._quantized is not None,
            "quantization": copy.deepcopy(self._quantization) if self._quantized else None,
            "steps": copy.deepcopy(self._steps),
        }

    def evaluate_compressed_model(
        self, test_loader: Iterable[Any], metric_fn: Callable[..., Any]
    ) -> Evaluation:
        """Metric, size and latency of original and compressed model, side by side.

        Args:
            test_loader: Batches `(inputs, targets)`, read several times.
            metric_fn: `metric_fn(model, test_loader) -> float`, `metric_fn(outputs, targets)`, or
                in scikit-learn's order `metric_fn(y_true, y_pred)`: the names tell.

        Raises:
            ConfigError: `metric_fn` fits neither form.
            InputError: The loader is empty or can be read only once.
        """
        return evaluated(
            self.original_model, self.model, test_loader, metric_fn, n_inputs=self._n_inputs()
        )

    def error_to_original(self) -> float | None:
        """Relative error of `compressor.model` against the original, every step included.

        None where it is infinite. Measured on the validation data, else on made-up inputs.
        """
        batches, source = self._validation_batches()
        return quantization.error_to(
            unwrapped(self.original_model),
            self.model,
            batches,
            is_real=source != quantization.SYNTHETIC,
        )

    def report(self, path: str | Path | None = None) -> str:
        """The whole story as one HTML page that needs no network.

        Sizes, latencies and errors are measured anew, the models in turns.

        Args:
            path: File to write it to; its folder is made. None: it is only returned.

        Returns:
            The page.
        """
        batches, measured_on = self._validation_batches()
        story = Story(
            name=type(self.original_model).__name__,
            stats=self.get_compression_stats(),
            rows=side_by_side(
                {
                    "original": self.original_model,
                    "float": self._float_model,
                    "compressed": self.model,
                },
                batches,
                is_real=measured_on != quantization.SYNTHETIC,
                name=type(self.original_model).__name__,
            ),
            measured_on=measured_on,
            quantization=self._quantization if self._quantized else None,
            search=self._search,
            histories={
                "Distillation": self.distillation_history,
                "Fine-tuning": self.training_history,
            },
        )
        page = render(report_of(story, generated_at=self._clock.now()))
        if path is not None:
            make_folder(Path(path).parent)
            write_text(Path(path), page)
        return page
