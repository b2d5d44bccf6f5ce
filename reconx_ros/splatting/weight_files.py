"""Network weights from files that others made: tensors only, never code."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reconx_ros.core import BackendUnavailableError, InvalidInputError, StorageError


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Named tensors of a file, on the CPU.

    Args:
        path: a ``.safetensors`` file, or a PyTorch file of a state dictionary.

    Raises:
        StorageError: when the file cannot be opened.
        InvalidInputError: when it holds anything but named tensors.
        BackendUnavailableError: for a ``.safetensors`` file where that package is not installed.
    """
    reader = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    try:
        with path.open("rb"):
            pass
        content = reader(path)
    except (BackendUnavailableError, MemoryError):
        raise
    except OSError as error:
        raise StorageError(f"cannot read weights {path}: {error.strerror or error}") from error
    except Exception as error:  # the readers raise errors of many kinds for a damaged file
        raise InvalidInputError(
            f"weights {path} are damaged or hold more than tensors, expected named tensors"
        ) from error
    return _checked(path, content)


def _read_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> Any:
    if importlib.util.find_spec("safetensors") is None:
        raise BackendUnavailableError(
            f"weights {path} need the Python package safetensors: run pip install 'reconx_ros[gpu]'"
        )
    from safetensors.torch import load_file

    return load_file(path)


def _checked(path: Path, content: Any) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping):
        raise InvalidInputError(f"weights {path} hold a {type(content).__name__}, expected named tensors")
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, torch.Tensor)):
            raise InvalidInputError(
                f"weights {path} hold a {type(value).__name__} under {key!r}, expected tensors only"
            )
    return dict(content)
