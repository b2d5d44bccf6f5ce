"""The network: one encoder for both images, two decoders that look at each other, one head per view."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from reconx_ros.core import InvalidInputError
from reconx_ros.pointmap.network.architecture import NetworkConfig
from reconx_ros.pointmap.network.blocks import DecoderBlock, EncoderBlock, Rotary, grid_positions, norm
from reconx_ros.pointmap.network.heads import DptHead, LinearHead, points_and_confidence

_IMAGE_CHANNELS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedImages:
    """Encoded images of one size.

    Attributes:
        tokens: [B, S, D] encoder output, S = rows * columns.
        grid: (rows, columns) of patches.
    """

    tokens: torch.Tensor  # [B, S, D]
    grid: tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class PairOutput:
    """Pointmaps of B pairs, all in the frame of each pair's first camera (OpenCV axes), up to scale.

    Attributes:
        pts3d_1, conf_1: [B, H1, W1, 3] and [B, H1, W1], pixels of the first image.
        pts3d_2, conf_2: [B, H2, W2, 3] and [B, H2, W2], pixels of the second image, points still in the first frame.
    """

    pts3d_1: torch.Tensor  # [B, H1, W1, 3]
    conf_1: torch.Tensor  # [B, H1, W1]
    pts3d_2: torch.Tensor  # [B, H2, W2, 3]
    conf_2: torch.Tensor  # [B, H2, W2]


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(_IMAGE_CHANNELS, dim, patch_size, stride=patch_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] to [B, S, D], row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


class PointmapNetwork(nn.Module):
    """Pairwise pointmap network of the DUSt3R layout; parameter names are those of the published checkpoints.

    ``mask_token`` belongs to the pre-training of the encoder: it is in every checkpoint and takes no part here.

    Args:
        config: widths, depths and head.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        enc, dec = config.enc_embed_dim, config.dec_embed_dim
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dec))
        self.patch_embed = PatchEmbed(config.patch_size, enc)
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(enc, config.enc_num_heads, config.mlp_ratio) for _ in range(config.enc_depth)
        )
        self.enc_norm = norm(enc)
        self.decoder_embed = nn.Linear(enc, dec)
        self.dec_blocks = _decoder(config)
        self.dec_blocks2 = _decoder(config)
        self.dec_norm = norm(dec)
        self.downstream_head1 = _head(config)
        self.downstream_head2 = _head(config)

    def forward(self, images1: torch.Tensor, images2: torch.Tensor) -> PairOutput:
        """Pointmaps of B pairs.

        Args:
            images1: [B, 3, H1, W1] RGB, values -1 to 1.
            images2: [B, 3, H2, W2] likewise; the size may differ from that of the first images.

        Raises:
            InvalidInputError: for a shape that is not [B, 3, H, W] with sides that are multiples of the patch.
        """
        if images1.shape == images2.shape:
            both = self.encode(torch.cat([images1, images2]))
            first, second = (EncodedImages(tokens=t, grid=both.grid) for t in both.tokens.chunk(2))
        else:
            first, second = self.encode(images1), self.encode(images2)
        return self.decode(first, second)

    def encode(self, images: torch.Tensor) -> EncodedImages:
        """Encode images [B, 3, H, W] of one size.

        Raises:
            InvalidInputError: as ``forward``.
        """
        grid = self._grid(images)
        rotary = self._rotary(grid, self.config.enc_embed_dim // self.config.enc_num_heads, images.device)
        x = self.patch_embed(images)
        for block in self.enc_blocks:
            x = block(x, rotary)
        return EncodedImages(tokens=self.enc_norm(x), grid=grid)

    def decode(self, first: EncodedImages, second: EncodedImages) -> PairOutput:
        """Pointmaps of B pairs of encoded images."""
        levels1, levels2 = self.decoder_levels(first, second)
        with _full_precision(first.tokens.device):
            raw1 = self.downstream_head1([level.float() for level in levels1], first.grid)
            raw2 = self.downstream_head2([level.float() for level in levels2], second.grid)
            points1, conf1 = points_and_confidence(raw1, self.config.conf_min)
            points2, conf2 = points_and_confidence(raw2, self.config.conf_min)
        return PairOutput(pts3d_1=points1, conf_1=conf1, pts3d_2=points2, conf_2=conf2)

    def decoder_levels(
        self, first: EncodedImages, second: EncodedImages
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What the heads read, per view: encoder output (level 0) or outputs [B, S, D] of decoder layers."""
        head_dim = self.config.dec_embed_dim // self.config.dec_num_heads
        rotary1 = self._rotary(first.grid, head_dim, first.tokens.device)
        rotary2 = self._rotary(second.grid, head_dim, second.tokens.device)
        wanted, last = self.config.hooks, self.config.dec_depth
        x1, x2 = self.decoder_embed(first.tokens), self.decoder_embed(second.tokens)
        levels1, levels2 = ([first.tokens], [second.tokens]) if 0 in wanted else ([], [])
        for number, (block1, block2) in enumerate(zip(self.dec_blocks, self.dec_blocks2, strict=True), start=1):
            x1, x2 = block1(x1, x2, rotary1, rotary2), block2(x2, x1, rotary2, rotary1)
            if number in wanted:
                levels1.append(self.dec_norm(x1) if number == last else x1)
                levels2.append(self.dec_norm(x2) if number == last else x2)
        return levels1, levels2

    def _rotary(self, grid: tuple[int, int], head_dim: int, device: torch.device) -> Rotary:
        return Rotary(grid_positions(*grid, device), head_dim, self.config.rope_base)

    def _grid(self, images: torch.Tensor) -> tuple[int, int]:
        patch = self.config.patch_size
        if images.ndim != 4 or images.shape[1] != _IMAGE_CHANNELS:
            raise InvalidInputError(f"network images have shape {list(images.shape)}, expected [B, 3, H, W]")
        height, width = images.shape[2:]
        if height % patch or width % patch or not height or not width:
            raise InvalidInputError(f"network image is {width}x{height}, expected sides that are multiples of {patch}")
        return height // patch, width // patch


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Float32 within a block that computes in half precision; the meta device knows no precision."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def _decoder(config: NetworkConfig) -> nn.ModuleList:
    return nn.ModuleList(
        DecoderBlock(config.dec_embed_dim, config.dec_num_heads, config.mlp_ratio) for _ in range(config.dec_depth)
    )


def _head(config: NetworkConfig) -> nn.Module:
    if config.head_type == "dpt":
        return DptHead(config.enc_embed_dim, config.dec_embed_dim)
    return LinearHead(config.dec_embed_dim, config.patch_size)
