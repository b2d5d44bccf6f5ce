"""Sizes of the networks in a public checkpoint, read off the shapes of its weights.

Shapes do not tell how many heads an attention has, nor what the noise schedule was; those come from the settings file
published beside the checkpoint (``inference_*.yaml``), or are the published ones.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from reconx_ros.core import ConfigError, InvalidInputError, StorageError
from reconx_ros.diffusion.network.checkpoint_keys import RESAMPLER, TEXT, UNET, VAE, VISION
from reconx_ros.diffusion.network.resampler import ResamplerConfig
from reconx_ros.diffusion.network.sampler import ScheduleConfig
from reconx_ros.diffusion.network.unet import UNetConfig

Shapes = Mapping[str, tuple[int, ...]]
_QUERIES = 16  # image tokens per frame, fixed in the public code


@dataclass(frozen=True, kw_only=True)
class PublishedSettings:
    """What weights do not show; the defaults are those of DynamiCrafter 512 with OpenCLIP ViT-H/14.

    Attributes:
        unet_head_dim, text_head_dim, vision_head_dim, resampler_head_dim: channels of an attention head.
        default_fps: 24 for DynamiCrafter 512, 10 for 1024 and ViewCrafter.
        dropout: while training.
        schedule: of the noise.
    """

    unet_head_dim: int = 64
    text_head_dim: int = 64
    vision_head_dim: int = 80
    resampler_head_dim: int = 64
    default_fps: int = 24
    dropout: float = 0.1
    schedule: ScheduleConfig = ScheduleConfig()  # noqa: RUF009 (frozen)


def read_settings(path: Path) -> PublishedSettings:
    """From the YAML (or JSON) file published beside a checkpoint.

    Raises:
        StorageError: when the file cannot be read.
        ConfigError: when it is not such a file.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise StorageError(f"settings {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"settings {path} are not YAML: {str(error).splitlines()[0]}") from None
    model = _group(tree, "model", "params")
    unet = _group(model, "unet_config", "params")
    if not unet:
        raise ConfigError(f"settings {path} have no model.params.unet_config.params, expected a DynamiCrafter file")
    default, towers = PublishedSettings(), _group(tree, "open_clip_model_cfg")
    text, vision = _group(towers, "text_cfg"), _group(towers, "vision_cfg")
    return PublishedSettings(
        unet_head_dim=int(unet.get("num_head_channels", default.unet_head_dim)),
        text_head_dim=int(text["width"]) // int(text["heads"]) if text else default.text_head_dim,
        vision_head_dim=int(vision.get("head_width", default.vision_head_dim)),
        resampler_head_dim=int(
            _group(model, "image_proj_stage_config", "params").get("dim_head", default.resampler_head_dim)
        ),
        default_fps=int(unet.get("default_fs", default.default_fps)),
        dropout=float(unet.get("dropout", default.dropout)),
        schedule=_schedule(model),
    )


def _schedule(model: Mapping[str, Any]) -> ScheduleConfig:
    rescaled = bool(model.get("use_dynamic_rescale", False))
    return ScheduleConfig(
        train_steps=int(model.get("timesteps", 1000)),
        beta_start=float(model.get("linear_start", 0.00085)),
        beta_end=float(model.get("linear_end", 0.012)),
        zero_terminal_snr=bool(model.get("rescale_betas_zero_snr", False)),
        prediction="v" if model.get("parameterization", "eps") == "v" else "epsilon",
        base_scale=float(model.get("base_scale", 0.7)) if rescaled else 1.0,
    )


def _group(tree: Any, *names: str) -> dict[str, Any]:
    for name in names:
        tree = tree.get(name, {}) if isinstance(tree, Mapping) else {}
    return dict(tree) if isinstance(tree, Mapping) else {}


def schedule_in(values: Mapping[str, Any], published: ScheduleConfig) -> ScheduleConfig:
    """The schedule that a checkpoint's own tables ``betas`` and ``scale_arr`` say; pruned files have none.

    Args:
        values: those of the two tables that exist, as 1-D tensors.
        published: what is assumed otherwise.

    Raises:
        InvalidInputError: when ``betas`` are not those of the settings.
    """
    config = published
    if "scale_arr" in values:
        config = replace(config, base_scale=round(float(values["scale_arr"][-1]), 4))
    if "betas" in values:
        betas = values["betas"].double()
        wrong = betas.shape != (config.train_steps,) or float((betas - config.betas()).abs().max()) > 1e-4
        if wrong:
            raise InvalidInputError(
                f"noise schedule in the checkpoint ends at beta {float(betas[-1]):.4g}, expected"
                f" {float(config.betas()[-1]):.4g}: give the settings file published with it"
            )
    return config


class _Needed:
    """Shapes of one component by the names after its prefix."""

    def __init__(self, shapes: Shapes, prefix: str, label: str) -> None:
        self.shapes = {k.removeprefix(prefix): s for k, s in shapes.items() if k.startswith(prefix)}
        self.prefix, self.label = prefix, label

    def __call__(self, key: str, axis: int) -> int:
        shape = self.shapes.get(key)
        if shape is None or len(shape) <= axis:
            raise InvalidInputError(f"checkpoint has no '{self.prefix}{key}', which tells the size of its {self.label}")
        return int(shape[axis])

    def count(self, pattern: str) -> int:
        """How many different numbers follow a pattern."""
        return len({m[1] for key in self.shapes if (m := re.match(pattern, key))})


def unet_config(shapes: Shapes, settings: PublishedSettings, frames: int) -> UNetConfig:
    """Of the backbone, without our branches.

    Raises:
        InvalidInputError: when a weight that tells a size is missing, or the model is the one of 256 pixels.
    """
    if any(UNET + "framestride_embed" in key for key in shapes):
        raise InvalidInputError(
            "checkpoint holds 'framestride_embed': it is DynamiCrafter's model of 256 pixels, expected that of 512 or"
            " 1024, or ViewCrafter's"
        )
    need = _Needed(shapes, UNET, "U-Net")
    width = need("input_blocks.0.0.weight", 0)
    downs = need.count(r"input_blocks\.(\d+)\.0\.op\.weight")
    first = [i for i in range(1, 100) if f"input_blocks.{i}.0.op.weight" in need.shapes]
    per_level = first[0] if first else need.count(r"input_blocks\.(\d+)\.0\.in_layers\.0\.weight") + 1
    starts = [1 + level * per_level for level in range(downs + 1)]
    return UNetConfig(
        in_channels=need("input_blocks.0.0.weight", 1),
        out_channels=need("out.2.weight", 0),
        model_channels=width,
        channel_mult=tuple(need(f"input_blocks.{i}.0.out_layers.0.weight", 0) // width for i in starts),
        num_res_blocks=per_level - 1,
        attention_levels=tuple(n for n, i in enumerate(starts) if f"input_blocks.{i}.1.norm.weight" in need.shapes),
        head_dim=settings.unet_head_dim,
        context_dim=need("middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1),
        init_attention="init_attn.0.norm.weight" in need.shapes,
        dropout=settings.dropout,
        default_fps=settings.default_fps,
        temporal_length=frames,
    )


def resampler_config(shapes: Shapes, settings: PublishedSettings) -> ResamplerConfig:
    """Raises InvalidInputError when a weight that tells a size is missing."""
    need = _Needed(shapes, RESAMPLER, "resampler")
    width, head_dim = need("latents", 2), settings.resampler_head_dim
    inner = need("layers.0.0.to_q.weight", 0)
    if inner % head_dim:
        raise InvalidInputError(
            f"'{RESAMPLER}layers.0.0.to_q.weight' has {inner} rows, expected a multiple of a head's {head_dim}"
            " channels: give the settings file published with the checkpoint"
        )
    return ResamplerConfig(
        width=width,
        depth=need.count(r"layers\.(\d+)\."),
        head_dim=head_dim,
        heads=inner // head_dim,
        queries=_QUERIES,
        frames=max(need("latents", 1) // _QUERIES, 1),
        width_in=need("proj_in.weight", 1),
        width_out=need("proj_out.weight", 0),
        ff_factor=need("layers.0.1.1.weight", 0) // width,
    )


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """Arguments of diffusers' AutoencoderKL. Raises InvalidInputError when a weight that tells a size is missing."""
    need = _Needed(shapes, VAE, "autoencoder")
    levels = need.count(r"encoder\.down\.(\d+)\.")
    return {
        "in_channels": need("encoder.conv_in.weight", 1),
        "out_channels": need("decoder.conv_out.weight", 0),
        "latent_channels": need("post_quant_conv.weight", 0),
        "block_out_channels": tuple(need(f"encoder.down.{i}.block.0.conv1.weight", 0) for i in range(levels)),
        "layers_per_block": need.count(r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "norm_num_groups": 32,
        "scaling_factor": 0.18215,
        "sample_size": 512,
    }


def text_config(shapes: Shapes, settings: PublishedSettings) -> dict[str, Any]:
    """Arguments of transformers' CLIPTextConfig without the last block, whose output the public models do not use."""
    need = _Needed(shapes, TEXT, "text encoder")
    width = need("token_embedding.weight", 1)
    return {
        "vocab_size": need("token_embedding.weight", 0),
        "hidden_size": width,
        "intermediate_size": need("transformer.resblocks.0.mlp.c_fc.weight", 0),
        "projection_dim": need("text_projection", 1),
        "num_hidden_layers": need.count(r"transformer\.resblocks\.(\d+)\.") - 1,
        "num_attention_heads": width // settings.text_head_dim,
        "max_position_embeddings": need("positional_embedding", 0),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": need("token_embedding.weight", 0) - 2,
        "eos_token_id": need("token_embedding.weight", 0) - 1,
        "pad_token_id": 0,
    }


def vision_config(shapes: Shapes, settings: PublishedSettings) -> dict[str, Any]:
    """Arguments of transformers' CLIPVisionConfig. Raises InvalidInputError when a weight that tells it is missing."""
    need = _Needed(shapes, VISION, "image encoder")
    width, patch = need("visual.conv1.weight", 0), need("visual.conv1.weight", 2)
    return {
        "hidden_size": width,
        "intermediate_size": need("visual.transformer.resblocks.0.mlp.c_fc.weight", 0),
        "projection_dim": need("visual.proj", 1),
        "num_hidden_layers": need.count(r"visual\.transformer\.resblocks\.(\d+)\."),
        "num_attention_heads": width // settings.vision_head_dim,
        "image_size": patch * math.isqrt(need("visual.positional_embedding", 0) - 1),
        "patch_size": patch,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    }


def has_part(shapes: Shapes, prefix: str) -> bool:
    """Whether a checkpoint holds anything of a component."""
    return any(key.startswith(prefix) for key in shapes)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a small JSON file.

    Raises:
        StorageError: when the place is not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from None
