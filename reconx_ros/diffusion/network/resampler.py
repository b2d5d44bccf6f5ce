"""Image tokens for every frame out of one picture's CLIP tokens (DynamiCrafter's Perceiver resampler)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import nn

from reconx_ros.core import ConfigError, check_shape
from reconx_ros.diffusion.network.attention import attend


@dataclass(frozen=True, kw_only=True)
class ResamplerConfig:
    """Sizes of the resampler; the defaults are those of the public weights.

    Attributes:
        width: inside.
        depth: layers.
        head_dim: channels of an attention head.
        heads: attention heads.
        queries: tokens per frame.
        frames: frames that the weights were trained on.
        width_in: of the picture's tokens.
        width_out: of the result.
        ff_factor: hidden width of the feed-forward layers in ``width``.
    """

    width: int = 1024
    depth: int = 4
    head_dim: int = 64
    heads: int = 12
    queries: int = 16
    frames: int = 16
    width_in: int = 1280
    width_out: int = 1024
    ff_factor: int = 4

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 1:
                raise ConfigError(f"resampler's {name} is {getattr(self, name)}, expected at least 1")


class ResamplerLayer(nn.Module):
    """Latents ask the picture's tokens and themselves, then a feed-forward layer; no biases but in the norms."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        inner, hidden = config.heads * config.head_dim, config.ff_factor * config.width
        self.heads = config.heads
        self.norm_tokens, self.norm_latents = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.to_q = nn.Linear(config.width, inner, bias=False)
        self.to_kv = nn.Linear(config.width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, config.width, bias=False)
        self.norm_ff = nn.LayerNorm(config.width)
        self.ff_in = nn.Linear(config.width, hidden, bias=False)
        self.ff_out = nn.Linear(hidden, config.width, bias=False)

    def forward(self, tokens: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Tokens [B, N, D] and latents [B, M, D] to new latents [B, M, D]."""
        normal = self.norm_latents(latents)
        k, v = self.to_kv(torch.cat([self.norm_tokens(tokens), normal], dim=1)).chunk(2, dim=-1)
        latents = latents + self.to_out(attend(self.to_q(normal), k, v, self.heads))
        return latents + self.ff_out(nnf.gelu(self.ff_in(self.norm_ff(latents))))


class Resampler(nn.Module):
    """Learned latents, some per frame, that read a picture's tokens."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.resampler_config = config
        self.latents = nn.Parameter(torch.randn(1, config.frames * config.queries, config.width) * config.width**-0.5)
        self.proj_in = nn.Linear(config.width_in, config.width)
        self.layers = nn.ModuleList(ResamplerLayer(config) for _ in range(config.depth))
        self.proj_out = nn.Linear(config.width, config.width_out)
        self.norm_out = nn.LayerNorm(config.width_out)

    def forward(self, tokens: torch.Tensor, frames: int | None = None) -> torch.Tensor:
        """Image tokens of every frame.

        For another number of frames than the weights were trained on, each of a frame's latents is interpolated
        linearly over time, end to end. That keeps a trained model usable; it does not make it one of that length.

        Args:
            tokens: [B, N, width_in] of one picture per sequence.
            frames: T; None takes the trained number.

        Returns:
            [B, T, queries, width_out].

        Raises:
            InvalidInputError: for tokens of another width.
        """
        config = self.resampler_config
        check_shape("CLIP image tokens", tokens, "B", "*", config.width_in)
        frames = frames or config.frames
        x = self._latents_for(frames).expand(tokens.shape[0], -1, -1)
        tokens = self.proj_in(tokens)
        for layer in self.layers:
            x = layer(tokens, x)
        return self.norm_out(self.proj_out(x)).unflatten(1, (frames, config.queries))

    def _latents_for(self, frames: int) -> torch.Tensor:
        config = self.resampler_config
        if frames == config.frames:
            return self.latents
        per_frame = self.latents.unflatten(1, (config.frames, config.queries)).flatten(2)  # [1, T, queries * width]
        series = per_frame.transpose(1, 2)
        resized = nnf.interpolate(series.float(), size=frames, mode="linear", align_corners=True).to(series.dtype)
        return resized.transpose(1, 2).reshape(1, frames * config.queries, config.width)
