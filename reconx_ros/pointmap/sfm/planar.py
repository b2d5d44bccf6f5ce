"""The relative poses that a plane allows: two calibrated images of one fit two poses equally well."""

from __future__ import annotations

import numpy as np

from reconx_ros.core import SE3
from reconx_ros.core.transforms import nearest_rotation

_MIN_MATCHES = 8


def plane_poses(rays_a: np.ndarray, rays_b: np.ndarray, within: float) -> list[SE3]:
    """Poses b_from_a, with translations of length 1, of the homography that most matches agree with.

    Malis and Vargas, "Deeper understanding of the homography decomposition for vision-based control" (INRIA 2007): up
    to four, of which two at most have the points in front of both cameras. None where the cameras share one place.

    Args:
        rays_a, rays_b: [N, 2] matches on the planes z = 1.
        within: distance there up to which a match agrees.
    """
    import cv2

    if len(rays_a) < _MIN_MATCHES:
        return []
    homography, _ = cv2.findHomography(np.ascontiguousarray(rays_a), np.ascontiguousarray(rays_b), cv2.RANSAC, within)
    if homography is None or not np.isfinite(homography).all() or abs(np.linalg.det(homography)) < 1e-9:
        return []
    _, turns, moves, _ = cv2.decomposeHomographyMat(homography, np.eye(3))
    found = []
    for turn, move in zip(turns, moves, strict=True):
        length = float(np.linalg.norm(move))
        if length > 1e-6:
            found.append(SE3(rotation=nearest_rotation(turn), translation=move.ravel() / length))
    return found
