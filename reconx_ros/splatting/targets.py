"""What each picture of the fit should look like: the views of a sequence as targets, with a weight per pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from reconx_ros.core import InvalidInputError, PinholeCamera, Provenance, SequenceView, ViewSequence
from reconx_ros.geometry.resize import resize_area, resize_nearest
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.losses import SsimTarget, ViewTarget

_LIKELY = 0.5  # confidence from which a depth is at least as likely right as not


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingView:
    """One supervising view on the device.

    Attributes:
        camera: intrinsics at the training size.
        cam_from_world: [1, 4, 4].
        intrinsics: [1, 3, 3], pixel-centre origin.
        target: colours, weights, depth.
        confidence: [H, W] in [0, 1], whatever the configuration makes of it.
        taken: [H, W] bool, pixels that this very camera took; all False for in-between views.
        measured: [H, W] depth where it is OBSERVED and at least as likely right as not, else 0; 0 in in-between views.
        is_input: whether a camera took this view.
    """

    camera: PinholeCamera
    cam_from_world: torch.Tensor  # [1, 4, 4]
    intrinsics: torch.Tensor  # [1, 3, 3]
    target: ViewTarget
    confidence: torch.Tensor  # [H, W]
    taken: torch.Tensor  # [H, W]
    measured: torch.Tensor  # [H, W]
    is_input: bool


def training_views(sequence: ViewSequence, config: SplattingConfig, device: torch.device) -> list[TrainingView]:
    """Shrink the views to ``config.max_size`` and weigh their pixels.

    Raises:
        InvalidInputError: when there is no view, or no pixel of any view has a positive weight.
    """
    if not sequence.views:
        raise InvalidInputError("view sequence is empty, expected at least one view")
    views = [_training_view(v, config, device) for v in sequence.views]
    if not any(bool((v.target.weight > 0).any()) for v in views):
        raise InvalidInputError(
            f"none of the {len(views)} views has a pixel of positive weight (confidence times the weight of its kind), "
            "expected at least one"
        )
    return views


def _training_view(view: SequenceView, config: SplattingConfig, device: torch.device) -> TrainingView:
    camera = view.camera.fitted_to(config.max_size)
    rgb, known, confidence = _shrunk(view, camera)
    weight = confidence if config.use_confidence else known.float()
    weight = weight * (config.observed_weight if view.is_input else config.generated_weight)
    depth = None if view.depth is None else resize_nearest(view.depth, *camera.size).to(device)
    rgb, known = rgb.to(device), known.to(device)
    return TrainingView(
        camera=camera,
        cam_from_world=_matrix(view.world_from_cam.inverse().matrix, device),
        intrinsics=_matrix(camera.matrix, device),
        target=ViewTarget(rgb=rgb, weight=weight.to(device), ssim=SsimTarget.of(rgb, known), depth=depth),
        confidence=confidence.to(device),
        taken=known & view.is_input,
        measured=resize_nearest(_measured(view), *camera.size).to(device),
        is_input=view.is_input,
    )


def _measured(view: SequenceView) -> torch.Tensor:
    """Depth [H, W] of a camera image that can be relied on, 0 elsewhere."""
    if not view.is_input or view.depth is None:
        return torch.zeros(view.provenance.shape)
    measured = view.provenance == int(Provenance.OBSERVED)
    if view.depth_confidence is not None:
        measured = measured & (view.depth_confidence >= _LIKELY)
    return torch.where(measured, view.depth, 0.0)


def _matrix(matrix: object, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(matrix, dtype=torch.float32, device=device)[None]


def _shrunk(view: SequenceView, camera: PinholeCamera) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(rgb [H, W, 3], known [H, W] bool, confidence [H, W]) at the camera's size; unknown pixels lend no colour."""
    known = (view.provenance != int(Provenance.NONE)).float()[..., None]
    layers = torch.cat([view.rgb * known, view.confidence[..., None] * known, known], dim=-1).float()
    layers = resize_area(layers, camera.width, camera.height)
    share = layers[..., 4]
    mean = layers[..., :4] / share.clamp_min(1e-6)[..., None]
    mostly = share > 0.5
    return mean[..., :3] * mostly[..., None], mostly, mean[..., 3] * mostly
