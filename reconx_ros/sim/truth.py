"""What is really there: pictures from any pose, and how far a reconstructed cloud is from the room's surfaces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reconx_ros.core import SE3, PinholeCamera, check_shape
from reconx_ros.sim.raycast import RgbdImage, RoomRenderer


def render_truth(renderer: RoomRenderer, camera: PinholeCamera, world_from_cam: SE3, supersample: int = 2) -> RgbdImage:
    """The true picture and depth from any pose, to score a novel view with."""
    return renderer.render(camera, world_from_cam, supersample)


def render_path(
    renderer: RoomRenderer, camera: PinholeCamera, world_from_cams: Sequence[SE3], supersample: int = 2
) -> list[RgbdImage]:
    """True pictures along a path."""
    return [render_truth(renderer, camera, pose, supersample) for pose in world_from_cams]


def relative_depth_errors(renderer: RoomRenderer, points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Relative error of the depth of points against what the ray from the viewing camera really meets.

    Args:
        renderer: of the true room.
        points: [P, 3] reconstructed points, world metres.
        centres: [P, 3] centre of the camera that saw each point, or [3] for all.

    Returns:
        [P] float64: |estimated - true| / true, the same along the ray as along the optical axis; NaN where the ray
        meets nothing or the point lies at the camera's centre.

    Raises:
        InvalidInputError: when the shapes differ.
    """
    check_shape("points", points, "P", 3)
    centres = np.broadcast_to(np.asarray(centres, dtype=np.float64), points.shape)
    directions = np.asarray(points, dtype=np.float64) - centres
    length = np.linalg.norm(directions, axis=-1)
    usable = np.isfinite(length) & (length > 1e-9)
    unit = np.where(usable[:, None], directions, [1.0, 0.0, 0.0]) / np.where(usable, length, 1.0)[:, None]
    true = renderer.cast(centres, unit).distance.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(length - true) / true
    return np.where(usable & np.isfinite(true), error, np.nan)


def share_within(errors: np.ndarray, tolerance: float) -> float:
    """Share in [0, 1] of errors [P] that are known and at most a tolerance; NaN when there are none."""
    known = errors[np.isfinite(errors)]
    return float((known <= tolerance).mean()) if known.size else float("nan")
