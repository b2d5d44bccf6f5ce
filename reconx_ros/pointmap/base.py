"""What a pointmap backend is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from reconx_ros.core import AlignedViews, Job, Keyframe
from reconx_ros.core.registry import BackendInfo, with_entry_points
from reconx_ros.pointmap.config import PointmapConfig


class PointmapBackend(Protocol):
    """Stage 1: keyframes to dense, aligned geometry. Instances hold no state between calls."""

    name: str

    def reconstruct(
        self, keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device, job: Job
    ) -> AlignedViews:
        """Depth, confidence and camera of every keyframe in one world.

        Args:
            keyframes: at least two, in order of time.
            config: stage settings.
            device: where torch computes.
            job: progress and cancellation.

        Returns:
            One PointMap per keyframe, on the grid of its image shrunk to ``config.max_size``; on the CPU.

        Raises:
            InvalidInputError: for keyframes this backend cannot use (no pose, no depth, one frame).
            InsufficientParallaxError: when depth cannot be seen from these positions.
            CancelledError: when the job was cancelled.
        """
        ...


_BUILTIN = {
    "multiview": BackendInfo(
        name="multiview",
        target="reconx_ros.pointmap.backends.multiview:MultiviewBackend",
        summary="plane sweep with semi-global smoothing on posed frames; no weights",
    ),
    "depth_sensor": BackendInfo(
        name="depth_sensor",
        target="reconx_ros.pointmap.backends.depth_sensor:DepthSensorBackend",
        summary="RGB-D frames as they are",
    ),
}


def registry() -> dict[str, BackendInfo]:
    """All known pointmap backends by name."""
    return with_entry_points(_BUILTIN, "reconx_ros.pointmap")
