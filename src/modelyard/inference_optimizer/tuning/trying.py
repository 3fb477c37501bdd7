"""Contenders become backends, or rows that say why not."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from modelyard.inference_optimizer.backends import Backend, Written, is_usual, usual_only
from modelyard.inference_optimizer.records import Candidate
from modelyard.inference_optimizer.tuning.checking import Check, Refusal, Sample, checked
from modelyard.inference_optimizer.tuning.contenders import Contender, tolerance_of
from modelyard.inference_optimizer.tuning.deciding import worth_making
from modelyard.inference_optimizer.tuning.probing import Probe, ProbeFiles, Prober
from modelyard.inference_optimizer.tuning.rounding import Rounding
from modelyard.inference_optimizer.tuning.rows import lost_row
from modelyard.inference_optimizer.tuning.sampling import Samples
from modelyard.torchtools.inputs import mapped
from modelyard.torchtools.nan_births import can_make_nan
from modelyard.torchtools.onnx_module import as_array

_TOLD_CHARACTERS = 300
# What is slower there than the best of all by this, at every size, is not made here.
_HOPELESS = 2.0
# Of one family's settings so many are made a batch size, none slower than the best by this.
_MOST_SETTINGS = 2
_SLOWER = 1.3


@dataclass(kw_only=True)
class Tried:
    """What came of the contenders; filled by one thread.

    Attributes:
        made: Backends that answer as eager does, by label.
        contenders: Theirs.
        gaps: Their largest difference from eager.
        usual_only: Labels of those that get usual numbers only; eager answers the rest.
        lost: Rows of the others.
        own_errors: What eager itself is off by in each output, if one is small; else none.
    """

    made: dict[str, Backend] = field(default_factory=dict)
    contenders: dict[str, Contender] = field(default_factory=dict)
    gaps: dict[str, float] = field(default_factory=dict)
    usual_only: set[str] = field(default_factory=set)
    lost: list[Candidate] = field(default_factory=list)
    own_errors: Sequence[float] = ()

    def add(self, contender: Contender, backend: Backend, *, gap: float) -> None:
        """Note a backend that answers as eager does."""
        self.made[contender.label] = backend
        self.contenders[contender.label] = contender
        self.gaps[contender.label] = gap


class _UnlikeEagerError(Exception):
    """An engine refuses what eager answers."""


@dataclass(frozen=True, kw_only=True)
class _Passed:
    """A contender that answered as eager does in the other process."""

    contender: Contender
    gap: float
    latency_s: dict[int, float]
    is_usual_only: bool


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How contenders are tried.

    Attributes:
        samples: What they are compared on.
        rounding: Tells what eager itself is off by.
        tolerance: Bound on the difference from eager.
        use_amp: Whether reduced precision is admitted beyond it.
        finished: Waits for a GPU.
        probe_timeout_s: For one setting of one engine in the other process.
    """

    samples: Samples
    rounding: Rounding
    tolerance: float
    use_amp: bool
    finished: Callable[[Any], Any]
    probe_timeout_s: float

    def make(
        self,
        tried: Tried,
        contender: Contender,
        *,
        gap: float = 0.0,
        samples: Sequence[Sample] | None = None,
        is_usual_only: bool = False,
    ) -> None:
        """Make a backend, compare its answers, and note what came of it.

        Args:
            tried: Where it is noted.
            contender: What to make.
            gap: Largest difference seen before, elsewhere.
            samples: What to compare on; by default all there are.
            is_usual_only: Whether eager is to answer inputs with unusual numbers.
        """
        samples = self.samples.compared if samples is None else samples
        if contender.is_half:  # it ends at 65,504, as who admits it knows
            samples = [sample for sample in samples if not sample.is_beyond_half]
        try:
            backend = contender.make()
            if is_usual_only:
                backend = usual_only(backend, tried.made["eager"])
            answers = [self._answer_of(backend, sample) for sample in samples]
        except Exception as error:  # noqa: BLE001 - converters and compilers raise anything
            tried.lost.append(lost_row(contender, f"could not run: {in_short(error)}"))
            return
        check = self._checked(contender, samples, answers)
        if check.problem:
            tried.lost.append(lost_row(contender, check.problem, check.max_abs_diff))
            return
        tried.add(contender, backend, gap=max(gap, check.max_abs_diff or 0.0))
        if is_usual_only:
            tried.usual_only.add(contender.label)

    def make_probed(
        self,
        tried: Tried,
        contenders: Sequence[Contender],
        graph: Written,
        prober: Prober,
        *,
        is_every_one_made: bool = False,
    ) -> None:
        """Try contenders in another process, and make those that may win.

        Args:
            tried: Where it is noted.
            contenders: Backends on `graph`.
            graph: What they run.
            prober: Asks the other process.
            is_every_one_made: Make also those that are slow in the other process: they were
                chosen before, and are not to be timed.
        """
        arrays = [[as_array(t) for t in graph.tensors(s.inputs)] for s in self.samples.compared]
        passed: list[_Passed] = []
        makes_no_nan = functools.cache(lambda: not can_make_nan(graph.data))
        with ProbeFiles(graph.data, arrays, n_timed=len(self.samples.checked)) as files:
            for contender in contenders:
                probe = prober.probe(
                    files,
                    engine=contender.engine,
                    settings=contender.engine_settings,
                    timeout_s=self.probe_timeout_s,
                )
                found = self._judged(contender, probe, graph, makes_no_nan=makes_no_nan)
                if isinstance(found, _Passed):
                    passed.append(found)
                else:
                    tried.lost.append(found)
        if is_every_one_made:
            for one in passed:
                self._make_passed(tried, one)
        else:
            self._make_fastest(tried, passed)

    def _judged(
        self,
        contender: Contender,
        probe: Probe,
        graph: Written,
        *,
        makes_no_nan: Callable[[], bool],
    ) -> _Passed | Candidate:
        if probe.problem:
            return lost_row(contender, probe.problem)
        try:
            answers = self._probed_answers(probe, graph)
            check = self._checked(contender, self.samples.compared, answers)
            usual = self._checked_on_usual(contender, answers) if check.problem else None
        except (StopIteration, ValueError, TypeError) as error:
            return lost_row(contender, f"answers with something else: {in_short(error)}")
        except _UnlikeEagerError as error:
            return lost_row(contender, f"could not run: {error}")
        if check.problem:
            if usual is None or usual.problem or not makes_no_nan():
                return lost_row(contender, check.problem, check.max_abs_diff)
            check = usual
        # The last of a size is the steadiest: what comes first pays for memory it takes.
        latency_s = {
            sample.n: seconds
            for sample, seconds in zip(self.samples.checked, probe.latency_s, strict=True)
        }
        sizes = [n for n in latency_s if n in self.samples.sizes] or list(latency_s)
        return _Passed(
            contender=contender,
            gap=check.max_abs_diff or 0.0,
            latency_s={n: latency_s[n] for n in sizes},
            is_usual_only=check is usual,
        )

    def _probed_answers(self, probe: Probe, graph: Written) -> list[Any]:
        """Answers by sample in the module's structure."""
        answers: list[Any] = []
        for i, (sample, outputs) in enumerate(
            zip(self.samples.compared, probe.outputs, strict=True)
        ):
            if i not in probe.refused:
                answers.append(graph.structured([torch.from_numpy(one) for one in outputs]))
            elif isinstance(sample.want, Refusal):
                answers.append(Refusal())
            else:
                raise _UnlikeEagerError(probe.refused[i])
        return answers

    def _answer_of(self, backend: Backend, sample: Sample) -> Any:
        try:
            return self.finished(backend.run(mapped(sample.inputs, torch.clone)))
        except Exception:
            if isinstance(sample.want, Refusal):
                return Refusal()
            raise

    def _make_fastest(self, tried: Tried, passed: Sequence[_Passed]) -> None:
        """Make what may win; a row for each of the others."""
        latency_s = {one.contender.label: one.latency_s for one in passed}
        if not passed:
            return
        kept = worth_making(latency_s, n_most=len(latency_s), factor=_HOPELESS)
        for name in dict.fromkeys(one.contender.name for one in passed):
            family = {one.contender.label for one in passed if one.contender.name == name}
            rivals = {label: latency_s[label] for label in kept if label in family}
            best = worth_making(rivals, n_most=_MOST_SETTINGS, factor=_SLOWER)
            kept = [label for label in kept if label in best or label not in family]
        fastest = min(kept, key=lambda label: sum(latency_s[label].values()))
        for one in passed:
            if one.contender.label in kept:
                self._make_passed(tried, one)
            else:
                reason = f"slower than {fastest} in a first trial"
                tried.lost.append(lost_row(one.contender, reason, one.gap))

    def _make_passed(self, tried: Tried, passed: _Passed) -> None:
        # The other process has compared the rest; this one looks at what connects the two.
        first = self.samples.checked[:1]
        self.make(
            tried,
            passed.contender,
            gap=passed.gap,
            samples=first,
            is_usual_only=passed.is_usual_only,
        )

    def _checked(
        self, contender: Contender, samples: Sequence[Sample], answers: Sequence[Any]
    ) -> Check:
        tolerance = tolerance_of(contender.name, self.tolerance, use_amp=self.use_amp)
        return checked(
            samples, answers, tolerance=tolerance, own_errors=lambda: self.rounding.errors
        )

    def _checked_on_usual(self, contender: Contender, answers: Sequence[Any]) -> Check | None:
        """How the answers to inputs of usual numbers compare; None where all inputs are that."""
        pairs = zip(self.samples.compared, answers, strict=True)
        usual = [(sample, answer) for sample, answer in pairs if is_usual(sample.inputs)]
        if not usual or len(usual) == len(answers):
            return None
        return self._checked(contender, [one for one, _ in usual], [answer for _, answer in usual])


def in_short(error: Exception) -> str:
    """The error's message in one line."""
    return " ".join(str(error).split())[:_TOLD_CHARACTERS] or type(error).__name__
