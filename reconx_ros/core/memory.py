"""How much memory there is, how much of it may be taken, and whether it ran out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reconx_ros.core.errors import DoesNotFitError

if TYPE_CHECKING:
    import torch

GIGABYTE = 1e9  # bytes, as in every setting and message
_CPU_ALLOCATOR = ("DefaultCPUAllocator", "can't allocate memory")


def limit_bytes(max_memory_gb: float) -> int | None:
    """The limit that a ``max_memory_gb`` sets; None for 0, which sets none."""
    return int(max_memory_gb * GIGABYTE) or None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or not, or work was refused because it would."""
    if (
        isinstance(error, DoesNotFitError | MemoryError) or type(error).__name__ == "OutOfMemoryError"
    ):  # torch's, of any version
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_ALLOCATOR)


def free_bytes(device: torch.device) -> int | None:
    """Memory that work on a device may still take; None where that is unknown."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(values["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in values else None
