"""Surfaces of pointmaps: normals, and frames on them."""

from __future__ import annotations

import torch

from reconx_ros.core import PointMap
from reconx_ros.geometry.projection import backproject, camera_rays
from reconx_ros.geometry.rotations import quaternions_wxyz_from_rotations


def pixel_normals(view: PointMap) -> tuple[torch.Tensor, torch.Tensor]:
    """Surface normals of a pointmap from its neighbouring pixels.

    Returns:
        (normals [H, W, 3] in the world frame, towards the camera, cosines [H, W] in [0, 1] between normal and viewing
        ray). Where no neighbours on the same surface are known, the normal is the viewing ray.
    """
    points = backproject(view.depth, view.camera)  # [H, W, 3]
    known = view.valid
    across, has_across = _tangent(points, known, dim=1)
    down, has_down = _tangent(points, known, dim=0)
    towards = -torch.nn.functional.normalize(camera_rays(view.camera, device=points.device), dim=-1)
    normals = torch.nn.functional.normalize(torch.linalg.cross(down, across), dim=-1)
    cosines = (normals * towards).sum(dim=-1)
    sound = has_across & has_down & torch.isfinite(cosines) & (cosines.abs() > 1e-3)
    normals = torch.where(sound[..., None], normals * torch.sign(cosines)[..., None], towards)
    rotation = torch.tensor(view.world_from_cam.rotation, dtype=points.dtype, device=points.device)
    return normals @ rotation.T, torch.where(sound, cosines.abs(), 1.0)


def _tangent(points: torch.Tensor, known: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Step [H, W, 3] to a neighbour along an axis, on the side where depth changes less, and where there is one."""
    step = torch.diff(points, dim=dim)
    sound = known.narrow(dim, 1, known.shape[dim] - 1) & known.narrow(dim, 0, known.shape[dim] - 1)
    pad = torch.zeros_like(points.narrow(dim, 0, 1))
    pad_sound = torch.zeros_like(known.narrow(dim, 0, 1))
    forward, has_forward = torch.cat([step, pad], dim), torch.cat([sound, pad_sound], dim)
    backward, has_backward = torch.cat([pad, step], dim), torch.cat([pad_sound, sound], dim)
    shorter = forward[..., 2].abs() <= backward[..., 2].abs()
    take_forward = has_forward & (shorter | ~has_backward)
    return torch.where(take_forward[..., None], forward, backward), has_forward | has_backward


def frames_on_normals(normals: torch.Tensor, viewing: torch.Tensor) -> torch.Tensor:
    """Quaternions (w, x, y, z) [N, 4] of frames on a surface.

    The third axis is the normal, the first points down the slope as seen along the viewing directions (where
    foreshortening is), the second is across it.

    Args:
        normals: [N, 3] unit.
        viewing: [N, 3] unit.
    """
    slope = viewing - (viewing * normals).sum(dim=-1, keepdim=True) * normals
    fallback = torch.eye(3, dtype=normals.dtype)[normals.abs().argmin(dim=-1)]
    fallback = fallback - (fallback * normals).sum(dim=-1, keepdim=True) * normals
    slope = torch.where(slope.norm(dim=-1, keepdim=True) > 1e-3, slope, fallback)
    first = torch.nn.functional.normalize(slope, dim=-1)
    second = torch.linalg.cross(normals, first)
    return quaternions_wxyz_from_rotations(torch.stack([first, second, normals], dim=-1))
