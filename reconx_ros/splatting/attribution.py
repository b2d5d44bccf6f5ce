"""After the fit: which Gaussians a camera really saw, and how sure each one is."""

from __future__ import annotations

from dataclasses import replace

import torch

from reconx_ros.core import GaussianScene, Provenance
from reconx_ros.geometry.working_frame import near_plane
from reconx_ros.splatting.base import Rasterizer
from reconx_ros.splatting.harmonics import SH_C0
from reconx_ros.splatting.projection import covariances, project_gaussians
from reconx_ros.splatting.targets import TrainingView

_MIN_VISIBLE_SHARE = 0.05  # of a Gaussian's own footprint, to count as seen


def attribute(
    scene: GaussianScene, views: list[TrainingView], rasterizer: Rasterizer, *, antialiased: bool = True
) -> GaussianScene:
    """Give each Gaussian its provenance and confidence.

    OBSERVED: in at least one camera image (``is_input``), the pixels that this camera took show at least 5 % of the
    Gaussian's unoccluded footprint. GENERATED otherwise. Confidence: the mean confidence of all pixels that show the
    Gaussian, weighted by how much they show of it, but at most the confidence that it had before: colours seen do not
    make a guessed place a sure one. 0 if no view shows it.

    Args:
        scene: N Gaussians on the views' device, with the confidence of their first places.
        views: all supervising views.
        rasterizer: any; the blending weights come from its gradients.
        antialiased: as the scene was fitted.
    """
    observed = torch.zeros(len(scene), dtype=torch.bool, device=scene.means.device)
    shown = torch.zeros(len(scene), device=scene.means.device)
    trusted = torch.zeros_like(shown)
    for view in views:
        by_camera, confident, total = blending_weights(scene, view, rasterizer, antialiased=antialiased).unbind(dim=-1)
        shown, trusted = shown + total, trusted + confident
        if view.is_input:
            observed |= by_camera >= (_MIN_VISIBLE_SHARE * _footprints(scene, view, antialiased)).clamp_min(1e-6)
    provenance = torch.where(observed, int(Provenance.OBSERVED), int(Provenance.GENERATED)).to(torch.uint8)
    seen = torch.where(shown > 0, trusted / shown.clamp_min(1e-12), 0.0).clamp(0, 1)
    confidence = torch.minimum(seen, scene.confidence.to(seen))
    return replace(scene, provenance=provenance, confidence=confidence)


def blending_weights(
    scene: GaussianScene, view: TrainingView, rasterizer: Rasterizer, *, antialiased: bool = True
) -> torch.Tensor:
    """Sum of each Gaussian's blending weights over pixels, in px^2: [N, 3].

    The columns are: over pixels that this camera took; over all pixels times their confidence; over all pixels.
    A picture is linear in the colours, so the gradient of a weighted sum of pixels is the weighted sum of weights.
    """
    flat = torch.zeros_like(scene.sh[:, :1]).requires_grad_()  # mid-grey: far from the clamp at black
    pixels = torch.stack(
        [view.observed.float(), view.confidence, torch.ones_like(view.confidence)], dim=-1
    )  # [H, W, 3]
    with torch.enable_grad():
        rendering = rasterizer.render(
            means=scene.means,
            quats_wxyz=scene.quats_wxyz,
            scales=scene.log_scales.exp(),
            opacities=scene.logit_opacities.sigmoid(),
            sh=flat,
            cam_from_world=view.cam_from_world,
            intrinsics=view.intrinsics,
            width=view.camera.width,
            height=view.camera.height,
            antialiased=antialiased,
            near=near_plane(scene.means),
        )
        (gradient,) = torch.autograd.grad((rendering.rgb[0] * pixels).sum(), flat)
    return gradient[:, 0] / SH_C0


def _footprints(scene: GaussianScene, view: TrainingView, antialiased: bool) -> torch.Tensor:
    """Unoccluded sum of alpha [N] in px^2, infinite for Gaussians behind the camera."""
    with torch.no_grad():
        seen = project_gaussians(
            scene.means,
            covariances(scene.quats_wxyz, scene.log_scales.exp()),
            view.cam_from_world[0],
            view.intrinsics[0],
            width=view.camera.width,
            height=view.camera.height,
            near=near_plane(scene.means),
        )
        out = torch.full((len(scene),), torch.inf, device=scene.means.device)
        share = seen.compensations if antialiased else 1.0
        out[seen.index] = seen.footprints_px2() * scene.logit_opacities.sigmoid()[seen.index] * share
    return out
