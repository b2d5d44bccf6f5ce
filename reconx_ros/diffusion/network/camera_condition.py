"""Camera paths as the video network takes them: ray maps and epipolar masks (SpatialCrafter, arXiv:2505.11992)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import nn

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, Trajectory
from reconx_ros.diffusion.network.attention import zero_module
from reconx_ros.geometry.epipolar import fundamental_matrix
from reconx_ros.geometry.projection import camera_rays, pixel_grid

LATENT_STRIDE = 8  # pixels per latent cell


def plucker_rays(trajectory: Trajectory, length: float = 1.0) -> torch.Tensor:
    """Plücker coordinates of every pixel's ray in the frame of the first camera.

    Direction ``d = R K^-1 (u, v, 1)^T``, of length 1, and moment ``o x d`` with o the camera's centre. (The paper adds
    the translation to the direction, a slip: a direction does not move with the camera.)

    Args:
        trajectory: T poses and their camera.
        length: unit in which centres are expressed, in world units; the mean distance of the structure's points makes
            the maps as free of scale as the structure tokens are.

    Returns:
        [T, 6, H, W] float32: moment, then direction.

    Raises:
        InvalidInputError: when length is not positive and finite.
    """
    if not (np.isfinite(length) and length > 0):
        raise InvalidInputError(f"unit of camera centres is {length}, expected a positive number")
    rays = nnf.normalize(camera_rays(trajectory.camera), dim=-1)  # [H, W, 3]
    maps = []
    for first_from_cam in _relative(trajectory.world_from_cams):
        d = rays @ torch.tensor(first_from_cam.rotation, dtype=torch.float32).T
        centre = torch.tensor(first_from_cam.translation / length, dtype=torch.float32)
        maps.append(torch.cat([torch.linalg.cross(centre.expand_as(d), d), d], dim=-1))
    return torch.stack(maps).permute(0, 3, 1, 2).contiguous()


def _relative(world_from_cams: Sequence[SE3]) -> list[SE3]:
    first_from_world = world_from_cams[0].inverse()
    return [first_from_world @ pose for pose in world_from_cams]


def epipolar_masks(
    trajectory: Trajectory,
    reference_frames: Sequence[int],
    levels: Sequence[int],
    threshold_cells: float = 1.5,
) -> dict[int, torch.Tensor]:
    """Which cells of the reference frames may show what a cell of another frame shows.

    A cell p of frame i sees the cells of reference frame k within a threshold of the line ``F_ki p``. Frames that share
    their centre have no lines: all cells of k are seen.

    Args:
        trajectory: T poses and their camera, at the size of the pictures.
        reference_frames: R indices.
        levels: of the network; level n has cells of ``8 * 2^n`` pixels.
        threshold_cells: largest distance between a cell's centre and the line, in cells of that level. The paper gives
            no number; 1.5 keeps a band of about three cells.

    Returns:
        For each level, bool [1, T * H * W, R, H * W] on that level's grid, as ``Context.epipolar`` wants them.

    Raises:
        InvalidInputError: for a reference frame that does not exist, or a threshold that is not positive.
    """
    count = len(trajectory.world_from_cams)
    if threshold_cells <= 0:
        raise InvalidInputError(f"epipolar threshold is {threshold_cells} cells, expected a positive number")
    for k in reference_frames:
        if not 0 <= k < count:
            raise InvalidInputError(f"reference frame is {k}, expected 0 to {count - 1}")
    return {level: _level_mask(trajectory, reference_frames, level, threshold_cells) for level in levels}


def _level_mask(trajectory: Trajectory, references: Sequence[int], level: int, threshold: float) -> torch.Tensor:
    cell = LATENT_STRIDE * 2**level
    camera = trajectory.camera.scaled_to(trajectory.camera.width // cell, trajectory.camera.height // cell)
    uv = pixel_grid(camera.width, camera.height).reshape(-1, 2)
    points = torch.cat([uv, torch.ones(len(uv), 1)], dim=-1)  # [H * W, 3]
    poses = trajectory.world_from_cams
    rows = [
        torch.stack([_pair_mask(camera, poses[k].inverse() @ pose, points, threshold) for k in references], dim=1)
        for pose in poses
    ]
    return torch.cat(rows)[None]  # [1, T * H * W, R, H * W]


def _pair_mask(camera: PinholeCamera, ref_from_cam: SE3, points: torch.Tensor, threshold: float) -> torch.Tensor:
    """Bool [H * W, H * W]: rows are cells of the asking frame, columns cells of the reference frame."""
    fundamental = torch.tensor(fundamental_matrix(camera, camera, ref_from_cam), dtype=torch.float32)
    if not bool(fundamental.any()):
        return torch.ones(len(points), len(points), dtype=torch.bool)
    lines = points @ fundamental.T  # [H * W, 3]
    lines = lines / torch.linalg.vector_norm(lines[:, :2], dim=-1, keepdim=True).clamp_min(1e-12)
    return (lines @ points.T).abs() <= threshold


class CameraEncoder(nn.Module):
    """Ray maps to features that are added to the network's, one set per level (SpatialCrafter, sec. 3.1).

    Every output convolution starts at zero: a new encoder changes nothing.
    """

    def __init__(self, channels: int, level_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(6 * LATENT_STRIDE**2, channels, 3, padding=1)
        strides = [1] + [2] * (len(level_channels) - 1)
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=s, padding=1) for s in strides)
        self.outs = nn.ModuleList(zero_module(nn.Conv2d(channels, width, 1)) for width in level_channels)

    def forward(self, rays: torch.Tensor) -> list[torch.Tensor]:
        """[N, 6, 8 H, 8 W] to [N, C_n, H / 2^n, W / 2^n] for each level n."""
        x = self.conv_in(nnf.pixel_unshuffle(rays.to(self.conv_in.weight.dtype), LATENT_STRIDE))
        features = []
        for conv, out in zip(self.convs, self.outs, strict=True):
            x = conv(nnf.silu(x))
            features.append(out(nnf.silu(x)))
        return features
