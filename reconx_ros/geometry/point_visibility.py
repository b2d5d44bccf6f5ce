"""Which points of a cloud a camera sees: the cloud itself hides what lies behind it."""

from __future__ import annotations

import math

import numpy as np

from reconx_ros.core import SE3, PinholeCamera

_POINTS_PER_CELL = 4.0
_SAME_SURFACE = 0.03  # of the depth


def visible_points(
    points_world: np.ndarray, cloud_world: np.ndarray, camera: PinholeCamera, world_from_cam: SE3
) -> tuple[np.ndarray, np.ndarray]:
    """Points in front of a camera, on its picture, and not behind the cloud.

    The cloud's nearest depth is kept per cell of the picture; cells are as large as the cloud is sparse, so that its
    surface has no gaps to look through. A point within 3 % behind that depth counts as of the same surface.

    Args:
        points_world: [P, 3] to be judged.
        cloud_world: [Q, 3] what hides them; the points may be among it.
        camera: Pixel (0, 0) is the centre of the first pixel.
        world_from_cam: pose of the camera.

    Returns:
        Rising indices [S] of the points seen, and their pixels [S, 2] float64.
    """
    uv, depth = _projected(cloud_world, camera, world_from_cam)
    inside = _inside(uv, depth, camera)
    cell_px = max(1.0, math.sqrt(_POINTS_PER_CELL * camera.width * camera.height / max(int(inside.sum()), 1)))
    columns = int(camera.width / cell_px) + 1
    nearest = np.full(columns * (int(camera.height / cell_px) + 1), np.inf)
    np.minimum.at(nearest, _cells(uv[inside], cell_px, columns), depth[inside])

    uv, depth = _projected(points_world, camera, world_from_cam)
    index = np.flatnonzero(_inside(uv, depth, camera))
    hidden = depth[index] > nearest[_cells(uv[index], cell_px, columns)] * (1 + _SAME_SURFACE)
    return index[~hidden], uv[index[~hidden]]


def _projected(points_world: np.ndarray, camera: PinholeCamera, world_from_cam: SE3) -> tuple[np.ndarray, np.ndarray]:
    points_cam = world_from_cam.inverse().apply(np.asarray(points_world, np.float64))
    depth = points_cam[:, 2]
    safe = np.where(depth > 0, depth, 1.0)
    return points_cam[:, :2] / safe[:, None] * (camera.fx, camera.fy) + (camera.cx, camera.cy), depth


def _inside(uv: np.ndarray, depth: np.ndarray, camera: PinholeCamera) -> np.ndarray:
    within = (uv >= -0.5) & (uv <= (camera.width - 0.5, camera.height - 0.5))
    return within.all(axis=1) & (depth > 0)


def _cells(uv: np.ndarray, cell_px: float, columns: int) -> np.ndarray:
    cells = ((uv + 0.5) / cell_px).astype(np.int64)
    return cells[:, 1] * columns + cells[:, 0]
