"""The interface of pointmap backends, and the table of those that there are."""

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
            One PointMap per keyframe, in their order, on the grid of its image shrunk to ``config.max_size``; on the
            CPU. A backend that finds poses itself may leave out keyframes it cannot join, and names them in a warning.

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
    "structure_from_motion": BackendInfo(
        name="structure_from_motion",
        target="reconx_ros.pointmap.backends.structure_from_motion:StructureFromMotionBackend",
        summary="frames without poses: cameras from feature matches, then multiview; no weights",
    ),
    "depth_sensor": BackendInfo(
        name="depth_sensor",
        target="reconx_ros.pointmap.backends.depth_sensor:DepthSensorBackend",
        summary="RGB-D frames as they are",
    ),
    "dust3r": BackendInfo(
        name="dust3r",
        target="reconx_ros.pointmap.backends.dust3r:Dust3rBackend",
        summary="frames with or without poses, by DUSt3R or MASt3R weights that you download",
        needs=("weights",),
        licence_weights="CC-BY-NC-SA-4.0",
    ),
    "pointmap_net": BackendInfo(
        name="pointmap_net",
        target="reconx_ros.pointmap.backends.dust3r:PointmapNetBackend",
        summary="the same by a network of your own from reconx train pointmap",
        modules=("safetensors",),
        extra="models",
        needs=("weights",),
        licence_weights="Apache-2.0",
    ),
}


def registry() -> dict[str, BackendInfo]:
    """All known pointmap backends by name."""
    return with_entry_points(_BUILTIN, "reconx_ros.pointmap")
