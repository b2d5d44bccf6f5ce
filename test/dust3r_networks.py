"""Small networks, images and weights for the tests of the pairwise pointmap networks."""

from __future__ import annotations

import argparse
import ast
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from reconx_ros.pointmap.network.architecture import NetworkConfig
from reconx_ros.pointmap.network.model import PointmapNetwork
from reconx_ros.pointmap.training.schedule import initialise

PUBLISHED = (
    "AsymmetricCroCo3DStereo(pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', img_size=(512, 512), "
    "head_type='{head}', output_mode='pts3d', depth_mode=('exp', -inf, inf), conf_mode=('exp', 1, inf), "
    "enc_embed_dim={enc}, enc_depth={enc_depth}, enc_num_heads={enc_heads}, dec_embed_dim={dec}, "
    "dec_depth={dec_depth}, dec_num_heads={dec_heads})"
)
FULL = {"enc": 1024, "enc_depth": 24, "enc_heads": 16, "dec": 768, "dec_depth": 12, "dec_heads": 12}
TINY = {"enc": 64, "enc_depth": 2, "enc_heads": 4, "dec": 48, "dec_depth": 2, "dec_heads": 3}


def small_config(**changes: object) -> NetworkConfig:
    sizes = {"enc_embed_dim": 32, "enc_depth": 2, "enc_num_heads": 2, "dec_embed_dim": 24, "dec_depth": 2}
    values = {**sizes, "dec_num_heads": 2, "head_type": "linear", "img_size": (32, 48), "patch_size": 8}
    return NetworkConfig(**{**values, **changes})


def small_network(seed: int = 0, **changes: object) -> PointmapNetwork:
    """A network whose two branches differ and whose outputs vary over the image."""
    network = PointmapNetwork(small_config(**changes))
    initialise(network, seed)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in network.named_parameters():
            if name.startswith("downstream_head"):
                parameter.mul_(4)
            if name.endswith("bias"):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(False)


def random_images(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def relative_l2(found: np.ndarray | torch.Tensor, reference: np.ndarray | torch.Tensor) -> float:
    a, b = (np.asarray(x, dtype=np.float64) for x in (found, reference))
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def save_pth(path: Path, model: str, state: dict[str, torch.Tensor], **extra: object) -> Path:
    torch.save({"args": argparse.Namespace(model=model, lr=1e-4), "model": state, "epoch": 3, **extra}, path)
    return path


def read_keys(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes out of a list of keys."""
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    return {row[0]: ast.literal_eval(row[1]) for row in rows}


def recipe_weights(keys: dict[str, tuple[int, ...]], salt: str) -> dict[str, torch.Tensor]:
    """Weights that depend on name and shape alone: the recipe of the recorded reference outputs."""
    state = {}
    for key, shape in keys.items():
        name = key
        for level in range(4):
            name = name.replace(f"scratch.layer_rn.{level}.", f"scratch.layer{level + 1}_rn.")
        values = _uniform(salt + name, math.prod(shape)).reshape(shape) * np.float32(math.sqrt(3))
        if len(shape) >= 2:
            values = values * np.float32(1 / math.sqrt(math.prod(shape[1:])))
        elif key.endswith("weight"):
            values = np.float32(1) + np.float32(0.1) * values
        else:
            values = np.float32(0.05) * values
        if key.endswith("dpt.head.4.weight"):
            values = values * np.float32(0.2)
        state[key] = torch.from_numpy(values)
    return state


def _uniform(name: str, count: int) -> np.ndarray:
    """Numbers in [-1, 1) by splitmix64 over a counter, seeded by the name."""
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(
            zlib.crc32(name.encode())
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
