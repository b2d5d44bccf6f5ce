"""The scene's points as tokens that the video network can attend to (ReconX, arXiv:2408.16767, eq. 3 and appendix B).

``F_P = Transformer( CrossAttn( PosEmb(FPS(P)), PosEmb(P) ) )``: the queries are L points that cover the cloud, keys and
values are all its points. The paper gives neither L nor width nor depth; those of ``StructureConfig`` are ours.

Points are centred and scaled to unit mean distance first, so the tokens do not change when the scene is moved or
scaled, nor when its points are reordered. They do change when it is rotated: the embedding works axis by axis. Give
points in the frame of the first camera, as the ray maps are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from reconx_ros.core import ConfigError, InvalidInputError, check_finite, check_shape
from reconx_ros.diffusion.network.attention import FeedForward, SelfAttention, attend
from reconx_ros.geometry.sampling import farthest_points


@dataclass(frozen=True, kw_only=True)
class StructureConfig:
    """Sizes of the structure encoder.

    Attributes:
        tokens: L, number of sampled points, one token each; fewer where the cloud has fewer points.
        width: of the tokens.
        depth: transformer layers on top.
        head_dim: channels of an attention head.
        frequencies: of the sinusoidal basis ``[2^0 pi, 2^1 pi, ...]``, per axis.
        chunk: points whose keys and values exist at one time.
        dropout: while training.
        centred: move the middle of the cloud to the origin first. False leaves the first camera there, so that the
            direction in which the camera sees a point, and on which side of it the cloud lies, can be read off it.

    Raises:
        ConfigError: for sizes that do not fit each other.
    """

    tokens: int = 1024
    width: int = 512
    depth: int = 4
    head_dim: int = 64
    frequencies: int = 8
    chunk: int = 4096
    dropout: float = 0.0
    centred: bool = True

    def __post_init__(self) -> None:
        for name in ("tokens", "width", "head_dim", "frequencies", "chunk"):
            if getattr(self, name) < 1:
                raise ConfigError(f"structure encoder's {name} is {getattr(self, name)}, expected at least 1")
        if self.width % self.head_dim:
            raise ConfigError(f"structure encoder's width is {self.width}, expected a multiple of {self.head_dim}")


def normalize_points(
    points: torch.Tensor, mask: torch.Tensor | None = None, *, centred: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre a cloud and scale it to unit mean distance from the centre.

    Args:
        points: [B, P, 3].
        mask: [B, P] bool, True where a point counts; None when all do.
        centred: False leaves the origin where it is; distances are then from there.

    Returns:
        (points [B, P, 3], zero where masked; the mean distance [B] that they were divided by, 1 where all coincide).
    """
    weight = torch.ones_like(points[..., :1]) if mask is None else mask[..., None].to(points.dtype)
    points = torch.where(weight > 0, points, 0.0)
    count = weight.sum(dim=1, keepdim=True).clamp_min(1)
    middle = points.sum(dim=1, keepdim=True) / count if centred else torch.zeros_like(points[:, :1])
    moved = (points - middle) * weight
    mean = torch.linalg.vector_norm(moved, dim=-1, keepdim=True).sum(dim=1, keepdim=True) / count
    mean = torch.where(mean > 0, mean, 1.0)
    return moved / mean, mean[:, 0, 0]


class PointEmbedding(nn.Module):
    """Sines and cosines of each coordinate at doubling frequencies, the coordinate itself, then two linear layers."""

    def __init__(self, frequencies: int, width: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.linear1 = nn.Linear(3 * (2 * frequencies + 1), width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """[..., 3] to [..., D]."""
        basis = math.pi * 2.0 ** torch.arange(self.frequencies, device=points.device)
        angles = (points.float()[..., None] * basis).flatten(-2)  # [..., 3 * frequencies]
        features = torch.cat([angles.sin(), angles.cos(), points.float()], dim=-1).to(self.linear1.weight.dtype)
        return self.linear2(nn.functional.gelu(self.linear1(features)))


class PointAttention(nn.Module):
    """Sampled points ask all points. Keys and values exist for one chunk at a time; the softmax is carried along."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.heads = width // head_dim
        self.norm_q, self.norm_kv = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def reference(
        self, queries: torch.Tensor, points: torch.Tensor, mask: torch.Tensor, embed: PointEmbedding
    ) -> torch.Tensor:
        """The readable twin of ``forward``: all keys at once. Same arguments."""
        keys = self.norm_kv(embed(points))
        seen = attend(self.to_q(self.norm_q(queries)), self.to_k(keys), self.to_v(keys), self.heads, mask[:, None])
        return queries + self.to_out(seen)

    def forward(
        self, queries: torch.Tensor, points: torch.Tensor, mask: torch.Tensor, embed: PointEmbedding, chunk: int
    ) -> torch.Tensor:
        """Attention with O(L * chunk) memory, gradients included.

        Args:
            queries: [B, L, D] embedded sampled points.
            points: [B, P, 3] normalised.
            mask: [B, P] bool, at least one True per cloud.
            embed: makes keys of points.
            chunk: points at one time.

        Returns:
            [B, L, D], the queries with what they saw added.
        """
        q = self.to_q(self.norm_q(queries)).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, L, d]
        q = q.float() * q.shape[-1] ** -0.5
        peak = torch.full_like(q[..., :1], -torch.inf)
        total, state = torch.zeros_like(peak), torch.zeros_like(q)
        for start in range(0, points.shape[1], chunk):
            part, seen = points[:, start : start + chunk], mask[:, start : start + chunk]
            arguments = (q, peak, total, state, part, seen, embed)
            if torch.is_grad_enabled():
                peak, total, state = checkpoint(self._step, *arguments, use_reentrant=False)
            else:
                peak, total, state = self._step(*arguments)
        out = (state / total).transpose(1, 2).flatten(2)
        return queries + self.to_out(out.to(queries.dtype))

    def _step(
        self,
        q: torch.Tensor,
        peak: torch.Tensor,
        total: torch.Tensor,
        state: torch.Tensor,
        points: torch.Tensor,
        seen: torch.Tensor,
        embed: PointEmbedding,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Online softmax (Milakov and Gimelshein, arXiv:1805.02867): fold one chunk of keys into the running sums."""
        tokens = self.norm_kv(embed(points))
        k, v = (f(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2).float() for f in (self.to_k, self.to_v))
        logits = (q @ k.transpose(-1, -2)).masked_fill(~seen[:, None, None], -torch.inf)  # [B, H, L, chunk]
        new_peak = torch.maximum(peak, logits.amax(dim=-1, keepdim=True).detach())
        shift = torch.where(new_peak == -torch.inf, 0.0, new_peak)  # no key seen so far
        keep, weights = torch.exp(peak - shift), torch.exp(logits - shift)
        return new_peak, keep * total + weights.sum(dim=-1, keepdim=True), keep * state + weights @ v


class StructureLayer(nn.Module):
    """One layer of the transformer on top: self-attention and a feed-forward layer over the L tokens."""

    def __init__(self, width: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), SelfAttention(width, width // head_dim, head_dim)
        self.norm2, self.ff = nn.LayerNorm(width), FeedForward(width, dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, L, D] to the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.ff(self.norm2(x))


class StructureEncoder(nn.Module):
    """See the top of this module."""

    def __init__(self, config: StructureConfig) -> None:
        super().__init__()
        self.structure_config = config
        self.embed = PointEmbedding(config.frequencies, config.width)
        self.cross = PointAttention(config.width, config.head_dim)
        self.layers = nn.ModuleList(
            StructureLayer(config.width, config.head_dim, config.dropout) for _ in range(config.depth)
        )
        self.norm_out = nn.LayerNorm(config.width)

    def forward(self, points: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Structure tokens of clouds.

        Args:
            points: [B, P, 3] in any unit, in the frame of the first camera.
            mask: [B, P] bool, True where a point counts; None when all do.

        Returns:
            [B, min(L, P), D]. Where a cloud has fewer valid points than tokens, its first token repeats.

        Raises:
            InvalidInputError: for an empty cloud, or a valid point that is not finite.
        """
        config = self.structure_config
        check_shape("points", points, "B", "P", 3)
        if not points.shape[1]:
            raise InvalidInputError("structure condition has no points, expected at least 1; None runs without it")
        mask = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device) if mask is None else mask
        check_finite("points", torch.where(mask[..., None], points, 0.0))
        normal, _ = normalize_points(points.float(), mask, centred=config.centred)
        chosen = farthest_points(normal, min(config.tokens, points.shape[1]), mask)
        queries = self.embed(normal.gather(1, chosen[..., None].expand(-1, -1, 3)))
        x = self.cross(queries, normal, mask, self.embed, config.chunk)
        for layer in self.layers:
            x = layer(x)
        return self.norm_out(x)
