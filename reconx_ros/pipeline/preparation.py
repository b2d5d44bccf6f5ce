"""Loading once what the configured backends need, so that a missing or damaged file is noticed before the first job."""

from __future__ import annotations

import gc
from typing import Protocol, runtime_checkable

import torch

from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.selection import choose_device, choose_generator, choose_pointmap
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.splatting.lpips import perceptual_from_config
from reconx_ros.splatting.select import select_rasterizer


@runtime_checkable
class LoadsNetwork(Protocol):
    """A stage-1 backend with weights."""

    def load(self, config: PointmapConfig) -> object:
        """The network that the configuration names."""
        ...


@runtime_checkable
class LoadsModel(Protocol):
    """A stage-2 backend with weights."""

    def load(self, config: DiffusionConfig, device: torch.device) -> object:
        """The model that the configuration names."""
        ...


def prepare(config: ReconxConfig) -> str:
    """Make every backend that the configuration names, and load its weights once.

    Weights are let go again: a job loads what its stages need, one stage after the other, so that none holds the memory
    that another one needs. What ``auto`` takes for stage 1 needs no weights.

    Returns:
        One sentence about what jobs will use.

    Raises:
        ConfigError: for an unknown backend or device.
        BackendUnavailableError: for a backend that cannot run here, or without weights.
        InvalidInputError: for weights that cannot be used.
        StorageError: for weights that cannot be read.
    """
    device = choose_device(config.device)
    pointmap = config.pointmap.backend
    if pointmap != "auto":
        backend = choose_pointmap(config, ())
        if isinstance(backend, LoadsNetwork):
            backend.load(config.pointmap)
    generator = choose_generator(config)
    if isinstance(generator, LoadsModel):
        generator.load(config.diffusion, device)
    rasterizer = select_rasterizer(config.splatting, device)
    _release(device)
    perceptual = "with" if perceptual_from_config(config.splatting) is not None else "without"
    return f"jobs run {pointmap}, {generator.name}, {rasterizer.name} on {device.type}, {perceptual} LPIPS"


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
