"""The state that an interrupted run is resumed from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reconx_ros.core import InvalidInputError, StorageError
from reconx_ros.core.files import whole_file

STATE_FILE = "training_state.pt"


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state; a crash while writing leaves the one before it.

    Raises:
        StorageError: when it cannot be written.
    """
    path = folder / STATE_FILE
    try:
        with whole_file(path) as temporary:
            torch.save(dict(state), temporary)
    except (OSError, RuntimeError) as err:
        raise StorageError(f"training state {path} cannot be written: {err}") from None


def load_state(folder: Path, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Read the state of a run with the same settings.

    Args:
        folder: where the run writes.
        fixed: settings that must be those of the run; kept in the state under "settings".

    Raises:
        StorageError: when there is none, or it cannot be read.
        InvalidInputError: when it is of a run with other settings.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise StorageError(f"folder {folder} has no {STATE_FILE} to resume from, expected the output of an earlier run")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch raises RuntimeError, UnpicklingError, EOFError and others
        raise StorageError(
            f"training state {path} cannot be read ({type(err).__name__}), expected a complete file"
        ) from None
    before = state.get("settings", {}) if isinstance(state, dict) else {}
    changed = [
        f"{name} was {before.get(name)} and is {value}" for name, value in fixed.items() if before.get(name) != value
    ]
    if changed:
        raise InvalidInputError(
            f"run in {folder} cannot be resumed with other settings ({'; '.join(changed[:3])}), expected the same ones"
        )
    return dict(state)
