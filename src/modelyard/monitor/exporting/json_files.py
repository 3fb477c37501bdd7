"""Where metrics go as files: one document, or lines of JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelyard._core.errors import StorageError
from modelyard._core.files import write_text


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> str:
    """Write the metrics as indented JSON, whole or not at all; the folder is made.

    Returns:
        The path.

    Raises:
        StorageError: The path cannot be written.
    """
    return write_file(path, json.dumps(dict(metrics), indent=2, allow_nan=False) + "\n")


def write_file(path: str | Path, text: str) -> str:
    """Write text in UTF-8, whole or not at all; the folder is made.

    Returns:
        The path.

    Raises:
        StorageError: The path cannot be written.
    """
    try:
        write_text(Path(path), text)
    except OSError as error:
        raise StorageError(
            f"{str(path)!r} cannot be written ({error}). Give a file in a folder that may be "
            "written to."
        ) from error
    return str(path)


class JsonLines:
    """A file that gets a line of JSON for each event. Its owner calls it from one thread.

    Args:
        folder: Made with the first line.
        model_name: The file is `<model_name>.jsonl`.
    """

    def __init__(self, folder: Path, model_name: str) -> None:
        self._path = folder / f"{model_name}.jsonl"

    def append(self, event: str, at: str, body: Mapping[str, Any]) -> None:
        """Write one line.

        Raises:
            OSError: The file cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"at": at, "event": event, **body}, allow_nan=False) + "\n")
