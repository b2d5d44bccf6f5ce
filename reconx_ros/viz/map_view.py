"""A place seen from above: its points, the cameras that saw it and the path of the new views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reconx_ros.core import SE3, PointCloud
from reconx_ros.viz.canvas import FAINT_INK, INK, INPUT_CAMERA, PAPER, PATH, Colour, blank, put_text, text_width

_SCALE = 2  # drawn twice as large and averaged down
_MARGIN = 0.07
_FADE = 0.25
_BOUND_POINTS = 20_000


@dataclass(frozen=True, kw_only=True)
class _Projection:
    """World to map pixels: right and up are world directions, low the world's left lower corner on the map."""

    right: np.ndarray  # [3]
    up: np.ndarray  # [3]
    height_axis: np.ndarray  # [3]
    low: np.ndarray  # [2]
    pixels_per_unit: float
    height_px: int

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """[P, 2] map pixels (column, row) of world points [P, 3]."""
        flat = np.stack([points @ self.right, points @ self.up], axis=-1)
        xy = (flat - self.low) * self.pixels_per_unit
        return np.stack([xy[:, 0], self.height_px - 1 - xy[:, 1]], axis=-1)


def draw_map(
    cloud: PointCloud,
    inputs: Sequence[SE3],
    path: Sequence[SE3],
    *,
    width: int,
    height: int,
    unit: str,
    joined: bool = True,
) -> np.ndarray:
    """Draw the map.

    Args:
        cloud: points of the world; higher ones cover lower ones, those above the cameras are left out.
        inputs: world_from_cam of the cameras.
        path: world_from_cam of the new views, in order.
        width, height: size in pixels.
        unit: what the scale bar counts, "m" or "units".
        joined: whether the new views follow each other along a line.

    Returns:
        [height, width, 3] uint8 RGB.
    """
    import cv2

    canvas = blank(height * _SCALE, width * _SCALE)
    view = _projection(cloud, [*inputs, *path], width * _SCALE, height * _SCALE)
    _draw_points(canvas, cloud, [*inputs, *path], view)
    _draw_path(canvas, path, view, joined)
    for pose in inputs:
        _draw_camera(canvas, pose, view, INPUT_CAMERA, 20 * _SCALE)
    small = np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA))
    _draw_axes(small, view)
    _draw_scale_bar(small, view.pixels_per_unit / _SCALE, unit)
    return small


def up_direction(poses: Sequence[SE3]) -> np.ndarray:
    """The world's up [3]: +z where the cameras stand upright in a z-up world, else their own mean up direction."""
    if not poses:
        return np.array([0.0, 0.0, 1.0])
    mean = np.mean([-p.rotation[:, 1] for p in poses], axis=0)  # camera y points down
    length = float(np.linalg.norm(mean))
    if length < 1e-6 or mean[2] / length > 0.5:
        return np.array([0.0, 0.0, 1.0])
    return mean / length


def nice_length(longest: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not longer than ``longest`` (> 0)."""
    power = 10.0 ** math.floor(math.log10(longest))
    return max(step * power for step in (1.0, 2.0, 5.0) if step * power <= longest * (1 + 1e-9))


def _projection(cloud: PointCloud, poses: Sequence[SE3], width: int, height: int) -> _Projection:
    """The turn of the map, in steps of 5 degrees, that fills the paper best."""
    axis = up_direction(poses)
    start = np.array([1.0, 0.0, 0.0]) if abs(axis[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    east = start - (start @ axis) * axis
    east /= np.linalg.norm(east)
    north = np.cross(axis, east)
    room = np.array([width, height]) * (1 - 2 * _MARGIN)
    best: _Projection | None = None
    for angle in np.deg2rad(np.arange(0, 180, 5)):
        right = math.cos(angle) * east + math.sin(angle) * north
        up = np.cross(axis, right)
        bounds = _bounds(cloud, poses, right, up)
        scale = float((room / np.maximum(np.ptp(bounds, axis=0), 1e-6)).min())
        if best is None or scale > 1.02 * best.pixels_per_unit:
            low = bounds.mean(axis=0) - np.array([width, height]) / (2 * scale)
            best = _Projection(right=right, up=up, height_axis=axis, low=low, pixels_per_unit=scale, height_px=height)
    assert best is not None
    return best


def _bounds(cloud: PointCloud, poses: Sequence[SE3], right: np.ndarray, up: np.ndarray) -> np.ndarray:
    """[2, 2] lower and upper corner of cameras and nearly all points, in map directions."""
    basis = np.stack([right, up], axis=-1)
    corners = [np.array([p.translation for p in poses]) @ basis] if poses else []
    if len(cloud):
        sparse = cloud.points[:: 1 + len(cloud) // _BOUND_POINTS].astype(np.float64)
        corners.append(np.percentile(sparse @ basis, [1, 99], axis=0))
    every = np.concatenate(corners) if corners else np.array([[-1.0, -1.0], [1.0, 1.0]])
    return np.stack([every.min(axis=0), every.max(axis=0)])


def _draw_points(canvas: np.ndarray, cloud: PointCloud, poses: Sequence[SE3], view: _Projection) -> None:
    if len(cloud) == 0:
        return
    heights = cloud.points @ view.height_axis
    ceiling = max((float(p.translation @ view.height_axis) for p in poses), default=math.inf)
    shown = np.flatnonzero(heights <= ceiling)
    shown = shown[np.argsort(heights[shown], kind="stable")]
    colours = (1 - _FADE) * cloud.rgb_u8[shown] + _FADE * np.array(PAPER)
    column, row = np.rint(view.pixels(cloud.points[shown])).astype(int).T
    for down in range(_SCALE + 1):
        for along in range(_SCALE + 1):
            y, x = row + down, column + along
            on = (x >= 0) & (y >= 0) & (x < canvas.shape[1]) & (y < canvas.shape[0])
            canvas[y[on], x[on]] = colours[on]


def _draw_path(canvas: np.ndarray, path: Sequence[SE3], view: _Projection, joined: bool) -> None:
    import cv2

    if not path:
        return
    pixels = np.rint(view.pixels(np.array([p.translation for p in path]))).astype(np.int32)
    if joined:
        cv2.polylines(canvas, [pixels[:, None]], False, PAPER, 5 * _SCALE, cv2.LINE_AA)
        cv2.polylines(canvas, [pixels[:, None]], False, PATH, 2 * _SCALE, cv2.LINE_AA)
    for x, y in pixels.tolist():
        cv2.circle(canvas, (x, y), 4 * _SCALE, PAPER, -1, cv2.LINE_AA)
        cv2.circle(canvas, (x, y), 3 * _SCALE, PATH, -1, cv2.LINE_AA)


def _draw_camera(canvas: np.ndarray, pose: SE3, view: _Projection, colour: Colour, length: int) -> None:
    """A wedge from the camera's centre into the direction in which it looks; a dot for one that looks straight down."""
    import cv2

    centre = view.pixels(pose.translation[None])[0]
    ahead = np.array([pose.rotation[:, 2] @ view.right, -(pose.rotation[:, 2] @ view.up)])
    tilt = float(np.linalg.norm(ahead))
    if tilt < 0.15:
        x, y = np.rint(centre).astype(int).tolist()
        cv2.circle(canvas, (x, y), length // 3, colour, -1, cv2.LINE_AA)
        return
    ahead /= tilt
    side = np.array([-ahead[1], ahead[0]])
    wedge = np.array([centre, centre + length * (ahead + 0.55 * side), centre + length * (ahead - 0.55 * side)])
    outline = np.rint(wedge).astype(np.int32)[:, None]
    cv2.polylines(canvas, [outline], True, PAPER, 3 * _SCALE, cv2.LINE_AA)
    cv2.fillPoly(canvas, [outline], colour, cv2.LINE_AA)


def _draw_axes(canvas: np.ndarray, view: _Projection) -> None:
    """The world's x and y direction, as far as they lie in the map."""
    import cv2

    corner = np.array([46.0, canvas.shape[0] - 46.0])
    for name, axis, colour in (("x", np.eye(3)[0], (200, 60, 50)), ("y", np.eye(3)[1], (60, 150, 60))):
        along = np.array([axis @ view.right, -(axis @ view.up)])
        if np.linalg.norm(along) < 0.5:
            continue
        tip = corner + 26 * along
        ends = [tuple(np.rint(point).astype(int).tolist()) for point in (corner, tip)]
        cv2.arrowedLine(canvas, ends[0], ends[1], colour, 2, cv2.LINE_AA, tipLength=0.3)
        x, y = np.rint(corner + 38 * along).astype(int).tolist()
        put_text(canvas, name, x - 4, y - 5, 9, FAINT_INK)


def _draw_scale_bar(canvas: np.ndarray, pixels_per_unit: float, unit: str) -> None:
    height, width = canvas.shape[:2]
    length = nice_length(0.22 * width / pixels_per_unit)
    bar = round(length * pixels_per_unit)
    x, y = width - bar - 22, height - 24
    canvas[y - 28 : y + 14, x - 12 : x + bar + 12] = PAPER
    canvas[y : y + 3, x : x + bar] = INK
    canvas[y - 5 : y + 8, x : x + 2] = INK
    canvas[y - 5 : y + 8, x + bar - 2 : x + bar] = INK
    label = f"{length:g} {unit[:-1] if unit == 'units' and length == 1 else unit}"
    put_text(canvas, label, x + (bar - text_width(label, 10)) // 2, y - 20, 10, FAINT_INK)
