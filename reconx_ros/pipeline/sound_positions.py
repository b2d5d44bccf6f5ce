"""Whether the camera positions of a scene can be believed, which its pictures tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reconx_ros.core import InvalidInputError, Job, Keyframe
from reconx_ros.io.scene_views import Scene
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.selection import choose_device
from reconx_ros.pipeline.working_frame import centred
from reconx_ros.pointmap.sfm.refine import refine_poses

_SURE_ROTATION_DEG = 0.001


def require_sound_positions(
    scene: Scene, keyframes: Sequence[Keyframe], config: ReconxConfig, job: Job | None = None
) -> None:
    """Refuse camera positions that rounding moved, which the pictures tell; unless they are to be corrected anyway.

    Only scenes with ``coarse_positions`` are looked at.

    Args:
        scene: where the keyframes come from.
        keyframes: with the poses in question; without poses nothing is asked.
        config: settings; with ``pointmap.refine_poses`` nothing is asked.
        job: cancellation.

    Raises:
        InvalidInputError: when the pictures move cameras of a scene with coarse positions.
        CancelledError: when the job was cancelled.
    """
    if not scene.coarse_positions or config.pointmap.refine_poses or keyframes[0].frame.world_from_cam is None:
        return
    near = centred(keyframes).keyframes(keyframes)
    sure = replace(config.pointmap, prior_rotation_sigma_deg=_SURE_ROTATION_DEG)
    refined = refine_poses(near, sure, job or Job(), device=choose_device(config.device))
    if refined.corrections:
        moved = float(np.median([c.moved for c in refined.corrections]))
        raise InvalidInputError(
            f"camera positions of {scene.root} are off by {moved:.2g} units (median), as the pictures tell: this far "
            "from the origin, rotations with 8 digits misplace a camera; expected a model about a nearer origin "
            "(subtract an offset), or --set pointmap.refine_poses=true, which corrects what the pictures show"
        )
