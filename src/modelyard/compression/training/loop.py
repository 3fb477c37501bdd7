"""The loop that trains: steps, epochs, validation, the best weights, and going on after a stop."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import ConfigError
from modelyard.compression.records import DistillationEpoch
from modelyard.compression.training import checkpoint, seeding, validation
from modelyard.compression.training.batches import (
    Batch,
    as_loader,
    batches,
    check_repeatable,
    n_batches_of,
)
from modelyard.compression.training.checkpoint import Checkpoint, Identity, Weights, copied
from modelyard.compression.training.objective import Losses, Objective
from modelyard.compression.training.plan import TrainingPlan
from modelyard.compression.training.progress import Progress, Watcher, watching
from modelyard.compression.training.steps import Stepper
from modelyard.compression.training.validation import Validation
from modelyard.torchtools.inputs import device_of

_logger = logging.getLogger("modelyard")
_WHAT = "train_loader"
_PARTS = ("distillation", "task", "feature")


def train_(
    model: nn.Module,
    objective: Objective,
    loader: Iterable[Any],
    plan: TrainingPlan,
    *,
    judged_by: Validation | None = None,
    progress: Progress = None,
    after_step: Callable[[], None] | None = None,
    saved_at: tuple[Path, Identity] | None = None,
    deadline: Callable[[], bool] | None = None,
) -> list[DistillationEpoch]:
    """Train `model` in place; it is in eval mode afterwards, however the training ends.

    With validation its weights are then those of the best epoch, or those it started from where no
    epoch was better; without validation those of the last. After
    Ctrl-C they are the best so far, without validation those trained so far (with a file, those
    of the last whole epoch, which it has); after an error the best or those of the last whole
    epoch.

    Args:
        model: Only parameters that require gradients change, and buffers.
        objective: Gives the loss.
        loader: Yields batches.
        plan: How.
        judged_by: What finds the best epoch, if anything.
        progress: Who is told.
        after_step: Called after every change of the weights.
        saved_at: File that the training is written to after each epoch and goes on from, and what
            the training is.
        deadline: Asked before each epoch and each batch; training stops when it says True. An
            epoch cut short is undone, but the first, which counts (and is not written to a file:
            what goes on from there would not be what runs through).

    Returns:
        One record an epoch, those before an interruption included; none of the start. Empty where
        the deadline was over before the first batch.

    Raises:
        ConfigError: Nothing to train, an option that cannot take effect, or a file of another
            training.
        InputError: Data that cannot be used, or a loss that is not finite.
        IntegrityError: The file is damaged.
    """
    loader = as_loader(loader, what=_WHAT)
    _check(plan, loader, judged_by)
    training = _Training(model, objective, loader, plan, judged_by, after_step, deadline)
    with objective.ready(), watching(progress, plan.epochs, "training") as watcher:
        if saved_at is not None and (found := checkpoint.read(*saved_at)) is not None:
            training.resume(found)
            if training.has_all_epochs():
                _logger.warning(
                    "%s holds a training that is finished: nothing is left to train, and its "
                    "weights are given. Delete it to train anew.",
                    saved_at[0],
                )
            saved_at = saved_at[0], found.identity  # with the weights that it all began with
        try:
            if not training.is_finished():
                training.judge_start()
            while not training.is_finished():
                record = training.run_epoch(watcher)
                if record is None:
                    break
                if saved_at is not None and not training.is_cut:
                    path, identity = saved_at
                    _write(path, training.as_checkpoint(identity))
                watcher.ended(record)
        except BaseException as error:
            if saved_at is not None or isinstance(error, Exception):
                training.fall_back()
            raise
        finally:
            training.settle()
    return training.history


def _write(path: Path, told: Checkpoint) -> None:
    """Write the file, also where Ctrl-C comes in between: it has to be of the model's weights."""
    try:
        checkpoint.write(path, told)
    except KeyboardInterrupt:
        checkpoint.write(path, told)
        raise


class _Training:
    """The state of one training; not thread-safe."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        loader: Iterable[Any],
        plan: TrainingPlan,
        judged_by: Validation | None,
        after_step: Callable[[], None] | None,
        deadline: Callable[[], bool] | None,
    ) -> None:
        self.history: list[DistillationEpoch] = []
        self.is_cut = False  # whether the deadline has come within an epoch
        self._model = model
        self._objective = objective
        self._loader = loader
        self._plan = plan
        self._judged_by = judged_by
        self._after_step = after_step
        self._stepper = Stepper(model, objective.features, plan, after_step)
        self._n_batches = n_batches_of(loader) or None
        self._deadline = deadline
        self._best: Weights | None = None
        self._best_figure: float | None = None
        self._whole = copied(model.state_dict())  # where an error goes back to without a best

    def is_finished(self) -> bool:
        """Whether all epochs are done, patience is over, or the deadline has come."""
        return self.has_all_epochs() or self.is_cut or self._is_late()

    def has_all_epochs(self) -> bool:
        """Whether all epochs are done, or patience is over."""
        is_over = validation.is_patience_over(self.history, self._plan.patience)
        return is_over or len(self.history) >= self._plan.epochs

    def judge_start(self) -> None:
        """Take the weights that training starts from as the first best.

        Training may make a good model worse, and only those can say so.
        """
        if self._judged_by is None or self.history:
            return
        with seeding.seeded_epoch(self._plan.seed, 0, [device_of(self._model)]):
            self._is_best(*self._verdict())

    def run_epoch(self, watcher: Watcher) -> DistillationEpoch | None:
        """Train one epoch, judge it, and keep its weights if they are the best.

        None where the deadline cuts it short and nothing is left of it.
        """
        epoch = len(self.history) + 1
        sums = _Sums()
        rate = self._plan.learning_rate
        device = device_of(self._model)
        _set_modes(self._model, is_dropout_wanted=self._objective.is_dropout_wanted)
        with seeding.seeded_epoch(self._plan.seed, epoch, [device]):
            for number, batch in enumerate(self._batches(device, epoch), start=1):
                if self._is_late():
                    self.is_cut = True
                    break
                started, ended = self._span(epoch, number)
                rate = self._plan.learning_rate_at(started, ended)
                losses = self._objective.losses(self._model, batch, is_training=True)
                where = f"epoch {epoch}, batch {number}"
                self._stepper.step(losses.total, rate, where=where)
                sums.add(losses, batch)
                watcher.moved(ended if self._n_batches else started)
            if self.is_cut and (self.history or not sums.n_batches):
                self.fall_back()
                return None
            self._n_batches = self._n_batches or sums.n_batches
            record = self._judged(epoch, sums, rate)
        self.history.append(record)
        if self._best is None:
            self._whole = copied(self._model.state_dict())
        return record

    def _is_late(self) -> bool:
        return self._deadline is not None and self._deadline()

    def _batches(self, device: torch.device, epoch: int) -> Iterable[Batch]:
        are_needed = self._objective.are_targets_needed
        return batches(
            self._loader, device=device, are_targets_needed=are_needed, what=_WHAT, epoch=epoch
        )

    def _span(self, epoch: int, number: int) -> tuple[float, float]:
        """When a step starts and ends, in epochs; the whole epoch where its length is unknown."""
        if self._n_batches is None:
            return epoch - 1.0, float(epoch)
        started = min((number - 1) / self._n_batches, 1.0)
        return epoch - 1 + started, epoch - 1 + min(number / self._n_batches, 1.0)

    def _judged(self, epoch: int, sums: "_Sums", rate: float) -> DistillationEpoch:
        loss, metric = self._verdict()
        return {
            "epoch": epoch,
            "loss": sums.mean("total") or 0.0,  # never None: an epoch has batches
            "distillation_loss": sums.mean("distillation"),
            "task_loss": sums.mean("task"),
            "feature_loss": sums.mean("feature"),
            "validation_loss": _finite(loss),
            "validation_metric": _finite(metric),
            "learning_rate": rate,
            "is_best": self._is_best(loss, metric),
        }

    def _verdict(self) -> tuple[float | None, float | None]:
        """Loss and metric on the validation data."""
        if self._judged_by is None:
            return None, None
        loss = self._judged_by.loss(self._model, self._objective)
        return loss, self._judged_by.metric(self._model)

    def _is_best(self, loss: float | None, metric: float | None) -> bool | None:
        """Whether the weights are the best so far, which are kept; None without validation."""
        figure, maximize = (loss, False) if metric is None else (metric, self._plan.maximize)
        if figure is None:
            return None
        is_best = validation.is_better(figure, self._best_figure, maximize=maximize)
        if is_best:
            self._best, self._best_figure = copied(self._model.state_dict()), figure
        return is_best

    def fall_back(self) -> None:
        """The best weights, or those of the last whole epoch, or those before the first."""
        self._model.load_state_dict(self._whole if self._best is None else self._best)

    def settle(self) -> None:
        """The best weights, if there are any, and eval mode."""
        if self._best is not None:
            self._model.load_state_dict(self._best)
        self._model.eval()

    def as_checkpoint(self, identity: Identity) -> Checkpoint:
        """All that is needed to go on."""
        projectors = self._objective.features.projectors
        return Checkpoint(
            identity=identity,
            history=self.history,
            weights=copied(self._model.state_dict()),
            best_weights=self._best,
            best_figure=self._best_figure,
            optimizer=self._stepper.state(),
            projectors=[
                (position, layer.in_features, layer.out_features, copied(layer.state_dict()))
                for position, layer in projectors.items()
            ],
            generators=checkpoint.states_of(seeding.generators_of(self._loader)),
            n_batches=self._n_batches,
        )

    def resume(self, found: Checkpoint) -> None:
        """Go on from a checkpoint."""
        if self._n_batches not in (None, found.n_batches):
            raise ConfigError(
                f"The checkpoint's train_loader had {found.n_batches} batches, this one has "
                f"{self._n_batches}: pass the same data, or delete the checkpoint."
            )
        generators = seeding.generators_of(self._loader)
        if len(generators) != len(found.generators):
            raise ConfigError(
                f"The checkpoint's train_loader had {len(found.generators)} generators of its "
                f"own, this one has {len(generators)}: pass a loader made in the same way."
            )
        for generator, state in zip(generators, found.generators, strict=True):
            generator.set_state(state)
        self._model.load_state_dict(found.weights)
        if self._after_step is not None:
            self._after_step()
        self._restore_projectors(found.projectors)
        self._stepper.restore(found.optimizer)
        self.history = found.history
        self._best, self._best_figure = found.best_weights, found.best_figure
        self._whole = copied(found.weights)
        self._n_batches = found.n_batches

    def _restore_projectors(self, found: Sequence[tuple[int, int, int, Weights]]) -> None:
        features = self._objective.features
        with torch.random.fork_rng(devices=[]):
            for position, n_in, n_out, weights in found:
                features.add_projector(position, n_in, n_out, device_of(self._model))
                features.projectors[position].load_state_dict(weights)


class _Sums:
    """Losses summed over the samples of an epoch."""

    def __init__(self) -> None:
        self.n_batches = 0
        self._n_samples = 0
        self._sums: dict[str, float] = {}

    def add(self, losses: Losses, batch: Batch) -> None:
        self.n_batches += 1
        self._n_samples += batch.n_samples
        for name in ("total", *_PARTS):
            value: torch.Tensor | None = getattr(losses, name)
            if value is not None:
                so_far = self._sums.get(name, 0.0)
                self._sums[name] = so_far + float(value.detach()) * batch.n_samples

    def mean(self, name: str) -> float | None:
        """None where no batch had this part."""
        return self._sums[name] / self._n_samples if name in self._sums else None


def _set_modes(model: nn.Module, *, is_dropout_wanted: bool) -> None:
    """Training mode, but for statistics of frozen parts, and dropout where it is not wanted."""
    model.train()
    for module in model.modules():
        is_dropout = isinstance(module, nn.modules.dropout._DropoutNd | nn.MultiheadAttention)  # noqa: SLF001 - the base of all dropouts
        is_norm = isinstance(module, nn.modules.batchnorm._NormBase)  # noqa: SLF001 - the base of those with running statistics
        own = list(module.parameters(recurse=False))
        is_frozen = bool(own) and not any(p.requires_grad for p in own)
        if (is_dropout and not is_dropout_wanted) or (is_norm and is_frozen):
            module.eval()


def _check(plan: TrainingPlan, loader: Iterable[Any], judged_by: Validation | None) -> None:
    check_repeatable(loader, plan.epochs, what=_WHAT)
    if judged_by is not None:
        n_passes = (plan.epochs + 1) * (1 if judged_by.metric_fn is None else 2)
        check_repeatable(judged_by.loader, n_passes, what="validation_loader")
    elif plan.patience is not None:
        raise ConfigError("patience needs validation_loader=: what else is to stop improving?")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
