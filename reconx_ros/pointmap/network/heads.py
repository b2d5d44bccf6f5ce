"""From decoder tokens to points and confidences: a linear head and a dense-prediction head (DPT).

Shapes: B batch, S = R C tokens of a grid of R rows and C columns, D features, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import nn

_CHANNELS = 4  # x, y, z, confidence
_LEVEL_WIDTHS = (96, 192, 384, 768)
_FUSION_WIDTH = 256
_LAST_WIDTH = 128
_MIN_DISTANCE = 1e-8


def points_and_confidence(raw: torch.Tensor, conf_min: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and confidences of raw head outputs.

    The direction of (x, y, z) is the ray, its length d becomes the distance ``exp(d) - 1``; the confidence is
    ``conf_min + exp(c)``.

    Args:
        raw: [B, 4, H, W].
        conf_min: lower end of the confidence.

    Returns:
        Points [B, H, W, 3] in the frame of the first view, up to scale, and confidences [B, H, W] > conf_min.
    """
    raw = raw.permute(0, 2, 3, 1)
    xyz = raw[..., :3]
    distance = xyz.norm(dim=-1, keepdim=True)
    points = xyz / distance.clamp_min(_MIN_DISTANCE) * torch.expm1(distance)
    return points, conf_min + raw[..., 3].exp()


class LinearHead(nn.Module):
    """One linear layer per token, whose outputs are laid out as the pixels of the patch."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(dim, _CHANNELS * patch_size**2)

    def forward(self, levels: Sequence[torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        """The last of the tokens [B, S, D] to raw outputs [B, 4, H, W]."""
        tokens = self.proj(levels[-1]).transpose(1, 2).unflatten(2, grid)  # [B, 4 p p, R, C]
        return nnf.pixel_shuffle(tokens, self.patch_size)


class DptHead(nn.Module):
    """Dense-prediction transformer head (Ranftl et al., ICCV 2021) on four levels of tokens.

    Args:
        enc_dim: features of the first level, the encoder's output.
        dec_dim: features of the three others, outputs of decoder layers.
    """

    def __init__(self, enc_dim: int, dec_dim: int) -> None:
        super().__init__()
        self.dpt = _Dpt(enc_dim, dec_dim)

    def forward(self, levels: Sequence[torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        """Four levels of tokens [B, S, D] to raw outputs [B, 4, H, W]."""
        return self.dpt(levels, grid)


class _Dpt(nn.Module):
    def __init__(self, enc_dim: int, dec_dim: int) -> None:
        super().__init__()
        self.act_postprocess = nn.ModuleList(_level_layers(enc_dim, dec_dim))
        self.scratch = _Scratch()
        self.head = nn.Sequential(
            _conv3(_FUSION_WIDTH, _LAST_WIDTH),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            _conv3(_LAST_WIDTH, _LAST_WIDTH),
            nn.ReLU(),
            nn.Conv2d(_LAST_WIDTH, _CHANNELS, 1),
        )

    def forward(self, levels: Sequence[torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        maps = [
            layers(tokens.transpose(1, 2).unflatten(2, grid))
            for tokens, layers in zip(levels, self.act_postprocess, strict=True)
        ]
        return self.head(self.scratch(maps))


def _conv3(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


def _level_layers(enc_dim: int, dec_dim: int) -> list[nn.Sequential]:
    """Per level: tokens at patch resolution to feature maps at 4, 2, 1 and 1/2 times that resolution."""
    a, b, c, d = _LEVEL_WIDTHS
    return [
        nn.Sequential(nn.Conv2d(enc_dim, a, 1), nn.ConvTranspose2d(a, a, 4, stride=4)),
        nn.Sequential(nn.Conv2d(dec_dim, b, 1), nn.ConvTranspose2d(b, b, 2, stride=2)),
        nn.Sequential(nn.Conv2d(dec_dim, c, 1)),
        nn.Sequential(nn.Conv2d(dec_dim, d, 1), _conv3(d, d, stride=2)),
    ]


class _Scratch(nn.Module):
    """Maps of four levels fused from the coarsest to the finest."""

    def __init__(self) -> None:
        super().__init__()
        for number, width in enumerate(_LEVEL_WIDTHS, start=1):
            self.add_module(f"layer{number}_rn", _conv3(width, _FUSION_WIDTH, bias=False))
            self.add_module(f"refinenet{number}", _Fusion(_FUSION_WIDTH))

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps [B, *, R k, C k] with k = 4, 2, 1, 1/2, to [B, 256, 8 R, 8 C]."""
        path: torch.Tensor | None = None
        for number in (4, 3, 2, 1):
            level = self.get_submodule(f"layer{number}_rn")(maps[number - 1])
            if path is not None:  # an odd number of rows was rounded up on the coarser level
                path = path[..., : level.shape[-2], : level.shape[-1]]
            path = self.get_submodule(f"refinenet{number}")(level, path)
        assert path is not None
        return path


class _ResidualUnit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _conv3(width, width)
        self.conv2 = _conv3(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(nnf.relu(self.conv1(nnf.relu(x))))


class _Fusion(nn.Module):
    """Adds a level to what comes from the coarser ones and doubles the resolution.

    The first unit of the coarsest level has nothing to act on: its weights are in every checkpoint, unused.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resConfUnit1 = _ResidualUnit(width)
        self.resConfUnit2 = _ResidualUnit(width)
        self.out_conv = nn.Conv2d(width, width, 1)

    def forward(self, level: torch.Tensor, coarser: torch.Tensor | None) -> torch.Tensor:
        fused = level if coarser is None else coarser + self.resConfUnit1(level)
        fused = self.resConfUnit2(fused)
        return self.out_conv(nnf.interpolate(fused, scale_factor=2, mode="bilinear", align_corners=True))
