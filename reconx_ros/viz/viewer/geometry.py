"""Where the viewer's camera stands, and how large things are drawn. Angles in radians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reconx_ros.core import SE3, PinholeCamera
from reconx_ros.core.transforms import rotation_from_quaternion_wxyz
from reconx_ros.viz.map_view import up_direction
from reconx_ros.viz.viewer.data import ViewerCamera, ViewerData

_MANY = 20_000  # points looked at for sizes
_OVER_THE_SHOULDER = 0.55
_ABOVE = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Sizes:
    """Lengths of a scene, in its own unit.

    Attributes:
        extent: diagonal of the box around nearly all points and cameras.
        distance: how far the cameras typically are from what they see.
        pixel: width of a keyframe's pixel at that distance.
        spacing: how far a keyframe typically is from the next one; None with fewer than two.
    """

    extent: float
    distance: float
    pixel: float
    spacing: float | None

    @property
    def frustum(self) -> float:
        """Height of a drawn camera: small beside the scene, and beside the gaps between cameras where that can be."""
        largest = min(0.05 * self.extent, 0.2 * self.distance)
        fitting = largest if self.spacing is None else min(largest, max(0.5 * self.spacing, 0.2 * largest))
        return float(2.0 ** (round(4 * math.log2(fitting)) / 4))  # in steps, so that a growing map redraws few

    @property
    def line(self) -> float:
        """Thickness of drawn lines."""
        return 0.03 * self.frustum


@dataclass(frozen=True, kw_only=True, eq=False)
class Viewpoint:
    """Where to stand [3], what to look at [3], what is up [3]; world coordinates."""

    position: np.ndarray  # [3]
    look_at: np.ndarray  # [3]
    up: np.ndarray  # [3]


def positions(data: ViewerData) -> np.ndarray:
    """A sample of where things are, [P, 3] float64: points, or Gaussians where there are none."""
    if len(data.cloud):
        every = data.cloud.points
    else:
        every = np.zeros((0, 3)) if data.scene is None else data.scene.means.cpu().numpy()
    sample = every[:: 1 + len(every) // _MANY].astype(np.float64)
    return sample[np.isfinite(sample).all(axis=1)]


def scene_sizes(data: ViewerData) -> Sizes:
    """Lengths to draw by; a scene without anything counts as 1 wide."""
    points = positions(data)
    cameras = [*data.keyframes, *data.novel]
    corners = [np.percentile(points, [2, 98], axis=0)] if len(points) else []
    corners += [c.world_from_cam.translation[None] for c in cameras]
    box = np.concatenate(corners) if corners else np.array([np.zeros(3), np.ones(3) / math.sqrt(3)])
    extent = float(np.linalg.norm(np.ptp(box, axis=0))) or 1.0
    near = [d for c in data.keyframes if (d := distance_seen(c, points)) is not None]
    distance = float(np.median(near)) if near else extent
    focal = np.median([c.camera.fx for c in cameras if c.camera is not None] or [500.0])
    return Sizes(extent=extent, distance=distance, pixel=distance / float(focal), spacing=_spacing(data.keyframes))


def _spacing(cameras: Sequence[ViewerCamera]) -> float | None:
    """Median distance from a camera to the next one in order."""
    places = np.array([c.world_from_cam.translation for c in cameras])
    return float(np.median(np.linalg.norm(np.diff(places, axis=0), axis=1))) if len(places) > 1 else None


def distance_seen(camera: ViewerCamera, points: np.ndarray) -> float | None:
    """Median z-depth of the points [P, 3] in a camera's picture; None where it sees none."""
    local = camera.world_from_cam.inverse().apply(points)
    ahead = local[local[:, 2] > 0]
    if camera.camera is not None and len(ahead):
        k = camera.camera
        u, v = k.fx * ahead[:, 0] / ahead[:, 2] + k.cx, k.fy * ahead[:, 1] / ahead[:, 2] + k.cy
        ahead = ahead[(u > -0.5) & (v > -0.5) & (u < k.width - 0.5) & (v < k.height - 0.5)]
    return float(np.median(ahead[:, 2])) if len(ahead) else None


def first_viewpoint(data: ViewerData, sizes: Sizes) -> Viewpoint:
    """Behind and above the cameras, looking at what they look at, so that they and the scene are seen."""
    up = up_direction([c.world_from_cam for c in data.keyframes])
    points = positions(data)
    if not data.keyframes:
        middle = np.median(points, axis=0) if len(points) else np.zeros(3)
        away = np.array([1.0, 0.6, 0.0]) - (np.array([1.0, 0.6, 0.0]) @ up) * up
        return Viewpoint(position=middle + sizes.extent * (0.7 * away + 0.5 * up), look_at=middle, up=up)
    poses = [c.world_from_cam for c in data.keyframes]
    middle_pose = min(poses, key=lambda p: np.linalg.norm(p.translation - np.mean([q.translation for q in poses], 0)))
    ahead = middle_pose.rotation[:, 2]
    back = sizes.distance * _OVER_THE_SHOULDER + max(middle_pose.distance_to(p) for p in poses)
    position = middle_pose.translation - back * ahead + _ABOVE * back * up
    return Viewpoint(position=position, look_at=middle_pose.translation + sizes.distance * ahead, up=up)


def camera_viewpoint(camera: ViewerCamera, distance: float) -> Viewpoint:
    """Exactly where a camera stood; ``distance`` is how far away the point lies that the view turns about."""
    pose = camera.world_from_cam
    return Viewpoint(
        position=pose.translation, look_at=pose.translation + distance * pose.rotation[:, 2], up=-pose.rotation[:, 1]
    )


def vertical_fov(camera: PinholeCamera) -> float:
    """Angle of view from the top to the bottom of the picture."""
    return 2 * math.atan(0.5 * camera.height / camera.fy)


def fitting_fov(camera: PinholeCamera, aspect: float) -> float:
    """Vertical angle of view with which a window of this aspect (width over height) shows the whole picture."""
    half_height, half_width = 0.5 * camera.height / camera.fy, 0.5 * camera.width / camera.fx
    return 2 * math.atan(max(half_height, half_width / aspect))


def window_camera(fov: float, aspect: float, longer_side: int) -> PinholeCamera:
    """The pinhole camera of a browser window: vertical angle of view, width over height, pixels of the longer side."""
    width = longer_side if aspect >= 1 else max(16, round(longer_side * aspect))
    height = longer_side if aspect < 1 else max(16, round(longer_side / aspect))
    focal = 0.5 * height / math.tan(0.5 * fov)
    return PinholeCamera(width=width, height=height, fx=focal, fy=focal, cx=(width - 1) / 2, cy=(height - 1) / 2)


def window_pose(position: np.ndarray, quaternion_wxyz: np.ndarray) -> SE3:
    """world_from_cam of a browser window (viser reports OpenCV axes)."""
    return SE3(rotation=rotation_from_quaternion_wxyz(quaternion_wxyz), translation=position)
