"""The completion network: picture and evidence in, logarithm of depth and its uncertainty out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import nn

from reconx_ros.core import InvalidInputError, check_shape
from reconx_ros.pointmap.completion.inputs import CHANNELS, MULTIPLE, SMOOTH_CHANNELS
from reconx_ros.pointmap.completion.picture_encoder import LEVEL_CHANNELS, PictureEncoder

MIN_LOG_SCALE, MAX_LOG_SCALE = math.log(2e-3), math.log(2.0)
_LOG_REACH = 3.5  # the logarithm of depth over the unit stays within +- this


@dataclass(frozen=True, kw_only=True)
class CompletionConfig:
    """Sizes of the network.

    Attributes:
        size: longer side in pixels of the grid that it was trained on.
        widths: features at 1/2, 1/4, 1/8 and 1/16 of the grid.
        layers: attention blocks at 1/16.
        heads: of each attention block.
        channels: names of the inputs beside the picture, in order.
    """

    size: int = 256
    widths: tuple[int, int, int, int] = (32, 48, 80, 176)
    layers: int = 4
    heads: int = 4
    channels: tuple[str, ...] = CHANNELS

    def as_arguments(self) -> dict[str, Any]:
        """Plain values, as the card holds them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_arguments(cls, values: dict[str, Any]) -> CompletionConfig:
        """The configuration of a card.

        Raises:
            InvalidInputError: for names that are not known, or inputs that this version does not make.
        """
        try:
            plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            config = cls(**plain)
        except TypeError as err:
            raise InvalidInputError(f"description of a completion network is wrong: {err}") from None
        if config.channels != CHANNELS:
            raise InvalidInputError(
                f"completion network wants the inputs {', '.join(config.channels)}, expected {', '.join(CHANNELS)}"
            )
        return config


@dataclass(frozen=True, kw_only=True, eq=False)
class CompletedDepth:
    """The network's output for B views.

    Attributes:
        log_depth: [B, H, W] natural logarithm of depth over the network's unit.
        log_scale: [B, H, W] natural logarithm of the Laplace scale of ``log_depth``.
    """

    log_depth: torch.Tensor  # [B, H, W]
    log_scale: torch.Tensor  # [B, H, W]


class CompletionNetwork(nn.Module):
    """A U-Net on evidence with features of the picture at every scale, and attention over the whole view at 1/16.

    Each pixel's depth lies between what the network says by itself and the smooth guess among its inputs, by a share
    that it chooses: where surfaces go on as they were measured, the smooth guess is hard to beat.

    Args:
        config: sizes.
    """

    def __init__(self, config: CompletionConfig) -> None:
        super().__init__()
        self.config = config
        w2, w4, w8, w16 = config.widths
        p2, p4, p8, p16 = LEVEL_CHANNELS
        self.picture = PictureEncoder()
        self.stem = nn.Conv2d(len(config.channels) + 3, w2, 3, stride=2, padding=1)
        self.down2 = _Residual(w2 + p2, w2)
        self.down4 = _Residual(w2 + p4, w4, stride=2, skip=p4)
        self.down8 = _Residual(w4 + p8, w8, stride=2, skip=p8)
        self.down16 = _Residual(w8 + p16, w16, stride=2, skip=p16)
        self.attention = nn.ModuleList(_Attention(w16, config.heads) for _ in range(config.layers))
        self.up8, self.up4, self.up2 = _Up(w16, w8), _Up(w8, w4), _Up(w4, w2)
        self.head = nn.Conv2d(w2, 12, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(
        self, rgb: torch.Tensor, channels: torch.Tensor, features: list[torch.Tensor] | None = None
    ) -> CompletedDepth:
        """Depth of every pixel.

        Args:
            rgb: [B, 3, H, W] in [0, 1], sides multiples of 16.
            channels: [B, C, H, W], as ``inputs.channels`` makes them.
            features: of the pictures, from ``picture``, where they are known from an earlier pass.

        Raises:
            InvalidInputError: for other shapes.
        """
        dims = check_shape("completion pictures", rgb, "B", 3, "H", "W")
        check_shape("completion channels", channels, "B", len(self.config.channels), "H", "W", dims=dims)
        if dims["H"] % MULTIPLE or dims["W"] % MULTIPLE:
            raise InvalidInputError(f"completion grid is {dims['W']}x{dims['H']}, expected multiples of {MULTIPLE}")
        seen = self.picture(rgb) if features is None else features
        x2 = self.down2(torch.cat([self.stem(torch.cat([rgb - 0.5, channels], dim=1)), seen[0]], dim=1))
        x4 = self.down4(x2, seen[1])
        x8 = self.down8(x4, seen[2])
        x16 = self.down16(x8, seen[3])
        for block in self.attention:
            x16 = block(x16)
        y = self.up2(self.up4(self.up8(x16, x8), x4), x2)
        out = nnf.pixel_shuffle(self.head(y), 2).float()  # [B, 3, H, W]
        own = _LOG_REACH * torch.tanh(out[:, 0] / _LOG_REACH)
        known, smooth = (channels[:, CHANNELS.index(name)].float() for name in SMOOTH_CHANNELS)
        share = known * torch.sigmoid(out[:, 2])
        return CompletedDepth(
            log_depth=own + share * (smooth - own),
            log_scale=_within(out[:, 1] - 2.5, MIN_LOG_SCALE, MAX_LOG_SCALE),
        )


def _within(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """A smooth clamp that keeps a gradient everywhere."""
    return low + (high - low) * torch.sigmoid(4 * (x - (low + high) / 2) / (high - low))


class _Residual(nn.Module):
    """Two convolutions beside a projection; features of the picture join after the first where they are given."""

    def __init__(self, before: int, after: int, *, stride: int = 1, skip: int = 0) -> None:
        super().__init__()
        self.first = nn.Conv2d(before - skip, after, 3, stride, 1)
        self.norm1 = nn.GroupNorm(8, after)
        self.mixed = nn.Conv2d(after + skip, after, 1) if skip else None
        self.second = nn.Conv2d(after, after, 3, 1, 1)
        self.norm2 = nn.GroupNorm(8, after)
        self.project = nn.Conv2d(before - skip, after, 1, stride)

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        y = nnf.silu(self.norm1(self.first(x)))
        if self.mixed is not None and skip is not None:
            y = self.mixed(torch.cat([y, skip], dim=1))
        y = self.norm2(self.second(y))
        out: torch.Tensor = nnf.silu(y + self.project(x))
        return out


class _Up(nn.Module):
    """Features of a coarse map joined to those of the next finer one."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(coarse, fine, 1)
        self.residual = _Residual(2 * fine, fine)

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        larger = nnf.interpolate(self.project(coarse), scale_factor=2, mode="bilinear", align_corners=False)
        out: torch.Tensor = self.residual(torch.cat([larger, fine], dim=1))
        return out


class _Attention(nn.Module):
    """A transformer block over the pixels of a small map; a depthwise convolution tells where each pixel lies."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.position(x)
        height, width = x.shape[-2:]
        tokens = x.flatten(2).transpose(1, 2)  # [B, N, C]
        q, k, v = self.qkv(self.norm1(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        met = nnf.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(met)
        tokens = tokens + self.narrow(nnf.gelu(self.wide(self.norm2(tokens))))
        return tokens.transpose(1, 2).unflatten(2, (height, width))
