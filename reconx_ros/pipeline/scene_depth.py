"""How far away a camera's surroundings are, from its images and poses alone.

The map is not asked: it comes when a reconstruction ends, so that a slow computer would keep other keyframes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from reconx_ros.core import SE3, Frame, PinholeCamera

_DEPTH_STEP = 8  # of the rows and columns of sensor depth whose median is taken
_MAX_SIZE = 640  # longer side of the images in which features are looked for
_FEATURES = 600
_CONTRAST = 5  # grey levels by which a corner stands out: plain walls have no more, and wrong matches are sorted out
_RATIO = 0.8  # a match is this much nearer than the second nearest descriptor
_MAX_ERROR_PX = 2.0  # of a triangulated point, in images of that size
_MIN_ANGLE_DEG = 1.0  # between the two rays of a point
_MIN_POINTS = 15


@dataclass(frozen=True, kw_only=True, eq=False)
class Landmarks:
    """Features of one posed frame."""

    camera: PinholeCamera
    world_from_cam: SE3
    pixels: np.ndarray  # [N, 2]
    descriptors: np.ndarray  # [N, 32] uint8; None where there are no features


class SceneDepth:
    """The median scene depth of each camera: of the sensor, or triangulated between keyframes that follow each other.

    Args:
        assumed: depth until one is known, in the unit of the poses.
    """

    def __init__(self, assumed: float) -> None:
        self._assumed = assumed
        self._depths: dict[str, float] = {}
        self._newest: dict[str, Landmarks] = {}

    def of(self, frame: Frame) -> float:
        """Median depth that a frame's sensor measured, else the newest of its camera's keyframes, else the assumed."""
        return _measured_depth(frame) or self._depths.get(frame.camera_name, self._assumed)

    def add_keyframe(self, frame: Frame) -> None:
        """Learn from a frame that was kept."""
        if frame.world_from_cam is None:
            return
        depth = _measured_depth(frame)
        if depth is None:
            depth = self._triangulated(frame, frame.world_from_cam)
        if depth is not None:
            self._depths[frame.camera_name] = depth

    def _triangulated(self, frame: Frame, world_from_cam: SE3) -> float | None:
        landmarks = _landmarks(frame, world_from_cam)
        former = self._newest.get(frame.camera_name)
        self._newest[frame.camera_name] = landmarks
        return triangulated_depth(former, landmarks) if former is not None else None


def _measured_depth(frame: Frame) -> float | None:
    if frame.depth_m is None:
        return None
    sparse = frame.depth_m[::_DEPTH_STEP, ::_DEPTH_STEP]
    known = sparse[np.isfinite(sparse) & (sparse > 0)]
    return float(np.median(known)) if len(known) else None


def _landmarks(frame: Frame, world_from_cam: SE3) -> Landmarks:
    camera = frame.camera.fitted_to(_MAX_SIZE)
    grey = cv2.cvtColor(frame.rgb_u8, cv2.COLOR_RGB2GRAY)
    if camera != frame.camera:
        grey = cv2.resize(grey, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    points, descriptors = cv2.ORB.create(_FEATURES, fastThreshold=_CONTRAST).detectAndCompute(grey, None)
    pixels = np.array([p.pt for p in points]).reshape(-1, 2)
    return Landmarks(camera=camera, world_from_cam=world_from_cam, pixels=pixels, descriptors=descriptors)


def triangulated_depth(a: Landmarks, b: Landmarks) -> float | None:
    """Median z-depth in view b of what two posed views see, from features that both poses explain.

    Returns:
        In the unit of the poses; None where fewer than 15 features are matched, or the camera only turned.
    """
    if min(len(a.pixels), len(b.pixels)) < _MIN_POINTS:
        return None
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(b.descriptors, a.descriptors, k=2)
    good = [best for best, second in pairs if best.distance < _RATIO * second.distance]
    pixels_a = a.pixels[[m.trainIdx for m in good]]
    pixels_b = b.pixels[[m.queryIdx for m in good]]
    depths = _depths_in_b(a, b, pixels_a, pixels_b)
    return float(np.median(depths)) if len(depths) >= _MIN_POINTS else None


def _depths_in_b(a: Landmarks, b: Landmarks, pixels_a: np.ndarray, pixels_b: np.ndarray) -> np.ndarray:
    """Depths [M] of the points where the rays of pixels [N, 2] meet at an angle, in front of both cameras."""
    a_from_b = a.world_from_cam.inverse() @ b.world_from_cam
    rays_a = _rays(a.camera, pixels_a)
    rays_b = _rays(b.camera, pixels_b) @ a_from_b.rotation.T  # in a's frame
    # Nearest points of the lines s * ray_a and t * ray_b + centre (Goldman, Graphics Gems, 1990).
    cross = np.cross(rays_a, rays_b)
    square = np.maximum((cross**2).sum(-1), 1e-30)
    s = (np.cross(a_from_b.translation, rays_b) * cross).sum(-1) / square
    t = (np.cross(a_from_b.translation, rays_a) * cross).sum(-1) / square
    middle = (s[:, None] * rays_a + t[:, None] * rays_b + a_from_b.translation) / 2
    lengths = np.linalg.norm(rays_a, axis=-1) * np.linalg.norm(rays_b, axis=-1)
    keep = (s > 0) & (t > 0) & (np.sqrt(square) > np.sin(np.radians(_MIN_ANGLE_DEG)) * lengths)
    middle, pixels_a, pixels_b = middle[keep], pixels_a[keep], pixels_b[keep]
    in_b = a_from_b.inverse().apply(middle)
    near = (_error_px(a.camera, middle, pixels_a) < _MAX_ERROR_PX) & (
        _error_px(b.camera, in_b, pixels_b) < _MAX_ERROR_PX
    )
    return np.asarray(in_b[near, 2])


def _rays(camera: PinholeCamera, pixels: np.ndarray) -> np.ndarray:
    """[N, 3] with z = 1."""
    xy = (pixels - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
    return np.concatenate([xy, np.ones((len(xy), 1))], axis=1)


def _error_px(camera: PinholeCamera, points: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = points[:, :2] / points[:, 2:] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
    return np.where(points[:, 2] > 0, np.linalg.norm(uv - pixels, axis=1), np.inf)
