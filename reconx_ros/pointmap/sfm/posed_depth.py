"""Multi-view depth at given poses, corrected first by what the images say where the configuration asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from reconx_ros.core import AlignedViews, Job, Keyframe
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.sfm.refine import refine_poses, with_poses
from reconx_ros.pointmap.stereo.multiview import multiview_depth


def posed_depth(
    keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device, job: Job, backend: str
) -> AlignedViews:
    """``multiview_depth`` at the given poses, or with ``refine_poses`` at corrected ones; arguments, errors as it."""
    if not config.refine_poses:
        return multiview_depth(keyframes, config, device=device, job=job, backend=backend)
    refined = refine_poses(keyframes, config, job, device=device)
    corrected = with_poses(keyframes, refined)
    views = multiview_depth(corrected, config, device=device, job=job, backend=backend)
    warnings = (*refined.warnings, *views.warnings)
    matchers = (refined.matcher,) if refined.corrections else ()
    return replace(views, warnings=warnings, pose_corrections=refined.corrections, matchers=matchers)
