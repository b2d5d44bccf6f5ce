"""Small video models with random weights, and comparisons, shared by the tests of the video diffusion stage."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from reconx_ros.diffusion.network.unet import UNetConfig, VideoUNet

TINY = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_levels=(0, 1),
    head_dim=16,
    context_dim=32,
    temporal_length=4,
    dropout=0.0,
)


def randomize(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights everywhere, also where a fresh network has zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(network.named_parameters()):
            noise = torch.randn(value.shape, generator=generator)
            scale = 0.1 if value.ndim < 2 else value[0].numel() ** -0.5
            value.copy_(1 + 0.1 * noise if value.ndim == 1 and name.endswith("weight") else scale * noise)
    return network.eval()


def tiny_unet(config: UNetConfig = TINY, seed: int = 0) -> VideoUNet:
    network = VideoUNet(config)
    randomize(network, seed)
    return network


def unet_inputs(batch: int = 1, frames: int = 3, size: int = 8, config: UNetConfig = TINY) -> dict[str, Any]:
    """Keyword arguments of the network, random."""
    generator = torch.Generator().manual_seed(7)
    return {
        "sample": torch.randn(batch, config.in_channels, frames, size, size, generator=generator),
        "timestep": torch.arange(batch) * 100 + 300,
        "text": torch.randn(batch, 5, config.context_dim, generator=generator),
        "image": torch.randn(batch, frames, 4, config.context_dim, generator=generator),
        "fps": torch.arange(batch) + 5,
    }


def tiny_pipeline(unet: UNetConfig = TINY, structure_tokens: int = 8) -> Any:
    """A complete pipeline with random weights and a structure encoder as wide as the network's branch."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

    from reconx_ros.diffusion.network import models
    from reconx_ros.diffusion.network.pipeline import ReconXPipeline

    clip = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    fields = {name: getattr(unet, name) for name in unet.__dataclass_fields__}
    parts = {
        "unet": models.ReconXUNet(**fields),
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32,) * 4,
            scaling_factor=0.18215,
        ),
        "resampler": models.ReconXResampler(
            width=32, depth=1, head_dim=8, heads=2, frames=unet.temporal_length, width_in=32, width_out=32
        ),
        "text_encoder": CLIPTextModel(CLIPTextConfig(vocab_size=100, **clip)),
        "image_encoder": CLIPVisionModel(CLIPVisionConfig(image_size=224, patch_size=56, **clip)),
    }
    if unet.structure_dim:
        parts["structure_encoder"] = models.ReconXStructureEncoder(
            tokens=structure_tokens, width=unet.structure_dim, depth=1, head_dim=16
        )
    for seed, part in enumerate(parts.values()):
        randomize(part, seed)
    pipeline = ReconXPipeline(scheduler=models.ReconXScheduler(), **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def relative_l2(ours: Any, theirs: Any) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    assert np.linalg.norm(theirs) > 0
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def arrays(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path) as stored:
        return {name: torch.from_numpy(np.asarray(stored[name])) for name in stored.files}


def parity_module(folder: Path, name: str) -> ModuleType:
    """A helper of the parity folder, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def key_list(path: Path) -> dict[str, tuple[int, ...]]:
    rows = (line.split("\t") for line in path.read_text().splitlines())
    return {row[0]: ast.literal_eval(row[1]) for row in rows}
