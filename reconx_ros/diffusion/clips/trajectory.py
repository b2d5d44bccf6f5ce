"""Where in-between views are seen from."""

from __future__ import annotations

import numpy as np
import torch

from reconx_ros.core import SE3, AlignedViews, InvalidInputError, PointMap, Trajectory
from reconx_ros.core.transforms import rotation_exp, rotation_log
from reconx_ros.geometry.paths import order_poses, poses_between, smooth_path

_TURN_SHARE = 0.5
_FALLBACK_DEPTH = 2.5


def plan_trajectory(views: AlignedViews, count: int, *, max_size: int) -> Trajectory:
    """A smooth path through the keyframes, seen from poses that lie between them.

    Keyframes are put into an order in which a camera could have visited them; longer stretches get more poses, so that
    the steps are alike in length and turn. No pose coincides with a keyframe.

    Args:
        views: stage 1's result, at least two views.
        count: number of poses, >= 0.
        max_size: longer side of the pictures in pixels; the camera is that of the first keyframe, never enlarged.

    Raises:
        InvalidInputError: for fewer than two views or a negative count.
    """
    if len(views.views) < 2:
        raise InvalidInputError(f"a path between keyframes needs at least 2 of them, got {len(views.views)}")
    camera = views.views[0].camera.fitted_to(max_size)
    turn_length = length_per_radian(views)
    keys = [v.world_from_cam for v in views.views]
    path = smooth_path([keys[k] for k in order_poses(keys, turn_length)], turn_length)
    return Trajectory(camera=camera, world_from_cams=tuple(poses_between(path, count, turn_length)))


def length_per_radian(views: AlignedViews) -> float:
    """What a turn is worth in travel: half the median scene depth, since both move the picture about as far."""
    depths = [_median_depth(v) for v in views.views if bool(v.valid.any())]
    return _TURN_SHARE * (sorted(depths)[len(depths) // 2] if depths else _FALLBACK_DEPTH)


def screw_pose(start: SE3, end: SE3, fraction: float) -> SE3:
    """The pose at a fraction of the screw motion from one pose to another; 0 is start, 1 is end, 2 goes as far again.

    A camera that looks at a thing while it moves around it stays on its circle, on which straight interpolation cuts
    the corner. The turn is the shorter one, below 180 degrees.
    """
    end_from_start = start.inverse() @ end
    turn = rotation_log(end_from_start.rotation)
    speed = np.linalg.solve(_screw_matrix(turn), end_from_start.translation)
    moved = SE3(rotation=rotation_exp(fraction * turn), translation=_screw_matrix(fraction * turn) @ (fraction * speed))
    return start @ moved


def continued(before: SE3, last: SE3, count: int) -> list[SE3]:
    """Poses that go on after the last one as the camera moved from the one before to it, in its own frame."""
    step = before.inverse() @ last
    poses = [last]
    for _ in range(count):
        poses.append(poses[-1] @ step)
    return poses[1:]


def _screw_matrix(turn: np.ndarray) -> np.ndarray:
    """[3, 3] that takes a constant speed in the camera's own frame to the displacement after a turn."""
    angle = float(np.linalg.norm(turn))
    k = np.array([[0, -turn[2], turn[1]], [turn[2], 0, -turn[0]], [-turn[1], turn[0], 0]])
    if angle < 1e-6:
        return np.eye(3) + k / 2
    return np.eye(3) + (1 - np.cos(angle)) / angle**2 * k + (angle - np.sin(angle)) / angle**3 * k @ k


def _median_depth(view: PointMap) -> float:
    return float(torch.median(view.depth[view.valid]))
