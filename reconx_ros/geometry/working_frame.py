"""Worlds that lie far from their origin, or whose unit is small or large, brought to where single precision suffices.

UTM and ECEF coordinates are millions of units from 0, where float32 has steps of half a unit; a scene in thousandths
has depths that drown in small constants. The later stages then work in a frame about the mean camera centre, in a unit
near the depth of the scene, and double precision undoes both at the edges. A scene that needs neither is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from reconx_ros.core import SE3, GaussianScene, PointCloud, Sim3

FAR = 100.0  # distance of the mean camera from the origin, over the scene's reach, from which the frame moves there
DEPTHS = (0.1, 100.0)  # median depths, in world units, that need no other unit
NEAR_SHARE = 1 / 256  # near plane over the reach of a scene
_SAMPLE = 4096


def working_from_world(world_from_cams: Sequence[SE3], median_depth: float | None = None) -> Sim3 | None:
    """The frame to work in; None where the world itself will do.

    It is about the mean camera centre where that lies farther from the origin than ``FAR`` times the scene's reach: the
    deviation of the camera centres or the median depth, whichever is larger. Its unit is the median depth where that
    is outside of ``DEPTHS``. Axes stay.

    Args:
        world_from_cams: poses of the cameras, at least one.
        median_depth: of the scene, in world units; None while it is unknown.
    """
    centres = np.stack([pose.translation for pose in world_from_cams])
    middle = centres.mean(axis=0)
    reach = max(float(np.sqrt(np.square(centres - middle).sum(axis=1).mean())), median_depth or 0.0)
    offset = middle if float(np.linalg.norm(middle)) > FAR * reach else np.zeros(3)
    unit = median_depth if median_depth and not DEPTHS[0] <= median_depth <= DEPTHS[1] else 1.0
    if unit == 1.0 and not offset.any():
        return None
    return Sim3(scale=1 / unit, rotation=np.eye(3), translation=-offset / unit)


def moved_cloud(cloud: PointCloud, new_from_old: Sim3) -> PointCloud:
    """The points in another frame; in double precision where that frame is moved, not only scaled."""
    points = new_from_old.apply(cloud.points.astype(np.float64))
    kept = {name: getattr(cloud, name) for name in cloud.__dataclass_fields__}
    precision = np.float64 if new_from_old.translation.any() else np.float32
    return PointCloud(**{**kept, "points": points.astype(precision)})


def moved_scene(scene: GaussianScene, new_from_old: Sim3) -> GaussianScene:
    """The Gaussians in another frame of the same axes; in double precision where it is moved, not only scaled."""
    shift = torch.tensor(new_from_old.translation, dtype=torch.float64, device=scene.means.device)
    means = new_from_old.scale * scene.means.double() + shift
    kept = {name: getattr(scene, name) for name in scene.__dataclass_fields__}
    kept["means"] = means if new_from_old.translation.any() else means.float()
    kept["log_scales"] = scene.log_scales + math.log(new_from_old.scale)
    return GaussianScene(**kept)


def in_single_precision(scene: GaussianScene) -> tuple[GaussianScene, SE3 | None]:
    """A scene in double precision about its own centre, and local_from_world; any other scene itself, and None."""
    if scene.means.dtype != torch.float64:
        return scene, None
    centre = scene.means.mean(dim=0) if len(scene) else scene.means.new_zeros(3)
    kept = {name: getattr(scene, name) for name in scene.__dataclass_fields__}
    local = GaussianScene(**{**kept, "means": (scene.means - centre).float()})
    return local, SE3(rotation=np.eye(3), translation=-centre.cpu().numpy())


def near_plane(means: torch.Tensor) -> float:
    """The near plane for Gaussians [N, 3], in their unit: a share of their median distance from the middle."""
    sample = means.detach()[:: 1 + len(means) // _SAMPLE].float()
    if not len(sample):
        return 0.0
    return NEAR_SHARE * float((sample - sample.median(dim=0).values).norm(dim=-1).median())
