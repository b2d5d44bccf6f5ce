"""How LTX-Video is run through diffusers with two known frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from reconx_ros.diffusion.clips.run import ClipRequest
from reconx_ros.diffusion.config import DiffusionConfig

_FPS = 25


class LtxAdapter:
    """``LTXConditionPipeline`` with two conditions; the second one may stand before the end."""

    trained_frames = 97

    @staticmethod
    def pipeline_class() -> Any:
        """Of diffusers."""
        from diffusers import LTXConditionPipeline

        return LTXConditionPipeline

    @staticmethod
    def precisions(dtype: torch.dtype) -> torch.dtype:
        """One for all parts."""
        return dtype

    def frame_group(self, pipeline: Any) -> int:
        """Frames per latent frame after the first."""
        return int(pipeline.vae_temporal_compression_ratio)

    def multiple(self, pipeline: Any) -> int:
        """Of width and height."""
        return max(32, int(pipeline.vae_spatial_compression_ratio * pipeline.transformer_spatial_patch_size))

    def check_place(self, pipeline: Any, second_frame: int, frames: int) -> None:
        """Any place will do."""

    def check_schedule(self, pipeline: Any, guided: bool) -> None:
        """The pipeline runs flow matching only."""

    def run(
        self, pipeline: Any, request: ClipRequest, config: DiffusionConfig, step_end: Callable[..., Any]
    ) -> torch.Tensor:
        """Frames [T, H, W, 3] in [0, 1]."""
        from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

        conditions = [
            LTXVideoCondition(image=picture.permute(2, 0, 1)[None], frame_index=place)
            for picture, place in ((request.first, 0), (request.second, request.second_frame))
        ]
        video = pipeline(
            conditions=conditions,
            prompt=config.prompt,
            negative_prompt=config.negative_prompt,
            height=config.height,
            width=config.width,
            num_frames=len(request.trajectory),
            frame_rate=config.fps or _FPS,
            num_inference_steps=config.steps,
            guidance_scale=config.text_guidance,
            generator=torch.Generator().manual_seed(request.seed),
            output_type="pt",
            callback_on_step_end=step_end,
        ).frames[0]  # [T, 3, H, W]
        frames: torch.Tensor = video.permute(0, 2, 3, 1)
        return frames

    def latents_from_pictures(self, pipeline: Any, video: torch.Tensor) -> torch.Tensor:
        """Latents [1, C, T', h, w] of a video [1, 3, T, H, W] in [-1, 1], scaled as the sampler has them."""
        codes = pipeline.vae.encode(video).latent_dist.mode()
        vae = pipeline.vae
        scaled: torch.Tensor = pipeline._normalize_latents(codes, vae.latents_mean, vae.latents_std)
        return scaled

    def packed(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        """Latents as tokens [1, S, D]."""
        tokens: torch.Tensor = pipeline._pack_latents(
            latents, pipeline.transformer_spatial_patch_size, pipeline.transformer_temporal_patch_size
        )
        return tokens

    def first_free_token(self, latents: torch.Tensor, clean: torch.Tensor) -> int:
        """Tokens of the later conditions stand before those of the video."""
        return latents.shape[1] - clean.shape[1]
