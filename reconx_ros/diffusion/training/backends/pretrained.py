"""A converted public model as the start of a run: its autoencoder and encoders stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from reconx_ros.core import InvalidInputError
from reconx_ros.diffusion.network import models
from reconx_ros.diffusion.network.clip_image import clip_pixels
from reconx_ros.diffusion.network.conditions import prompt_tokens
from reconx_ros.diffusion.network.structure_encoder import StructureConfig
from reconx_ros.diffusion.training.backends.folder import save_card, storage_errors
from reconx_ros.diffusion.training.model import Prepared, VideoModel

_FROZEN = ("vae", "text_encoder", "image_encoder", "resampler")
_VAE_BATCH = 8  # pictures at one time


class PretrainedParts:
    """Autoencoder, CLIP and resampler of a ReconXPipeline, frozen.

    Args:
        pipeline: a ReconXPipeline.

    Raises:
        InvalidInputError: when the pipeline lacks one of them.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        for name in _FROZEN:
            part = getattr(pipeline, name)
            if part is None:
                raise InvalidInputError(f"the model folder has no {name}, expected a complete one")
            part.eval().requires_grad_(False)
        ids = prompt_tokens(pipeline.text_encoder.config.vocab_size, None, "", None)
        with torch.no_grad():
            self._text = pipeline.text_encoder(ids.to(pipeline.text_encoder.device)).last_hidden_state.float()

    def to(self, device: torch.device) -> None:
        """Move all parts."""
        for name in _FROZEN:
            getattr(self.pipeline, name).to(device)
        self._text = self._text.to(device)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """See FrozenParts; the mean of the posterior is taken."""
        vae = self.pipeline.vae
        codes = [
            vae.encode(part.to(vae.dtype)).latent_dist.mean.float() for part in pixels.flatten(0, 1).split(_VAE_BATCH)
        ]
        latents = torch.cat(codes) * vae.config.scaling_factor
        return latents.unflatten(0, pixels.shape[:2]).transpose(1, 2).contiguous()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """See FrozenParts."""
        vae = self.pipeline.vae
        codes = latents.transpose(1, 2) / vae.config.scaling_factor
        pictures = [vae.decode(part.to(vae.dtype)).sample.float() for part in codes.flatten(0, 1).split(_VAE_BATCH)]
        return torch.cat(pictures).unflatten(0, codes.shape[:2])

    def tokens(self, first: torch.Tensor, frames: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See FrozenParts; the text is empty, and a black picture stands for none."""
        encoder, resampler = self.pipeline.image_encoder, self.pipeline.resampler
        both = torch.cat([clip_pixels(first), clip_pixels(torch.zeros_like(first[:1]))]).to(encoder.dtype)
        features = encoder(pixel_values=both).last_hidden_state.to(resampler.dtype)
        image = resampler(features, frames).float()
        count = len(first)
        return self._text.expand(count, -1, -1), image[:count], image[count:].expand(count, *image.shape[1:])


def load_pretrained(folder: Path) -> Prepared:
    """A model that ``reconx convert`` or an earlier run wrote, ready to be trained further.

    A folder without structure encoder gets a fresh one where the network has the branch.

    Raises:
        StorageError: when the folder cannot be read.
        InvalidInputError: when it is not complete.
    """
    from reconx_ros.diffusion.network.pipeline import ReconXPipeline

    with storage_errors(folder, "read"):
        pipeline = ReconXPipeline.from_pretrained(str(folder), torch_dtype=torch.float32)
    return prepared_pipeline(pipeline, str(folder))


def prepared_pipeline(pipeline: Any, name: str) -> Prepared:
    """A loaded pipeline as a model to train; see ``load_pretrained``."""
    config, encoder = pipeline.unet.unet_config, pipeline.structure_encoder
    if encoder is None and config.structure_dim:
        encoder = models.ReconXStructureEncoder(**asdict(StructureConfig(width=config.structure_dim)))
        pipeline.register_modules(structure_encoder=encoder)
    return Prepared(
        model=VideoModel(pipeline.unet, encoder),
        frozen=PretrainedParts(pipeline),
        schedule=pipeline.scheduler.schedule,
        description={"kind": "fine-tuned", "weights": name, "unet": asdict(config)},
    )


def save_pretrained(folder: Path, prepared: Prepared, card: Mapping[str, Any]) -> None:
    """Write the whole pipeline, trained parts included, as ReconXPipeline loads it.

    Raises:
        StorageError: when it cannot be written.
    """
    frozen = prepared.frozen
    if not isinstance(frozen, PretrainedParts):
        raise InvalidInputError("only a model made from a pipeline can be saved as one")
    with storage_errors(folder, "written"):
        frozen.pipeline.save_pretrained(str(folder), safe_serialization=True)
    save_card(folder, card)
