"""Transformer blocks with rotary positions: the parts of the encoder and of the two decoders.

Shapes: B batch, S tokens, D features, A attention heads, F features per head. Names of submodules are the published
checkpoint's names.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import nn

_NORM_EPS = 1e-6


def grid_positions(rows: int, columns: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """(row, column) of each token of a grid, row by row: [S, 2] float32."""
    row = torch.arange(rows, device=device, dtype=torch.float32)
    column = torch.arange(columns, device=device, dtype=torch.float32)
    return torch.stack(torch.meshgrid(row, column, indexing="ij"), dim=-1).reshape(-1, 2)


class Rotary:
    """Rotary embedding of two-dimensional positions (RoPE, Su et al. 2021, one half of the features per axis).

    The first half of each head's features turns with the row, the second with the column. Within a half of G features,
    feature k and feature k + G / 2 form the pair that turns by ``position * base ** (-2 k / G)``.

    Args:
        positions: [S, 2] rows and columns.
        head_dim: F, a multiple of four.
        base: of the frequencies; 100 in the published networks.

    Attributes:
        cos, sin: [S, F] float32.
    """

    def __init__(self, positions: torch.Tensor, head_dim: int, base: float) -> None:
        half = head_dim // 2
        exponent = torch.arange(0, half, 2, device=positions.device, dtype=torch.float32) / half
        angles = positions[:, :, None] * base**-exponent  # [S, 2, F / 4]
        angles = torch.cat([angles, angles], dim=-1).flatten(1)  # [S, F]
        self.cos, self.sin = angles.cos(), angles.sin()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Turned features [..., S, F]; computed in float32, returned in the type of the input."""
        values = x.float()
        first, second = values.unflatten(-1, (2, 2, -1)).unbind(-2)  # each [..., S, 2, F / 4]
        turned = torch.stack([-second, first], dim=-2).flatten(-3)
        return (values * self.cos + turned * self.sin).to(x.dtype)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, S, D] to [B, S, D]."""
        return self.fc2(nnf.gelu(self.fc1(x)))


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, S, A F] to [B, A, S, F]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _joined(x: torch.Tensor) -> torch.Tensor:
    """[B, A, S, F] to [B, S, A F]."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head attention of a set of tokens to itself."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """[B, S, D] to [B, S, D]."""
        q, k, v = (_split(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.proj(_joined(nnf.scaled_dot_product_attention(rotary(q), rotary(k), v)))


class CrossAttention(nn.Module):
    """Multi-head attention of one view's tokens to the other view's."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projq = nn.Linear(dim, dim)
        self.projk = nn.Linear(dim, dim)
        self.projv = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, memory: torch.Tensor, rotary: Rotary, memory_rotary: Rotary) -> torch.Tensor:
        """[B, S, D] attending to [B, M, D], to [B, S, D]."""
        q = rotary(_split(self.projq(x), self.heads))
        k = memory_rotary(_split(self.projk(memory), self.heads))
        v = _split(self.projv(memory), self.heads)
        return self.proj(_joined(nnf.scaled_dot_product_attention(q, k, v)))


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.mlp = Mlp(dim, mlp_ratio * dim)

    def forward(self, x: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """[B, S, D] to [B, S, D]."""
        x = x + self.attn(self.norm1(x), rotary)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Pre-norm self-attention, cross-attention to the other view, and MLP."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.norm_y = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.mlp = Mlp(dim, mlp_ratio * dim)

    def forward(self, x: torch.Tensor, other: torch.Tensor, rotary: Rotary, other_rotary: Rotary) -> torch.Tensor:
        """[B, S, D] with the other view's [B, M, D], to [B, S, D]."""
        memory = self.norm_y(other)
        x = x + self.attn(self.norm1(x), rotary)
        x = x + self.cross_attn(self.norm2(x), memory, rotary, other_rotary)
        return x + self.mlp(self.norm3(x))


def norm(dim: int) -> nn.LayerNorm:
    """The layer norm of these networks."""
    return nn.LayerNorm(dim, eps=_NORM_EPS)
