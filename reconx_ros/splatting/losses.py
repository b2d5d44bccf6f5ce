"""The losses of stage 3: ReconX eq. 7, weighted per pixel, and a term on depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as nnf

from reconx_ros.core import check_shape
from reconx_ros.splatting.config import SplattingConfig

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """A rendered picture beside what it should be, and what compares them.

    Attributes:
        rgb: [H, W, 3] rendered colours.
        depth: [H, W] rendered z-depth.
        target: what the picture should be; its weight is C of eq. 7.
        perceptual: LPIPS or the like; None without.
        ssim_loss: what computes the SSIM term.
    """

    rgb: torch.Tensor  # [H, W, 3]
    depth: torch.Tensor  # [H, W]
    target: ViewTarget
    perceptual: PerceptualLoss | None = None
    ssim_loss: SsimLoss = torch_ssim_loss


def view_loss(compared: Comparison, weights: Mapping[str, float]) -> torch.Tensor:
    """Loss of one picture, ReconX eq. 7 with the confidence inside the sum over pixels; a scalar.

    ``mean over pixels of C * (l1 * |dI| + ssim * (1 - SSIM) + lpips * LPIPS + depth * |dD| / D)``; the mean is over all
    pixels, so that a view of low confidence counts less.

    Args:
        compared: the picture and its target.
        weights: factor of each term in ``LOSS_TERMS``, by name; 0 leaves it out, as does what it needs and is missing.
    """
    used = [
        term for term in LOSS_TERMS if weights[term.name] > 0 and term.can_tell(compared.target, compared.perceptual)
    ]
    parts = [weights[term.name] * term.value(compared) for term in used]
    return reduce(torch.add, parts) if parts else 0 * compared.rgb.sum()


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


@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """One row of the loss.

    Attributes:
        name: what reports call it.
        setting: field of ``SplattingConfig`` that holds its weight.
        title: for people.
        value: mean over the pixels of what a picture is off, weighted by the target's weight; a scalar.
        can_tell: whether a view with this target has the term, given the perceptual loss at hand.
        missing: why no view can have it with this configuration; empty where nothing is missing.
        tried: weight in the evaluation's row that shows what the term is worth; None has no row.
    """

    name: str
    setting: str
    title: str
    value: Callable[[Comparison], torch.Tensor]
    can_tell: Callable[[ViewTarget, PerceptualLoss | None], bool] = lambda target, perceptual: True
    missing: Callable[[SplattingConfig], str] = lambda config: ""
    tried: float | None = None


def _l1(compared: Comparison) -> torch.Tensor:
    return weighted_l1(compared.rgb, compared.target.rgb, compared.target.weight)


def _ssim(compared: Comparison) -> torch.Tensor:
    return compared.ssim_loss(compared.rgb, compared.target.ssim, compared.target.weight)


def _lpips(compared: Comparison) -> torch.Tensor:
    assert compared.perceptual is not None
    known = compared.target.ssim.known
    distance = compared.perceptual(compared.rgb * known, compared.target.rgb * known)
    return (compared.target.weight * distance).mean()


def _depth(compared: Comparison) -> torch.Tensor:
    assert compared.target.depth is not None
    return relative_depth_error(compared.depth, compared.target.depth, compared.target.weight)


def _missing_lpips(config: SplattingConfig) -> str:
    there = bool(config.lpips_trunk) and config.weight_lpips > 0
    return "" if there else "no LPIPS weights (splatting.lpips_trunk, splatting.lpips_heads), every row is without it"


LOSS_TERMS = (
    LossTerm(name="l1", setting="weight_l1", title="L1", value=_l1),
    LossTerm(name="ssim", setting="weight_ssim", title="SSIM", value=_ssim, tried=0.0),
    LossTerm(
        name="lpips",
        setting="weight_lpips",
        title="LPIPS",
        value=_lpips,
        can_tell=lambda target, perceptual: perceptual is not None,
        missing=_missing_lpips,
        tried=0.0,
    ),
    LossTerm(
        name="depth",
        setting="weight_depth",
        title="depth",
        value=_depth,
        can_tell=lambda target, perceptual: target.depth is not None,
        tried=0.1,
    ),
)


def loss_weights(config: SplattingConfig) -> dict[str, float]:
    """The weight of each term, by its name."""
    return {term.name: float(getattr(config, term.setting)) for term in LOSS_TERMS}


def loss_states(
    config: SplattingConfig, targets: Sequence[ViewTarget], perceptual: PerceptualLoss | None
) -> dict[str, str]:
    """Per term "on", "off" (weight 0) or "unavailable" (no view has what it needs)."""

    def state(term: LossTerm) -> str:
        if getattr(config, term.setting) <= 0:
            return "off"
        return "on" if any(term.can_tell(target, perceptual) for target in targets) else "unavailable"

    return {term.name: state(term) for term in LOSS_TERMS}
