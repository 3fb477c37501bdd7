"""Choosing a backend by measuring: equal answers first, then time."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from modelyard._core.errors import ConfigError, InputError
from modelyard.inference_optimizer.backends import Backend, label_of, written
from modelyard.inference_optimizer.records import Candidate, Optimization
from modelyard.inference_optimizer.tuning.checking import checked
from modelyard.inference_optimizer.tuning.contenders import (
    BACKENDS,
    GRAPH_FAMILIES,
    Contender,
    eager_contender,
    families,
    graph_contenders,
    torch_contenders,
)
from modelyard.inference_optimizer.tuning.deciding import chunk_size, winners
from modelyard.inference_optimizer.tuning.hardware import hardware_of
from modelyard.inference_optimizer.tuning.probing import Prober, prober
from modelyard.inference_optimizer.tuning.racing import race
from modelyard.inference_optimizer.tuning.record import TuningRecord, Winner, form_of
from modelyard.inference_optimizer.tuning.rounding import Rounding
from modelyard.inference_optimizer.tuning.rows import (
    Times,
    in_order,
    lost_row,
    recorded_row,
    timed_row,
)
from modelyard.inference_optimizer.tuning.sampling import Samples, sampled
from modelyard.inference_optimizer.tuning.trying import Trial, Tried, in_short
from modelyard.torchtools.inputs import Inputs, mapped, tensors_of, with_batch
from modelyard.torchtools.timing import MS_PER_S

_MIDDLE_SIZE = 8
_UNSTEADY = "the module gives two answers to one input: it is random, or keeps a state"
# However little of the budget is left, a batch size gets so much of it.
_LEAST_RACE_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What measuring found.

    Attributes:
        by_batch: Backend for each measured batch size.
        made: Every backend made that gives eager's answers. Let go of it to free those that
            lost: they hold the weights once more.
        candidates: Every backend tried, with its figures.
        largest: Batch size up to which answers were compared.
        chunk_size: Samples a call for answering many.
        own_errors: What eager itself is off by in each output, if one is small; else none.
        record: To be kept, and passed as `reuse` another time.
        is_reused: Whether a record was used, and nothing timed.
        reason: What else is to be said of the choice; empty where nothing is.
    """

    by_batch: Mapping[int, Backend]
    made: Sequence[Backend]
    candidates: list[Candidate]
    largest: int
    chunk_size: int
    own_errors: Sequence[float]
    record: TuningRecord
    is_reused: bool
    reason: str

    def to_optimization(self) -> Optimization:
        """As `optimize_for_inference` tells it."""
        return {
            "backend": self.by_batch[min(self.by_batch)].name,
            "backend_by_batch": {str(n): backend.name for n, backend in self.by_batch.items()},
            "candidates": self.candidates,
            "reason": self.reason,
            "tolerance": self.record.tolerance,
            "device": self.record.device,
            "chunk_size": self.chunk_size,
            "is_reused": self.is_reused,
            "hardware": dict(self.record.hardware),
        }


def sizes_that_matter(max_batch: int) -> tuple[int, ...]:
    """Batch sizes to measure for a server that computes at most `max_batch` samples at once."""
    return tuple(sorted({1, min(_MIDDLE_SIZE, max_batch), max_batch}))


def chosen(
    model: nn.Module,
    example: Inputs,
    device: torch.device,
    *,
    asked: str = "auto",
    use_amp: bool = False,
    tolerance: float = 1e-5,
    batch_sizes: Sequence[int] = (1, 8, 32),
    budget_s: float = 3.0,
    probe_timeout_s: float = 60.0,
    seed: int = 0,
    reuse: TuningRecord | None = None,
) -> Choice:
    """Make every backend, drop those whose answers differ from eager's, time the rest in turns.

    Engines of ONNX graphs are tried in another process first: there a crash or a hang costs a row.

    Args:
        model: In eval mode, on `device`.
        example: An input it runs on.
        device: What runs.
        asked: "auto", or the family to use whatever its speed, at its fastest settings.
        use_amp: Admit reduced precision beyond the tolerance.
        tolerance: Bound on the difference from eager, as part of the output's size.
        batch_sizes: Those that matter. Those at which a call of eager takes more than a fifth of
            the budget are not measured; what is chosen below holds for them.
        budget_s: Seconds for comparing and timing. Writing the graph is not counted, and each
            backend has its turn at each size even where that takes longer.
        probe_timeout_s: Seconds for one engine with one setting in the other process.
        seed: Of the inputs on which answers are compared.
        reuse: A choice made before. Where all it holds for is as it was, its backends are made
            and compared again, and nothing is timed.

    Raises:
        ConfigError: The backend asked for cannot serve this model; says why.
        MissingDependencyError: It needs a package that is not installed.
        InputError: The example holds no sample.
    """
    _check(example, batch_sizes, budget_s, probe_timeout_s)
    example = mapped(example, torch.clone)  # the caller's own is not written into
    blank = TuningRecord(
        hardware=hardware_of(device),
        form=form_of(example),
        device=str(device),
        tolerance=tolerance,
        is_reduced_admitted=use_amp,
        asked=asked,
        batch_sizes=tuple(sorted({int(n) for n in batch_sizes})),
        winners={},
        chunk_size=1,
    )
    choosing = _Choosing(
        model=model,
        example=example,
        device=device,
        blank=blank,
        budget_s=budget_s,
        probe_timeout_s=probe_timeout_s,
        seed=seed,
        prober=prober(),
    )
    if reuse is None:
        return choosing.measured()
    different = reuse.differences(blank)
    if different:
        return choosing.measured(f"measured anew: {'; '.join(different)}")
    return choosing.reused(reuse)


def _is_size(n: Any) -> bool:
    return not isinstance(n, bool) and isinstance(n, int | np.integer) and int(n) >= 1


def _check(
    example: Inputs, batch_sizes: Sequence[int], budget_s: float, probe_timeout_s: float
) -> None:
    if not batch_sizes or not all(map(_is_size, batch_sizes)):
        raise ConfigError(f"batch_sizes are whole numbers of 1 or more, got {batch_sizes!r}.")
    if not (0 < budget_s < math.inf and 0 < probe_timeout_s < math.inf):
        raise ConfigError(
            f"budget_s and probe_timeout_s are seconds above 0, got {budget_s} and "
            f"{probe_timeout_s}."
        )
    if any(tensor.ndim and tensor.shape[0] == 0 for tensor in tensors_of(example)):
        raise InputError("The example input holds no sample: its first dimension is 0.")


@dataclass(frozen=True, kw_only=True)
class _Choosing:
    """One choice: what is asked, and how."""

    model: nn.Module
    example: Inputs
    device: torch.device
    blank: TuningRecord
    budget_s: float
    probe_timeout_s: float
    seed: int
    prober: Prober

    def measured(self, reason: str = "") -> Choice:
        """Try all, time what answers as eager does, and decide."""
        names = families(
            self.model,
            self.device,
            asked=self.blank.asked,
            use_amp=self.blank.is_reduced_admitted,
            tolerance=self.blank.tolerance,
        )
        started = time.perf_counter()
        samples, tried = self._tried(names)
        left_s = self.budget_s - (time.perf_counter() - started)
        times = self._times(tried, samples, budget_s=left_s)
        return self._decided(tried, samples, times, reason=reason)

    def reused(self, record: TuningRecord) -> Choice:
        """The recorded backends, if they still answer as eager does; else as `measured`."""
        wanted = {_label(winner) for winner in record.winners.values()}
        names = tuple({winner.name for winner in record.winners.values()} - {"eager"})
        samples, tried = self._tried(names, only=wanted)
        missing = sorted(wanted - set(tried.made))
        if missing:
            row = next((r for r in tried.lost if r["name"] in missing[0]), None)
            why = row["reason"] if row else "it does not run this model here"
            return self.measured(f"measured anew: {missing[0]} was recorded, but {why}")
        return Choice(
            by_batch={n: tried.made[_label(winner)] for n, winner in record.winners.items()},
            made=tuple(tried.made.values()),
            candidates=in_order(
                [
                    recorded_row(
                        tried.contenders[label],
                        tried.gaps[label],
                        record,
                        is_usual_only=label in tried.usual_only,
                    )
                    for label in tried.made
                ]
            ),
            largest=samples.largest,
            chunk_size=record.chunk_size,
            own_errors=tried.own_errors,
            record=record,
            is_reused=True,
            reason="",
        )

    def _tried(
        self, names: tuple[str, ...], *, only: set[str] | None = None
    ) -> tuple[Samples, Tried]:
        """Eager and the contenders of these families, made and compared."""
        is_graph_wanted = not GRAPH_FAMILIES.isdisjoint(names)
        if is_graph_wanted:
            self.prober.start()  # it is ready by the time the graph is written
        tried = Tried()
        eager = eager_contender(self.model, self.example, self.device)
        backend = eager.make()
        tried.add(eager, backend, gap=0.0)

        def run(inputs: Inputs) -> Any:
            # A copy: the module may write into its input.
            return self._finished(backend.run(mapped(inputs, torch.clone)))

        samples = sampled(
            run,
            self.example,
            self.blank.batch_sizes,
            budget_s=self.budget_s,
            seed=self.seed,
            is_on_cpu=self.device.type == "cpu",
        )
        if names and not _is_steady(run, samples, tolerance=self.blank.tolerance):
            tried.lost += [lost_row(Contender(name=n, make=_never), _UNSTEADY) for n in names]
            return samples, tried
        trial = Trial(
            samples=samples,
            rounding=Rounding(self.model, samples.checked),
            tolerance=self.blank.tolerance,
            use_amp=self.blank.is_reduced_admitted,
            finished=self._finished,
            probe_timeout_s=self.probe_timeout_s,
        )
        for contender in torch_contenders(names, self.model, self.example, self.device):
            if only is None or contender.label in only:
                trial.make(tried, contender)
        if is_graph_wanted:
            self._try_graph(trial, tried, names, only=only)
        if len(tried.made) > 1:
            tried.own_errors = trial.rounding.errors_of_small
        return samples, tried

    def _try_graph(
        self, trial: Trial, tried: Tried, names: tuple[str, ...], *, only: set[str] | None
    ) -> None:
        try:
            graph = written(self.model, self.example)
        except Exception as error:  # noqa: BLE001 - exporters raise anything
            failed = [Contender(name=n, make=_never) for n in names if n in GRAPH_FAMILIES]
            reason = f"could not be written as a graph: {in_short(error)}"
            tried.lost += [lost_row(contender, reason) for contender in failed]
            return
        contenders = graph_contenders(names, graph, self.device)
        wanted = [one for one in contenders if only is None or one.label in only]
        trial.make_probed(tried, wanted, graph, self.prober, is_every_one_made=only is not None)

    def _times(self, tried: Tried, samples: Samples, *, budget_s: float) -> Times:
        times = {}
        started = time.perf_counter()
        for i, n in enumerate(samples.sizes):
            left_s = budget_s - (time.perf_counter() - started)
            times[n] = race(
                self._calls(tried, n),
                budget_s=max(left_s / (len(samples.sizes) - i), _LEAST_RACE_S),
                kept="eager",
            )
        return times

    def _calls(self, tried: Tried, n: int) -> dict[str, Any]:
        inputs = with_batch(self.example, n)

        def call_of(backend: Backend) -> Any:
            return lambda: self._finished(backend.run(inputs))

        return {label: call_of(backend) for label, backend in tried.made.items()}

    def _finished(self, answer: Any) -> Any:
        """The answer, once the GPU has computed it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return answer

    def _decided(self, tried: Tried, samples: Samples, times: Times, *, reason: str) -> Choice:
        asked = self.blank.asked
        order = _simplest_first(tried)
        if asked != "auto":
            order = [label for label in order if tried.contenders[label].name == asked]
            if not order:
                raise ConfigError(_refusal(asked, tried.lost))
        won = winners(times, order, eager="eager" if asked == "auto" else None)
        rows = [
            timed_row(
                tried.contenders[label],
                tried.gaps[label],
                times,
                won,
                asked=asked,
                is_usual_only=label in tried.usual_only,
            )
            for label in tried.made
        ]
        best = chunk_size(
            {n: times[n][label] for n, label in won.items()}, asked=self.blank.batch_sizes
        )
        return Choice(
            by_batch={n: tried.made[label] for n, label in won.items()},
            made=tuple(tried.made.values()),
            candidates=in_order([*rows, *tried.lost]),
            largest=samples.largest,
            chunk_size=best,
            own_errors=tried.own_errors,
            record=replace(self.blank, winners=_recorded(won, tried, times), chunk_size=best),
            is_reused=False,
            reason="; ".join(filter(None, [reason, *_told(samples)])),
        )


def _is_steady(run: Callable[[Inputs], Any], samples: Samples, *, tolerance: float) -> bool:
    """Whether the module answers the first input as it did before it got all the others."""
    first = samples.checked[:1]
    return not checked(first, [run(one.inputs) for one in first], tolerance=tolerance).problem


def _label(winner: Winner) -> str:
    return label_of(winner.name, winner.settings)


def _simplest_first(tried: Tried) -> list[str]:
    return sorted(tried.made, key=lambda label: BACKENDS.index(tried.contenders[label].name))


def _recorded(won: Mapping[int, str], tried: Tried, times: Times) -> dict[int, Winner]:
    return {
        n: Winner(
            name=tried.contenders[label].name,
            settings=dict(tried.contenders[label].settings),
            latency_ms=times[n][label] * MS_PER_S,
            eager_latency_ms=times[n]["eager"] * MS_PER_S,
        )
        for n, label in won.items()
    }


def _told(samples: Samples) -> list[str]:
    return [f"batch {n} was not measured: {why}" for n, why in samples.skipped.items()]


def _refusal(asked: str, lost: Sequence[Candidate]) -> str:
    reasons = dict.fromkeys(row["reason"] for row in lost if row["name"] == asked)
    return f"backend={asked!r} cannot serve this model: {'; '.join(reasons)}."


def _never() -> Backend:
    raise AssertionError("There is no graph to make it of.")
