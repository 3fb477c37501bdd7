"""What a person sees while a model is trained."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBar

from modelyard._core.errors import ConfigError
from modelyard.compression.records import DistillationEpoch

# None: a bar on stderr, where that is a terminal. A function: called with each epoch's record.
Progress = Callable[[DistillationEpoch], object] | Literal[False] | None


class Watcher(Protocol):
    """Is told how far the training is."""

    def moved(self, epochs: float) -> None:
        """So many epochs are done, with a fraction."""
        ...

    def ended(self, record: DistillationEpoch) -> None:
        """An epoch is done."""
        ...


class _Calling:
    """Hands each record to a function."""

    def __init__(self, function: Callable[[DistillationEpoch], object] | None) -> None:
        self._function = function

    def moved(self, epochs: float) -> None:
        """Nothing: a function hears of whole epochs."""

    def ended(self, record: DistillationEpoch) -> None:
        """Calls the function."""
        if self._function is not None:
            self._function(record)


class _Drawing:
    """Moves a bar."""

    def __init__(self, bar: RichBar, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def moved(self, epochs: float) -> None:
        """Moves the bar by a part of an epoch."""
        self._bar.update(self._task, completed=epochs)

    def ended(self, record: DistillationEpoch) -> None:
        """Moves the bar and shows the losses."""
        text = f"epoch {record['epoch']}, loss {record['loss']:.4g}"
        if record["validation_loss"] is not None:
            text += f", validation {record['validation_loss']:.4g}"
        self._bar.update(self._task, completed=record["epoch"], description=text)


@contextmanager
def watching(progress: Progress, n_epochs: int, title: str) -> Iterator[Watcher]:
    """Who is told of the training inside the block.

    Raises:
        ConfigError: `progress` is neither None, False nor a function.
    """
    if progress is not None and progress is not False:
        if not callable(progress):
            raise ConfigError(
                "progress must be None (a bar in a terminal), False (nothing) or a function of "
                f"an epoch's record, got {progress!r}."
            )
        yield _Calling(progress)
        return
    console = Console(stderr=True)
    if progress is False or not console.is_terminal:
        yield _Calling(None)
        return
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with RichBar(*columns, console=console, transient=True) as bar:
        yield _Drawing(bar, bar.add_task(title, total=n_epochs))
