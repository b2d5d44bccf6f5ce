"""The losses of stage 3: ReconX eq. 7, weighted per pixel, and a term on depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as nnf

from reconx_ros.core import check_shape

WINDOW_PX = 11
SIGMA_PX = 1.5
_RADIUS = WINDOW_PX // 2
_C1, _C2 = 0.01**2, 0.03**2  # for values in [0, 1]

PerceptualLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Perceptual distance of two images [H, W, 3] in [0, 1]: a map [H, W] or a single value (LPIPS)."""


def gaussian_window(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> torch.Tensor:
    """Normalised Gaussian [11] of sigma 1.5 px."""
    steps = torch.arange(WINDOW_PX, dtype=dtype, device=device) - _RADIUS
    window = torch.exp(-0.5 * (steps / SIGMA_PX) ** 2)
    return window / window.sum()


def blur(images: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of images [H, W, D], zero outside; rows, then columns.

    Eleven shifted additions per direction: on the CPU several times faster than torch's depthwise convolution.
    """
    out: torch.Tensor = _Blur.apply(images)
    return out


class _Blur(torch.autograd.Function):
    """The window is symmetric and outside is zero, so that the blur is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor) -> torch.Tensor:
        del ctx
        return _blur_along(_blur_along(images, 0), 1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        del ctx
        return blur(gradients[0])


def _blur_along(images: torch.Tensor, dim: int) -> torch.Tensor:
    window = gaussian_window(torch.float64).tolist()
    edge = [0, 0, *([_RADIUS, _RADIUS] if dim == 1 else [0, 0, _RADIUS, _RADIUS])]
    padded, size = nnf.pad(images, edge), images.shape[dim]
    out = padded.narrow(dim, 0, size) * window[0]
    for shift in range(1, WINDOW_PX):
        out.add_(padded.narrow(dim, shift, size), alpha=window[shift])
    return out


@dataclass(frozen=True, kw_only=True, eq=False)
class SsimTarget:
    """What SSIM needs of the fixed image, computed once per view.

    Statistics are taken over the known pixels of each window only, so that neither the border nor unknown pixels count.

    Attributes:
        image: [H, W, 3], zero where unknown.
        known: [H, W, 1], 1 where the image is known, else 0.
        normalizer: [H, W, 1], 1 / share of each window that is known.
        mean, variance: [H, W, 3] of each window.
    """

    image: torch.Tensor  # [H, W, 3]
    known: torch.Tensor  # [H, W, 1]
    normalizer: torch.Tensor  # [H, W, 1]
    mean: torch.Tensor  # [H, W, 3]
    variance: torch.Tensor  # [H, W, 3]

    @classmethod
    def of(cls, image: torch.Tensor, known: torch.Tensor) -> SsimTarget:
        """Prepare an image [H, W, 3] in [0, 1] with a mask [H, W] of known pixels."""
        dims = check_shape("SSIM image", image, "H", "W", 3)
        check_shape("SSIM mask", known, "H", "W", dims=dims)
        mask = known.to(image.dtype)[..., None]
        masked = image * mask
        normalizer = 1 / blur(mask).clamp_min(1e-6)
        mean, square = (blur(torch.cat([masked, masked * masked], dim=-1)) * normalizer).chunk(2, dim=-1)
        return cls(image=masked, known=mask, normalizer=normalizer, mean=mean, variance=square - mean * mean)


def ssim_map(image: torch.Tensor, target: SsimTarget) -> torch.Tensor:
    """Structural similarity per pixel, mean over the channels (Wang et al. 2004, Gaussian window 11, sigma 1.5).

    Args:
        image: [H, W, 3].
        target: the image to compare with.

    Returns:
        [H, W], at most 1; meaningful where the target is known.
    """
    check_shape("SSIM image", image, *target.image.shape)
    x = image * target.known
    moments = blur(torch.cat([x, x * x, x * target.image], dim=-1)) * target.normalizer  # [H, W, 9]
    mean, square, product = moments.chunk(3, dim=-1)
    cross = mean * target.mean
    mean_square = mean * mean
    luminance = (2 * cross + _C1) / (mean_square + target.mean.square() + _C1)
    contrast = (2 * (product - cross) + _C2) / (square - mean_square + target.variance + _C2)
    return (luminance * contrast).mean(dim=-1)


SsimLoss = Callable[[torch.Tensor, SsimTarget, torch.Tensor], torch.Tensor]
"""Mean over pixels of weight [H, W] * (1 - SSIM) of an image [H, W, 3] against a target."""


def torch_ssim_loss(image: torch.Tensor, target: SsimTarget, weight: torch.Tensor) -> torch.Tensor:
    """The SsimLoss of ``ssim_map``, on any device."""
    return (weight * (1 - ssim_map(image, target))).mean()


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewTarget:
    """What one view asks of its picture.

    Attributes:
        rgb: [H, W, 3] in [0, 1].
        weight: [H, W] >= 0; 0 where nothing is known.
        ssim: statistics of rgb.
        depth: [H, W] z-depth, 0 where unknown; None without any.
    """

    rgb: torch.Tensor  # [H, W, 3]
    weight: torch.Tensor  # [H, W]
    ssim: SsimTarget
    depth: torch.Tensor | None = None  # [H, W]


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Factors of the terms of eq. 7 and of the depth term; 0 leaves a term out."""

    l1: float = 0.8
    ssim: float = 0.2
    lpips: float = 0.5
    depth: float = 0.0


def view_loss(
    rgb: torch.Tensor,
    depth: torch.Tensor,
    target: ViewTarget,
    weights: LossWeights,
    perceptual: PerceptualLoss | None = None,
    ssim_loss: SsimLoss = torch_ssim_loss,
) -> torch.Tensor:
    """Loss of one picture, ReconX eq. 7 with the confidence inside the sum over pixels.

    ``mean over pixels of C * (l1 * |dI| + ssim * (1 - SSIM) + lpips * LPIPS + depth * |dD| / D)``; the mean is over all
    pixels, so that a view of low confidence counts less.

    Args:
        rgb: [H, W, 3] rendered colours.
        depth: [H, W] rendered z-depth.
        target: what the picture should be; its weight is C.
        weights: factors of the terms.
        perceptual: LPIPS or the like; None leaves the term out.
        ssim_loss: what computes the SSIM term.

    Returns:
        A scalar.
    """
    loss = weights.l1 * weighted_l1(rgb, target.rgb, target.weight)
    if weights.ssim > 0:
        loss = loss + weights.ssim * ssim_loss(rgb, target.ssim, target.weight)
    if weights.lpips > 0 and perceptual is not None:
        known = target.ssim.known
        loss = loss + weights.lpips * (target.weight * perceptual(rgb * known, target.rgb * known)).mean()
    if weights.depth > 0 and target.depth is not None:
        loss = loss + weights.depth * relative_depth_error(depth, target.depth, target.weight)
    return loss


def weighted_l1(rgb: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean over pixels [H, W] and channels of ``weight * |rgb - target|``.

    Weighted before the mean over channels: torch reduces a last dimension of three slowly.
    """
    return (weight[..., None] * (rgb - target).abs()).mean()


def relative_depth_error(depth: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean over pixels [H, W] of ``weight * |depth - target| / target``, at most 1 each; unknown targets (0) count 0.

    Relative, so that the unit of the world does not matter; bounded, so that an empty pixel cannot dominate.
    """
    known = target > 0
    error = (depth - target).abs() / torch.where(known, target, 1.0)
    return (weight * known * error.clamp_max(1.0)).mean()
