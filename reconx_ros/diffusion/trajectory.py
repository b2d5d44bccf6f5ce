"""Where the views between the keyframes are taken from."""

from __future__ import annotations

import torch

from reconx_ros.core import AlignedViews, InvalidInputError, PointMap, Trajectory
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


def _median_depth(view: PointMap) -> float:
    return float(torch.median(view.depth[view.valid]))
