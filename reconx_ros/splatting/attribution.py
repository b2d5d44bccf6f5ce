"""After the fit: how the place of each Gaussian is known, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from reconx_ros.core import PLACE_TOLERANCE, GaussianScene, Provenance
from reconx_ros.geometry.rotations import rotations_from_quaternions_wxyz
from reconx_ros.geometry.working_frame import near_plane
from reconx_ros.splatting.base import Rasterizer
from reconx_ros.splatting.harmonics import SH_C0
from reconx_ros.splatting.projection import covariances, project_gaussians
from reconx_ros.splatting.targets import TrainingView

_MIN_VISIBLE_SHARE = 0.05  # of a Gaussian's own footprint, for its colour to count as seen


def attribute(
    scene: GaussianScene, views: list[TrainingView], rasterizer: Rasterizer, *, antialiased: bool = True
) -> GaussianScene:
    """Give each Gaussian its provenance and confidence.

    OBSERVED: it lies on measured surface, in the eyes of at least one camera (``on_measured_surface``). INFERRED: some
    camera sees its place, which no measured surface hides, and its colour: at least 5 % of its unoccluded footprint.
    GENERATED otherwise. So a Gaussian that drifted off the surface to paint a picture is never OBSERVED.

    Confidence: the mean confidence of all pixels that show the Gaussian, weighted by how much they show of it, but at
    most the confidence that it had before: colours seen do not make a guessed place a sure one. 0 if no view shows it.

    Args:
        scene: N Gaussians on the views' device, with the confidence of their first places.
        views: all supervising views.
        rasterizer: any; the blending weights come from its gradients.
        antialiased: as the scene was fitted.
    """
    measured = torch.zeros(len(scene), dtype=torch.bool, device=scene.means.device)
    seen, shown = torch.zeros_like(measured), torch.zeros(len(scene), device=scene.means.device)
    trusted = torch.zeros_like(shown)
    for view in views:
        by_camera, confident, total = blending_weights(scene, view, rasterizer, antialiased=antialiased).unbind(dim=-1)
        shown, trusted = shown + total, trusted + confident
        if view.is_input:
            coloured = by_camera >= (_MIN_VISIBLE_SHARE * _footprints(scene, view, antialiased)).clamp_min(1e-6)
            seen |= coloured & compared(scene.means, view).in_sight
            measured |= on_measured_surface(scene, view)
    kind = torch.where(seen, int(Provenance.INFERRED), int(Provenance.GENERATED))
    kind = torch.where(measured, int(Provenance.OBSERVED), kind).to(torch.uint8)
    confidence = torch.where(shown > 0, trusted / shown.clamp_min(1e-12), 0.0).clamp(0, 1)
    return replace(scene, provenance=kind, confidence=torch.minimum(confidence, scene.confidence.to(confidence)))


def on_measured_surface(scene: GaussianScene, view: TrainingView) -> torch.Tensor:
    """Mask [N] of Gaussians whose centre one camera measured, and that do not stick out of the surface there.

    The ends of the longest axis, one standard deviation away, must not contradict what was measured where they fall.
    """
    with torch.no_grad():
        longest, which = scene.log_scales.exp().max(dim=-1)
        axes = (
            rotations_from_quaternions_wxyz(scene.quats_wxyz)
            .gather(2, which[:, None, None].expand(-1, 3, 1))
            .squeeze(-1)
        )
        arms = longest[:, None] * axes
        out = compared(scene.means, view).agrees
        for end in (scene.means + arms, scene.means - arms):
            there = compared(end, view)
            out = out & (there.agrees | ~there.measured)
        return out


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """What one camera's measured depth says about N places.

    Attributes:
        measured: [N] bool, the place falls on a pixel with measured depth.
        agrees: [N] bool, and at that depth, within ``PLACE_TOLERANCE`` of it.
        in_sight: [N] bool, the place falls on the picture, and no measured surface hides it.
    """

    measured: torch.Tensor  # [N]
    agrees: torch.Tensor  # [N]
    in_sight: torch.Tensor  # [N]


def compared(places: torch.Tensor, view: TrainingView) -> Compared:
    """Compare places [N, 3] in the world with the depth that a camera measured, at the nearest pixel."""
    with torch.no_grad():
        local = places @ view.cam_from_world[0, :3, :3].T + view.cam_from_world[0, :3, 3]
        z = local[:, 2]
        uv = (local @ view.intrinsics[0].T)[:, :2] / torch.where(z > 0, z, 1.0)[:, None]
        column, row = uv.round().unbind(dim=-1)
        inside = (z > 0) & (column >= 0) & (row >= 0) & (column < view.camera.width) & (row < view.camera.height)
        pixel = torch.where(inside, row * view.camera.width + column, 0).long()
        depth = view.measured.flatten()[pixel]
        measured = inside & (depth > 0)
        away = (z - depth) / torch.where(depth > 0, depth, 1.0)
        return Compared(
            measured=measured,
            agrees=measured & (away.abs() <= PLACE_TOLERANCE),
            in_sight=inside & ~(measured & (away > PLACE_TOLERANCE)),
        )


def blending_weights(
    scene: GaussianScene, view: TrainingView, rasterizer: Rasterizer, *, antialiased: bool = True
) -> torch.Tensor:
    """Sum of each Gaussian's blending weights over pixels, in px^2: [N, 3].

    The columns are: over pixels that this camera took; over all pixels times their confidence; over all pixels.
    A picture is linear in the colours, so the gradient of a weighted sum of pixels is the weighted sum of weights.
    """
    flat = torch.zeros_like(scene.sh[:, :1]).requires_grad_()  # mid-grey: far from the clamp at black
    pixels = torch.stack([view.taken.float(), view.confidence, torch.ones_like(view.confidence)], dim=-1)  # [H, W, 3]
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
