"""Pixels that a map leaves empty, painted with the colours around them."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf

from reconx_ros.core import check_shape


def push_pull(rgb: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """A picture with its empty and half-transparent pixels filled smoothly from what is around them.

    Pull: weighted means over 2x2 pixels, level by level, until one pixel is left. Push: from coarse to fine, whatever a
    level lacks comes from the level above it, bilinearly (Gortler et al., "The Lumigraph", SIGGRAPH 1996, sec. 3.4).
    Opaque pixels stay as they are; a picture that is empty altogether stays black.

    Args:
        rgb: [H, W, 3] colours blended with black, that is multiplied by alpha.
        alpha: [H, W] in [0, 1].

    Returns:
        [H, W, 3].

    Raises:
        InvalidInputError: for other shapes.
    """
    dims = check_shape("picture", rgb, "H", "W", 3)
    check_shape("picture alpha", alpha, "H", "W", dims=dims)
    layers = torch.cat([rgb, alpha.clamp(0, 1)[..., None]], dim=-1).permute(2, 0, 1)[None]  # [1, 4, H, W]
    levels = [layers]
    while max(levels[-1].shape[-2:]) > 1:
        levels.append(_pulled(levels[-1]))
    coarse = levels[-1]
    filled = coarse[:, :3] / coarse[:, 3:].clamp_min(1e-9)
    for level in reversed(levels[:-1]):
        above = nnf.interpolate(filled, size=level.shape[-2:], mode="bilinear", align_corners=False)
        filled = level[:, :3] + (1 - level[:, 3:]) * above
    return filled[0].permute(1, 2, 0)


def _pulled(level: torch.Tensor) -> torch.Tensor:
    """Half the size: sums over 2x2 pixels, scaled down where their weight would exceed 1."""
    total = 4 * nnf.avg_pool2d(level, 2, ceil_mode=True, count_include_pad=False)
    return total / total[:, 3:].clamp_min(1.0)
