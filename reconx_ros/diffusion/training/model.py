"""The module that is trained, video network and structure encoder together, and how its inputs are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as nnf
from torch import nn

from reconx_ros.core import InvalidInputError
from reconx_ros.diffusion.network.camera_condition import LATENT_STRIDE, epipolar_masks
from reconx_ros.diffusion.network.sampler import ScheduleConfig
from reconx_ros.diffusion.network.structure_encoder import StructureEncoder, normalize_points
from reconx_ros.diffusion.network.unet import UNetConfig, VideoUNet
from reconx_ros.diffusion.training.clips import ClipBatch

_EPIPOLAR_CELLS = 1.5


class VideoModel(nn.Module):
    """The network and its structure encoder, evaluated together, so that both learn in one backward pass."""

    def __init__(self, unet: VideoUNet, structure_encoder: StructureEncoder | None) -> None:
        super().__init__()
        self.unet, self.structure_encoder = unet, structure_encoder

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        points: torch.Tensor | None,
        point_mask: torch.Tensor | None,
        shows_points: torch.Tensor | None,
        **told: Any,
    ) -> torch.Tensor:
        """The network's prediction.

        Args:
            sample: [B, C, T, h, w] noisy and known latents.
            timestep: [B].
            points, point_mask: [B, P, 3] and [B, P]; None runs without structure.
            shows_points: [B] bool, False where the structure is dropped; None for all.
            told: the other conditions, as VideoUNet takes them.
        """
        structure = None
        if points is not None and self.structure_encoder is not None:
            structure = self.structure_encoder(points, point_mask)
            if shows_points is not None:
                structure = structure * shows_points[:, None, None].to(structure.dtype)
        return self.unet(sample, timestep, structure=structure, **told)


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditions:
    """A batch as the network sees it, but for noise.

    Attributes:
        x0: [B, C, T, h, w] clean latents.
        known: latents of the given frames as the pipeline has them: the first and the last at their places and zero
            between, or the first alone in every frame.
        text: [B, M, D].
        image, no_image: [B, T, M, D] or [B, M, D] tokens of the first picture, and of none.
        fps: [B].
        points, point_mask: [B, P, 3], [B, P]; None without structure.
        cameras: keyword arguments of the network's camera branches.
    """

    x0: torch.Tensor
    known: torch.Tensor
    text: torch.Tensor
    image: torch.Tensor
    no_image: torch.Tensor
    fps: torch.Tensor
    points: torch.Tensor | None
    point_mask: torch.Tensor | None
    cameras: dict[str, Any]


class FrozenParts(Protocol):
    """What does not learn: autoencoder and encoders of picture and text."""

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        ...

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, T, 3, H, W] in [-1, 1] to latents [B, C, T, h, w]."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents back to pixels."""
        ...

    def tokens(self, first: torch.Tensor, frames: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(text, image, no image) tokens of first pictures [B, 3, H, W]."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A model to train, with everything around it.

    Attributes:
        model: what learns.
        frozen: what does not.
        schedule: of the noise.
        description: plain values for the training card and for the check of resumed runs.
    """

    model: VideoModel
    frozen: FrozenParts
    schedule: ScheduleConfig
    description: dict[str, Any]


@torch.no_grad()
def conditions(
    batch: ClipBatch,
    frozen: FrozenParts,
    config: UNetConfig,
    *,
    structure: str,
    cameras: bool,
    known: str = "both",
) -> Conditions:
    """Everything the network is told of a batch.

    Args:
        batch: on the network's device.
        frozen: encoders.
        config: of the network: which branches it has.
        structure: "own", "exchanged" (points of another clip; rays keep the unit of their own) or "none".
        cameras: show the cameras to the branches that there are.
        known: "both" the first and the last picture are given, or the "first" alone.
    """
    pixels = batch.pixels()
    x0 = frozen.encode(pixels)
    text, image, no_image = frozen.tokens(pixels[:, 0], batch.frames)
    shown = batch.exchanged() if structure == "exchanged" else batch
    with_points = structure != "none" and config.structure_dim > 0
    return Conditions(
        x0=x0,
        known=_known(x0, known),
        text=text,
        image=image,
        no_image=no_image,
        fps=torch.where(batch.fps > 0, batch.fps, config.default_fps),
        points=shown.points if with_points else None,
        point_mask=shown.point_mask if with_points else None,
        cameras=camera_inputs(batch, config, x0.shape[-2:]) if cameras else {},
    )


def _known(x0: torch.Tensor, which: str) -> torch.Tensor:
    if which == "first":
        return x0[:, :, :1].expand_as(x0)
    known = torch.zeros_like(x0)
    known[:, :, 0], known[:, :, -1] = x0[:, :, 0], x0[:, :, -1]
    return known


def camera_inputs(batch: ClipBatch, config: UNetConfig, latent_size: torch.Size) -> dict[str, Any]:
    """Keyword arguments of the network for the camera branches that it has.

    Centres are measured in the mean distance of the clip's points from their middle, as the pipeline does.
    """
    inputs: dict[str, Any] = {}
    if config.camera_channels:
        height, width = (LATENT_STRIDE * side for side in latent_size)
        inputs["rays"] = ray_maps(batch, height, width)
    if config.epipolar_levels:
        places = (0, batch.frames - 1)
        masks = [
            epipolar_masks(batch.trajectory(k), places, config.epipolar_levels, _EPIPOLAR_CELLS)
            for k in range(len(batch))
        ]
        inputs["epipolar"] = {level: torch.cat([m[level] for m in masks]).to(batch.points.device) for level in masks[0]}
        inputs["reference_frames"] = places
    return inputs


def ray_maps(batch: ClipBatch, height: int, width: int) -> torch.Tensor:
    """Plücker maps [B, T, 6, height, width] of a batch at another size; ``plucker_rays`` for many clips at once."""
    old_height, old_width = batch.images.shape[-2:]
    scale = torch.tensor([width / old_width, height / old_height], device=batch.points.device)
    focal = batch.intrinsics[:, :2] * scale
    centre = (batch.intrinsics[:, 2:] + 0.5) * scale - 0.5
    v, u = torch.meshgrid(
        torch.arange(height, device=scale.device), torch.arange(width, device=scale.device), indexing="ij"
    )
    offset = torch.stack([u, v], dim=-1) - centre[:, None, None]  # [B, H, W, 2]
    rays = torch.cat([offset / focal[:, None, None], torch.ones_like(offset[..., :1])], dim=-1)
    unit = normalize_points(batch.points, batch.point_mask)[1]
    turned = torch.einsum("btij,bhwj->bthwi", batch.first_from_cam[..., :3, :3], nnf.normalize(rays, dim=-1))
    origin = (batch.first_from_cam[..., :3, 3] / unit[:, None, None])[:, :, None, None].expand_as(turned)
    return torch.cat([torch.linalg.cross(origin, turned), turned], dim=-1).permute(0, 1, 4, 2, 3).contiguous()


def check_structure(prepared: Prepared, structure: str) -> None:
    """Raise InvalidInputError when points should be shown to a model that cannot see them."""
    if structure != "none" and prepared.model.structure_encoder is None:
        raise InvalidInputError(f"structure is '{structure}', but the model has no structure encoder, expected 'none'")
