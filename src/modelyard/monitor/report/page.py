"""The page of one monitor."""

from datetime import datetime
from errno import EISDIR
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard._core.errors import ConfigError
from modelyard._core.files import write_text
from modelyard.monitor.report.alerts import alert_section, baseline_section
from modelyard.monitor.report.drift import change_section, feature_section, prediction_section
from modelyard.monitor.report.health import health_section, overview, performance_section
from modelyard.monitor.report.view import MonitorView, view_of
from modelyard.reporting import Report, render

if TYPE_CHECKING:
    from modelyard.monitor.telling import Teller


def monitor_report(view: MonitorView) -> str:
    """One HTML document that needs no network; equal views give equal text."""
    summary = view.summary
    return render(
        Report(
            title=f"Monitor of {summary['model_name']}",
            subtitle=f"The last {summary['n_window']:,} predictions and the windows before them; "
            "times in UTC",
            generated_at=view.generated_at,
            sections=[
                overview(view),
                health_section(view),
                performance_section(view),
                prediction_section(view),
                feature_section(view),
                change_section(view),
                alert_section(view),
                baseline_section(view),
            ],
        )
    )


def write_report(
    monitor: "Teller", path: str | Path, *, since: datetime | str | None = None
) -> Path:
    """Write the page of a monitor, whole or not at all; makes the folder.

    Args:
        monitor: Whose.
        path: The HTML file.
        since: As `view_of`.

    Returns:
        The path.

    Raises:
        ConfigError: A path that cannot be written, or a `since` that is no time.
    """
    # Outside the `try`: a store that refuses says so itself.
    page = monitor_report(view_of(monitor, since=since))
    target = Path(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(EISDIR, "it is a folder")
        write_text(target, page)
    except OSError as error:
        raise ConfigError(
            f"The report {str(path)!r} cannot be written: {error}. Name a file such as "
            "monitor.html."
        ) from error
    return target
