"""Depth of one camera as another camera sees it: registration of depth to colour.

Depth of the same lens on another grid (half size, another window) is sampled at the nearest pixel. Depth of another
camera is moved point by point into the image's camera; where several points fall into one pixel the nearest one counts,
and cracks of a pixel between points of one surface are closed, so that nothing behind it shines through.
"""

from __future__ import annotations

import numpy as np

from reconx_ros.core import SE3, PinholeCamera

_FINEST = 4  # points per pixel and axis at most, where the image is finer than the depth
_ONE_SURFACE = 0.05  # relative difference of depth within which two neighbours count as one surface


def resampled_depth(depth_m: np.ndarray, depth_camera: PinholeCamera, image_camera: PinholeCamera) -> np.ndarray:
    """Depth on the grid of an image from the same place: [H, W] float32, NaN where the depth does not reach.

    Args:
        depth_m: [h, w] along the axis that both share; NaN where unknown.
        depth_camera, image_camera: intrinsics of both.
    """
    u = (np.arange(image_camera.width) - image_camera.cx) / image_camera.fx * depth_camera.fx + depth_camera.cx
    v = (np.arange(image_camera.height) - image_camera.cy) / image_camera.fy * depth_camera.fy + depth_camera.cy
    columns, rows = np.rint(u).astype(np.int64), np.rint(v).astype(np.int64)
    inside = ((rows >= 0) & (rows < depth_camera.height))[:, None] & ((columns >= 0) & (columns < depth_camera.width))
    found = depth_m[rows.clip(0, depth_camera.height - 1)[:, None], columns.clip(0, depth_camera.width - 1)]
    return np.where(inside, found, np.float32(np.nan)).astype(np.float32)


def registered_depth(
    depth_m: np.ndarray, depth_camera: PinholeCamera, image_camera: PinholeCamera, image_from_depth: SE3
) -> np.ndarray:
    """Depth as an image's camera at another place sees it: [H, W] float32, NaN where nothing was measured.

    Args:
        depth_m: [h, w] z-depth in the depth camera; NaN where unknown.
        depth_camera, image_camera: intrinsics of both.
        image_from_depth: from the depth camera's optical frame to the image's.
    """
    points = _points(depth_m, depth_camera, _points_per_pixel(depth_camera, image_camera))
    points = points @ image_from_depth.rotation.T.astype(np.float32) + image_from_depth.translation.astype(np.float32)
    points = points[points[:, 2] > 0]
    z = points[:, 2]
    u = np.rint(points[:, 0] / z * image_camera.fx + image_camera.cx)
    v = np.rint(points[:, 1] / z * image_camera.fy + image_camera.cy)
    inside = (u >= 0) & (u < image_camera.width) & (v >= 0) & (v < image_camera.height)
    place = v[inside].astype(np.int64) * image_camera.width + u[inside].astype(np.int64)
    nearest = np.full(image_camera.height * image_camera.width, np.inf, np.float32)
    np.minimum.at(nearest, place, z[inside])
    return _without_cracks(nearest.reshape(image_camera.height, image_camera.width))


def _points_per_pixel(depth_camera: PinholeCamera, image_camera: PinholeCamera) -> int:
    ratio = max(image_camera.fx / depth_camera.fx, image_camera.fy / depth_camera.fy)
    return int(np.clip(np.ceil(ratio - 0.01), 1, _FINEST))


def _points(depth_m: np.ndarray, camera: PinholeCamera, finer: int) -> np.ndarray:
    """Points [P, 3] float32 of the known pixels, ``finer`` x ``finer`` for each."""
    rows, columns = np.nonzero(depth_m > 0)
    z = depth_m[rows, columns].astype(np.float32)
    offsets = (np.arange(finer, dtype=np.float32) + 0.5) / finer - 0.5
    x = ((columns[:, None, None] + offsets[None, None, :] - camera.cx) / camera.fx).astype(np.float32)
    y = ((rows[:, None, None] + offsets[None, :, None] - camera.cy) / camera.fy).astype(np.float32)
    x, y = np.broadcast_arrays(x, y)
    depths = np.broadcast_to(z[:, None, None], x.shape)
    return np.stack([x * depths, y * depths, depths], axis=-1).reshape(-1, 3)


def _without_cracks(depth: np.ndarray) -> np.ndarray:
    """Depth, inf where empty, with pixels filled that lie between two nearer ones of one surface; NaN where empty."""
    padded = np.pad(depth, 1, constant_values=np.inf)
    filled = depth.copy()
    for one, other in (
        (padded[1:-1, :-2], padded[1:-1, 2:]),
        (padded[:-2, 1:-1], padded[2:, 1:-1]),
    ):
        far, near = np.maximum(one, other), np.minimum(one, other)
        with np.errstate(invalid="ignore"):
            crack = np.isfinite(far) & (far - near < _ONE_SURFACE * near) & (depth > (1 + _ONE_SURFACE) * far)
        filled = np.where(crack, np.minimum(filled, far), filled)
    return np.where(np.isfinite(filled), filled, np.float32(np.nan)).astype(np.float32)
