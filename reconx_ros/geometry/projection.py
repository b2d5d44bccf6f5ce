"""Pinhole projection, batched by leading dimensions. Pixel (0, 0) is the centre of the first pixel."""

from __future__ import annotations

import torch

from reconx_ros.core import SE3, PinholeCamera, PointMap


def pixel_grid(width: int, height: int, *, device: torch.device | str = "cpu") -> torch.Tensor:
    """Pixel centres [H, W, 2] as (u, v) float32."""
    v, u = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=device),
        torch.arange(width, dtype=torch.float32, device=device),
        indexing="ij",
    )
    return torch.stack([u, v], dim=-1)


def camera_rays(camera: PinholeCamera, *, device: torch.device | str = "cpu") -> torch.Tensor:
    """Directions [H, W, 3] in the camera frame with z = 1, so that ``depth * ray`` is the point."""
    uv = pixel_grid(camera.width, camera.height, device=device)
    x = (uv[..., 0] - camera.cx) / camera.fx
    y = (uv[..., 1] - camera.cy) / camera.fy
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def transform_points(a_from_b: SE3, points_b: torch.Tensor) -> torch.Tensor:
    """Map points [..., 3] from frame b to frame a, in the points' own type and device."""
    rotation = torch.tensor(a_from_b.rotation, dtype=points_b.dtype, device=points_b.device)
    translation = torch.tensor(a_from_b.translation, dtype=points_b.dtype, device=points_b.device)
    return points_b @ rotation.T + translation


def backproject(depth: torch.Tensor, camera: PinholeCamera) -> torch.Tensor:
    """Points [H, W, 3] in the camera frame of a z-depth map [H, W]."""
    return depth[..., None] * camera_rays(camera, device=depth.device).to(depth.dtype)


def project(points_cam: torch.Tensor, camera: PinholeCamera) -> tuple[torch.Tensor, torch.Tensor]:
    """Project points [..., 3] of the camera frame.

    Returns:
        (uv [..., 2] in pixels, z [...]); uv is meaningless where z <= 0, and the caller masks it.
    """
    z = points_cam[..., 2]
    safe = torch.where(z.abs() < 1e-9, torch.full_like(z, 1e-9), z)
    u = points_cam[..., 0] / safe * camera.fx + camera.cx
    v = points_cam[..., 1] / safe * camera.fy + camera.cy
    return torch.stack([u, v], dim=-1), z


def inside_image(uv: torch.Tensor, z: torch.Tensor, camera: PinholeCamera) -> torch.Tensor:
    """Mask [...] of projections that lie in front of the camera and on its image."""
    u, v = uv[..., 0], uv[..., 1]
    within = (u >= -0.5) & (u <= camera.width - 0.5) & (v >= -0.5) & (v <= camera.height - 0.5)
    return within & (z > 0)


def pointmap_world(view: PointMap) -> torch.Tensor:
    """World points [H, W, 3] of a pointmap; meaningful where ``view.valid``."""
    return transform_points(view.world_from_cam, backproject(view.depth, view.camera))
