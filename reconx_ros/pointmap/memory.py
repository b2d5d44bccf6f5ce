"""How much memory stage 1 will take, estimated before it starts, and smaller images where that is too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from reconx_ros.core import InvalidInputError, Keyframe
from reconx_ros.core.memory import GIGABYTE, limit_bytes
from reconx_ros.pointmap.base import EstimatesMemory, PointmapBackend
from reconx_ros.pointmap.config import PointmapConfig

_MIN_SIZE_PX = 64  # smaller images hold too little to match


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Settings that stay below a limit.

    Attributes:
        config: as given, or with a smaller ``max_size``.
        estimated_bytes: what stage 1 takes with them beyond the keyframes themselves; None where it is not known.
        warnings: sentences for the report.
    """

    config: PointmapConfig
    estimated_bytes: float | None
    warnings: tuple[str, ...] = ()


def plan_memory(
    backend: PointmapBackend, keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device
) -> MemoryPlan:
    """Settings with which a backend is expected to stay below ``config.max_memory_gb``.

    Args:
        backend: what will run.
        keyframes: its input.
        config: settings of the stage.
        device: where torch computes.

    Raises:
        InvalidInputError: when even the smallest useful images would take more.
    """

    def estimate(size: int) -> float | None:
        if not isinstance(backend, EstimatesMemory):
            return None
        return backend.estimate_bytes(keyframes, replace(config, max_size=size), device=device)

    wanted, limit = estimate(config.max_size), limit_bytes(config.max_memory_gb)
    if limit is None or (wanted is not None and wanted <= limit):
        return MemoryPlan(config=config, estimated_bytes=wanted)
    if wanted is None:
        warning = (
            f"max_memory_gb is {config.max_memory_gb:g} but backend {backend.name} has no estimate, so it has no effect"
        )
        warnings = () if isinstance(backend, EstimatesMemory) else (warning,)
        return MemoryPlan(config=config, estimated_bytes=None, warnings=warnings)
    largest = max(max(k.frame.camera.size) for k in keyframes)
    now = min(config.max_size, largest)
    size = _largest_size(estimate, limit, now)
    if size is None:
        least = estimate(min(_MIN_SIZE_PX, now))
        raise InvalidInputError(
            f"{len(keyframes)} keyframes need about {(least or 0) / GIGABYTE:.2f} GB at {min(_MIN_SIZE_PX, now)} px, "
            f"expected at most max_memory_gb = {config.max_memory_gb:g}: use fewer keyframes"
        )
    smaller = replace(config, max_size=size)
    warning = (
        f"{len(keyframes)} keyframes at {now} px need about {wanted / GIGABYTE:.2f} GB, more than max_memory_gb = "
        f"{config.max_memory_gb:g}, so that geometry is computed at {size} px"
    )
    return MemoryPlan(config=smaller, estimated_bytes=estimate(size), warnings=(warning,))


def _largest_size(estimate: Callable[[int], float | None], limit: float, upper: int) -> int | None:
    """The largest ``max_size`` from the smallest useful one to ``upper`` that fits; None when none does."""

    def fits(size: int) -> bool:
        needed = estimate(size)
        return needed is not None and needed <= limit

    low, high = min(_MIN_SIZE_PX, upper), upper
    if not fits(low):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
