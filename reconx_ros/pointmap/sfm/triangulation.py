"""Points from rays, and the angles under which cameras see them; batched, float64."""

from __future__ import annotations

import numpy as np

from reconx_ros.core import SE3


def triangulate(b_from_a: SE3, rays_a: np.ndarray, rays_b: np.ndarray) -> np.ndarray:
    """Points [N, 3] in frame a of matching points [N, 2] on the planes z = 1.

    The point on ray a that is nearest to ray b's line of sight in image b (linear, in closed form), which is enough to
    start an adjustment. Parallel rays give points that are not finite.
    """
    direction = homogeneous(rays_a) @ b_from_a.rotation.T  # [N, 3] ray a in frame b
    ray_b, t = homogeneous(rays_b), b_from_a.translation
    moved, offset = np.cross(ray_b, direction), np.cross(ray_b, t)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = -(moved * offset).sum(axis=-1) / (moved * moved).sum(axis=-1)
        return homogeneous(rays_a) * depth[:, None]


def triangulate_many(
    cam_from_worlds: list[SE3], camera_index: np.ndarray, point_index: np.ndarray, rays: np.ndarray, count: int
) -> np.ndarray:
    """World points [P, 3] that are nearest, in least squares, to all rays [O, 2] that observe them.

    Points with parallel rays only are not finite.
    """
    rotations = np.stack([p.rotation for p in cam_from_worlds])[camera_index]
    centres = np.stack([p.inverse().translation for p in cam_from_worlds])[camera_index]
    directions = np.einsum("oji,oj->oi", rotations, homogeneous(rays))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    matrix, vector = np.zeros((count, 3, 3)), np.zeros((count, 3))
    np.add.at(matrix, point_index, across)
    np.add.at(vector, point_index, np.einsum("oij,oj->oi", across, centres))
    solvable = np.linalg.det(matrix) > 1e-12
    points = np.full((count, 3), np.nan)
    points[solvable] = np.linalg.solve(matrix[solvable], vector[solvable][..., None])[..., 0]
    return points


def homogeneous(points: np.ndarray) -> np.ndarray:
    """Points [..., 2] with a one appended."""
    return np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1)


def widest_angles_deg(
    cam_from_worlds: list[SE3], camera_index: np.ndarray, point_index: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """Largest angle [P] in degrees between any two rays to each point; 0 for points seen once."""
    count, views = len(points), len(cam_from_worlds)
    centres = np.stack([p.inverse().translation for p in cam_from_worlds])
    rays = points[point_index] - centres[camera_index]
    rays /= np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12)
    table = np.full((count, views, 3), np.nan)
    table[point_index, camera_index] = rays
    least = np.ones(count)
    for k in range(1, views):
        cosine = (table[:, k:] * table[:, :-k]).sum(axis=-1)
        least = np.minimum(least, np.nan_to_num(cosine, nan=1.0).min(axis=1))
    return np.degrees(np.arccos(np.clip(least, -1, 1)))
