"""Pose of an image in a model: from points it sees, or from relative poses to two images of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from reconx_ros.core import SE3, PinholeCamera
from reconx_ros.core.transforms import nearest_rotation
from reconx_ros.pointmap.sfm.features import normalised_rays
from reconx_ros.pointmap.sfm.two_view import TwoViewGeometry

_MIN_INLIERS = 10
_MIN_SHARE = 0.25
_MAX_DISAGREEMENT_DEG = 3.0
_MIN_CROSSING_DEG = 5.0
_MAX_PAIR_SIGMA_DEG = 1.0


def resect(camera: PinholeCamera, points: np.ndarray, uv: np.ndarray, within_px: float) -> SE3 | None:
    """cam_from_world by P3P and RANSAC from points [N, 3] seen at uv [N, 2]; None where too few agree."""
    import cv2

    if len(points) < _MIN_INLIERS:
        return None
    rays = normalised_rays(uv, camera)
    focal = math.sqrt(camera.fx * camera.fy)
    ok, turn, move, inliers = cv2.solvePnPRansac(
        np.ascontiguousarray(points), np.ascontiguousarray(rays), np.eye(3), None,
        iterationsCount=3000, reprojectionError=within_px / focal, confidence=0.9999, flags=cv2.SOLVEPNP_AP3P,
    )  # fmt: skip
    if not ok or inliers is None or len(inliers) < max(_MIN_INLIERS, _MIN_SHARE * len(points)):
        return None
    chosen = inliers.ravel()
    turn, move = cv2.solvePnPRefineLM(points[chosen], rays[chosen], np.eye(3), None, turn, move)
    if not (np.isfinite(turn).all() and np.isfinite(move).all()):
        return None
    return SE3.exp(turn.ravel(), move.ravel())


def resect_from_pairs(
    image: int, pairs: Mapping[tuple[int, int], TwoViewGeometry], cam_from_world: Mapping[int, SE3]
) -> SE3 | None:
    """cam_from_world where two directions from images of the model cross; needs no point seen in three images.

    None unless at least two good pairs agree about the rotation and their directions cross at a useful angle.
    """
    rotations, centres, directions = [], [], []
    for (a, b), found in pairs.items():
        other = {image: b if image == a else a}.get(image) if image in (a, b) else None
        if other is None or other not in cam_from_world or found.sigma_deg[0] > _MAX_PAIR_SIGMA_DEG:
            continue
        image_from_other = found.b_from_a if image == b else found.b_from_a.inverse()
        pose = cam_from_world[other]
        world_from_image = (image_from_other @ SE3(rotation=pose.rotation, translation=np.zeros(3))).inverse()
        rotations.append(world_from_image.rotation)
        centres.append(pose.inverse().translation)
        directions.append(world_from_image.translation / np.linalg.norm(world_from_image.translation))
    if len(rotations) < 2:
        return None
    return _crossing(np.stack(rotations), np.stack(centres), np.stack(directions))


def _crossing(rotations: np.ndarray, centres: np.ndarray, directions: np.ndarray) -> SE3 | None:
    mean = SE3(rotation=nearest_rotation(rotations.sum(axis=0)), translation=np.zeros(3))
    turns = [math.degrees(mean.angle_to(SE3(rotation=r, translation=np.zeros(3)))) for r in rotations]
    cosine = np.abs(directions @ directions.T)
    if max(turns) > _MAX_DISAGREEMENT_DEG or cosine.min() > math.cos(math.radians(_MIN_CROSSING_DEG)):
        return None
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    centre = np.linalg.solve(across.sum(axis=0), np.einsum("kij,kj->i", across, centres))
    if bool((((centre - centres) * directions).sum(axis=1) <= 0).any()):
        return None
    return SE3(rotation=mean.rotation, translation=centre).inverse()
