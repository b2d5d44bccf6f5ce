"""What a view generator is."""

from __future__ import annotations

from typing import Protocol

import torch

from reconx_ros.core import AlignedViews, Job, Trajectory, ViewSequence
from reconx_ros.core.registry import BackendInfo, with_entry_points
from reconx_ros.diffusion.config import DiffusionConfig


class ViewGenerator(Protocol):
    """Stage 2: aligned views to dense frames along a path. Instances hold no state between calls."""

    name: str

    def generate(
        self, views: AlignedViews, trajectory: Trajectory, config: DiffusionConfig, *, device: torch.device, job: Job
    ) -> ViewSequence:
        """Frames along the trajectory, each with confidence and provenance.

        Args:
            views: stage 1's result.
            trajectory: poses between (and beyond) the keyframes; the keyframes themselves are added by the backend.
            config: stage settings.
            device: where torch computes.
            job: progress and cancellation.

        Returns:
            The keyframes (``is_input``) followed by one view per pose of the trajectory; on the CPU.

        Raises:
            CancelledError: when the job was cancelled.
        """
        ...


_BUILTIN = {
    "warp": BackendInfo(
        name="warp",
        target="reconx_ros.diffusion.backends.warp:WarpGenerator",
        summary="renders the pointmaps with visibility; generates nothing; no weights",
    ),
}


def registry() -> dict[str, BackendInfo]:
    """All known view generators by name."""
    return with_entry_points(_BUILTIN, "reconx_ros.diffusion")
