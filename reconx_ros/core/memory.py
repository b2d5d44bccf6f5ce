"""How much memory there is, and what it looks like when there is not enough."""

from __future__ import annotations

from pathlib import Path

import torch

from reconx_ros.core.errors import DoesNotFitError

_CPU_WORDS = ("DefaultCPUAllocator", "can't allocate memory")  # of torch, in a RuntimeError


def free_bytes(device: torch.device) -> int | None:
    """Memory that work on a device may still take; None where that is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(values["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in values else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or not, or work was refused because it would."""
    if isinstance(error, DoesNotFitError | MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_WORDS)
