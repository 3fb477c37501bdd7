"""All commands together, and what happens to their errors."""

import contextlib
import errno
import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from modelyard import __version__
from modelyard._core.errors import ModelyardError
from modelyard.cli import (
    compression,
    experiments,
    graphs,
    inference,
    lifecycle,
    monitoring,
    rollout,
    upkeep,
    versions,
)
from modelyard.cli.showing import errors

FAILED = 1
INTERRUPTED = 130


class _Commands(TyperGroup):
    """Shows an error of modelyard as one line instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModelyardError as error:
            errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(FAILED) from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise  # a closed pipe is click's to end at
            _drop_output()
            errors.print(f"The output cannot be written: {error.strerror}.", soft_wrap=True)
            raise typer.Exit(FAILED) from error
        except KeyboardInterrupt as error:
            errors.print(
                "Interrupted. The registry is intact: what was saved is whole, and the command "
                "can be run again.",
                soft_wrap=True,
            )
            raise typer.Exit(INTERRUPTED) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From trained model to production and back: versions, rollouts, monitoring, experiments, "
    "compression, inference, export, lifecycle.",
)
versions.app.add_typer(upkeep.app)
app.add_typer(versions.app, name="versions")
app.add_typer(rollout.app, name="rollout")
app.add_typer(monitoring.app, name="monitor")
app.add_typer(experiments.app, name="ab")
app.command("compress")(compression.compress)
app.command("bench")(inference.bench)
app.command("export")(graphs.export)
app.command("inspect")(graphs.inspect)
app.command("demo")(lifecycle.demo)
app.command("run")(lifecycle.run)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that has no Chinese is told its numbers rather than an error.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()


def _drop_output() -> None:
    """Let nothing more be written, or Python would fail once more at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
