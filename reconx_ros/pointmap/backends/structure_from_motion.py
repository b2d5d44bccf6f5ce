"""Frames without poses, no weights: recover the cameras, then run the plane sweep on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from reconx_ros.core import AlignedViews, InvalidInputError, Job, Keyframe
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.sfm.recover import RecoveredCameras, recover_cameras
from reconx_ros.pointmap.stereo.memory import multiview_bytes
from reconx_ros.pointmap.stereo.multiview import multiview_depth

_CAMERA_SHARE = 0.4  # of the progress bar


class StructureFromMotionBackend:
    """Stage 1 for frames without poses; poses that frames may have are ignored. Up to scale.

    Matches of pairs (``config.matcher``), relative poses by an essential matrix, incremental mapping with bundle
    adjustment (sfm/), tests that refuse models which chance, a plane of symmetry or the lack of parallax explain as
    well (sfm/plausibility.py), then ``multiview_depth``. Focal lengths are refined where the frames call them
    uncertain.

    The result holds the largest part of the keyframes that could be joined; a warning names the others.
    """

    name = "structure_from_motion"

    def reconstruct(
        self, keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device, job: Job
    ) -> AlignedViews:
        """Cameras, depth and confidence of the keyframes that overlap, as ``PointmapBackend`` says.

        The world is the first joined camera's frame; its unit is the median depth of the points seen.

        Raises:
            InvalidInputError: for fewer than two keyframes, or images too small.
            InsufficientParallaxError: when the images differ by a turn of the camera only, or not at all.
            ReconstructionError: when no two images overlap, or the recovered cameras do not stand the tests.
            ConfigError, BackendUnavailableError: for a matcher that is not there.
            CancelledError: when the job was cancelled.
        """
        if len(keyframes) < 2:
            raise InvalidInputError(f"structure from motion got {len(keyframes)} keyframe(s), expected at least 2")
        found = recover_cameras(
            keyframes, job.part(0.0, _CAMERA_SHARE), matcher=config.matcher, seed=config.actual_seed, device=device
        )
        posed = [_posed(k, found) for k in keyframes if k.id in found.world_from_cam]
        free = replace(config, min_depth=0.0, max_depth=0.0)  # limits are in a unit that is not known yet
        views = multiview_depth(posed, free, device=device, job=job.part(_CAMERA_SHARE, 1.0), backend=self.name)
        warnings = (*_warnings(found, keyframes), *views.warnings)
        return replace(views, metric_scale=False, scale_source=None, warnings=warnings, matchers=found.matchers)

    def estimate_bytes(
        self, keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device
    ) -> float | None:
        """As ``EstimatesMemory``."""
        return multiview_bytes(keyframes, config, device)


def _posed(keyframe: Keyframe, found: RecoveredCameras) -> Keyframe:
    """The keyframe with the camera and the pose that were recovered."""
    frame = replace(keyframe.frame, camera=found.cameras[keyframe.id], world_from_cam=found.world_from_cam[keyframe.id])
    return replace(keyframe, frame=frame)


def _warnings(found: RecoveredCameras, keyframes: Sequence[Keyframe]) -> tuple[str, ...]:
    warnings = []
    if found.left_out:
        names = ", ".join(str(i) for i in found.left_out)
        warnings.append(
            f"{len(found.left_out)} of {len(keyframes)} keyframes could not be joined to the others and were left out "
            f"(keyframe {names}): they share too little with them"
        )
    guessed = [k for k in keyframes if k.id in found.cameras and k.frame.focal_uncertainty > 0]
    if guessed:
        shares = sorted(found.cameras[k.id].fx / max(k.frame.camera.size) for k in guessed)
        warnings.append(
            f"the focal length of {len(guessed)} keyframes was estimated from the images: "
            f"{shares[0]:.2f} to {shares[-1]:.2f} times the longer side"
        )
    return tuple(warnings)
