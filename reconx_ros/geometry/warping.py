"""Warping one view into another: projection along the rays of a reference view, and sampling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf

from reconx_ros.core import SE3, PinholeCamera
from reconx_ros.geometry.projection import pixel_grid


@dataclass(frozen=True, kw_only=True, eq=False)
class RayProjection:
    """Where the rays of a reference view fall in a source view, as a function of inverse depth.

    With ``p(w) = at_infinity + w * per_inverse_depth`` (homogeneous source pixels), the point at inverse depth w of a
    reference pixel falls on ``p[:2] / p[2]``, and its depth in the source is ``p[2] / w``. One plane of constant w
    gives the homography of a plane sweep (Collins, "A space-sweep approach to true multi-image matching", CVPR 1996).

    Attributes:
        at_infinity: [3, H, W], K_s R K_r^-1 (u, v, 1).
        per_inverse_depth: [3], K_s t.
        width, height: size of the source image in pixels.
    """

    at_infinity: torch.Tensor  # [3, H, W]
    per_inverse_depth: torch.Tensor  # [3]
    width: int
    height: int

    def __call__(self, inverse_depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Source pixels and relative depth at given inverse depths.

        Args:
            inverse_depth: [D, H, W], or [D, 1, 1] for fronto-parallel planes; 0 is infinity.

        Returns:
            (uv [2, D, H, W], ratio [D, H, W]): ratio is source depth over reference depth, <= 0 behind the source,
            where uv means nothing.
        """
        a, b = self.at_infinity[:, None], self.per_inverse_depth
        ratio = a[2] + inverse_depth * b[2]  # [D, H, W]
        scale = 1 / ratio.clamp_min(1e-6)
        uv = torch.stack([(a[0] + inverse_depth * b[0]) * scale, (a[1] + inverse_depth * b[1]) * scale])
        return uv, ratio


def ray_projection(
    reference: PinholeCamera, source: PinholeCamera, source_from_reference: SE3, *, device: torch.device | str = "cpu"
) -> RayProjection:
    """Prepare the projection of all reference pixels into a source view."""
    rotation = source.matrix @ source_from_reference.rotation @ np.linalg.inv(reference.matrix)
    uv = pixel_grid(reference.width, reference.height, device=device)
    homogeneous = torch.cat([uv, torch.ones_like(uv[..., :1])], dim=-1).double()  # [H, W, 3]
    at_infinity = homogeneous @ torch.as_tensor(rotation, dtype=torch.float64, device=device).T
    offset = source.matrix @ source_from_reference.translation
    return RayProjection(
        at_infinity=at_infinity.permute(2, 0, 1).float().contiguous(),
        per_inverse_depth=torch.as_tensor(offset, dtype=torch.float32, device=device),
        width=source.width,
        height=source.height,
    )


def sample(image: torch.Tensor, uv: torch.Tensor, *, mode: str = "bilinear") -> torch.Tensor:
    """Values of an image at pixel positions; the border value outside.

    Args:
        image: [C, H, W].
        uv: [2, ..., h, w], pixel (0, 0) is the centre of the first pixel.
        mode: "bilinear", "bicubic" or "nearest".

    Returns:
        [C, ..., h, w].
    """
    height, width = image.shape[-2:]
    x = (uv[0] + 0.5) * (2 / width) - 1
    y = (uv[1] + 0.5) * (2 / height) - 1
    grid = torch.stack([x, y], dim=-1)  # [..., h, w, 2]
    flat = grid.reshape(1, -1, grid.shape[-2], 2)
    out = nnf.grid_sample(image[None], flat, mode=mode, padding_mode="border", align_corners=False)
    return out[0].reshape(image.shape[0], *uv.shape[1:])


def inside(uv: torch.Tensor, ratio: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Mask [...] of positions uv [2, ...] on an image of that size and in front of its camera (ratio > 0)."""
    u, v = uv[0], uv[1]
    return (u >= -0.5) & (u <= width - 0.5) & (v >= -0.5) & (v <= height - 0.5) & (ratio > 1e-6)
