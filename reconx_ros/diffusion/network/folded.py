"""Small video models that were trained from scratch, run like the full pipeline.

They work on folded pixels in place of an autoencoder's latents, and on pieces of the first picture in place of CLIP's
tokens; see ``reconx_ros.diffusion.network.patches``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from reconx_ros.core import InvalidInputError, Job, Trajectory
from reconx_ros.core.memory import free_bytes
from reconx_ros.diffusion.model_folders import FOLDED
from reconx_ros.diffusion.network import models
from reconx_ros.diffusion.network.camera_condition import LATENT_STRIDE
from reconx_ros.diffusion.network.conditions import Encoded, camera_inputs
from reconx_ros.diffusion.network.cost import VideoMemoryPlan, plan_memory, unet_cost
from reconx_ros.diffusion.network.patches import PatchParts
from reconx_ros.diffusion.network.pipeline import VideoGeneration, _moved
from reconx_ros.diffusion.network.settings import GenerationSettings


class FoldedPipeline(VideoGeneration):
    """``VideoGeneration`` without autoencoder and CLIP. Called in the same way; a prompt says nothing to it."""

    def __init__(self, unet: Any, scheduler: Any, structure_encoder: Any, parts: PatchParts) -> None:
        self.unet, self.scheduler, self.structure_encoder = unet, scheduler, structure_encoder
        self.parts = parts
        self.latent_stride = parts.codec.patch  # type: ignore[misc]

    @classmethod
    def from_folder(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> FoldedPipeline:
        """Load what ``reconx train diffusion`` wrote.

        Raises:
            InvalidInputError: when the description of the folded pixels cannot be read.
            OSError: when a file is missing or broken.
        """
        try:
            described = json.loads((folder / FOLDED).read_text(encoding="utf-8"))
            parts = PatchParts(int(described["patch"]), int(described["image_tokens"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(f"'{folder / FOLDED}' does not describe folded pixels: {error}") from None
        unet = models.ReconXUNet.from_pretrained(folder / "unet", torch_dtype=dtype).to(device).eval()
        encoder = None
        if (folder / "structure_encoder").is_dir():
            encoder = models.ReconXStructureEncoder.from_pretrained(folder / "structure_encoder", torch_dtype=dtype)
            encoder = encoder.to(device).eval()
        scheduler = models.ReconXScheduler.from_pretrained(folder / "scheduler")
        return cls(unet, scheduler, encoder, parts)

    @property
    def _execution_device(self) -> torch.device:
        device: torch.device = self.unet.device
        return device

    def maybe_free_model_hooks(self) -> None:
        """Nothing is offloaded."""

    def plan(
        self, frames: int, height: int, width: int, structure: bool = False, limit_bytes: int | None = None
    ) -> VideoMemoryPlan:
        """See ``VideoGeneration``; decoding takes the frames themselves."""
        h, w = height // self.latent_stride, width // self.latent_stride
        tokens = self.structure_encoder.structure_config.tokens if structure and self.structure_encoder else 0
        frame_bytes = 4 * 3 * height * width
        return plan_memory(
            step=unet_cost(self.unet.unet_config, frames, h, w, self.unet.dtype, tokens),
            moved_bytes=0,
            decode_bytes=frame_bytes * frames,
            tile_bytes=frame_bytes,
            frames=frames,
            size=f"{width}x{height}",
            available=free_bytes(self._execution_device) if limit_bytes is None else limit_bytes,
        )

    @torch.no_grad()
    def latents_from_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """See ``VideoGeneration``."""
        pixels = pictures.to(self._execution_device).float().permute(0, 3, 1, 2)[None] * 2 - 1  # [1, T, 3, H, W]
        return self.parts.encode(pixels)

    def encode(
        self,
        first: torch.Tensor,
        last: torch.Tensor | None,
        places: tuple[int, ...],
        frames: int,
        options: GenerationSettings,
        points: torch.Tensor | None = None,
        trajectory: Trajectory | None = None,
    ) -> Encoded:
        """See ``VideoGeneration``."""
        if options.prompt or options.prompt_ids is not None:
            raise InvalidInputError(f"prompt is '{options.prompt}', but a model trained from scratch reads none")
        if last is None:
            raise InvalidInputError("a model trained from scratch needs two pictures, got 1")
        device, dtype = self._execution_device, self.unet.dtype
        given = self.latents_from_pictures(torch.stack([first, last]))
        known = torch.zeros(1, given.shape[1], frames, *given.shape[3:], device=device)
        known[:, :, list(places)] = given
        text, image, no_image = self.parts.tokens(first.to(device).float().permute(2, 0, 1)[None] * 2 - 1, frames)
        config = self.unet.unet_config
        height, width = (LATENT_STRIDE * side for side in known.shape[-2:])  # what the camera branches fold back
        cameras = camera_inputs(
            config,
            _scaled(trajectory, width, height),
            points,
            places,
            frames,
            (width, height),
            options.epipolar_threshold,
        )
        return Encoded(
            known=known,
            text=text.to(dtype),
            empty_text=text.to(dtype),
            image=image.to(dtype),
            no_image=no_image.to(dtype),
            structure=None if points is None else self._structure(points, device).to(dtype),
            fps=torch.tensor([options.fps or config.default_fps], device=device),
            cameras=_moved(cameras, device),
        )

    def decode(self, latents: torch.Tensor, plan: VideoMemoryPlan, job: Job) -> torch.Tensor:
        """See ``VideoGeneration``; unfolding is exact."""
        pixels = self.parts.decode(latents.float())[0]  # [T, 3, H, W]
        return ((pixels + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).cpu()


def _scaled(trajectory: Trajectory | None, width: int, height: int) -> Trajectory | None:
    if trajectory is None:
        return None
    return replace(trajectory, camera=trajectory.camera.scaled_to(width, height))
