"""In-between views of a video model get their confidence and provenance.

Equation 6 of ReconX (arXiv:2408.16767) lets the confidence of pairwise pointmaps over all frames stand for the
uncertainty of each pixel. Stage 1 can be asked for it; without it, the keyframes' surfaces are looked at from the
frame's pose, and the frame is trusted where its colours agree with them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf

from reconx_ros.core import Provenance, SequenceView, check_finite
from reconx_ros.diffusion.base import FrameGeometry, InBetweenView
from reconx_ros.geometry.view_blending import BlendedView

_COLOUR_SIGMA = 0.1  # mean difference of colour at which agreement has fallen to 1/e
_WINDOW = 5  # px


def colour_agreement(frame: torch.Tensor, render: BlendedView) -> torch.Tensor:
    """Agreement [H, W] in [0, 1] of a frame [H, W, 3] with what the keyframes' surfaces look like; 0 where none is.

    ``exp(-(d / 0.1)^2)``, d being the mean absolute difference of colour over the hit pixels of a 5 x 5 window.
    """
    hit = render.hit.float()
    difference = (frame - render.rgb).abs().mean(dim=-1) * hit
    mean, share = nnf.avg_pool2d(torch.stack([difference, hit])[None], _WINDOW, stride=1, padding=_WINDOW // 2)[0]
    return torch.exp(-((mean / share.clamp_min(1e-6) / _COLOUR_SIGMA) ** 2)) * hit


def confidence_by_renders(frame: torch.Tensor, render: BlendedView, prior: float) -> torch.Tensor:
    """Confidence [H, W] of a frame from its agreement with the keyframes' surfaces.

    ``c = w a + (1 - w) u``: w is the confidence of the surface, 0 where there is none; a the agreement in colour; u
    what is left to believe where no keyframe looked: the prior, times the mean agreement where they did.
    """
    agreement, weight = colour_agreement(frame, render), torch.where(render.hit, render.confidence, 0.0)
    total = weight.sum()
    mean = (weight * agreement).sum() / total if float(total) > 0 else torch.tensor(1.0)
    return (weight * agreement + (1 - weight) * prior * mean).clamp(0, 1)


def confidence_by_geometry(geometry: FrameGeometry, prior: float) -> torch.Tensor:
    """Confidence [H, W] by stage 1; where it knows nothing, the prior times the frame's mean."""
    known = geometry.depth > 0
    mean = geometry.confidence[known].mean() if bool(known.any()) else torch.tensor(0.0)
    return torch.where(known, geometry.confidence, prior * mean).clamp(0, 1)


def judged_view(
    frame: InBetweenView,
    render: BlendedView,
    geometry: FrameGeometry | None,
    *,
    prior: float,
    observed_from: float,
    placed: bool = True,
) -> SequenceView:
    """A picture of the sequence: GENERATED, also where a keyframe saw the place, for it did not see these colours.

    Args:
        frame: picture, camera and pose; the pose is the final one.
        render: the keyframes' surfaces from there.
        geometry: of stage 1; None compares with the render.
        prior: confidence of a pixel that nothing speaks for or against.
        observed_from: confidence of the render from which its pixels replace the frame's, of the kind that they are; 1
            never.
        placed: whether the frame is known to be seen from there; if not, nothing is replaced.

    Raises:
        InvalidInputError: when the picture holds NaN or infinity.
    """
    check_finite("generated frame", frame.rgb)
    confidence = (
        confidence_by_renders(frame.rgb, render, prior) if geometry is None else confidence_by_geometry(geometry, prior)
    )
    depth = torch.where(render.hit, render.depth, 0.0) if geometry is None else geometry.depth
    shown = render.hit & (render.confidence >= observed_from) & (observed_from < 1) & placed
    provenance = torch.where(shown, render.provenance, int(Provenance.GENERATED)).to(torch.uint8)
    return SequenceView(
        rgb=torch.where(shown[..., None], render.rgb, frame.rgb),
        confidence=torch.where(shown, render.confidence, confidence),
        provenance=provenance,
        camera=frame.camera,
        world_from_cam=frame.world_from_cam,
        is_input=False,
        depth=torch.where(shown, render.depth, depth),
    )
