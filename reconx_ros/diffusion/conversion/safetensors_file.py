"""Safetensors files, written in a stream."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reconx_ros.core import StorageError
from reconx_ros.weights.tensors import DTYPE_NAMES


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written: its shape and type are known before its values are made."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Size of the values in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_safetensors(
    path: Path, tensors: Mapping[str, PlannedTensor], on_tensor: Callable[[str, int], None] | None = None
) -> None:
    """Write a safetensors file one tensor at a time; ``safetensors.torch.save_file`` would hold all of them at once.

    Args:
        path: of the file.
        tensors: what to write; each is made when its turn comes.
        on_tensor: called with name and size after each; what it raises ends the writing.

    Raises:
        StorageError: when the disk is full or the place not writable.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, planned in tensors.items():
        end = offset + planned.nbytes
        header[name] = {
            "dtype": DTYPE_NAMES[planned.dtype],
            "shape": list(planned.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    try:
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name, planned in tensors.items():
                file.write(_raw(planned))
                if on_tensor is not None:
                    on_tensor(name, planned.nbytes)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"weights {path} cannot be written: {error.strerror or error}") from None


def _raw(planned: PlannedTensor) -> Any:
    """The values as an array of bytes."""
    values = planned.make().detach().to(planned.dtype).contiguous().reshape(-1)
    return values.view(torch.uint8).numpy()
