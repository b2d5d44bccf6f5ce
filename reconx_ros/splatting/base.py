"""The interface of rasterisers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

if TYPE_CHECKING:
    from reconx_ros.splatting.losses import SsimTarget


@dataclass(frozen=True, kw_only=True, eq=False)
class Rendering:
    """Pictures of a Gaussian scene.

    Attributes:
        rgb: [C, H, W, 3], background blended in; not clipped.
        alpha: [C, H, W] in [0, 1].
        depth: [C, H, W] expected z-depth: sum(w z) / sum(w), 0 where alpha is 0.
    """

    rgb: torch.Tensor  # [C, H, W, 3]
    alpha: torch.Tensor  # [C, H, W]
    depth: torch.Tensor  # [C, H, W]


class Rasterizer(Protocol):
    """Differentiable Gaussian rasteriser; gradients flow to every tensor argument that requires them."""

    name: str

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
        """Render C cameras of one size.

        Follows gsplat v1.5.3's classic mode: EWA projection, 2-D covariance dilated by 0.3 px (opacity compensated
        when antialiased), alpha capped at 0.999, alpha below 1/255 skipped, transmittance stop at 1e-4.

        Args:
            means: world positions.
            quats_wxyz: rotations, normalised inside.
            scales: standard deviations (not their logarithm).
            opacities: in [0, 1].
            sh: spherical-harmonic coefficients, K = 1, 4, 9 or 16; colour = max(0, 0.5 + SH(direction)).
            cam_from_world: OpenCV camera poses.
            intrinsics: K with pixel (0, 0) at the CENTRE of the first pixel.
            width, height: picture size in pixels.
            background: colour behind the scene; None is black.
            antialiased: scale opacity by the dilation's compensation factor.
            near: Gaussians nearer than this, in world units, are culled (``geometry.working_frame.near_plane``).

        Raises:
            InvalidInputError: for wrong shapes, or NaN or infinite parameters.
        """
        ...


@runtime_checkable
class ComputesSsim(Protocol):
    """A rasteriser that comes with a faster structural-dissimilarity term than torch's."""

    def ssim_loss(self, image: torch.Tensor, target: SsimTarget, weight: torch.Tensor) -> torch.Tensor:
        """As ``losses.torch_ssim_loss``."""
        ...
