"""Building blocks of the video network: residual, temporal and resampling layers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from torch import nn

from reconx_ros.diffusion.network.attention import (
    AttentionContext,
    EpipolarAttention,
    SpatialTransformer,
    TemporalTransformer,
    frames_to_video,
    video_to_frames,
    zero_module,
)

_MAX_PERIOD = 10000.0


def sinusoidal_embedding(values: torch.Tensor, width: int) -> torch.Tensor:
    """Cosines, then sines of values [B] at ``width / 2`` frequencies from 1 down to 1/10000; [B, width] float32."""
    half = width // 2
    frequencies = torch.exp(-math.log(_MAX_PERIOD) * torch.arange(half, device=values.device) / half)
    angles = values[:, None].float() * frequencies[None]
    return nnf.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, width % 2))


class ScalarEmbedding(nn.Module):
    """A number per sequence (time step, frames per second) to a vector."""

    def __init__(self, basis: int, width: int) -> None:
        super().__init__()
        self.basis = basis
        self.linear1 = nn.Linear(basis, width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """[B] to [B, width]."""
        embedded = sinusoidal_embedding(values, self.basis).to(self.linear1.weight.dtype)
        return self.linear2(nnf.silu(self.linear1(embedded)))


class TemporalConv(nn.Module):
    """Four convolutions over 3 frames, added; the last starts at zero."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(32, channels) for _ in range(4))
        self.convs = nn.ModuleList(nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0)) for _ in range(4))
        self.dropout = nn.Dropout(dropout)
        zero_module(self.convs[-1])

    def forward(self, x: torch.Tensor, batch: int) -> torch.Tensor:
        """[B * T, C, H, W] to the same shape."""
        video = frames_to_video(x, batch)
        for i, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            hidden = nnf.silu(norm(video))
            video = conv(self.dropout(hidden) if i else hidden)
        return x + video_to_frames(video)


class ResBlock(nn.Module):
    """Two 3x3 convolutions with the embedding added between, then the temporal convolutions."""

    def __init__(self, channels_in: int, channels: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, channels_in), nn.Conv2d(channels_in, channels, 3, padding=1)
        self.embedding = nn.Linear(embedding, channels)
        self.norm2 = nn.GroupNorm(32, channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_module(nn.Conv2d(channels, channels, 3, padding=1))
        self.skip = nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1)
        self.temporal = TemporalConv(channels, dropout)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor, batch: int) -> torch.Tensor:
        """[B * T, C, H, W] and the embedding [B, E] to [B * T, C', H, W]."""
        hidden = self.conv1(nnf.silu(self.norm1(x)))
        shift = self.embedding(nnf.silu(embedding)).repeat_interleave(x.shape[0] // batch, dim=0)
        hidden = nnf.silu(self.norm2(hidden + shift[:, :, None, None]))
        return self.temporal(self.skip(x) + self.conv2(self.dropout(hidden)), batch)


class VideoBlock(nn.Module):
    """A residual block and, where the level has them, attention within frames, along lines and along time."""

    def __init__(
        self,
        res: ResBlock,
        spatial: SpatialTransformer | None = None,
        temporal: TemporalTransformer | None = None,
        epipolar: EpipolarAttention | None = None,
        level: int = 0,
    ) -> None:
        super().__init__()
        self.level = level
        self.res, self.spatial, self.epipolar, self.temporal = res, spatial, epipolar, temporal

    def forward(self, x: torch.Tensor, embedding: torch.Tensor, context: AttentionContext) -> torch.Tensor:
        """[B * T, C, H, W] to [B * T, C', H, W]."""
        x = self.res(x, embedding, context.batch)
        if self.spatial is not None:
            x = self.spatial(x, context)
        if self.epipolar is not None and self.level in context.epipolar:
            x = self.epipolar(x, context.epipolar[self.level], context)
        return x if self.temporal is None else self.temporal(x, context)


class Downsample(nn.Module):
    """Halves the picture: 3x3 convolution with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] to [N, C, H / 2, W / 2]."""
        return self.conv(x)


class Upsample(nn.Module):
    """Doubles the picture: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] to [N, C, 2 H, 2 W]."""
        return self.conv(nnf.interpolate(x, scale_factor=2.0, mode="nearest"))
