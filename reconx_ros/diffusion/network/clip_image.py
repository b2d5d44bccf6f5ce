"""Pictures as the CLIP image encoder of DynamiCrafter's weights wants them."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf

CLIP_SIZE = 224
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(images: torch.Tensor, size: int = CLIP_SIZE) -> torch.Tensor:
    """Resize to a square and normalise as the weights were trained.

    Bicubic with aligned corners; where a side shrinks, a Gaussian blur of ``sigma = (factor - 1) / 2`` comes first (the
    ``antialias`` of kornia's ``resize``, which the public code calls).

    Args:
        images: [B, 3, H, W] in [-1, 1].
        size: of the result.

    Returns:
        [B, 3, size, size].
    """
    factors = [n / size for n in images.shape[-2:]]
    x = images.float()
    if max(factors) > 1:
        for axis, factor in enumerate(factors):
            x = _blurred(x, max((factor - 1) / 2, 0.001), axis)
    x = nnf.interpolate(x, size=(size, size), mode="bicubic", align_corners=True)
    mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (_MEAN, _STD))
    return ((x + 1) / 2 - mean) / std


def _blurred(x: torch.Tensor, sigma: float, axis: int) -> torch.Tensor:
    """Gaussian of two standard deviations to each side, reflected at the borders; axis 0 is vertical."""
    taps = int(max(4 * sigma, 3)) | 1
    offsets = torch.arange(taps, device=x.device, dtype=x.dtype) - taps // 2
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = (kernel / kernel.sum()).reshape(1, 1, *((-1, 1) if axis == 0 else (1, -1)))
    pad = taps // 2
    padding = (0, 0, pad, pad) if axis == 0 else (pad, pad, 0, 0)
    channels = x.shape[1]
    return nnf.conv2d(nnf.pad(x, padding, mode="reflect"), kernel.expand(channels, 1, -1, -1), groups=channels)
