"""What a person sees while the lifecycle runs."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichBar


class Progress(Protocol):
    """Takes note of how far things are."""

    def stage(self, title: str) -> AbstractContextManager[None]:
        """A stage that lasts as long as the block."""
        ...

    def share(self, what: str, share: float) -> None:
        """How much of the present stage is done, 0 to 1."""
        ...

    def line(self, text: str) -> None:
        """Something worth a line."""
        ...


class SilentProgress:
    """Shows nothing; remembers how long each stage took.

    Attributes:
        durations_s: Seconds by stage title.
    """

    def __init__(self) -> None:
        self.durations_s: dict[str, float] = {}

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Times the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.durations_s[title] = time.perf_counter() - started

    def share(self, what: str, share: float) -> None:
        """Nothing."""

    def line(self, text: str) -> None:
        """Nothing."""


class RichProgress:
    """A bar for the stage that runs, a line for each that has ended.

    Attributes:
        durations_s: Seconds by stage title.
    """

    def __init__(self, console: Console) -> None:
        self.durations_s: dict[str, float] = {}
        self._console = console
        self._bar: RichBar | None = None
        self._lines: list[str] = []

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Shows the bar while the block runs, and the stage's lines after it."""
        started = time.perf_counter()
        self._lines = []
        bar = RichBar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        bar.add_task(title, total=1.0)
        # A bar that cannot be redrawn, in a log file, would leave empty lines.
        with bar if self._console.is_terminal else nullcontext():
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None
        self.durations_s[title] = time.perf_counter() - started
        seconds = f"{self.durations_s[title]:5.1f} s"
        self._console.print(f"[green]✓[/green] [bold]{title}[/bold] [dim]{seconds}[/dim]")
        for text in self._lines:
            self._console.print(f"  {text}", highlight=False, soft_wrap=True)

    def share(self, what: str, share: float) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=share, description=what)

    def line(self, text: str) -> None:
        """Kept until the stage ends, so that lines and bar do not mix."""
        self._lines.append(text)
