"""What answers at one moment: a module, its backends, and the inputs they were proved on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from modelyard._core.errors import InputError, ModelyardError
from modelyard.inference_optimizer.answers import concatenated, n_samples, split
from modelyard.inference_optimizer.backends import Backend
from modelyard.inference_optimizer.cache import AnswerCache
from modelyard.torchtools.inputs import Inputs, batch_size, tensors_of
from modelyard.torchtools.parity import differences
from modelyard.torchtools.signature import Signature

Form = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What answers now. Replaced as a whole, so a call never sees half of a change.

    Attributes:
        model: The module.
        eager: The module as it is; takes every input the module takes.
        by_batch: The fastest backend by measured batch size; empty before measuring.
        form: Form of the inputs that those were proved on. A traced or exported graph may fail
            on another length or, worse, answer wrongly: such inputs go to `eager`.
        cache: Answers; of size 0 when off.
        is_checked: Whether the model has shown that it gives one answer to one input.
        signature: What the model was stored as taking, if it came from a registry.
        joinable: By form, whether inputs joined along the batch give the same answers. Filled
            as forms come; two threads that fill one entry at once write the same.
    """

    model: nn.Module
    eager: Backend
    cache: AnswerCache
    by_batch: Mapping[int, Backend] = field(default_factory=dict)
    form: Form | None = None
    is_checked: bool = False
    signature: Signature | None = None
    joinable: dict[Form, bool] = field(default_factory=dict)

    def backend_for(self, n: int) -> Backend:
        """The backend measured at the largest batch size up to `n`."""
        if not self.by_batch:
            return self.eager
        sizes = [size for size in self.by_batch if size <= n]
        return self.by_batch[max(sizes, default=min(self.by_batch))]

    def run(self, inputs: Inputs) -> Any:
        """The answer of the backend for these inputs.

        Raises:
            InputError: The model does not take them.
        """
        is_proved = bool(self.by_batch) and form_of(inputs) == self.form
        backend = self.backend_for(n_samples(inputs)) if is_proved else self.eager
        try:
            return backend.run(inputs)
        except ModelyardError:
            raise
        except Exception as error:
            shapes = [f"{tuple(t.shape)} {t.dtype}" for t in tensors_of(inputs)]
            raise InputError(
                f"{type(self.model).__name__} does not take this input "
                f"({', '.join(shapes)}): {error}"
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
        except (InputError, RuntimeError):
            return False
        return all(
            gap.is_within(rtol=bound, atol=bound)
            for want, got in zip(alone, parts, strict=True)
            for gap in differences(want, got)
        )


def form_of(inputs: Inputs) -> Form:
    """Names, dtypes and shapes without the batch: what a backend is proved for."""
    names = tuple(inputs) if isinstance(inputs, dict) else ()
    return (names, *((t.dtype, t.ndim, t.shape[1:]) for t in tensors_of(inputs)))
