"""A source of clips without a simulator, and small training runs, shared by the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from reconx_ros.core import (
    SE3,
    Frame,
    PinholeCamera,
)
from reconx_ros.diffusion.training.backends.folder import fresh, load_small, save_small
from reconx_ros.diffusion.training.clips import ClipBatch, clip_arrays, collated
from reconx_ros.diffusion.training.config import VideoNetworkSettings, VideoTrainingConfig
from reconx_ros.diffusion.training.trainer import VideoTrainingRun

CPU = torch.device("cpu")
FRAMES, SIDE = 3, 16
NETWORK = VideoNetworkSettings(
    width=32, levels=(1,), head_dim=16, camera_channels=8, structure_tokens=8, structure_width=16, image_tokens=2
)
CONFIG = VideoTrainingConfig(
    steps=4, batch=2, reuse=1, window=2, workers=0, points=32, validation_clips=2, validate_every=2, sample_every=4,
    validation_levels=(500,), sample_steps=2, sample_clips=2, checkpoint_every=2, log_every=1, rate_warmup_steps=1,
)  # fmt: skip


def clip(number: int, interval: float = 1.0, frames: int = FRAMES, side: int = SIDE) -> list[Frame]:
    """A coloured wall that a camera passes; a source of clips without a simulator."""
    rng = np.random.default_rng(number)
    camera = PinholeCamera(width=side, height=side, fx=12.0, fy=12.0, cx=side / 2 - 0.5, cy=side / 2 - 0.5)
    wall = rng.integers(0, 256, (side, 4 * side, 3), dtype=np.uint8)
    depth = float(rng.uniform(1, 3))
    found = []
    for k in range(frames):
        shift = round(interval * k * 4)
        pose = SE3.exp(np.zeros(3), np.array([shift * depth / 12.0, 0.0, 0.0]))
        found.append(
            Frame(
                rgb_u8=wall[:, shift : shift + side], camera=camera, world_from_cam=pose, stamp_ns=k * 10**8,
                depth_m=np.full((side, side), depth, np.float32),
            )
        )  # fmt: skip
    return found


def held_out(number: int, interval: float = 1.0) -> list[Frame]:
    return clip(number + 10_000, interval)


def batch_of(*numbers: int, points: int = 32) -> ClipBatch:
    rng = np.random.default_rng(0)
    return collated([clip_arrays(clip(n), points, rng) for n in numbers])


def training_run(folder: Path, config: VideoTrainingConfig = CONFIG, **changes: Any) -> VideoTrainingRun:
    folder.mkdir(exist_ok=True)
    given: dict[str, Any] = {
        "config": config, "prepared": fresh(NETWORK, FRAMES, config.seed), "save": save_small, "train": clip,
        "validation": held_out, "folder": folder, "data": {"source": "test"},
    }  # fmt: skip
    return VideoTrainingRun(**{**given, **changes})


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_small(folder).model.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
