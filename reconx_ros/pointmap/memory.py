"""How much memory stage 1 will take, estimated before it starts, and smaller images where that is too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch

from reconx_ros.core import InvalidInputError, Keyframe
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.stereo.kernels import select_kernels

_KEEP_THE_LIMIT = frozenset({"dust3r", "pointmap_net"})  # they estimate and split their own work
GIGABYTE = 1e9
_FLOAT_BYTES = 4
_VOLUMES = MappingProxyType({"native": 3, "torch": 8})  # cost volumes alive at the peak of one view's sweep
_VIEW_FLOATS = 36  # per pixel and view: image, grey, depth, cost, margin, the resulting pointmap
_SWEEP_BYTES = 80e6  # chunks of warped sources, the first look at small images, code that is loaded late
_SENSOR_FLOATS = 24  # per pixel and view of an RGB-D frame
_MIN_SIZE_PX = 64  # smaller images hold too little to match
_SWEEPING = frozenset({"multiview", "structure_from_motion"})


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


def stage_bytes(
    backend: str, keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device | str = "cpu"
) -> float | None:
    """Estimated peak of the memory that a backend adds to the process; None for a backend without an estimate.

    One view is swept at a time, so that the cost volumes of the largest view count once and images count per view. The
    estimate is meant to be above the measured peak, by a factor of one to two, or 0.2 GB where that is more.

    Args:
        backend: name of the backend.
        keyframes: its input.
        config: settings of the stage.
        device: where torch computes; decides which kernels match.

    Raises:
        BackendUnavailableError: when the kernels that ``config.kernels`` names cannot run here.
    """
    if backend not in _SWEEPING and backend != "depth_sensor":
        return None
    pixels = [_pixels(k, config.max_size) for k in keyframes]
    sensor = sum(pixels) * _SENSOR_FLOATS * _FLOAT_BYTES
    if backend == "depth_sensor" and not config.fill_depth:
        return sensor
    volumes = _VOLUMES[select_kernels(config.kernels, torch.device(device)).name]
    sweep = sum(pixels) * _VIEW_FLOATS * _FLOAT_BYTES + _SWEEP_BYTES
    sweep += max(pixels, default=0) * config.planes * volumes * _FLOAT_BYTES
    return sweep if backend in _SWEEPING else sensor + sweep


def plan_memory(
    backend: str, keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device | str = "cpu"
) -> MemoryPlan:
    """Settings with which stage 1 is expected to stay below ``config.max_memory_gb``; arguments as ``stage_bytes``.

    Raises:
        BackendUnavailableError: as ``stage_bytes``.
        InvalidInputError: when even the smallest useful images would take more.
    """
    named = config
    if backend in _SWEEPING or (backend == "depth_sensor" and config.fill_depth):
        named = replace(config, kernels=select_kernels(config.kernels, torch.device(device)).name)  # chosen once

    def estimate(size: int) -> float | None:
        return stage_bytes(backend, keyframes, replace(named, max_size=size), device=device)

    wanted = estimate(config.max_size)
    limit = config.max_memory_gb * GIGABYTE
    if not limit or (wanted is not None and wanted <= limit):
        return MemoryPlan(config=config, estimated_bytes=wanted)
    if wanted is None and backend in _KEEP_THE_LIMIT:
        return MemoryPlan(config=config, estimated_bytes=None)
    if wanted is None:
        warning = (
            f"max_memory_gb is {config.max_memory_gb:g} but backend {backend} has no estimate, so it has no effect"
        )
        return MemoryPlan(config=config, estimated_bytes=None, warnings=(warning,))
    largest = max(max(k.frame.camera.size) for k in keyframes)
    now = min(config.max_size, largest)
    size = _largest_size(estimate, limit, now)
    if size is None:
        least = estimate(min(_MIN_SIZE_PX, now))
        raise InvalidInputError(
            f"{len(keyframes)} keyframes need about {(least or 0) / GIGABYTE:.2f} GB at {min(_MIN_SIZE_PX, now)} px, "
            f"expected at most max_memory_gb = {config.max_memory_gb:g}: use fewer keyframes or planes"
        )
    smaller = replace(config, max_size=size)
    warning = (
        f"{len(keyframes)} keyframes at {now} px need about {wanted / GIGABYTE:.2f} GB, more than max_memory_gb = "
        f"{config.max_memory_gb:g}, so that geometry is computed at {size} px"
    )
    return MemoryPlan(config=smaller, estimated_bytes=estimate(size), warnings=(warning,))


def _pixels(keyframe: Keyframe, max_size: int) -> int:
    camera = keyframe.frame.camera.fitted_to(max_size)
    return camera.width * camera.height


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
