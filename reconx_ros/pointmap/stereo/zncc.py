"""Matching cost between a reference image and warped source images: zero-mean normalised cross-correlation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf

NOISE_VARIANCE = (1.5 / 255) ** 2  # of grey values in [0, 1]: sensor noise and JPEG; damps windows without texture


def window_sum(values: torch.Tensor, window: int, dim: int) -> torch.Tensor:
    """Sums of ``window`` consecutive values along a dimension, which becomes shorter by window - 1.

    By doubling (2, 4, 8 ... neighbours at once): few passes over memory, no loss of precision as with running sums.
    """
    size = values.shape[dim] - window + 1
    total: torch.Tensor | None = None
    start, width, partial = 0, 1, values
    while width <= window:
        if window & width:
            piece = partial.narrow(dim, start, size)
            total = piece if total is None else total + piece
            start += width
        if 2 * width <= window:
            length = partial.shape[dim] - width
            partial = partial.narrow(dim, 0, length) + partial.narrow(dim, width, length)
        width *= 2
    return values.narrow(dim, 0, size) if total is None else total


def box_sum(image: torch.Tensor, window: int) -> torch.Tensor:
    """Sum over a square window of [..., H, W]; nothing is added from outside the image."""
    half = window // 2
    padded = nnf.pad(image, (half, half, half, half))
    return window_sum(window_sum(padded, window, -2), window, -1)


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceWindows:
    """Window statistics of the reference image, computed once.

    Attributes:
        centred: [H, W] grey values less their overall mean (keeps float32 sums accurate).
        mean, variance: [H, W] over the window.
        weight: [H, W] one over the number of pixels in each window.
        window: side in pixels, odd.
    """

    centred: torch.Tensor  # [H, W]
    mean: torch.Tensor  # [H, W]
    variance: torch.Tensor  # [H, W]
    weight: torch.Tensor  # [H, W]
    window: int

    @classmethod
    def of(cls, grey: torch.Tensor, window: int) -> ReferenceWindows:
        """Statistics of a grey image [H, W]."""
        centred = grey - grey.mean()
        weight = 1 / box_sum(torch.ones_like(grey), window)
        mean = box_sum(centred, window) * weight
        variance = (box_sum(centred * centred, window) * weight - mean * mean).clamp_min(0)
        return cls(centred=centred, mean=mean, variance=variance, weight=weight, window=window)


def zncc_cost(reference: ReferenceWindows, warped: torch.Tensor) -> torch.Tensor:
    """Matching cost (1 - ZNCC) / 2 in [0, 1] of warped source images [D, H, W] against the reference.

    ZNCC is blind to gain and offset of the exposure. A noise floor in the variances pulls windows without texture
    towards 0.5, "unknown", instead of letting noise decide.
    """
    window, weight = reference.window, reference.weight
    mean = box_sum(warped, window).mul_(weight)
    variance = box_sum(warped * warped, window).mul_(weight).sub_(mean * mean).clamp_min_(0)
    covariance = box_sum(warped * reference.centred, window).mul_(weight).sub_(mean * reference.mean)
    scale = variance.add_(NOISE_VARIANCE).mul_(reference.variance + NOISE_VARIANCE).rsqrt_()
    return covariance.mul_(scale).mul_(-0.5).add_(0.5).clamp_(0, 1)
