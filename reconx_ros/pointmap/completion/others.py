"""Depth of other views as one view sees it: what the network gets on its second pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reconx_ros.core import SE3, PinholeCamera
from reconx_ros.geometry.projection import camera_rays, transform_points

_SAME_SURFACE = 0.04  # samples of a pixel so little behind the nearest are averaged with it
_NEAREST = 0.02  # depth over the unit, below which a point is too near the camera to say anything


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthGuess:
    """Depth of every pixel of a view with how far it is to be trusted.

    Attributes:
        depth: [H, W] > 0.
        certainty: [H, W] in (0, 1].
        camera, world_from_cam: of the view.
    """

    depth: torch.Tensor  # [H, W]
    certainty: torch.Tensor  # [H, W]
    camera: PinholeCamera
    world_from_cam: SE3


def seen_from(view: DepthGuess, others: Sequence[DepthGuess], unit: float) -> torch.Tensor:
    """The inputs OTHERS_CHANNELS of a view: [3, H, W] where others fall, the log of their depth, their certainty.

    Every pixel of the others becomes a point that falls into one pixel here. Of several, the nearest counts, and those
    within 4 % behind it are averaged, weighted by certainty.

    Args:
        view: whose camera looks; its own depth plays no part.
        others: any number.
        unit: the network's unit of depth in the world's.
    """
    height, width = view.depth.shape
    found = [_projected(view, other) for other in others]
    index = torch.cat([f[0] for f in found]) if found else torch.zeros(0, dtype=torch.int64)
    depth = torch.cat([f[1] for f in found]) / unit if found else torch.zeros(0)
    certainty = torch.cat([f[2] for f in found]) if found else torch.zeros(0)
    keep = depth > _NEAREST
    index, depth, certainty = index[keep], depth[keep], certainty[keep]
    nearest = torch.full((height * width,), torch.inf).scatter_reduce(0, index, depth, "amin")
    front = depth <= nearest[index] * (1 + _SAME_SURFACE)
    index, depth, certainty = index[front], depth[front], certainty[front]
    zero = torch.zeros(height * width)
    weight = zero.scatter_add(0, index, certainty)
    log = zero.scatter_add(0, index, certainty * depth.log()) / weight.clamp_min(1e-6)
    sure = zero.scatter_add(0, index, certainty**2) / weight.clamp_min(1e-6)
    known = weight > 0
    return torch.stack([known.float(), torch.where(known, log.clamp(-3, 3), 0.0), sure]).reshape(3, height, width)


def _projected(view: DepthGuess, other: DepthGuess) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixel index, depth and certainty of another view's pixels that fall on this view."""
    camera = view.camera
    points = other.depth[..., None] * camera_rays(other.camera, device=other.depth.device)
    cam = transform_points(view.world_from_cam.inverse() @ other.world_from_cam, points)
    z = cam[..., 2]
    safe = z.clamp_min(1e-6)
    u = (cam[..., 0] / safe * camera.fx + camera.cx).round()
    v = (cam[..., 1] / safe * camera.fy + camera.cy).round()
    hit = (z > 0) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    index = (v * camera.width + u)[hit].long()
    return index, z[hit], other.certainty[hit]
