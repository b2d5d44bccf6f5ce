"""Camera pose from known points and their pixels (perspective-n-point), robust to outliers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from reconx_ros.core import SE3, PinholeCamera, check_shape

MIN_POINTS = 4
_FOCAL_CANDIDATES = 21
_SEED = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class PnpResult:
    """A pose and what supports it.

    Attributes:
        world_from_cam: the pose.
        camera: the camera it holds for.
        inliers: [P] bool, the points before the camera that reproject within the threshold.
    """

    world_from_cam: SE3
    camera: PinholeCamera
    inliers: np.ndarray  # [P]


def solve_pnp(
    points_world: np.ndarray,
    pixels: np.ndarray,
    camera: PinholeCamera,
    *,
    threshold_px: float = 5.0,
    iterations: int = 100,
) -> PnpResult | None:
    """Pose by SQPnP (Terzakis and Lourakis, ECCV 2020) in OpenCV's RANSAC, with a seed of its own.

    Args:
        points_world: [P, 3]; rows that are not finite do not take part.
        pixels: [P, 2] as (u, v), pixel-centre origin.
        camera: intrinsics.
        threshold_px: reprojection distance up to which a point agrees.
        iterations: of RANSAC.

    Returns:
        The pose, or None when there are fewer than four points or no pose was found.

    Raises:
        InvalidInputError: for shapes that differ.
    """
    import cv2

    dims = check_shape("points_world", points_world, "P", 3)
    check_shape("pixels", pixels, "P", 2, dims=dims)
    usable = np.isfinite(points_world).all(axis=1)
    if usable.sum() < MIN_POINTS:
        return None
    cv2.setRNGSeed(_SEED)
    found, turn, shift, inliers = cv2.solvePnPRansac(
        np.ascontiguousarray(points_world[usable], np.float64),
        np.ascontiguousarray(pixels[usable], np.float64),
        camera.matrix,
        None,
        flags=cv2.SOLVEPNP_SQPNP,
        iterationsCount=iterations,
        reprojectionError=threshold_px,
    )
    if not found or inliers is None or not (np.isfinite(turn).all() and np.isfinite(shift).all()):
        return None
    cam_from_world = SE3.exp(turn[:, 0], shift[:, 0])
    agreeing = np.flatnonzero(usable)[inliers[:, 0]]
    agreeing = agreeing[cam_from_world.apply(points_world[agreeing])[:, 2] > 0]
    mask = np.zeros(len(points_world), bool)
    mask[agreeing] = True
    return PnpResult(world_from_cam=cam_from_world.inverse(), camera=camera, inliers=mask)


def solve_pnp_unknown_focal(
    points_world: np.ndarray,
    pixels: np.ndarray,
    camera: PinholeCamera,
    *,
    threshold_px: float = 5.0,
    iterations: int = 100,
) -> PnpResult | None:
    """``solve_pnp`` over 21 focal lengths between half and three times the longer side; most inliers win.

    ``camera`` gives size and principal point, its focal length is not used. Of equals, the shortest focal length wins.
    """
    longer = max(camera.size)
    best: PnpResult | None = None
    for focal in np.geomspace(longer / 2, 3 * longer, _FOCAL_CANDIDATES):
        candidate = replace(camera, fx=float(focal), fy=float(focal))
        result = solve_pnp(points_world, pixels, candidate, threshold_px=threshold_px, iterations=iterations)
        if result is not None and (best is None or result.inliers.sum() > best.inliers.sum()):
            best = result
    return best


def grid_pixels(camera: PinholeCamera) -> np.ndarray:
    """Pixel centres [H * W, 2] as (u, v), row by row."""
    v, u = np.mgrid[: camera.height, : camera.width]
    return np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float64)
