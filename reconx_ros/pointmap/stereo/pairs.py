"""Which views are matched against which: shared content at a useful angle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from reconx_ros.geometry.epipolar import triangulation_angles_deg
from reconx_ros.geometry.projection import inside_image, project, transform_points
from reconx_ros.pointmap.stereo.views import MatchView

_BEST_ANGLE_DEG = 10.0
_SPREAD_BELOW_DEG = 5.0
_SPREAD_ABOVE_DEG = 12.0
_MIN_ANGLE_DEG = 0.5


def angle_score(angle_deg: torch.Tensor) -> torch.Tensor:
    """Usefulness in [0, 1] of triangulation angles: too small is inaccurate, too large does not look alike.

    A piecewise Gaussian as in MVSNet (Yao et al., ECCV 2018, sec. 4.1), with its peak at 10 degrees.
    """
    spread = torch.where(angle_deg < _BEST_ANGLE_DEG, _SPREAD_BELOW_DEG, _SPREAD_ABOVE_DEG)
    score = torch.exp(-0.5 * ((angle_deg - _BEST_ANGLE_DEG) / spread) ** 2)
    return torch.where(angle_deg < _MIN_ANGLE_DEG, 0.0, score)


def pair_score(reference: MatchView, source: MatchView, points_world: torch.Tensor) -> float:
    """How much a source helps a reference, in [0, 1]: mean over the reference's points of seen x angle x size ratio."""
    uv, z = project(transform_points(source.world_from_cam.inverse(), points_world), source.camera)
    seen = inside_image(uv, z, source.camera)
    z_reference = transform_points(reference.world_from_cam.inverse(), points_world)[..., 2].clamp_min(1e-9)
    zoom = (z / source.camera.fx) / (z_reference / reference.camera.fx)
    alike = torch.minimum(zoom, 1 / zoom.clamp_min(1e-6)).clamp(0, 1)
    angle = triangulation_angles_deg(
        points_world, reference.world_from_cam.translation, source.world_from_cam.translation
    )
    return float((angle_score(angle) * alike * seen).mean()) if len(points_world) else 0.0


def select_sources(views: Sequence[MatchView], points_world: Sequence[torch.Tensor], count: int) -> list[list[int]]:
    """Indices of the best sources of every view, best first; a view that shares nothing with others gets none.

    Args:
        views: V views.
        points_world: per view, [P, 3] points that it sees.
        count: most sources per view.
    """
    chosen = []
    for i, reference in enumerate(views):
        scores = [pair_score(reference, s, points_world[i]) if j != i else 0.0 for j, s in enumerate(views)]
        order = sorted(range(len(views)), key=lambda j: (-scores[j], j))
        best = scores[order[0]]
        chosen.append([j for j in order[:count] if scores[j] > max(0.02, 0.1 * best)])
    return chosen


def nearby_sources(views: Sequence[MatchView], count: int, max_turn_deg: float = 60.0) -> list[list[int]]:
    """Sources chosen from poses alone, when no depth is known: near, but not in the same place, and looking alike."""
    chosen: list[list[int]] = []
    for i, reference in enumerate(views):
        pose = reference.world_from_cam
        distance = np.array([pose.distance_to(v.world_from_cam) for v in views])
        turn = np.degrees([pose.angle_to(v.world_from_cam) for v in views])
        usable = [j for j in range(len(views)) if j != i and distance[j] > 0]
        if not usable:
            chosen.append([])
            continue
        unit = float(np.median(distance[usable]))
        usable = [j for j in usable if distance[j] > 0.02 * unit and turn[j] < max_turn_deg] or usable
        chosen.append(sorted(usable, key=lambda j: (distance[j] / unit + turn[j] / 30.0, j))[:count])
    return chosen
