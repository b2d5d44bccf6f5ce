"""The interface of pointmap backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from reconx_ros.core import AlignedViews, Job, Keyframe
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
            Where the scale is that of the given poses, ``metric_scale`` is True and ``scale_source`` "poses": whether
            these are in metres the caller knows (``scale.with_pose_unit``).

        Raises:
            InvalidInputError: for keyframes this backend cannot use (no pose, no depth, one frame).
            InsufficientParallaxError: when depth cannot be seen from these positions.
            CancelledError: when the job was cancelled.
        """
        ...


@runtime_checkable
class EstimatesMemory(Protocol):
    """A pointmap backend that knows what it will take, or keeps ``max_memory_gb`` by itself."""

    def estimate_bytes(
        self, keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device
    ) -> float | None:
        """Estimated peak of the memory that ``reconstruct`` adds to the process; arguments as there.

        It is meant to be above the measured peak, by a factor of one to two, or 0.2 GB where that is more.

        Returns:
            Bytes, which fall with ``config.max_size``; None for a backend that keeps the limit by itself.
        """
        ...
