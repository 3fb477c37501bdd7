"""What answers at one moment: a module, its backends, and the inputs they were proved on."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from modelyard._core.errors import InputError, ModelyardError
from modelyard.inference_optimizer.answers import concatenated, n_samples, split
from modelyard.inference_optimizer.backends import Backend, is_usual, make_eager
from modelyard.inference_optimizer.cache import AnswerCache
from modelyard.inference_optimizer.expecting import expectation
from modelyard.inference_optimizer.ordinary import are_ordinary, is_ordinary, told_of
from modelyard.inference_optimizer.records import Optimization
from modelyard.inference_optimizer.tuning import TuningRecord, are_within, tolerance_of
from modelyard.torchtools.apart import apart
from modelyard.torchtools.inputs import Inputs, batch_size, device_of, mapped, tensors_of
from modelyard.torchtools.parity import Difference, differences
from modelyard.torchtools.signature import Signature

Form = tuple[Any, ...]
Array = np.ndarray[Any, Any]
RunArray = Callable[[Array], Array]
Way = tuple[Backend, int]
_MOST_WAYS = 256
_TOLERANCE = 1e-5
_NO_SAMPLE = (0,)


@dataclass(slots=True)
class Reach:
    """Batch sizes at which backends were compared with eager beyond those that were measured.

    Two threads that change it at once may each compare once more.

    Attributes:
        compared: The largest at which they answered alike.
        differing: The smallest at which one did not: from there on eager answers.
    """

    compared: int = 0
    differing: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What answers now. Replaced as a whole, so a call never sees half of a change.

    Attributes:
        model: The module.
        eager: The module as it is; takes every input the module takes.
        by_batch: The fastest backend by measured batch size; empty before measuring.
        form: Form of the inputs that those were proved on. A traced or exported graph may fail
            on another length or, worse, answer wrongly: such inputs go to `eager`.
        reach: Up to which batch size they were compared with eager.
        own_errors: What eager itself is off by in each output, if one is small; else none.
        chunk_size: Samples at a time for which one takes least; None before measuring.
        cache: Answers; of size 0 when off.
        is_checked: Whether the model was looked at on a first input.
        writes_inputs: Whether it writes into its input, and so is given copies.
        writes_weights: Whether it writes into its weights; None until that was seen.
        example: What backends were measured on; None before.
        signature: What the model was stored as taking, if it came from a registry.
        optimization: What measuring found, as it is told; None before.
        record: The same, to be kept.
        float_dtype: The floating-point type the module computes in, which arrays are given in;
            None for one without any of its own, which gets them in theirs.
        lean_row: Shape and type of the one-row arrays that need nothing but the shortest way;
            None where there is none, or a cache to ask.
        takes_arrays: Whether a backend computes on arrays.
        letters: NumPy's letter for each type of array that the module is given as it is.
        ways: By type and shape of plain tensors that were answered: which backend answers them,
            and how many samples they are. Filled as they come; forgotten when they are too many.
        joinable: By form, whether inputs joined along the batch give the same answers. Filled
            as forms come; two threads that fill one entry at once write the same.
    """

    model: nn.Module
    eager: Backend
    cache: AnswerCache
    by_batch: Mapping[int, Backend] = field(default_factory=dict)
    form: Form | None = None
    reach: Reach = field(default_factory=Reach)
    own_errors: Sequence[float] = ()
    chunk_size: int | None = None
    is_checked: bool = False
    writes_inputs: bool = False
    writes_weights: bool | None = None
    signature: Signature | None = None
    example: Inputs | None = None
    optimization: Optimization | None = None
    record: TuningRecord | None = None
    float_dtype: torch.dtype | None = torch.float32
    joinable: dict[Form, bool] = field(default_factory=dict)
    lean_row: "tuple[tuple[int, ...], np.dtype[Any]] | None" = field(init=False, repr=False)
    takes_arrays: bool = field(init=False, repr=False)
    letters: "dict[np.dtype[Any], str]" = field(init=False, repr=False)
    ways: dict[tuple[torch.dtype, torch.Size], Way] = field(init=False, repr=False)
    _table: list[Backend] = field(init=False, repr=False)
    _one: "tuple[torch.dtype, int, tuple[int, ...]] | None" = field(init=False, repr=False)
    _lean: "tuple[np.dtype[Any], tuple[int, ...]] | None" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Work out once what each call needs."""
        sizes = sorted(self.by_batch)
        table = [
            self.by_batch[max((s for s in sizes if s <= n), default=sizes[0])]
            for n in range(sizes[-1] + 1 if sizes else 0)
        ]
        # Of no sample too: engines end the process at what a module answers with an empty tensor.
        object.__setattr__(self, "_table", [self.eager, *table[1:]])
        object.__setattr__(self, "takes_arrays", any(b.run_array is not None for b in table))
        object.__setattr__(self, "_lean", _lean_form(self.form))
        row = None
        if self._lean is not None and self.takes_arrays and not self.cache.max_size:
            row = ((1, *self._lean[1]), self._lean[0])
        object.__setattr__(self, "lean_row", row)
        object.__setattr__(self, "_one", _one_tensor(self.form))
        plain = [*map(np.dtype, "lihbB?"), *_float_dtypes(self.float_dtype)]
        object.__setattr__(self, "letters", {dtype: dtype.char for dtype in plain})
        object.__setattr__(self, "ways", {})  # never another one's: what serves may differ

    @property
    def has_cache(self) -> bool:
        """Whether answers may be kept and given again."""
        return self.is_checked and self.cache.max_size > 0

    def backend_for(self, n: int) -> Backend:
        """The backend measured at the largest size up to `n`; eager of 0 and beyond the reach."""
        table = self._table
        if n < len(table):
            return table[n]
        return table[-1] if n <= self.reach.compared else self.eager

    def on(self, model: nn.Module) -> "Serving":
        """The same with another module in the place of its own: a copy to try things on."""
        if model is self.model:
            return self
        eager = make_eager(model, torch.empty(0), device_of(model))
        by_batch = {n: eager if b is self.eager else b for n, b in self.by_batch.items()}
        return replace(self, model=model, eager=eager, by_batch=by_batch)

    @contextmanager
    def trial(self) -> Iterator["Serving"]:
        """The same with a copy of the module, to run it on inputs that no caller sent."""
        with apart(self.model, has_own_weights=self.writes_weights is not False) as model:
            yield self.on(model)

    def lean(self, array: Array) -> RunArray | None:
        """The shortest way from this array to an array, or None if there is none.

        Only for the form the backends were proved on, and only for backends that compute on
        arrays. Their answers belong to the caller.
        """
        form = self._lean
        if form is None or array.dtype != form[0] or array.shape[1:] != form[1]:
            return None
        return self.backend_for(array.shape[0]).run_array

    def run(self, inputs: Inputs) -> Any:
        """The answer of the backend for these inputs.

        Raises:
            InputError: The model does not take them.
        """
        if self._is_beyond_reach(inputs):
            return self._compared(inputs)
        return self.answer(self._chosen(inputs), inputs)

    def learn_way(self, x: Any) -> None:
        """Remember which backend answers tensors like this one, that it has answered."""
        if type(x) is torch.Tensor and self.is_checked:
            if len(self.ways) >= _MOST_WAYS:
                self.ways.clear()
            self.ways[x.dtype, x.shape] = (self._chosen(x), n_samples(x))

    def answer(self, backend: Backend, inputs: Inputs) -> Any:
        """The answer of one backend.

        Raises:
            InputError: The model does not take these inputs.
        """
        if self.writes_inputs:
            inputs = mapped(inputs, torch.clone)
        try:
            if _is_any_autocast_on():
                return _without_autocast(backend, inputs)
            return backend.run(inputs)
        except (ModelyardError, MemoryError, torch.OutOfMemoryError):
            raise  # not of the input's making
        except Exception as error:  # noqa: BLE001 - converters, backends and models raise anything
            if backend is not self.eager and not are_ordinary(inputs):
                return self.answer(self.eager, inputs)  # only the module may know what to do
            self.refuse(inputs, error)

    def _is_beyond_reach(self, inputs: Inputs) -> bool:
        reach = self.reach
        if not self.by_batch or not reach.compared < n_samples(inputs) < reach.differing:
            return False
        if not self._is_of_form(inputs):
            return False
        # Eager would be compared with itself.
        return not self._table[-1].is_usual_only or is_usual(inputs)

    def _compared(self, inputs: Inputs) -> Any:
        """Eager's answer to a batch larger than any before, compared with the backend's.

        A module may do something else with many samples than a trace of it with few.
        """
        backend, n = self._table[-1], n_samples(inputs)
        answer = self.answer(self.eager, inputs)
        try:
            gaps = differences(answer, self.answer(backend, inputs))
        except InputError:  # the backend does not take so many
            is_alike = False
        else:
            is_alike = are_within(gaps, self._tolerance_of(backend), lambda: self.own_errors)
        if is_alike:
            self.reach.compared = n
        else:
            self.reach.differing = n
        return answer

    def _tolerance_of(self, backend: Backend) -> float:
        record = self.record
        if record is None:
            return _TOLERANCE
        admitted = record.is_reduced_admitted
        return tolerance_of(backend.name, record.tolerance, use_amp=admitted)

    def _chosen(self, inputs: Inputs) -> Backend:
        is_proved = bool(self.by_batch) and self._is_of_form(inputs)
        return self.backend_for(n_samples(inputs)) if is_proved else self.eager

    def _is_of_form(self, inputs: Inputs) -> bool:
        one = self._one
        if one is not None and type(inputs) is torch.Tensor:
            dtype, ndim, tail = one
            is_alike = inputs.dtype is dtype and inputs.ndim == ndim and is_ordinary(inputs)
            return is_alike and inputs.shape[1:] == tail and inputs.shape[:1] != _NO_SAMPLE
        if not are_ordinary(inputs) or form_of(inputs) != self.form:
            return False
        return all(tensor.shape[:1] != _NO_SAMPLE for tensor in tensors_of(inputs))

    def refuse(self, inputs: Inputs, error: Exception) -> NoReturn:
        """Say that the model does not take these inputs, and what it takes.

        Raises:
            InputError: Always.
        """
        wanted = expectation(self.model, self.form)
        raise InputError(
            f"{type(self.model).__name__} does not take this input ({told_of(inputs)}): "
            f"{error}{wanted}"
        ) from error

    def joins(self, inputs: list[Inputs], *, bound: float) -> bool:
        """Whether these inputs, joined along the batch, get the answers each gets alone.

        Args:
            inputs: Of one form.
            bound: Difference allowed, as part of the output's size.
        """
        try:
            alone = [self.run(item) for item in inputs]
            sizes = [batch_size(item) for item in inputs]
            parts = split(self.run(concatenated(inputs)), sizes)
            gaps = [differences(want, got) for want, got in zip(alone, parts, strict=True)]
        except (InputError, RuntimeError):
            return False
        return all(_are_within(output, bound) for output in zip(*gaps, strict=True))


def _are_within(gaps: Sequence[Difference], bound: float) -> bool:
    """Whether no sample's answer is off by more than its own size or the middle one's allows.

    One sample's may happen to be small, and one much larger than all others.
    """
    middle = median(gap.scale for gap in gaps)
    return all(gap.max_abs <= bound * max(gap.scale, middle) for gap in gaps)


# PyTorch has no public way to ask for all devices at once, which takes a third of the time.
_is_any_autocast_on: Callable[[], bool] = getattr(
    torch._C,  # noqa: SLF001 - where it is gone, the public way does
    "_is_any_autocast_enabled",
    lambda: torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"),
)


def _without_autocast(backend: Backend, inputs: Inputs) -> Any:
    """The answer in the model's own precision: that of a caller's block is not the model's."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        return backend.run(inputs)


def form_of(inputs: Inputs) -> Form:
    """Names, dtypes and shapes without the batch: what a backend is proved for."""
    names = tuple(inputs) if isinstance(inputs, dict) else ()
    return (names, *((t.dtype, t.ndim, t.shape[1:]) for t in tensors_of(inputs)))


def _one_tensor(form: Form | None) -> tuple[torch.dtype, int, tuple[int, ...]] | None:
    """dtype, dimensions and shape of the one tensor that a form describes; None for others."""
    if form is None or form[0] or len(form) != 2:  # noqa: PLR2004 - names and one tensor
        return None
    dtype, ndim, tail = form[1]
    return dtype, ndim, tuple(tail)


def _lean_form(form: Form | None) -> tuple[np.dtype[Any], tuple[int, ...]] | None:
    """Type and shape of the one array that a form describes; None for others."""
    one = _one_tensor(form)
    if one is None or one[1] < 2:  # noqa: PLR2004 - without a batch the first size is none
        return None
    dtype = _array_dtype(one[0])
    return None if dtype is None else (dtype, one[2])


def _float_dtypes(dtype: torch.dtype | None) -> list[np.dtype[Any]]:
    """Of the arrays that are given as they are."""
    if dtype is None:
        return [*map(np.dtype, "efd")]
    own = _array_dtype(dtype)
    return [] if own is None else [own]


def _array_dtype(dtype: torch.dtype) -> np.dtype[Any] | None:
    try:
        found: np.dtype[Any] = torch.empty(0, dtype=dtype).numpy().dtype
    except TypeError:
        return None  # NumPy has no such type
    return found
