"""Two-view geometry: triangulation angles, fundamental matrices, distances to epipolar lines."""

from __future__ import annotations

import numpy as np
import torch

from reconx_ros.core import SE3, PinholeCamera


def triangulation_angles_deg(points: torch.Tensor, centre_a: np.ndarray, centre_b: np.ndarray) -> torch.Tensor:
    """Angle [...] in degrees at points [..., 3] between the rays to two camera centres [3], all in one frame."""
    a = torch.tensor(np.array(centre_a), dtype=points.dtype, device=points.device) - points
    b = torch.tensor(np.array(centre_b), dtype=points.dtype, device=points.device) - points
    cross = torch.linalg.norm(torch.linalg.cross(a, b), dim=-1)
    return torch.rad2deg(torch.atan2(cross, (a * b).sum(dim=-1)))


def fundamental_matrix(camera_a: PinholeCamera, camera_b: PinholeCamera, a_from_b: SE3) -> np.ndarray:
    """F [3, 3] with ``x_a^T F x_b = 0`` for matching homogeneous pixels (Hartley and Zisserman, eq. 9.2); of unit norm.

    The zero matrix when the two centres coincide.
    """
    x, y, z = a_from_b.translation
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.linalg.inv(camera_a.matrix).T @ cross @ a_from_b.rotation @ np.linalg.inv(camera_b.matrix)
    norm = float(np.linalg.norm(matrix))
    return matrix / norm if norm > 0 else matrix


def epipolar_distance_px(fundamental: np.ndarray, uv_a: np.ndarray, uv_b: np.ndarray) -> np.ndarray:
    """Distance [...] in pixels of points uv_a [..., 2] from the epipolar lines of uv_b [..., 2] in image a."""
    ones = np.ones((*np.shape(uv_b)[:-1], 1))
    lines = np.concatenate([uv_b, ones], axis=-1) @ fundamental.T  # [..., 3]
    along = (np.concatenate([uv_a, ones], axis=-1) * lines).sum(axis=-1)
    return np.abs(along) / np.maximum(np.linalg.norm(lines[..., :2], axis=-1), 1e-12)


def symmetric_epipolar_px(fundamental: np.ndarray, uv_a: np.ndarray, uv_b: np.ndarray) -> np.ndarray:
    """The larger distance [...] of points uv_a, uv_b [..., 2] from each other's epipolar lines; ``x_b^T F x_a = 0``."""
    f = fundamental
    xa, ya, xb, yb = uv_a[..., 0], uv_a[..., 1], uv_b[..., 0], uv_b[..., 1]
    lb0, lb1, lb2 = (f[k, 0] * xa + f[k, 1] * ya + f[k, 2] for k in range(3))
    la0, la1 = (f[0, k] * xb + f[1, k] * yb + f[2, k] for k in range(2))
    along = np.abs(lb0 * xb + lb1 * yb + lb2)
    least = np.minimum(np.hypot(lb0, lb1), np.hypot(la0, la1))
    return along / np.maximum(least, 1e-12)
