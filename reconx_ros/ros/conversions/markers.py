"""Keyframes as wireframe pyramids for RViz and Foxglove."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from reconx_ros.core import InvalidInputError, Keyframe, PinholeCamera
from reconx_ros.ros.conversions.poses import header_msg, pose_msg

_EDGES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))
_LINE_WIDTH = 0.02  # share of the depth of the pyramid


def frustum_markers(keyframes: Sequence[Keyframe], frame_id: str, depth: float, mapped: set[int]) -> MarkerArray:
    """One pyramid per keyframe with a pose, after a marker that deletes all earlier ones.

    Args:
        keyframes: what to draw; the marker's id is the keyframe's.
        frame_id: the map frame.
        depth: height of the pyramids, map units.
        mapped: ids whose points are in the map; drawn green, the others orange.
    """
    posed = [k for k in keyframes if k.frame.world_from_cam is not None]
    stamp_ns = max((k.frame.stamp_ns for k in posed), default=0)
    clear = Marker(header=header_msg(stamp_ns, frame_id), ns="keyframes", action=Marker.DELETEALL)
    return MarkerArray(markers=[clear, *(_frustum(k, frame_id, depth, k.id in mapped) for k in posed)])


def _frustum(keyframe: Keyframe, frame_id: str, depth: float, mapped: bool) -> Marker:
    frame = keyframe.frame
    assert frame.world_from_cam is not None
    marker = Marker(header=header_msg(frame.stamp_ns, frame_id), ns="keyframes", id=int(keyframe.id))
    marker.type, marker.action = Marker.LINE_LIST, Marker.ADD
    marker.pose = pose_msg(frame.world_from_cam)
    marker.scale.x = float(depth * _LINE_WIDTH)
    green = ColorRGBA(r=0.2, g=0.8, b=0.3, a=1.0)
    marker.color = green if mapped else ColorRGBA(r=1.0, g=0.6, b=0.1, a=1.0)
    corners = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in frustum_corners(frame.camera, depth)]
    marker.points = [corners[i] for edge in _EDGES for i in edge]
    return marker


def frustum_corners(camera: PinholeCamera, depth: float) -> np.ndarray:
    """Apex and the four image corners at a depth, [5, 3] in the optical frame."""
    u = np.array([-0.5, camera.width - 0.5, camera.width - 0.5, -0.5])
    v = np.array([-0.5, -0.5, camera.height - 0.5, camera.height - 0.5])
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(4)], axis=1)
    return np.concatenate([np.zeros((1, 3)), depth * rays])


def camera_from_marker(marker: Marker, width: int = 640) -> PinholeCamera:
    """The camera whose frustum a marker shows, with its picture taken to be ``width`` pixels wide: markers say angles.

    Raises:
        InvalidInputError: for a marker that is no pyramid of ``frustum_markers``.
    """
    corners = np.array([[p.x, p.y, p.z] for p in marker.points])  # two ends of each of _EDGES
    if len(corners) != 2 * len(_EDGES) or not (corners[1:8:2, 2] > 0).all():
        raise InvalidInputError(f"marker {marker.id} is no camera frustum, expected {2 * len(_EDGES)} points ahead")
    left, top = corners[1, :2] / corners[1, 2]  # end of the edge (0, 1): the upper left corner
    right, bottom = corners[5, :2] / corners[5, 2]  # end of the edge (0, 3): the lower right one
    if not (right > left and bottom > top):
        raise InvalidInputError(f"marker {marker.id} is no camera frustum: its corners do not span a picture")
    focal = width / (right - left)
    height = max(1, round(focal * (bottom - top)))
    fy = height / (bottom - top)
    return PinholeCamera(
        width=width,
        height=height,
        fx=float(focal),
        fy=float(fy),
        cx=float(-left * focal - 0.5),
        cy=float(-top * fy - 0.5),
    )
