"""Keyframes prepared for matching: images on the working grid, grey values, cameras, poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from reconx_ros.core import SE3, InsufficientParallaxError, InvalidInputError, Keyframe, PinholeCamera
from reconx_ros.geometry.resize import resize_area
from reconx_ros.geometry.warping import RayProjection, ray_projection

_LUMA = (0.299, 0.587, 0.114)  # Rec. 601


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchView:
    """One posed image on the grid that the geometry is computed on.

    Attributes:
        rgb: [H, W, 3] float32 in [0, 1].
        grey: [H, W] float32 in [0, 1].
        camera: intrinsics of this grid.
        world_from_cam: pose.
        keyframe_id: where it comes from.
    """

    rgb: torch.Tensor  # [H, W, 3]
    grey: torch.Tensor  # [H, W]
    camera: PinholeCamera
    world_from_cam: SE3
    keyframe_id: int

    def resized(self, max_size: int) -> MatchView:
        """The same view with a longer side of at most ``max_size`` pixels."""
        return match_view(self.rgb, self.camera.fitted_to(max_size), self.world_from_cam, self.keyframe_id)

    def projection_to(self, source: MatchView) -> RayProjection:
        """Where this view's rays fall in a source view."""
        source_from_self = source.world_from_cam.inverse() @ self.world_from_cam
        return ray_projection(self.camera, source.camera, source_from_self, device=self.grey.device)


def match_view(rgb: torch.Tensor, camera: PinholeCamera, world_from_cam: SE3, keyframe_id: int) -> MatchView:
    """A picture [H, W, 3] of any size, made ready on the grid of a camera."""
    small = resize_area(rgb, camera.width, camera.height)
    grey = small @ torch.tensor(_LUMA, device=rgb.device)
    return MatchView(rgb=small, grey=grey, camera=camera, world_from_cam=world_from_cam, keyframe_id=keyframe_id)


def known_pose(keyframe: Keyframe) -> SE3:
    """The pose of a keyframe.

    Raises:
        InvalidInputError: when it has none.
    """
    if keyframe.frame.world_from_cam is None:
        raise InvalidInputError(f"keyframe {keyframe.id} has no pose, expected world_from_cam on every keyframe")
    return keyframe.frame.world_from_cam


def prepare_views(keyframes: Sequence[Keyframe], max_size: int, device: torch.device) -> list[MatchView]:
    """Shrink keyframes to the working grid and move them to the device.

    Raises:
        InvalidInputError: for fewer than two keyframes, or one without a pose.
    """
    if len(keyframes) < 2:
        raise InvalidInputError(f"multi-view stereo got {len(keyframes)} keyframe(s), expected at least 2")
    poses = [known_pose(keyframe) for keyframe in keyframes]
    return [
        match_view(k.frame.rgb().to(device), k.frame.camera.fitted_to(max_size), pose, k.id)
        for k, pose in zip(keyframes, poses, strict=True)
    ]


def normalised(views: Sequence[MatchView]) -> tuple[list[MatchView], float]:
    """The same views in a world with its origin amid the cameras and a median distance of 1 from there.

    Float32 then suffices wherever the robot is (map coordinates of 500 km) and whatever its unit.

    Returns:
        (views, unit): one unit of the new world in the old.

    Raises:
        InsufficientParallaxError: when all cameras stand at the same place.
    """
    centres = np.stack([v.world_from_cam.translation for v in views])  # [V, 3]
    origin = centres.mean(axis=0)
    distances = np.linalg.norm(centres - origin, axis=1)
    unit = float(np.median(distances)) or float(distances.max())
    if distances.max() <= 1e-9 * max(1.0, float(np.abs(centres).max())):
        raise InsufficientParallaxError(
            f"all {len(views)} keyframes stand at the same place (largest baseline {2 * distances.max():.2g}), "
            "expected a camera that moves sideways"
        )
    moved = []
    for view, centre in zip(views, centres, strict=True):
        pose = SE3(rotation=view.world_from_cam.rotation, translation=(centre - origin) / unit)
        moved.append(replace(view, world_from_cam=pose))
    return moved, unit
