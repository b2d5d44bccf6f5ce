"""The readable rasteriser: plain torch, any device, float32 or float64, gradients by autograd.

It is the twin that the compiled backends are held against, and what runs where nothing else can.
"""

from __future__ import annotations

import math

import torch

from reconx_ros.core import check_finite, check_shape
from reconx_ros.splatting.base import Rendering
from reconx_ros.splatting.harmonics import sh_color
from reconx_ros.splatting.projection import MIN_ALPHA, Projection, covariances, project_gaussians
from reconx_ros.splatting.tiles import TILE_PX, TileLists, assemble_picture, assign_to_tiles

_MAX_ALPHA = 0.999
_MIN_TRANSMITTANCE = 1e-4  # a Gaussian that would bring the transmittance to this or below ends the ray, unblended
_CHUNK_ELEMENTS = 1 << 19  # pixel-Gaussian pairs blended at once


class ReferenceRasterizer:
    """EWA splatting and front-to-back alpha compositing (Kerbl et al. 2023), as in gsplat v1.5.3's classic mode."""

    name = "reference"

    def render(
        self,
        *,
        means: torch.Tensor,  # [N, 3]
        quats_wxyz: torch.Tensor,  # [N, 4]
        scales: torch.Tensor,  # [N, 3]
        opacities: torch.Tensor,  # [N]
        sh: torch.Tensor,  # [N, K, 3]
        cam_from_world: torch.Tensor,  # [C, 4, 4]
        intrinsics: torch.Tensor,  # [C, 3, 3]
        width: int,
        height: int,
        background: torch.Tensor | None = None,  # [C, 3]
        antialiased: bool = False,
        near: float = 0.0,
    ) -> Rendering:
        """Render C cameras of one size; see ``Rasterizer.render``."""
        check_render_arguments(means, quats_wxyz, scales, opacities, sh, cam_from_world, intrinsics, background)
        covars = covariances(quats_wxyz, scales)
        pictures = []
        for camera in range(cam_from_world.shape[0]):
            pose = cam_from_world[camera]
            seen = project_gaussians(means, covars, pose, intrinsics[camera], width=width, height=height, near=near)
            features = _features(seen, means, opacities, sh, pose, antialiased)  # [M, 10]
            pictures.append(_composite(features, seen, width, height))
        picture = torch.stack(pictures) if pictures else means.new_zeros(0, height, width, 5)
        return _rendering(picture, background)


def check_render_arguments(
    means: torch.Tensor,
    quats_wxyz: torch.Tensor,
    scales: torch.Tensor,
    opacities: torch.Tensor,
    sh: torch.Tensor,
    cam_from_world: torch.Tensor,
    intrinsics: torch.Tensor,
    background: torch.Tensor | None,
) -> None:
    """Check what every rasteriser takes.

    Raises:
        InvalidInputError: for wrong shapes, or NaN or infinite values.
    """
    dims = check_shape("gaussian means", means, "N", 3)
    dims = check_shape("gaussian quats_wxyz", quats_wxyz, "N", 4, dims=dims)
    dims = check_shape("gaussian scales", scales, "N", 3, dims=dims)
    dims = check_shape("gaussian opacities", opacities, "N", dims=dims)
    dims = check_shape("gaussian sh", sh, "N", "K", 3, dims=dims)
    dims = check_shape("cam_from_world", cam_from_world, "C", 4, 4, dims=dims)
    dims = check_shape("intrinsics", intrinsics, "C", 3, 3, dims=dims)
    named = {"means": means, "quats_wxyz": quats_wxyz, "scales": scales, "opacities": opacities, "sh": sh}
    for name, value in named.items():
        check_finite(f"gaussian {name}", value)
    check_finite("cam_from_world", cam_from_world)
    check_finite("intrinsics", intrinsics)
    if background is not None:
        check_shape("background", background, "C", 3, dims=dims)


def _features(
    seen: Projection,
    means: torch.Tensor,
    opacities: torch.Tensor,
    sh: torch.Tensor,
    cam_from_world: torch.Tensor,
    antialiased: bool,
) -> torch.Tensor:
    """One row [M, 10] per visible Gaussian: centre u v, conic xx xy yy, opacity, r g b, depth."""
    centre = torch.linalg.inv(cam_from_world)[:3, 3]
    directions = torch.nn.functional.normalize(means.index_select(0, seen.index) - centre, dim=-1)
    colors = sh_color(sh.index_select(0, seen.index), directions)
    opacity = opacities.index_select(0, seen.index)
    if antialiased:
        opacity = opacity * seen.compensations
    return torch.cat([seen.means_px, seen.conics, opacity[:, None], colors, seen.depths[:, None]], dim=-1)


def _composite(features: torch.Tensor, seen: Projection, width: int, height: int) -> torch.Tensor:
    """Picture [H, W, 5]: r g b and depth, both weighted by alpha, and alpha."""
    lists = assign_to_tiles(features, seen, width, height)
    parts = [
        _blend_tiles(features, lists, chunk).reshape(len(chunk), TILE_PX, TILE_PX, 5)
        for chunk in lists.chunks(_CHUNK_ELEMENTS // TILE_PX**2)
    ]
    nothing = features.sum() * 0.0  # keeps an empty picture in the graph
    return assemble_picture(parts, lists, width, height, features) + nothing


def _blend_tiles(features: torch.Tensor, lists: TileLists, tiles: torch.Tensor) -> torch.Tensor:
    """Blend the lists of some tiles [T], padded to the longest: [T, P * P, 5]."""
    rows, present = lists.padded(tiles)  # [T, L]
    gathered = features.index_select(0, rows.flatten()).reshape(*rows.shape, -1)  # [T, L, 10]
    offsets = gathered[..., :2] - lists.origins_px(tiles).to(features.dtype)[:, None]  # [T, L, 2] from the first pixel
    alpha = _alphas(offsets, gathered[..., 2:5], gathered[..., 5] * present)  # [T, P * P, L]
    log_pass = torch.log1p(-alpha)
    log_through = log_pass.cumsum(dim=-1)  # transmittance behind each Gaussian
    before_end = log_through.detach() > math.log(_MIN_TRANSMITTANCE)
    weights = alpha * torch.exp(log_through - log_pass) * before_end
    values = torch.cat([gathered[..., 6:10], torch.ones_like(gathered[..., :1])], dim=-1)  # [T, L, 5]
    return weights @ values


def _alphas(offsets: torch.Tensor, conics: torch.Tensor, opacities: torch.Tensor) -> torch.Tensor:
    """Opacity of each Gaussian [T, L] on each pixel of its tile: [T, P * P, L], 0 where it is to be skipped."""
    pixels = torch.arange(TILE_PX, dtype=offsets.dtype, device=offsets.device)
    dx = (pixels[None, :, None] - offsets[:, None, :, 0])[:, None]  # [T, 1, P, L]
    dy = (pixels[None, :, None] - offsets[:, None, :, 1])[:, :, None]  # [T, P, 1, L]
    xx, xy, yy = (conics[:, None, None, :, i] for i in range(3))
    power = 0.5 * xx * dx * dx + 0.5 * yy * dy * dy + (xy * dx) * dy  # [T, P, P, L]
    alpha = (opacities[:, None, None] * torch.exp(-power)).clamp_max(_MAX_ALPHA)
    visible = (alpha >= MIN_ALPHA) & (power >= 0)
    return (alpha * visible).flatten(1, 2)


def _rendering(picture: torch.Tensor, background: torch.Tensor | None) -> Rendering:
    rgb, alpha = picture[..., :3], picture[..., 4]
    depth = picture[..., 3] / alpha.clamp_min(1e-10)
    if background is not None:
        rgb = rgb + (1 - alpha)[..., None] * background[:, None, None]
    return Rendering(rgb=rgb, alpha=alpha, depth=depth)
