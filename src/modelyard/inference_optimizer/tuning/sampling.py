"""The inputs on which backends are compared and timed, and eager's answers to them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.inference_optimizer.tuning.checking import Refusal, Sample, inputs_to_check
from modelyard.inference_optimizer.tuning.hard_inputs import (
    HardInput,
    extreme_inputs,
    integer_inputs,
    nan_input,
)
from modelyard.torchtools.inputs import Inputs, batch_size, tensors_of, with_batch

# Of the whole budget, what one call of eager may take for its batch size to be measured.
_SHARE = 0.2
# And for made-up values to be checked at it besides the example's own.
_MADE_UP_SHARE = 0.05
# And for several rows to be made hard at once.
_HARD_SHARE = 0.01
_LEAST_CALLS, _MOST_CALLS = 3, 5


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What backends are compared on.

    Attributes:
        sizes: Batch sizes to measure, ascending.
        checked: Inputs with eager's answers; the first of each size is the example's own.
        hard: Further inputs, some of which eager refuses, that nothing is timed on.
        largest: Batch size up to which answers are compared.
        skipped: By batch size that is not measured, why.
    """

    sizes: tuple[int, ...]
    checked: tuple[Sample, ...]
    hard: tuple[Sample, ...]
    largest: int
    skipped: dict[int, str]

    @property
    def compared(self) -> tuple[Sample, ...]:
        """All of them."""
        return (*self.checked, *self.hard)


def sampled(
    run: Callable[[Inputs], Any],
    example: Inputs,
    batch_sizes: Sequence[int],
    *,
    budget_s: float,
    seed: int,
    is_on_cpu: bool = True,
) -> Samples:
    """Eager's answers, at the batch sizes whose calls the budget allows.

    The smallest size is always measured. A size at which the module does not run is left out. Of
    the hard inputs a module gets only those with NaN where a call takes long.

    Args:
        run: Eager, waiting for its answer.
        example: An input it runs on.
        batch_sizes: Those that matter.
        budget_s: For the whole choice, in seconds.
        seed: Of the made-up inputs.
        is_on_cpu: Whether the module is on the CPU: elsewhere no index outside its table is asked.
    """
    seconds: dict[int, float] = {}
    skipped: dict[int, str] = {}
    for n in sorted(set(batch_sizes)):
        # As if every sample took what it takes at the size before: at most it takes as much.
        before = max(seconds, default=n)
        expected = seconds.get(before, 0.0) * n / before
        if expected > _SHARE * budget_s:
            skipped[n] = f"a call of eager takes about {expected:.1f} s"
            continue
        try:
            seconds[n] = _seconds(run, with_batch(example, n), enough_s=_MADE_UP_SHARE * budget_s)
        except Exception as error:  # noqa: BLE001 - a user's forward can raise anything
            skipped[n] = f"the module does not run: {' '.join(str(error).split())[:100]}"
    sizes = tuple(seconds) or (_own_size(example),)
    cheap = [n for n in sizes if seconds.get(n, 0.0) <= _MADE_UP_SHARE * budget_s]
    own = [with_batch(example, n) for n in sizes if n not in cheap]
    checked = _answered(run, [*inputs_to_check(example, cheap, seed=seed), *own])
    return Samples(
        sizes=sizes,
        checked=checked,
        largest=max((sample.n for sample in checked), default=max(sizes)),
        hard=_hard(
            run,
            example,
            _hard_size(seconds, sizes, enough_s=_HARD_SHARE * budget_s),
            seed=seed if cheap else None,
            is_on_cpu=is_on_cpu,
        ),
        skipped=skipped,
    )


def _hard_size(seconds: Mapping[int, float], sizes: Sequence[int], *, enough_s: float) -> int:
    """The smallest size of several rows whose call takes little; else the smallest."""
    roomy = [n for n in sizes if n > 1 and seconds.get(n, 0.0) <= enough_s]
    return min(roomy, default=min(sizes))


def _hard(
    run: Callable[[Inputs], Any], example: Inputs, n: int, *, seed: int | None, is_on_cpu: bool
) -> tuple[Sample, ...]:
    """Hard inputs with eager's answers or refusals; without a seed only those with NaN."""
    inputs = nan_input(example, n)
    if seed is not None:
        inputs += extreme_inputs(example, n, seed=seed)
        inputs += integer_inputs(example, n, run) if is_on_cpu else []
    return tuple(_answer_to(run, one, n) for one in inputs)


def _answer_to(run: Callable[[Inputs], Any], hard: HardInput, n: int) -> Sample:
    try:
        want = run(hard.inputs)
    except Exception:  # noqa: BLE001 - a user's forward can raise anything
        want = Refusal()
    return Sample(
        n=n,
        inputs=hard.inputs,
        want=want,
        is_hard=True,
        is_beyond_half=hard.is_beyond_half,
    )


def _seconds(run: Callable[[Inputs], Any], inputs: Inputs, *, enough_s: float) -> float:
    """The least of a few calls: the first takes long for many reasons."""
    found: list[float] = []
    while len(found) < _LEAST_CALLS or (len(found) < _MOST_CALLS and sum(found) < enough_s):
        started = time.perf_counter()
        run(inputs)
        found.append(time.perf_counter() - started)
    return min(found)


def _answered(run: Callable[[Inputs], Any], inputs: Sequence[Inputs]) -> tuple[Sample, ...]:
    """Eager's answers; a made-up input that the module refuses is left out."""
    found = []
    for one in inputs:
        try:
            want = run(one)
        except Exception:  # noqa: BLE001, S112 - it takes the example, not all that is alike
            continue
        found.append(Sample(n=_own_size(one), inputs=one, want=want))
    return tuple(found)


def _own_size(inputs: Inputs) -> int:
    first = tensors_of(inputs)[0]
    return batch_size(first) if first.ndim else 1
