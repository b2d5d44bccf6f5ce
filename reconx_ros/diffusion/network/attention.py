"""Attention of the video network: within a frame, along time, and to what the network is told.

The layers are those of DynamiCrafter (arXiv:2310.12190) and of ReconX, eq. 4 (arXiv:2408.16767). Pictures travel as
[B * T, C, H, W], frames of one sequence beside each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as nnf
from torch import nn


@dataclass(frozen=True, kw_only=True)
class AttentionContext:
    """What the network is told besides the noisy latents; B sequences of T frames.

    Attributes:
        text: [B, M, D] text tokens, shared by all frames.
        image: [B, T, M, D] image tokens of each frame, or [B, M, D] shared by all.
        structure: [B, L, S] structure tokens, shared by all frames; None leaves the branch out.
        structure_mask: [B, L] bool, False where a token is padding; None when all count.
        epipolar: for each level of the network that has the branch, bool [B, T * H * W, R, H * W]: which cells of the R
            reference frames may answer a cell.
        reference_frames: the R frames that the masks of ``epipolar`` speak of.
    """

    text: torch.Tensor
    image: torch.Tensor
    structure: torch.Tensor | None = None
    structure_mask: torch.Tensor | None = None
    epipolar: dict[int, torch.Tensor] = field(default_factory=dict)
    reference_frames: tuple[int, ...] = ()

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return int(self.text.shape[0])


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Multi-head attention of q [N, Q, C] to k, v [N, K, C]; mask bool [N, Q or 1, K], True where seen. [N, Q, C]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    seen = None if mask is None else mask[:, None]
    return nnf.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Attention among the tokens of [N, K, C]."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = nn.Linear(width, inner, bias=False)
        self.to_out = nn.Linear(inner, width)

    def forward(self, x: torch.Tensor, context: AttentionContext | None = None) -> torch.Tensor:
        """[N, K, C] to the same shape; ``context`` is not used."""
        del context
        return self.to_out(attend(self.to_q(x), self.to_k(x), self.to_v(x), self.heads))


class CrossAttention(nn.Module):
    """Attention of a frame's tokens to text, image and structure (ReconX, eq. 4).

    ``F_out = Attn(Q, K_text, V_text) + Attn(Q, K_image, V_image) + tanh(alpha) Attn(Q, K_structure, V_structure)``
    with one Q and one output projection. alpha starts at 0: a new structure branch changes nothing. Structure tokens
    that are all zero add exactly nothing either, since the branch has no biases; this is how the condition is dropped
    for some sequences of a batch.
    """

    def __init__(self, width: int, heads: int, head_dim: int, context_dim: int, structure_dim: int) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(context_dim, inner, bias=False)
        self.to_v = nn.Linear(context_dim, inner, bias=False)
        self.to_k_image = nn.Linear(context_dim, inner, bias=False)
        self.to_v_image = nn.Linear(context_dim, inner, bias=False)
        self.to_out = nn.Linear(inner, width)
        if structure_dim:
            self.to_k_structure = nn.Linear(structure_dim, inner, bias=False)
            self.to_v_structure = nn.Linear(structure_dim, inner, bias=False)
            self.structure_gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor, context: AttentionContext) -> torch.Tensor:
        """[B * T, K, C] to the same shape."""
        q = self.to_q(x)
        everyone = q.reshape(context.batch, -1, q.shape[-1])  # [B, T * K, C]: tokens shared by the frames, not repeated
        out = attend(everyone, self.to_k(context.text), self.to_v(context.text), self.heads).reshape_as(q)
        out = out + self._image(q, everyone, context.image)
        if context.structure is not None:
            out = out + self._structure(everyone, context.structure, context.structure_mask).reshape_as(q)
        return self.to_out(out)

    def _image(self, q: torch.Tensor, everyone: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        per_frame = image.ndim == 4
        tokens = image.flatten(0, 1) if per_frame else image
        k, v = self.to_k_image(tokens), self.to_v_image(tokens)
        return attend(q if per_frame else everyone, k, v, self.heads).reshape_as(q)

    def _structure(self, q: torch.Tensor, structure: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        k, v = self.to_k_structure(structure), self.to_v_structure(structure)
        seen = None if mask is None else mask[:, None]
        return torch.tanh(self.structure_gate) * attend(q, k, v, self.heads, seen)


class FeedForward(nn.Module):
    """Linear, GEGLU (Shazeer 2020), linear."""

    def __init__(self, width: int, dropout: float, factor: int = 4) -> None:
        super().__init__()
        self.proj_in = nn.Linear(width, 2 * factor * width)
        self.dropout = nn.Dropout(dropout)
        self.proj_out = nn.Linear(factor * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, K, C] to the same shape."""
        value, gate = self.proj_in(x).chunk(2, dim=-1)
        return self.proj_out(self.dropout(value * nnf.gelu(gate)))


class TransformerBlock(nn.Module):
    """Self-attention, then a second attention, then a feed-forward layer, each after a LayerNorm and added."""

    def __init__(self, width: int, attn1: nn.Module, attn2: nn.Module, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width), attn1
        self.norm2, self.attn2 = nn.LayerNorm(width), attn2
        self.norm3, self.ff = nn.LayerNorm(width), FeedForward(width, dropout)

    def forward(self, x: torch.Tensor, context: AttentionContext) -> torch.Tensor:
        """[N, K, C] to the same shape."""
        x = x + self.attn1(self.norm1(x), context)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Tokens are the cells of one frame; the second attention looks at the context."""

    def __init__(
        self, channels: int, head_dim: int, context_dim: int, structure_dim: int, dropout: float, depth: int = 1
    ) -> None:
        super().__init__()
        heads = channels // head_dim
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                channels,
                SelfAttention(channels, heads, head_dim),
                CrossAttention(channels, heads, head_dim, context_dim, structure_dim),
                dropout,
            )
            for _ in range(depth)
        )
        self.proj_out = zero_module(nn.Linear(channels, channels))

    def forward(self, x: torch.Tensor, context: AttentionContext) -> torch.Tensor:
        """[B * T, C, H, W] to the same shape."""
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))  # [B * T, H * W, C]
        for block in self.blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens).transpose(1, 2).unflatten(2, x.shape[-2:])


class TemporalTransformer(nn.Module):
    """Tokens are the frames at one cell; both attentions are self-attention."""

    def __init__(self, channels: int, heads: int, head_dim: int, dropout: float, depth: int = 1) -> None:
        super().__init__()
        inner = heads * head_dim
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, inner)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                inner, SelfAttention(inner, heads, head_dim), SelfAttention(inner, heads, head_dim), dropout
            )
            for _ in range(depth)
        )
        self.proj_out = zero_module(nn.Linear(inner, channels))

    def forward(self, x: torch.Tensor, context: AttentionContext) -> torch.Tensor:
        """[B * T, C, H, W] to the same shape."""
        video = frames_to_video(x, context.batch)  # [B, C, T, H, W]
        batch, _, frames, height, width = video.shape
        tokens = self.norm(video).permute(0, 3, 4, 2, 1).reshape(batch * height * width, frames, -1)
        tokens = self.proj_in(tokens)
        for block in self.blocks:
            tokens = block(tokens, context)
        out = self.proj_out(tokens).reshape(batch, height, width, frames, -1)
        return x + out.permute(0, 3, 4, 1, 2).reshape_as(x)


class EpipolarAttention(nn.Module):
    """Cells ask the reference frames, each only near its epipolar line (SpatialCrafter, arXiv:2505.11992, sec. 3.1).

    The output projection starts at zero: a new branch changes nothing. A cell whose line misses every reference frame
    gets nothing.
    """

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.heads = channels // head_dim
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = zero_module(nn.Linear(channels, channels))

    def forward(self, x: torch.Tensor, mask: torch.Tensor, context: AttentionContext) -> torch.Tensor:
        """[B * T, C, H, W] to the same shape.

        Args:
            x: features.
            mask: bool [B, T * H * W, R, H * W]; see ``AttentionContext.epipolar``.
            context: names the reference frames.
        """
        tokens = self.norm(x).flatten(2).transpose(1, 2).unflatten(0, (context.batch, -1))  # [B, T, H * W, C]
        keys = tokens[:, list(context.reference_frames)].flatten(1, 2)
        seen = mask.flatten(2)
        answered = seen.any(dim=-1, keepdim=True)
        out = attend(self.to_q(tokens.flatten(1, 2)), self.to_k(keys), self.to_v(keys), self.heads, seen | ~answered)
        out = self.to_out(out * answered).reshape(x.shape[0], -1, x.shape[1])
        return x + out.transpose(1, 2).unflatten(2, x.shape[-2:])


def frames_to_video(x: torch.Tensor, batch: int) -> torch.Tensor:
    """[B * T, C, H, W] to [B, C, T, H, W]."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def video_to_frames(x: torch.Tensor) -> torch.Tensor:
    """[B, C, T, H, W] to [B * T, C, H, W]."""
    return x.transpose(1, 2).flatten(0, 1)


def zero_module(module: nn.Module) -> nn.Module:
    """The module with all parameters set to zero, so that what it adds is nothing until it is trained."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
