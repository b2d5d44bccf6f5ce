"""Names of public checkpoints (DynamiCrafter 512 and 1024, ViewCrafter) for the weights of our components.

Each function gives, for one component, ``{our name: Source}``. Names of the public files are spelled as they are there,
``temopral_conv`` included.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from reconx_ros.diffusion.network.unet import UNetConfig

UNET, VAE, TEXT, VISION, RESAMPLER = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.model.",
    "embedder.model.",
    "image_proj_model.",
)


@dataclass(frozen=True)
class Source:
    """Where a weight comes from.

    Attributes:
        key: name in the public file.
        part: (index, count): which of the equal parts along the first axis; (0, 1) is the whole.
        squeeze: trailing axes of size 1 to drop: a convolution of size 1 that became a linear layer.
    """

    key: str
    part: tuple[int, int] = (0, 1)
    squeeze: int = 0

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """Our weight, given the public tensor."""
        index, count = self.part
        rows = tensor.shape[0] // count if count > 1 else 0
        taken = tensor[index * rows : (index + 1) * rows] if count > 1 else tensor
        return taken.reshape(taken.shape[: taken.ndim - self.squeeze])


_UNET_PARTS = (
    (r"^(time|fps)_embedding\.linear1", r"\1_embed.0"),
    (r"^(time|fps)_embedding\.linear2", r"\1_embed.2"),
    (r"^fps_embed\.", r"fps_embedding."),
    (r"^conv_in", r"input_blocks.0.0"),
    (r"^init_temporal", r"init_attn.0"),
    (r"^mid_res", r"middle_block.3"),
    (r"^norm_out", r"out.0"),
    (r"^conv_out", r"out.2"),
    (r"\.res\.", r".0."),
    (r"\.spatial\.", r".1."),
    (r"\.temporal\.(?=norm\.|proj_|blocks)", r".2."),
    (r"^mid_block", r"middle_block"),
    (r"\.norm1(?=\.\w+$)(?<!blocks\.\d\.norm1)", r".in_layers.0"),
    (r"\.conv1(?=\.\w+$)", r".in_layers.2"),
    (r"\.embedding\.", r".emb_layers.1."),
    (r"\.norm2(?=\.\w+$)(?<!blocks\.\d\.norm2)", r".out_layers.0"),
    (r"\.conv2(?=\.\w+$)", r".out_layers.3"),
    (r"\.skip\.", r".skip_connection."),
    (r"\.blocks\.", r".transformer_blocks."),
    (r"\.to_out\.", r".to_out.0."),
    (r"\.to_([kv])_image\.", r".to_\1_ip."),
    (r"\.ff\.proj_in\.", r".ff.net.0.proj."),
    (r"\.ff\.proj_out\.", r".ff.net.2."),
)


def unet_sources(config: UNetConfig, names: Iterable[str]) -> dict[str, Source]:
    """For the backbone's weights; those of our own branches (structure, camera, epipolar) are not in public files."""
    own = ("structure", "camera_encoder", "epipolar")
    return {name: _unet_source(config, name) for name in names if not any(word in name for word in own)}


def _unet_source(config: UNetConfig, name: str) -> Source:
    key = _level_name(config, name)
    key = re.sub(r"\.temporal\.norms\.(\d)", lambda m: f".temopral_conv.conv{int(m[1]) + 1}.0", key)
    key = re.sub(r"\.temporal\.convs\.(\d)", _temporal_conv, key)
    for pattern, replacement in _UNET_PARTS:
        key = re.sub(pattern, replacement, key)
    convolution = name.startswith("init_temporal.proj_") and name.endswith(".weight")
    return Source(UNET + key, squeeze=1 if convolution else 0)


def _temporal_conv(match: re.Match[str]) -> str:
    number = int(match[1]) + 1
    return f".temopral_conv.conv{number}.{2 if number == 1 else 3}"  # all but the first have a dropout before them


def _level_name(config: UNetConfig, name: str) -> str:
    """The flat numbering of the public U-Net's input and output blocks."""
    match = re.match(r"(down|up)\.(\d+)\.(blocks\.(\d+)|resample\.conv)", name)
    if match is None:
        return name
    level, rest = int(match[2]), name[match.end() :]
    per_level = config.num_res_blocks + 1
    if match[1] == "down":
        if match[4] is None:
            return f"input_blocks.{(level + 1) * per_level}.0.op{rest}"
        return f"input_blocks.{1 + level * per_level + int(match[4])}{rest}"
    if match[4] is None:
        attention = config.levels - 1 - level in config.attention_levels
        return f"output_blocks.{level * per_level + per_level - 1}.{3 if attention else 1}.conv{rest}"
    return f"output_blocks.{level * per_level + int(match[4])}{rest}"


_VAE_PARTS = (
    (r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block."),
    (r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"mid_block\.resnets\.0\.", r"mid.block_1."),
    (r"mid_block\.resnets\.1\.", r"mid.block_2."),
    (r"mid_block\.attentions\.0\.group_norm\.", r"mid.attn_1.norm."),
    (r"mid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
    (r"mid_block\.attentions\.0\.to_out\.0\.", r"mid.attn_1.proj_out."),
    (r"conv_shortcut", r"nin_shortcut"),
    (r"conv_norm_out", r"norm_out"),
)


def vae_sources(levels: int, names: Iterable[str]) -> dict[str, Source]:
    """For diffusers' AutoencoderKL with that many resolutions; its up blocks count from the coarsest."""

    def source(name: str) -> Source:
        key = name
        for pattern, replacement in _VAE_PARTS:
            key = re.sub(pattern, replacement, key)
        up = re.match(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers\.0)\.", key)
        if up is not None:
            kind = "block" if up[2] == "resnets" else "upsample"
            key = f"decoder.up.{levels - 1 - int(up[1])}.{kind}.{key[up.end() :]}"
        linear = ".attentions.0.to_" in name and name.endswith(".weight")
        return Source(VAE + key, squeeze=2 if linear else 0)

    return {name: source(name) for name in names}


_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_TEXT_NAMES = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
_VISION_NAMES = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}


def text_sources(layers: int) -> dict[str, Source]:
    """For transformers' CLIPTextModel with the first ``layers`` blocks of OpenCLIP's text tower."""
    names = {name: Source(TEXT + key) for name, key in _TEXT_NAMES.items()}
    return names | _clip_layers("text_model", TEXT + "transformer", layers)


def vision_sources(layers: int) -> dict[str, Source]:
    """For transformers' CLIPVisionModel with the ``layers`` blocks of OpenCLIP's vision tower."""
    names = {name: Source(VISION + key) for name, key in _VISION_NAMES.items()}
    return names | _clip_layers("vision_model", VISION + "visual.transformer", layers)


def _clip_layers(ours: str, theirs: str, layers: int) -> dict[str, Source]:
    sources = {}
    for i in range(layers):
        new, old = f"{ours}.encoder.layers.{i}", f"{theirs}.resblocks.{i}"
        for kind in ("weight", "bias"):
            for name, key in _CLIP_LAYER.items():
                sources[f"{new}.{name}.{kind}"] = Source(f"{old}.{key}.{kind}")
            for index, letter in enumerate("qkv"):
                sources[f"{new}.self_attn.{letter}_proj.{kind}"] = Source(f"{old}.attn.in_proj_{kind}", (index, 3))
    return sources


_RESAMPLER_PARTS = (
    (r"\.norm_tokens\.", r".0.norm1."),
    (r"\.norm_latents\.", r".0.norm2."),
    (r"\.(to_q|to_kv|to_out)\.", r".0.\1."),
    (r"\.norm_ff\.", r".1.0."),
    (r"\.ff_in\.", r".1.1."),
    (r"\.ff_out\.", r".1.3."),
)


def resampler_sources(names: Iterable[str]) -> dict[str, Source]:
    """For our Resampler."""

    def source(name: str) -> Source:
        key = name
        for pattern, replacement in _RESAMPLER_PARTS:
            key = re.sub(pattern, replacement, key)
        return Source(RESAMPLER + key)

    return {name: source(name) for name in names}
