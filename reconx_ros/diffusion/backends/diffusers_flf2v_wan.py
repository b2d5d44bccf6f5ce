"""How Wan 2.1's first-and-last-frame model is run through diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from reconx_ros.core import InvalidInputError
from reconx_ros.diffusion.clips.run import ClipRequest
from reconx_ros.diffusion.config import DiffusionConfig

_TEXT_TOKENS = 512


class WanAdapter:
    """``WanImageToVideoPipeline`` with ``last_image``."""

    trained_frames = 81

    @staticmethod
    def pipeline_class() -> Any:
        """Of diffusers."""
        from diffusers import WanImageToVideoPipeline

        return WanImageToVideoPipeline

    @staticmethod
    def precisions(dtype: torch.dtype) -> dict[str, torch.dtype]:
        """The autoencoder's pictures suffer from half precision."""
        return {"default": dtype, "vae": torch.float32}

    def frame_group(self, pipeline: Any) -> int:
        """Frames per latent frame after the first."""
        return int(pipeline.vae_scale_factor_temporal)

    def multiple(self, pipeline: Any) -> int:
        """Of width and height."""
        transformer = pipeline.transformer if pipeline.transformer is not None else pipeline.transformer_2
        return max(16, int(pipeline.vae_scale_factor_spatial * transformer.config.patch_size[1]))

    def check_place(self, pipeline: Any, second_frame: int, frames: int) -> None:
        """The second picture can only be the last frame, and only some weights look at it."""
        if second_frame != frames - 1:
            raise InvalidInputError(
                "Wan takes its second picture as the last frame only, expected diffusion.path 'between'"
            )
        if pipeline.config.expand_timesteps:
            raise InvalidInputError(
                "these Wan weights (expand_timesteps) look at the first picture only, expected Wan 2.1 FLF2V"
            )

    def check_schedule(self, pipeline: Any, guided: bool) -> None:
        """Guidance needs to know signal and noise of a step: flow matching."""
        config = pipeline.scheduler.config
        flow = "FlowMatch" in type(pipeline.scheduler).__name__ or bool(config.get("use_flow_sigmas", False))
        if guided and not flow:
            raise InvalidInputError(
                f"the scheduler is {type(pipeline.scheduler).__name__}, expected flow matching for render guidance"
            )

    def run(
        self, pipeline: Any, request: ClipRequest, config: DiffusionConfig, step_end: Callable[..., Any]
    ) -> torch.Tensor:
        """Frames [T, H, W, 3] in [0, 1]."""
        video = pipeline(
            image=_picture(request.first),
            last_image=_picture(request.second),
            prompt_embeds=_text(pipeline, config.prompt),
            negative_prompt_embeds=_text(pipeline, config.negative_prompt),
            height=config.height,
            width=config.width,
            num_frames=len(request.trajectory),
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
        mean, deviation = (
            torch.tensor(values, device=codes.device, dtype=codes.dtype).view(1, -1, 1, 1, 1)
            for values in (pipeline.vae.config.latents_mean, pipeline.vae.config.latents_std)
        )
        scaled: torch.Tensor = (codes - mean) / deviation
        return scaled

    def packed(self, pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
        """The sampler's layout is the autoencoder's."""
        return latents

    def first_free_token(self, latents: torch.Tensor, clean: torch.Tensor) -> int:
        """Nothing stands before the video's latents."""
        return 0


def _text(pipeline: Any, prompt: str) -> torch.Tensor:
    """Embeddings [1, 512, D] of a prompt, zero past its end, as the weights were trained.

    The pipeline would make the same ones, but cannot without the package ftfy, which repairs broken Unicode.
    """
    told = pipeline.tokenizer(
        " ".join(prompt.split()),
        padding="max_length",
        max_length=_TEXT_TOKENS,
        truncation=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    device = pipeline._execution_device
    mask = told.attention_mask.to(device)
    with torch.no_grad():
        states = pipeline.text_encoder(told.input_ids.to(device), mask).last_hidden_state
    embeddings: torch.Tensor = states * mask[..., None].to(states.dtype)
    return embeddings


def _picture(picture: torch.Tensor) -> Any:
    """[H, W, 3] in [0, 1] as PIL, which the image processor of CLIP and the pipeline both take."""
    from PIL import Image

    return Image.fromarray((picture * 255).round().to(torch.uint8).cpu().numpy())
