"""Steps that train: distillation and fine-tuning."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from modelyard._core.errors import ConfigError, InputError
from modelyard.compression import pruning
from modelyard.compression.metric_forms import warn_of_direction
from modelyard.compression.records import PruningStats
from modelyard.compression.steps.pruning import PruningSteps
from modelyard.compression.training import DistillationPlan, TrainingPlan, distil_, fine_tune_
from modelyard.compression.training.checkpoint import copied
from modelyard.compression.training.distillation import check_apart
from modelyard.compression.training.losses import LossFn
from modelyard.compression.training.progress import Progress
from modelyard.compression.training.validation import MetricFn
from modelyard.torchtools.layers import n_parameters, state_hash, unwrapped

RECOVERIES = ("distil", "fine_tune")

_CHANGED_BY_STEPS = ("_masks", "_steps", "distillation_history", "training_history")

# Share of the parameters: a model this near to the amount wanted is there, where no choice of
# channels comes nearer.
_TINY = 0.03


class TrainingSteps(PruningSteps):
    """Training, to mend what pruning broke or to make a smaller model; see `ModelCompressor`."""

    def prune_gradually(
        self,
        amount: float,
        train_loader: Iterable[Any],
        *,
        steps: int = 4,
        method: str = "l1_unstructured",
        layers_to_prune: Sequence[Any] | None = None,
        layers_to_keep: Sequence[Any] | None = None,
        scope: str = "layer",
        recovery: str = "distil",
        epochs_per_step: int = 1,
        **training: Any,
    ) -> list[PruningStats]:
        """Prune in steps, much at first and ever less, training after each; all or nothing.

        After step t of n the share taken is `amount * (1 - (1 - t / n)**3)` (Zhu and Gupta, 2017),
        for `structured` of the parameters there were before the call. Whatever ends it early,
        Ctrl-C too, leaves the compressor as it was.

        Args:
            amount: Share in the end, as `prune_model` takes it.
            train_loader: Batches, read once an epoch.
            steps: How many, 1 or more.
            method: As `prune_model` takes it.
            layers_to_prune: Likewise.
            layers_to_keep: Likewise.
            scope: Likewise.
            recovery: "distil" learns the original's answers back (targets are used where there
                are any and `alpha=` is under 1; it is 1 by default); "fine_tune" learns the
                targets.
            epochs_per_step: Passes over the data after each step.
            **training: Further options of `knowledge_distillation` or `fine_tune`, but
                `checkpoint`.

        Returns:
            What each step did, oldest first. `structured` leaves out steps that earlier ones
            reached already, and those too small for any choice of channels.

        Raises:
            ConfigError: A value out of range, or `checkpoint=`, which is for one training.
            InputError: Data that cannot be used, or a model that cannot be pruned so.
        """
        if steps < 1:
            raise ConfigError(f"steps must be 1 or more, got {steps}.")
        if recovery not in RECOVERIES:
            raise ConfigError(f"recovery {recovery!r} is not one of {', '.join(RECOVERIES)}.")
        if training.get("checkpoint") is not None:
            raise ConfigError(
                "prune_gradually takes no checkpoint=: it is of one training, and each step has "
                "its own. Leave it out, or call prune_model and knowledge_distillation in turn."
            )
        pruning.check_amount(amount)

        def prune(share: float) -> PruningStats:
            return self.prune_model(
                share, method, layers_to_prune, scope=scope, layers_to_keep=layers_to_keep
            )

        shares = pruning.gradual_shares(amount, steps)
        is_structured = method == "structured"
        done = []
        with self._all_or_nothing():
            for stats in (
                self._channels_taken(shares, prune) if is_structured else map(prune, shares)
            ):
                self._recover(recovery, train_loader, epochs_per_step, training)
                done.append(stats)
        return done

    def _channels_taken(
        self, shares: Sequence[float], prune: Callable[[float], PruningStats]
    ) -> Iterator[PruningStats]:
        """Prune up to each share in turn of the parameters that there are now.

        A step takes what the ones before it left to take: they hit their shares only to within a
        group of channels. One that cannot be hit is left to the next.
        """
        n_before = n_parameters(self._float_model)
        is_anything_done, fault = False, None
        for share in shares:
            n_now = n_parameters(self._float_model)
            n_over = n_now - n_before * (1.0 - share)
            if is_anything_done and n_over <= 0:
                continue
            try:
                stats = prune(n_over / n_now)
            except InputError as error:
                if share == shares[-1] and n_over >= _TINY * n_before:
                    raise
                fault = error
                continue
            is_anything_done = True
            yield stats
        if not is_anything_done and fault is not None:
            raise fault

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """The compressor as it was before the block, where that raises, Ctrl-C included."""
        model, weights = self._float_model, copied(self._float_model.state_dict())
        before = {name: copy.copy(getattr(self, name)) for name in _CHANGED_BY_STEPS}
        quantized = self._quantized  # not copied: it holds a session
        try:
            yield
        except BaseException:
            # The same object, not a copy: the caller may hold it as `compressor.model`.
            model.load_state_dict(weights)
            self._float_model = model.eval()
            self._quantized = quantized
            for name, value in before.items():
                setattr(self, name, value)
            raise

    def _recover(
        self, recovery: str, loader: Iterable[Any], epochs: int, options: Mapping[str, Any]
    ) -> None:
        if recovery == "fine_tune":
            self.fine_tune(loader, epochs, **options)
            return
        self.knowledge_distillation(
            self.original_model,
            self._float_model,
            loader,
            epochs=epochs,
            **{"alpha": 1.0, **options},
        )

    def knowledge_distillation(
        self,
        teacher_model: nn.Module,
        student_model: nn.Module,
        train_loader: Iterable[Any],
        temperature: float = 3.0,
        alpha: float = 0.5,
        epochs: int = 10,
        *,
        task: str = "auto",
        adopt: bool = False,
        loss_fn: LossFn | None = None,
        features: Mapping[str, str] | None = None,
        feature_weight: float = 1.0,
        validation_loader: Iterable[Any] | None = None,
        metric_fn: MetricFn | None = None,
        maximize: bool = True,
        patience: int | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        warmup_epochs: float = 0.0,
        max_grad_norm: float = 1.0,
        amp: bool | str = "auto",
        checkpoint: str | Path | None = None,
        progress: Progress = None,
    ) -> nn.Module:
        """Train a student on a teacher's answers.

        Args:
            teacher_model: Not changed and not moved.
            student_model: Trained in place; not the compressor's original. If it is
                `compressor.model` after pruning, pruned weights stay zero until
                `make_pruning_permanent`.
            train_loader: Batches of `(inputs, targets)`, or of inputs alone with `alpha=1`.
            temperature: Softens the distributions of classes; no other task has one.
            alpha: Weight of the distillation loss; the task loss gets `1 - alpha`.
            epochs: Passes over the data.
            task: "classification", "regression", "embedding", "policy", or "auto": policy where
                the models answer with distributions, classification where the targets are whole
                numbers, else regression.
            adopt: Make a copy of the student the compressor's float model.
            loss_fn: `loss_fn(outputs, targets)`, a scalar, in place of the task's own loss.
            features: Names of the teacher's layers to those of the student's that imitate them.
            feature_weight: Weight of the distance between those.
            validation_loader: Batches to judge by. The weights of the best epoch are kept, or
                those of the start where none was better; without it those of the last epoch.
            metric_fn: Judges in place of the loss: `metric_fn(outputs, targets)`,
                `metric_fn(y_true, y_pred)` (the names tell the order), or
                `metric_fn(model, validation_loader)`.
            maximize: Whether a larger metric is better; a warning tells where the function's name
                says otherwise.
            patience: Stop after this many epochs in a row without a better one.
            learning_rate: Of AdamW.
            weight_decay: Of AdamW; 0 makes it Adam.
            schedule: "constant", or "cosine" down to 0.
            warmup_epochs: The rate rises linearly over so many.
            max_grad_norm: Gradients are scaled down to this norm.
            amp: Train in bfloat16: True, False, or "auto" for CUDA devices that have it.
            checkpoint: File that is written after each epoch, and that an interrupted call with
                the same arguments goes on from: a model with the weights it started from, or the
                object it had begun to train. With other weights or pruning it is refused.
            progress: None for a bar in a terminal, False for nothing, or called with each epoch's
                record.

        Returns:
            The student, in eval mode.

        Raises:
            ConfigError: A value out of range, or a student that shares parts with the teacher
                or with `original_model`.
            InputError: Data that cannot be used, or a loss that is not finite.
            IntegrityError: The checkpoint is damaged.
        """
        warn_of_direction(metric_fn, maximize=maximize, call="knowledge_distillation")
        plan = DistillationPlan(
            temperature=temperature,
            alpha=alpha,
            epochs=epochs,
            task=task,
            features=features or {},
            feature_weight=feature_weight,
            maximize=maximize,
            patience=patience,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            schedule=schedule,
            warmup_epochs=warmup_epochs,
            max_grad_norm=max_grad_norm,
            amp=amp,
            seed=self._seed,
        )
        check_apart(student_model, self.original_model, "the compressor's original model")
        is_own = student_model is self._float_model
        with self._dropping_quantized() if is_own else nullcontext():
            self.distillation_history = distil_(
                student_model,
                teacher_model,
                train_loader,
                plan,
                loss_fn=loss_fn,
                validation_loader=validation_loader,
                metric_fn=metric_fn,
                checkpoint=checkpoint,
                progress=progress,
                after_step=self._keep_pruned if is_own and self._masks else None,
                masks=self._masks if is_own else None,
            )
        if adopt and not is_own:
            # A copy: the student is the caller's, whom later pruning is not to surprise.
            self._float_model = copy.deepcopy(unwrapped(student_model)).eval()
            self._masks, self._quantized = {}, None
        self._note(
            "distil",
            {
                "epochs": len(self.distillation_history),
                "adopted": adopt or is_own,
                "last": self.distillation_history[-1],
            },
        )
        return student_model

    def fine_tune(
        self,
        train_loader: Iterable[Any],
        epochs: int = 3,
        *,
        task: str = "auto",
        loss_fn: LossFn | None = None,
        validation_loader: Iterable[Any] | None = None,
        metric_fn: MetricFn | None = None,
        maximize: bool = True,
        patience: int | None = None,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        warmup_epochs: float = 0.0,
        max_grad_norm: float = 1.0,
        amp: bool | str = "auto",
        checkpoint: str | Path | None = None,
        progress: Progress = None,
    ) -> nn.Module:
        """Train the float model on targets, to mend what pruning broke.

        Pruned weights stay zero until `make_pruning_permanent`. Drops an earlier quantized result.
        `compressor.training_history` has one entry an epoch.

        Args:
            train_loader: Batches of `(inputs, targets)`.
            epochs: Passes over the data.
            task: "classification", "regression", "embedding", "policy", or "auto": cross entropy
                for targets that are whole numbers, else the mean squared error.
            loss_fn: `loss_fn(outputs, targets)`, a scalar, in place of the task's own loss.
            validation_loader: Batches to judge by. The weights of the best epoch are kept, or
                those of the start where none was better; without it those of the last epoch.
            metric_fn: Judges in place of the loss: `metric_fn(outputs, targets)`,
                `metric_fn(y_true, y_pred)` (the names tell the order), or
                `metric_fn(model, validation_loader)`.
            maximize: Whether a larger metric is better; a warning tells where the function's name
                says otherwise.
            patience: Stop after this many epochs in a row without a better one.
            learning_rate: Of AdamW; smaller than for a new model, which this is not.
            weight_decay: Of AdamW; 0 makes it Adam.
            schedule: "constant", or "cosine" down to 0.
            warmup_epochs: The rate rises linearly over so many.
            max_grad_norm: Gradients are scaled down to this norm.
            amp: Train in bfloat16: True, False, or "auto" for CUDA devices that have it.
            checkpoint: File that is written after each epoch, and that an interrupted call with
                the same arguments goes on from: a model with the weights it started from, or the
                object it had begun to train. With other weights or pruning it is refused.
            progress: None for a bar in a terminal, False for nothing, or called with each epoch's
                record.

        Returns:
            The float model, in eval mode.

        Raises:
            ConfigError: A value out of range, or nothing to train.
            InputError: Data that cannot be used, or a loss that is not finite.
            IntegrityError: The checkpoint is damaged.
        """
        warn_of_direction(metric_fn, maximize=maximize, call="fine_tune")
        plan = TrainingPlan(
            epochs=epochs,
            task=task,
            maximize=maximize,
            patience=patience,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            schedule=schedule,
            warmup_epochs=warmup_epochs,
            max_grad_norm=max_grad_norm,
            amp=amp,
            seed=self._seed,
        )
        with self._dropping_quantized():
            history = fine_tune_(
                self._float_model,
                train_loader,
                plan,
                loss_fn=loss_fn,
                validation_loader=validation_loader,
                metric_fn=metric_fn,
                checkpoint=checkpoint,
                progress=progress,
                after_step=self._keep_pruned if self._masks else None,
                masks=self._masks,
            )
        self.training_history = history
        self._note("fine_tune", {"epochs": len(history), "last": history[-1]})
        return self._float_model

    @contextmanager
    def _dropping_quantized(self) -> Iterator[None]:
        """No quantized result any more, but where the block raises and has changed nothing."""
        quantized, before = self._quantized, state_hash(self._float_model)
        # At once: what is asked for `model` while it is trained gets what is trained.
        self._quantized = None
        try:
            yield
        except BaseException:
            if state_hash(self._float_model) == before:
                self._quantized = quantized
            raise
