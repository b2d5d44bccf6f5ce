"""Foreign weight files, read without running their code or holding them in memory; safetensors, written in a stream."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reconx_ros.core import BackendUnavailableError, InvalidInputError, StorageError

_LOG = logging.getLogger(__name__)
_WRAPPERS = ("state_dict", "module")  # PyTorch Lightning; DeepSpeed
_DEEPSPEED_PREFIX = "_forward_module."
_POINTER = b"version https://git-lfs"
_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of a file that is read or written: shape and type are known before its values."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    values: Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Size of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


@contextlib.contextmanager
def open_checkpoint(path: Path) -> Iterator[dict[str, LazyTensor]]:
    """The named tensors of a ``.ckpt`` (or any file of ``torch.save``) or ``.safetensors`` file, read when asked for.

    Values of a PyTorch file are mapped from disk, so that converting 10 GB does not need 10 GB of memory. The wrappings
    of PyTorch Lightning (``state_dict``) and DeepSpeed (``module``) are taken off. Nothing but tensors and plain values
    is unpickled.

    Raises:
        StorageError: when the file cannot be opened, or is not complete.
        InvalidInputError: when it holds no named tensors, or objects besides them.
        BackendUnavailableError: for a ``.safetensors`` file where that package is not installed.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_POINTER))
    except OSError as error:
        raise StorageError(f"checkpoint {path} cannot be read: {error.strerror or error}") from None
    if head == _POINTER:
        raise StorageError(
            f"checkpoint {path} is a Git LFS pointer of a few bytes, expected the file itself (git lfs pull)"
        )
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as tensors:
            yield tensors
    else:
        content = _load_torch(path)
        yield {
            name: LazyTensor(tuple(value.shape), value.dtype, functools.partial(_same, value))
            for name, value in _unwrapped(path, content).items()
        }


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[dict[str, LazyTensor]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise BackendUnavailableError(
            f"checkpoint {path} needs the Python package safetensors: run pip install 'reconx_ros[models]'"
        ) from None
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(safe_open(str(path), framework="pt", device="cpu"))
        except (SafetensorError, OSError) as error:
            raise StorageError(
                f"checkpoint {path} is not a complete safetensors file ({error}): download it again"
            ) from None
        types = {name: dtype for dtype, name in _DTYPE_NAMES.items()}
        found = {}
        for name in file.keys():  # noqa: SIM118 (not a dictionary)
            part = file.get_slice(name)
            if part.get_dtype() not in types:
                raise InvalidInputError(f"checkpoint {path}: '{name}' has type {part.get_dtype()}, expected floats")
            found[name] = LazyTensor(
                tuple(part.get_shape()), types[part.get_dtype()], functools.partial(file.get_tensor, name)
            )
        yield _without_prefix(found)


def _load_torch(path: Path) -> Any:
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            _LOG.warning("checkpoint %s has the old format of PyTorch, all of it is read into memory", path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except OSError as error:
        raise StorageError(f"checkpoint {path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # the reader raises errors of many kinds for a damaged file
        text = " ".join(str(error).split())
        if "Unsupported global" in text or "Unsupported operand" in text or "WeightsUnpickler" in text:
            raise InvalidInputError(
                f"checkpoint {path} holds Python objects besides tensors, which are not loaded, expected tensors and"
                " plain values only"
            ) from None
        raise StorageError(
            f"checkpoint {path} is not a complete PyTorch file ({text.split('. ')[0][:120]}): download it again"
        ) from None


def _unwrapped(path: Path, content: Any) -> dict[str, torch.Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise InvalidInputError(f"checkpoint {path} holds a {type(content).__name__}, expected named tensors")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise InvalidInputError(f"checkpoint {path} holds no tensors under {list(content)[:3]}")
    return _without_prefix(tensors)


def _without_prefix(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(_DEEPSPEED_PREFIX): value for name, value in tensors.items()}


def write_safetensors(
    path: Path, tensors: Mapping[str, LazyTensor], on_tensor: Callable[[str, int], None] | None = None
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
            "dtype": _DTYPE_NAMES[planned.dtype],
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


def _raw(planned: LazyTensor) -> Any:
    """The values as an array of bytes."""
    values = planned.values().detach().to(planned.dtype).contiguous().reshape(-1)
    return values.view(torch.uint8).numpy()
