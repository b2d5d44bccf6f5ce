"""The log of a run: one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from reconx_ros.core import StorageError

LOG_FILE = "log.jsonl"


def append_row(folder: Path, row: Mapping[str, float]) -> None:
    """Add a row to a folder's log.

    Raises:
        StorageError: when it cannot be written.
    """
    path = folder / LOG_FILE
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(row)) + "\n")
    except OSError as err:
        raise StorageError(f"training log {path} cannot be written: {err.strerror}") from None
