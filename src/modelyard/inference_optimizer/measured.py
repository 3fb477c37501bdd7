"""Which module answers, and with which backends: measured, exchanged, told."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from modelyard._core.clock import Clock
from modelyard._core.errors import (
    ConfigError,
    ExampleInputRequiredError,
    InputError,
    NotReadyError,
)
from modelyard._core.files import make_folder, write_text
from modelyard.inference_optimizer import tuning
from modelyard.inference_optimizer.answers import n_samples, sample_of
from modelyard.inference_optimizer.backends import make_eager
from modelyard.inference_optimizer.batches import BatchPredictor
from modelyard.inference_optimizer.cache import AnswerCache
from modelyard.inference_optimizer.devices import finished, memory_mb
from modelyard.inference_optimizer.records import Benchmark, Optimization
from modelyard.inference_optimizer.report import report_of
from modelyard.inference_optimizer.serving import Reach, Serving, form_of
from modelyard.inference_optimizer.settings import whole_number
from modelyard.inference_optimizer.taking import taken
from modelyard.inference_optimizer.weights import Weights
from modelyard.reporting import render
from modelyard.torchtools.inputs import Inputs, mapped, resolve_example, with_batch
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.parity import outputs_by_path
from modelyard.torchtools.signature import noted_signature
from modelyard.torchtools.timing import summarized, time_calls

# What measuring sets.
_TUNED = (
    "by_batch",
    "form",
    "reach",
    "writes_weights",
    "own_errors",
    "chunk_size",
    "example",
    "optimization",
    "record",
)


@dataclass(frozen=True, kw_only=True)
class _Tuning:
    """How backends are measured, also for the model that comes next."""

    batch_sizes: Sequence[int] | None = None
    budget_s: float = 3.0


class MeasuredPredictor(BatchPredictor):
    """Answers inputs with the backends that measured fastest, of a module that can be exchanged.

    Args:
        device: What runs.
        batch_size: Largest batch computed at once.
        backend: "auto", or the one to use.
        use_amp: Admit reduced precision beyond `tolerance`.
        tolerance: Bound on a backend's difference from eager, as part of the output's size.
        cache: Of the settings that every module's own is made with.
        clock: Where the time comes from.
        seed: Of the inputs on which answers are compared.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        batch_size: int,
        backend: str,
        use_amp: bool,
        tolerance: float,
        cache: AnswerCache,
        clock: Clock,
        seed: int,
    ) -> None:
        super().__init__(batch_size=batch_size, tolerance=tolerance, seed=seed)
        self.device = device
        self._backend = backend
        self._use_amp = use_amp
        self._cache = cache
        self._clock = clock
        self._options = _Tuning()

    # ── the model ───────────────────────────────────────────────────────────────────────────

    @property
    def model(self) -> nn.Module | None:
        """The module that answers, or None."""
        return None if self._serving is None else self._serving.model

    def set_model(self, model: nn.Module) -> None:
        """Serve `model` from now on; calls that run finish with the one before.

        Answers cached for the one before are forgotten, and so is its backend: call
        `optimize_for_inference` again. Weights that are changed in place are not noticed: set the
        model again after that. A model that keeps tensors of its calls (a mask, a table of
        angles) cannot be trained afterwards: give the optimizer a copy.

        Raises:
            ConfigError: `model` is no module.
        """
        serving = self._made(model)
        with self._serving_lock:
            self._serving = serving

    def swap(self, model: nn.Module, example_input: Any = None) -> Optimization:
        """Replace the model under load, once the new one has been made ready beside it.

        Backends are measured for the new model if they were for the one before, each batch size
        is computed once, and the model is looked at as else on its first input, before it gets
        its first request. No call fails or waits for any of this, unless nothing is given and no
        example can be inferred: then the first request does the looking.

        Args:
            model: The new module.
            example_input: An input it takes; by default the one the model before was measured
                on, or if it does not run on that, one inferred from the layers.

        Returns:
            What serves now, as `optimize_for_inference` tells it.

        Raises:
            ConfigError: `model` is no module, or the backend asked for cannot serve it.
            InputError: It does not run on the example; the model before goes on serving.
        """
        before = self._serving
        serving, given = self._example_for(self._made(model), before, example_input)
        if before is not None and before.form is not None:
            serving, found = self._tuned(serving, given, self._options)
        else:
            found = self._eager_only("backends were not measured for the model before")
        ready = self._warmed_up(serving, before, given)
        with self._serving_lock:
            self._serving = ready
        return found

    def optimize_for_inference(
        self,
        example_input: Any = None,
        *,
        batch_sizes: Sequence[int] | None = None,
        budget_s: float = 3.0,
        reuse: Mapping[str, Any] | None = None,
    ) -> Optimization:
        """Measure the backends and use the fastest whose answers equal eager's.

        Args:
            example_input: Tensor, or tuple or dict of tensors, batch first; by default inferred
                from the layers. If none can be, eager stays and the result says why.
            batch_sizes: Those that matter; 1, 8 and `batch_size` by default.
            budget_s: Seconds for comparing and timing; each backend has its turn in any case.
            reuse: What `tuning_record` gave, here or in another process. On equal hardware its
                backends are compared with eager again, and nothing is timed.

        Returns:
            What was tried, and why each loser lost.

        Raises:
            NotReadyError: There is no model.
            InputError: The model does not run on `example_input`.
            ConfigError: The backend asked for by name cannot serve this model, or `reuse` is no
                record of a choice.
        """
        serving = self._current()
        options = _Tuning(batch_sizes=batch_sizes, budget_s=budget_s)
        tuned, found = self._tuned(serving, example_input, options, reuse)
        with self._serving_lock:
            now = self._serving
            if now is not None and now.eager is serving.eager:
                changes = {name: getattr(tuned, name) for name in _TUNED}
                # Answers of another backend differ within the tolerance: the cache starts anew,
                # off if the model was found not to repeat itself meanwhile.
                self._serving = replace(now, **changes, cache=now.cache.renewed())
        return found

    def explain(self) -> str:
        """What was tried and why each loser lost, as a table to read.

        Raises:
            NotReadyError: Nothing was measured yet.
        """
        return tuning.explain(self._found())

    def tuning_record(self) -> dict[str, Any]:
        """The choice as plain values, to keep with the version and to pass as `reuse`.

        Raises:
            NotReadyError: Nothing was measured yet.
        """
        record = self._current().record
        if record is None:
            raise NotReadyError("Backends were not measured: call optimize_for_inference first.")
        return record.to_dict()

    def report(self, path: str | Path | None = None, *, num_iterations: int = 1000) -> str:
        """What was tried, and the latency of the winner, as one HTML page.

        Args:
            path: Where to write it; None for nowhere.
            num_iterations: Calls of the winner that are timed.

        Returns:
            The page.

        Raises:
            NotReadyError: Nothing was measured yet.
        """
        found = self._found()
        name = type(self._current().model).__name__
        timed = self.benchmark(num_iterations=num_iterations)
        page = render(report_of(name, found, timed, generated_at=self._clock.now()))
        if path is not None:
            make_folder(Path(path).parent)
            write_text(Path(path), page)
        return page

    def benchmark(
        self,
        input_shape: Sequence[int] | None = None,
        num_iterations: int = 1000,
        warmup_iterations: int = 10,
    ) -> Benchmark:
        """Latency of single calls of the backend in use, without the cache.

        Args:
            input_shape: Of each call, batch first; made-up values. By default one sample of the
                example that backends were measured on.
            num_iterations: Calls measured, 1 or more.
            warmup_iterations: Calls before that.

        Raises:
            NotReadyError: There is no model.
            ConfigError: Numbers of calls that are none, or a shape that is none.
            InputError: The model does not take this shape.
        """
        n_calls = whole_number(num_iterations, "num_iterations", at_least=1)
        n_warmup = whole_number(warmup_iterations, "warmup_iterations", at_least=0)
        serving = self._current()
        shape = None if input_shape is None else _checked_shape(input_shape)
        with serving.trial() as trial:
            x = resolve_example(trial.model, None if shape else serving.example, shape=shape)
            x = mapped(x if shape else with_batch(x, 1), lambda tensor: tensor.to(self.device))
            trial.run(x)
            durations = time_calls(lambda: finished(trial.run(x)), n=n_calls, warmup=n_warmup)
        return {
            **summarized(durations, items_per_call=n_samples(x)),
            "memory_mb": memory_mb(self.device),
        }

    # ── inside: what serves ─────────────────────────────────────────────────────────────────

    def _made(self, model: nn.Module) -> Serving:
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model must be an nn.Module, got {type(model).__name__}.")
        model.eval().to(self.device)
        return Serving(
            model=model,
            eager=make_eager(model, torch.empty(0), self.device),
            cache=self._cache.renewed(),
            signature=noted_signature(model),
            float_dtype=_float_dtype(model),
        )

    def _example_for(
        self, serving: Serving, before: Serving | None, given: Any
    ) -> tuple[Serving, Inputs | None]:
        """What the caller gives; else what the model before was measured on, if it runs.

        As `_resolved`, with None where neither is there.
        """
        if given is not None:
            return _resolved(serving, given)
        if before is not None and before.example is not None:
            with contextlib.suppress(InputError):
                return _resolved(serving, before.example)
        return serving, None

    def _warmed_up(self, serving: Serving, before: Serving | None, given: Any) -> Serving:
        """What is to serve, with all done that its first requests would have to wait for."""
        try:
            serving, example = _resolved(serving, given)
        except ExampleInputRequiredError:
            return serving  # its first request warms it up
        with contextlib.ExitStack() as stack:
            # The module itself, where that leaves no mark.
            trial = stack.enter_context(serving.trial()) if serving.writes_weights else serving
            ready = self._looked_at(serving, trial, with_batch(example, 1))
            running = ready.on(trial.model)
            for n in {1, *ready.by_batch}:
                running.run(with_batch(example, n))
        if before is not None and before.joinable:  # requests were joined: these will be, too
            pair = with_batch(example, 2)
            self._can_join(ready, [sample_of(pair, i) for i in range(2)])
        return ready

    def _tuned(
        self,
        serving: Serving,
        example_input: Any,
        options: "_Tuning",
        reuse: Mapping[str, Any] | None = None,
    ) -> tuple[Serving, Optimization]:
        """The same module with its fastest backends, and what was measured."""
        try:
            serving, example = _resolved(serving, example_input)
        except ExampleInputRequiredError as error:
            found = self._eager_only(str(error))
            return replace(serving, optimization=found), found
        self._options = options
        with serving.trial() as trial:
            try:
                choice = self._chosen(trial.model, example, options, reuse)
            except InputError:
                answer = trial.run(example)
                if self._backend not in {"auto", "eager"} or outputs_by_path(answer):
                    raise
                found = self._eager_only(
                    f"it answers with a {type(answer).__name__}, which holds no tensors to compare"
                )
                return replace(serving, optimization=found), found
        found = choice.to_optimization()
        tuned = replace(
            serving,
            # The module itself, not the copy that was measured.
            by_batch={
                n: serving.eager if backend.name == "eager" else backend
                for n, backend in choice.by_batch.items()
            },
            form=form_of(example),
            reach=Reach(compared=choice.largest),
            own_errors=choice.own_errors,
            chunk_size=choice.chunk_size,
            example=with_batch(example, 2),
            optimization=found,
            record=choice.record,
        )
        return tuned, found

    def _chosen(
        self,
        model: nn.Module,
        example: Inputs,
        options: "_Tuning",
        reuse: Mapping[str, Any] | None,
    ) -> tuning.Choice:
        return tuning.chosen(
            model,
            example,
            self.device,
            asked=self._backend,
            use_amp=self._use_amp,
            tolerance=self._tolerance,
            batch_sizes=options.batch_sizes or tuning.sizes_that_matter(self.batch_size),
            budget_s=options.budget_s,
            seed=self._seed,
            reuse=None if reuse is None else tuning.TuningRecord.from_dict(reuse),
        )

    def _found(self) -> Optimization:
        found = self._current().optimization
        if found is None:
            raise NotReadyError("Backends were not measured: call optimize_for_inference first.")
        return found

    def _eager_only(self, reason: str) -> Optimization:
        return {
            "backend": "eager",
            "backend_by_batch": {"1": "eager"},
            "candidates": [],
            "reason": f"eager is kept: {reason}",
            "tolerance": self._tolerance,
            "device": str(self.device),
            "chunk_size": self.batch_size,
            "is_reused": False,
            "hardware": tuning.hardware_of(self.device),
        }


def _resolved(serving: Serving, given: Any) -> tuple[Serving, Inputs]:
    """What serves, with whether its model writes into its weights, and an input that it runs on.

    Raises:
        InputError: It does not run on what is given.
        ExampleInputRequiredError: Nothing is given, and nothing inferred runs.
    """
    with serving.trial() as trial:
        weights = Weights(trial.model)
        example = resolve_example(trial.model, _as_example(given, serving))
        writes = bool(serving.writes_weights) or weights.are_written()
    return replace(serving, writes_weights=writes), example


def _as_example(given: Any, serving: Serving) -> Inputs | None:
    """What the caller gives, as `predict` would take it."""
    return None if given is None else taken(given, serving)[0]


def _float_dtype(model: nn.Module) -> torch.dtype | None:
    """The floating-point type a module computes in, by its weights, buffers or declared inputs."""
    if isinstance(model, OnnxModule):
        return model.float_dtype
    tensors = (*model.parameters(), *model.buffers())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)


def _checked_shape(given: Any) -> tuple[int, ...]:
    sizes = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if not sizes or not all(map(_is_size, sizes)):
        raise ConfigError(
            f"input_shape must be whole numbers of 1 or more such as (1, 263); got {given!r}."
        )
    return tuple(map(int, sizes))


def _is_size(value: Any) -> bool:
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_whole and value >= 1
