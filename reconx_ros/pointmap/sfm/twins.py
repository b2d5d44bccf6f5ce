"""Does a clearly different pose explain the matches of two images as well?"""

from __future__ import annotations

import math

import numpy as np

from reconx_ros.core import SE3
from reconx_ros.pointmap.matching.features import Features
from reconx_ros.pointmap.sfm.planar import plane_poses
from reconx_ros.pointmap.sfm.two_view import TwoViewGeometry, agreeing, plane_width, polished

_SAME_TURN_DEG = 3.0
_SAME_DIRECTION_DEG = 8.0


def twin_share(a: Features, b: Features, found: TwoViewGeometry) -> float:
    """How many of a pair's matches a clearly different pose explains, over all of them; near 1 for a plane."""
    rays_a, rays_b = (f.rays[found.matches.index[:, k]] for k, f in enumerate((a, b)))
    starts = plane_poses(rays_a, rays_b, plane_width(a, b))
    others = [polished(a, b, found.matches, pose) for pose in starts]
    counts = [agreeing(a, b, pose, found.matches).sum() for pose in others if not _same(pose, found.b_from_a)]
    return float(max(counts, default=0)) / max(1, len(found.matches))


def _same(pose: SE3, other: SE3) -> bool:
    along = float(np.clip(pose.translation @ other.translation, -1, 1))
    turned = math.degrees(pose.angle_to(other))
    return turned < _SAME_TURN_DEG and math.degrees(math.acos(along)) < _SAME_DIRECTION_DEG
