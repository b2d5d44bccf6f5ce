"""Dense depth of posed frames without weights: plane sweep, semi-global smoothing, cross-view check."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reconx_ros.core import AlignedViews, Job, Keyframe
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.sfm.posed_depth import posed_depth
from reconx_ros.pointmap.stereo.memory import multiview_bytes


class MultiviewBackend:
    """Stage 1 for frames with known poses, as ``multiview_depth``; with ``refine_poses`` they are corrected first."""

    name = "multiview"

    def reconstruct(
        self, keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device, job: Job
    ) -> AlignedViews:
        """Depth, confidence and camera of every keyframe, as ``PointmapBackend`` says; errors of ``posed_depth``."""
        return posed_depth(keyframes, config, device=device, job=job, backend=self.name)

    def estimate_bytes(
        self, keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device
    ) -> float | None:
        """As ``EstimatesMemory``."""
        return multiview_bytes(keyframes, config, device)
