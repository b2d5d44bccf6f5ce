"""Weight files that others made, read without running their code: safetensors, or PyTorch's with tensors only."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from reconx_ros.core import BackendUnavailableError, InvalidInputError, WeightsError
from reconx_ros.weights.files import check_file

_LOG = logging.getLogger(__name__)
_WRAPPERS = ("state_dict", "module")  # PyTorch Lightning; DeepSpeed
_DEEPSPEED_PREFIX = "_forward_module."
_FOREIGN = ("Unsupported global", "Unsupported class", "Unsupported operand", "WeightsUnpickler")
DTYPE_NAMES = {
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
class StoredTensor:
    """A tensor in a file: its shape and type, and how to read it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Size of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All named tensors of a file that holds nothing else, on the CPU.

    Args:
        path: a ``.safetensors`` file, or a PyTorch file of a state dictionary.

    Raises:
        WeightsError: when the file is missing, damaged, a pointer or a web page.
        InvalidInputError: when it holds anything but named tensors.
    """
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    content = read_content(path)
    if not isinstance(content, Mapping):
        raise InvalidInputError(f"weights {path} hold a {type(content).__name__}, expected named tensors")
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, torch.Tensor)):
            raise InvalidInputError(
                f"weights {path} hold a {type(value).__name__} under {key!r}, expected tensors only"
            )
    return dict(content)


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[dict[str, StoredTensor]]:
    """The named tensors of a ``.ckpt`` (or any file of ``torch.save``) or ``.safetensors`` file, read when asked for.

    Values of a PyTorch file are mapped from disk, so that converting 10 GB does not need 10 GB of memory. The wrappings
    of PyTorch Lightning (``state_dict``) and DeepSpeed (``module``) are taken off; values that are no tensors are left
    out.

    Raises:
        WeightsError: when the file is missing, damaged, a pointer or a web page.
        InvalidInputError: when it holds no named tensors, or objects besides them.
    """
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            yield _without_prefix(_stored(path, file))
        return
    found = _unwrapped(path, read_content(path))
    yield {n: StoredTensor(tuple(v.shape), v.dtype, functools.partial(_same, v)) for n, v in found.items()}


def read_content(path: Path, classes: Sequence[type] = ()) -> Any:
    """What a PyTorch file holds: tensors and plain values, mapped from disk where its format allows it.

    Args:
        path: of ``torch.save``.
        classes: that may be made too; they must hold plain values only.

    Raises:
        WeightsError: when the file is missing, damaged, a pointer or a web page.
        InvalidInputError: when it holds objects of other classes.
        BackendUnavailableError: for classes, with PyTorch before 2.5.
    """
    check_file(path)
    if classes and not hasattr(torch.serialization, "safe_globals"):
        raise BackendUnavailableError(
            f"weights {path.name} need PyTorch 2.5 or newer, and {torch.__version__} is installed"
        )
    allowed = torch.serialization.safe_globals(list(classes)) if classes else contextlib.nullcontext()
    try:
        with allowed:
            return _loaded(path)
    except MemoryError:
        raise
    except OSError as error:
        raise WeightsError(f"weights {path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # the reader raises errors of many kinds for a damaged file
        text = " ".join(str(error).split())
        if any(words in text for words in _FOREIGN) and "Unsupported operand" not in text:
            raise InvalidInputError(
                f"weights {path} would run foreign code when read ({_foreign_class(text)}), expected tensors and plain "
                "values only"
            ) from None
        raise _damaged(path, "PyTorch", text.split(". ")[0][:120] or type(error).__name__) from None


def _loaded(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        _LOG.info("weights %s have the old format of PyTorch, all of it is read into memory", path)
        return torch.load(path, map_location="cpu", weights_only=True)


def _foreign_class(message: str) -> str:
    """The class that the reader refused, out of its message."""
    words = message.replace("`", " ").split()
    after = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("GLOBAL", "class")]
    return next((word.strip(".,") for word in after if "." in word), "a class that is not allowed")


def _damaged(path: Path, kind: str, reason: str) -> WeightsError:
    return WeightsError(f"weights {path} are no complete {kind} file ({reason}): get them again")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    check_file(path)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(safe_open(str(path), framework="pt", device="cpu"))
        except (SafetensorError, OSError) as error:
            raise _damaged(path, "safetensors", str(error).splitlines()[0][:120]) from None
        yield file


def _stored(path: Path, file: Any) -> dict[str, StoredTensor]:
    types = {name: dtype for dtype, name in DTYPE_NAMES.items()}
    found = {}
    for name in file.keys():  # noqa: SIM118 (not a dictionary)
        part = file.get_slice(name)
        if part.get_dtype() not in types:
            raise InvalidInputError(f"weights {path}: '{name}' has type {part.get_dtype()}, expected floats")
        read = functools.partial(file.get_tensor, name)
        found[name] = StoredTensor(tuple(part.get_shape()), types[part.get_dtype()], read)
    return found


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _unwrapped(path: Path, content: Any) -> dict[str, torch.Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise InvalidInputError(f"weights {path} hold a {type(content).__name__}, expected named tensors")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise InvalidInputError(f"weights {path} hold no tensors under {list(content)[:3]}")
    return _without_prefix(tensors)


def _without_prefix(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(_DEEPSPEED_PREFIX): value for name, value in tensors.items()}
