"""Seconds and peak memory per stage."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from reconx_ros.weights.cache import ModelCache

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What one stage took.

    Attributes:
        name: "pointmap", "diffusion", "splatting", "render", ...
        backend: which backend ran, "" when the stage has none.
        seconds: wall time.
        load_seconds: time that the stage's networks took to be loaded, or to be found loaded already; part of the wall
            time, but for those that stage 3 has loaded before the first stage, to notice a wrong file.
        peak_mb: highest resident memory of the process during the stage, MiB (since the process started where the
            kernel cannot reset the mark).
        peak_cuda_mb: highest memory allocated by torch on the GPU during the stage, MiB; None without one.
    """

    name: str
    backend: str
    seconds: float
    load_seconds: float
    peak_mb: float
    peak_cuda_mb: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)


class StageRecorder:
    """Collects one StageRecord per ``measure`` block.

    Args:
        device: whose memory is measured.
        models: where the stages take their networks from; None makes a cache.

    Attributes:
        models: as given, or made.
        records: of the blocks so far.
    """

    def __init__(self, device: torch.device, models: ModelCache | None = None) -> None:
        self._device = device
        self.models = models or ModelCache()
        self.records: list[StageRecord] = []

    @contextlib.contextmanager
    def measure(self, name: str, backend: str = "", *, loaded_seconds: float = 0.0) -> Iterator[None]:
        """Measure a block; it is recorded also when the block raises.

        Args:
            name: of the stage.
            backend: that runs in the block.
            loaded_seconds: that networks of the stage took to be loaded before the block.
        """
        _reset_peak(self._device)
        start, loading = time.perf_counter(), self.models.load_seconds
        try:
            yield
        finally:
            record = StageRecord(
                name=name,
                backend=backend,
                seconds=time.perf_counter() - start,
                load_seconds=loaded_seconds + self.models.load_seconds - loading,
                peak_mb=_peak_mb(),
                peak_cuda_mb=_peak_cuda(self._device),
            )
            self.records.append(record)


def _reset_peak(device: torch.device) -> None:
    with contextlib.suppress(OSError):
        _CLEAR_REFS.write_text("5")  # resets VmHWM, see proc(5)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_mb() -> float:
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _peak_cuda(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
