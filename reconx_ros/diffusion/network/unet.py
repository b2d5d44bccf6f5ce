"""The video network: latents with noise, and what is known of them, to the noise (or velocity) in them.

The layout is that of DynamiCrafter's U-Net (arXiv:2310.12190; ViewCrafter's is the same), so that its public weights
fit; on top of it come ReconX's structure branch (arXiv:2408.16767, eq. 4) and SpatialCrafter's camera encoder and
epipolar attention (arXiv:2505.11992). Each of the three is off unless the configuration asks for it, and adds exactly
nothing until it is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as nnf
from torch import nn
from torch.utils.checkpoint import checkpoint

from reconx_ros.core import ConfigError, InvalidInputError, check_shape
from reconx_ros.diffusion.network.attention import (
    AttentionContext,
    EpipolarAttention,
    SpatialTransformer,
    TemporalTransformer,
    frames_to_video,
    video_to_frames,
    zero_module,
)
from reconx_ros.diffusion.network.camera_condition import CameraEncoder
from reconx_ros.diffusion.network.unet_blocks import Downsample, ResBlock, ScalarEmbedding, Upsample, VideoBlock

_GROUPS = 32  # of every GroupNorm in the public weights


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Sizes of the network; the defaults are those of DynamiCrafter 512 and 1024 and ViewCrafter, 1.44 billion weights.

    Attributes:
        in_channels: of the noisy latents and the known ones, concatenated.
        out_channels: of the prediction.
        model_channels: width of the first level, a multiple of 32.
        channel_mult: width of each level in model_channels.
        num_res_blocks: per level on the way down; one more on the way up.
        attention_levels: levels that have transformers; 0 is the finest.
        head_dim: channels of an attention head.
        context_dim: width of text and image tokens.
        init_attention: a temporal transformer of 8 heads after the first convolution.
        dropout: while training.
        default_fps: taken where none is given.
        temporal_length: frames that the weights were trained on.
        structure_dim: width of the structure tokens; 0 leaves the branch out.
        camera_channels: width of the camera encoder; 0 leaves it out.
        epipolar_levels: levels that have epipolar attention; a subset of attention_levels.
        norm_groups: groups of every GroupNorm. A narrow network needs fewer than the public weights' 32: with few
            channels per group, normalisation takes away what is even over a picture, its brightness first of all.

    Raises:
        ConfigError: for sizes that do not fit each other.
    """

    in_channels: int = 8
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (0, 1, 2)
    head_dim: int = 64
    context_dim: int = 1024
    init_attention: bool = True
    dropout: float = 0.1
    default_fps: int = 24
    temporal_length: int = 16
    structure_dim: int = 0
    camera_channels: int = 0
    epipolar_levels: tuple[int, ...] = ()
    norm_groups: int = _GROUPS

    def __post_init__(self) -> None:
        for name in ("channel_mult", "attention_levels", "epipolar_levels"):
            object.__setattr__(self, name, tuple(int(n) for n in getattr(self, name)))  # JSON has lists
        if self.model_channels < _GROUPS or self.model_channels % _GROUPS:
            raise ConfigError(f"model_channels is {self.model_channels}, expected a positive multiple of {_GROUPS}")
        if self.norm_groups < 1 or _GROUPS % self.norm_groups:
            raise ConfigError(f"norm_groups is {self.norm_groups}, expected a divisor of {_GROUPS}")
        for level in self.attention_levels:
            if not 0 <= level < self.levels or self.width(level) % self.head_dim:
                raise ConfigError(
                    f"attention_levels is {list(self.attention_levels)} with head_dim {self.head_dim}, expected levels"
                    f" below {self.levels} whose width is a multiple of head_dim"
                )
        if self.width(self.levels - 1) % self.head_dim:
            raise ConfigError(f"head_dim is {self.head_dim}, expected a divisor of {self.width(self.levels - 1)}")
        if not set(self.epipolar_levels) <= set(self.attention_levels):
            raise ConfigError(
                f"epipolar_levels is {list(self.epipolar_levels)}, expected a subset of {list(self.attention_levels)}"
            )

    @property
    def levels(self) -> int:
        """Number of resolutions."""
        return len(self.channel_mult)

    @property
    def latent_multiple(self) -> int:
        """What height and width of the latents must be a multiple of."""
        return int(2 ** (self.levels - 1))

    def width(self, level: int) -> int:
        """Channels of a level."""
        return self.channel_mult[level] * self.model_channels


class Level(nn.Module):
    """The blocks of one resolution, then a change to the next (none at the end)."""

    def __init__(self, blocks: list[VideoBlock], resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample


class VideoUNet(nn.Module):
    """See the top of this module. ``gradient_checkpointing`` trades time for memory while training."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.unet_config = config
        self.gradient_checkpointing = False
        width, embedding = config.model_channels, 4 * config.model_channels
        self.time_embedding = ScalarEmbedding(width, embedding)
        self.fps_embedding = ScalarEmbedding(width, embedding)
        self.conv_in = nn.Conv2d(config.in_channels, width, 3, padding=1)
        self.init_temporal = (
            TemporalTransformer(width, 8, config.head_dim, config.dropout) if config.init_attention else None
        )
        self.camera_encoder = (
            CameraEncoder(config.camera_channels, tuple(config.width(i) for i in range(config.levels)))
            if config.camera_channels
            else None
        )
        skips = self._build_down(config, embedding)
        last = config.levels - 1
        self.mid_block = _block(config, config.width(last), last, config.width(last), embedding, attention=True)
        self.mid_res = ResBlock(config.width(last), config.width(last), embedding, config.dropout)
        self._build_up(config, embedding, skips)
        self.norm_out = nn.GroupNorm(_GROUPS, width)
        self.conv_out = zero_module(nn.Conv2d(width, config.out_channels, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.GroupNorm):
                module.num_groups = config.norm_groups

    def _build_down(self, config: UNetConfig, embedding: int) -> list[int]:
        channels = config.model_channels
        skips, levels = [channels], []
        for level in range(config.levels):
            blocks = []
            for _ in range(config.num_res_blocks):
                blocks.append(_block(config, channels, level, config.width(level), embedding))
                channels = config.width(level)
                skips.append(channels)
            last = level == config.levels - 1
            levels.append(Level(blocks, None if last else Downsample(channels)))
            skips += [] if last else [channels]
        self.down = nn.ModuleList(levels)
        return skips

    def _build_up(self, config: UNetConfig, embedding: int, skips: list[int]) -> None:
        channels, levels = config.width(config.levels - 1), []
        for level in reversed(range(config.levels)):
            blocks = []
            for _ in range(config.num_res_blocks + 1):
                blocks.append(_block(config, channels + skips.pop(), level, config.width(level), embedding))
                channels = config.width(level)
            levels.append(Level(blocks, Upsample(channels) if level else None))
        self.up = nn.ModuleList(levels)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        *,
        text: torch.Tensor,
        image: torch.Tensor,
        structure: torch.Tensor | None = None,
        structure_mask: torch.Tensor | None = None,
        fps: torch.Tensor | None = None,
        rays: torch.Tensor | None = None,
        epipolar: dict[int, torch.Tensor] | None = None,
        reference_frames: tuple[int, ...] = (),
    ) -> torch.Tensor:
        """Predict what ``sample`` holds of noise, in the parameterisation the weights were trained with.

        Args:
            sample: [B, C, T, H, W] noisy latents and, after them, known ones; H and W multiples of ``latent_multiple``.
            timestep: [B] of the diffusion, 0 to 999.
            text: [B, M, D] text tokens.
            image: [B, T, M, D] or [B, M, D] image tokens.
            structure: [B, L, S] structure tokens; None leaves the branch out.
            structure_mask: [B, L] bool, False at padding.
            fps: [B] frames per second; None takes the default of the weights.
            rays: [B, T, 6, 8 H, 8 W] Plücker ray maps; see ``camera_condition``. None leaves the camera encoder out.
            epipolar: masks per level; see ``camera_condition.epipolar_masks``. None leaves the branch out.
            reference_frames: frames that the masks speak of.

        Returns:
            [B, C', T, H, W].

        Raises:
            InvalidInputError: for shapes that do not fit, or a condition that this network has no branch for.
        """
        self._check(sample, text, image, structure, rays, epipolar)
        context = AttentionContext(
            text=text,
            image=image,
            structure=structure,
            structure_mask=structure_mask,
            epipolar=epipolar or {},
            reference_frames=tuple(reference_frames),
        )
        if fps is None:
            fps = torch.full_like(timestep, self.unet_config.default_fps)
        embedding = self.time_embedding(timestep) + self.fps_embedding(fps)
        features = [] if rays is None or self.camera_encoder is None else self.camera_encoder(rays.flatten(0, 1))
        x = self.conv_in(video_to_frames(sample))
        if self.init_temporal is not None:
            x = self._run(self.init_temporal, x, context)
        x = self._decode(*self._encode(x, embedding, context, features), embedding, context)
        return frames_to_video(self.conv_out(nnf.silu(self.norm_out(x))), context.batch)

    def _encode(
        self, x: torch.Tensor, embedding: torch.Tensor, context: AttentionContext, features: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        skips = [x]
        for level, stage in enumerate(cast("list[Level]", self.down)):
            x = x + features[level] if features and not level else x
            for i, block in enumerate(stage.blocks):
                x = self._run(block, x, embedding, context)
                if features and level and not i:
                    x = x + features[level]
                skips.append(x)
            if stage.resample is not None:
                x = stage.resample(x)
                skips.append(x)
        return x, skips

    def _decode(
        self, x: torch.Tensor, skips: list[torch.Tensor], embedding: torch.Tensor, context: AttentionContext
    ) -> torch.Tensor:
        x = self._run(self.mid_block, x, embedding, context)
        x = self._run(self.mid_res, x, embedding, context.batch)
        for stage in cast("list[Level]", self.up):
            for block in stage.blocks:
                x = self._run(block, torch.cat([x, skips.pop()], dim=1), embedding, context)
            x = x if stage.resample is None else stage.resample(x)
        return x

    def _run(self, module: nn.Module, *inputs: Any) -> torch.Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)

    def _check(
        self,
        sample: torch.Tensor,
        text: torch.Tensor,
        image: torch.Tensor,
        structure: torch.Tensor | None,
        rays: torch.Tensor | None,
        epipolar: dict[int, torch.Tensor] | None,
    ) -> None:
        config = self.unet_config
        dims = check_shape("latents", sample, "B", config.in_channels, "T", "H", "W")
        multiple = config.latent_multiple
        if dims["H"] % multiple or dims["W"] % multiple:
            raise InvalidInputError(
                f"latents are {dims['W']}x{dims['H']}, expected width and height to be multiples of {multiple}"
            )
        check_shape("text tokens", text, "B", "*", config.context_dim, dims=dims)
        frames = ("T",) if image.ndim == 4 else ()
        check_shape("image tokens", image, "B", *frames, "*", config.context_dim, dims=dims)
        if structure is not None:
            self._check_branch("structure tokens", "structure_dim", bool(config.structure_dim))
            check_shape("structure tokens", structure, "B", "*", config.structure_dim, dims=dims)
        if rays is not None:
            self._check_branch("ray maps", "camera_channels", bool(config.camera_channels))
            check_shape("ray maps", rays, "B", "T", 6, 8 * dims["H"], 8 * dims["W"], dims=dims)
        if epipolar:
            self._check_branch("epipolar masks", "epipolar_levels", set(epipolar) <= set(config.epipolar_levels))

    @staticmethod
    def _check_branch(name: str, field: str, present: bool) -> None:
        if not present:
            raise InvalidInputError(f"{name} were given, but this network has no branch for them ({field} is off)")


def _block(
    config: UNetConfig, channels_in: int, level: int, channels: int, embedding: int, attention: bool = False
) -> VideoBlock:
    res = ResBlock(channels_in, channels, embedding, config.dropout)
    if not (attention or level in config.attention_levels):
        return VideoBlock(res, level=level)
    heads = channels // config.head_dim
    spatial = partial(SpatialTransformer, channels, config.head_dim, config.context_dim, config.structure_dim)
    epipolar = level in config.epipolar_levels and not attention
    return VideoBlock(
        res,
        spatial(config.dropout),
        TemporalTransformer(channels, heads, config.head_dim, config.dropout),
        EpipolarAttention(channels, config.head_dim) if epipolar else None,
        level,
    )
