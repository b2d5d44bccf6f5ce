"""Structure guidance without training: what the points explain is held to their renders while a video is sampled.

After each step, latents of explained cells are drawn towards the render's latents with the noise of that step:
``x <- x + w m (a z + b e - x)``, with z the render's clean latents, e noise, (a, b) the share of signal and noise after
the step, m the mask and w the strength, which falls linearly over the steps. The rest is free (the blending of
RePaint, arXiv:2201.09865, and SDEdit, arXiv:2108.01073, with a mask that comes from geometry).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf

from reconx_ros.core import InvalidInputError, check_finite, check_shape
from reconx_ros.diffusion.clips.pictures import fill_holes
from reconx_ros.geometry.view_blending import BlendedView


@dataclass(frozen=True, kw_only=True, eq=False)
class RenderTarget:
    """Renders of a clip, before a video model encodes them.

    Attributes:
        rgb: [T, H, W, 3] in [0, 1], holes filled.
        explained: [T, H, W] bool, pixels that frames are held to.
        start, end: strength in [0, 1] at the first and at the last step.
    """

    rgb: torch.Tensor  # [T, H, W, 3]
    explained: torch.Tensor  # [T, H, W]
    start: float
    end: float


def render_target(
    renders: Sequence[BlendedView],
    known: Mapping[int, torch.Tensor],
    min_confidence: float,
    start: float,
    end: float,
) -> RenderTarget:
    """What frames are held to.

    Args:
        renders: of the keyframes' surfaces, one per frame.
        known: pictures [H, W, 3] that stand in some frames, explained everywhere.
        min_confidence: of a render, from which it explains a pixel.
        start, end: strength at the first and at the last step.
    """
    hit = torch.stack([r.hit for r in renders])
    explained = hit & (torch.stack([r.confidence for r in renders]) >= min_confidence)
    rgb = fill_holes(torch.stack([r.rgb for r in renders]), hit)
    for k, picture in known.items():
        rgb[k], explained[k] = picture, True
    return RenderTarget(rgb=rgb, explained=explained, start=start, end=end)


def cell_mask(explained: torch.Tensor, stride: int, temporal: int = 1) -> torch.Tensor:
    """Mask [1, 1, T', H / stride, W / stride] of latent cells all of whose pixels are explained.

    Args:
        explained: [T, H, W] bool.
        stride: pixels per cell and side.
        temporal: frames per latent frame after the first, which stands alone (causal video autoencoders).

    Raises:
        InvalidInputError: for a number of frames or a size that does not divide into cells.
    """
    frames, height, width = explained.shape
    if (frames - 1) % temporal or height % stride or width % stride:
        raise InvalidInputError(
            f"{frames} frames of {width}x{height} do not divide into cells of {stride} px and {temporal} frames"
        )
    free = (~explained).float()[:, None]
    cells = nnf.max_pool2d(free, stride)[:, 0]  # [T, h, w], 1 where a pixel is free
    rest = cells[1:].reshape(-1, temporal, *cells.shape[1:]).amax(dim=1)
    return 1 - torch.cat([cells[:1], rest])[None, None]


def strength_at(place: int, steps: int, start: float, end: float) -> float:
    """Strength after the ``place``-th of the steps: linear from start to end."""
    return start if steps < 2 else start + (end - start) * place / (steps - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentGuide:
    """Renders of a clip as latents, ready for a sampler.

    Attributes:
        clean: latents of the renders, in the layout of the sampler's.
        noise: in the same shape; one for the whole run, so that held latents come down one straight path.
        mask: broadcastable to it, in [0, 1].
        start, end: strength at the first and at the last step.

    Raises:
        InvalidInputError: when strengths leave [0, 1], shapes differ, or the latents hold NaN or infinity.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor
    start: float
    end: float

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not (math.isfinite(getattr(self, name)) and 0 <= getattr(self, name) <= 1):
                raise InvalidInputError(f"render guidance's {name} is {getattr(self, name)}, expected 0 to 1")
        check_shape("noise of the render guidance", self.noise, *self.clean.shape)
        check_finite("latents of the renders", self.clean)

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return max(self.start, self.end) > 0 and bool((self.mask > 0).any())

    def held(self, latents: torch.Tensor, place: int, steps: int, signal: float, noise: float) -> torch.Tensor:
        """Latents after a step, held to the renders.

        Args:
            latents: after the ``place``-th of ``steps``.
            place, steps: which step.
            signal, noise: amplitudes of picture and noise in latents after that step; (1, 0) after the last.

        Returns:
            The render's latents themselves where mask and strength are 1, the given ones where either is 0.

        Raises:
            InvalidInputError: when the given latents hold NaN or infinity, or have another shape.
        """
        strength = strength_at(place, steps, self.start, self.end)
        if strength == 0:
            return latents
        check_shape("latents", latents, *self.clean.shape)
        check_finite(f"latents after sampling step {place + 1}", latents)
        clean, free, mask = (x.to(latents.device) for x in (self.clean, self.noise, self.mask))
        target = signal * clean if noise == 0 else signal * clean + noise * free
        weight = strength * mask
        mixed = torch.where(weight >= 1, target, latents + weight * (target - latents))
        return torch.where(weight > 0, mixed.to(latents.dtype), latents)


def standard_noise(shape: Sequence[int], seed: int) -> torch.Tensor:
    """Normal noise on the CPU from its own generator, so that guidance does not change that of the sampler."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
