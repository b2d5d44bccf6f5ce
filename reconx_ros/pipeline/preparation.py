"""Loading what the configured backends need, so that a missing or damaged file is noticed before the first job."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from reconx_ros.core.memory import limit_bytes
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.selection import choose_completer, choose_device, choose_generator, choose_pointmap
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.splatting.lpips import perceptual_from_config
from reconx_ros.splatting.select import select_rasterizer
from reconx_ros.weights.cache import ModelCache


@runtime_checkable
class LoadsNetwork(Protocol):
    """A stage-1 backend with weights."""

    def load(self, config: PointmapConfig, device: torch.device) -> object:
        """The network that the configuration names."""
        ...


@runtime_checkable
class LoadsModel(Protocol):
    """A stage-2 backend with weights."""

    def load(self, config: DiffusionConfig, device: torch.device) -> object:
        """The model that the configuration names."""
        ...


def prepare(config: ReconxConfig, models: ModelCache | None = None) -> str:
    """Make every backend that the configuration names, and load its weights.

    Args:
        config: of all stages.
        models: where networks stay loaded for the jobs to come, as long as there is memory for them; None only checks.

    Returns:
        One sentence about what jobs will use.

    Raises:
        ConfigError: for an unknown backend or device.
        BackendUnavailableError: for a backend that cannot run here.
        WeightsError: for weights that are missing or damaged.
        InvalidInputError: for weights that cannot be used.
    """
    device, models = choose_device(config.device), models or ModelCache()
    pointmap = config.pointmap.backend
    if pointmap != "auto":
        backend = choose_pointmap(config, (), models)
        if isinstance(backend, LoadsNetwork):
            backend.load(config.pointmap, device)
    if config.pointmap.metric_network:
        _load_metric_network(config.pointmap, models, device)
    completer: object = choose_completer(config.pointmap, models)
    if isinstance(completer, LoadsNetwork):
        completer.load(config.pointmap, device)
    generator = choose_generator(config, models)
    if isinstance(generator, LoadsModel):
        generator.load(config.diffusion, device)
    rasterizer = select_rasterizer(config.splatting, device)
    perceptual = "with" if perceptual_from_config(config.splatting, models, device) is not None else "without"
    return f"jobs run {pointmap}, {generator.name}, {rasterizer.name} on {device.type}, {perceptual} LPIPS"


def _load_metric_network(config: PointmapConfig, models: ModelCache, device: torch.device) -> None:
    from reconx_ros.pointmap.network.metric_depth import resident_network

    resident_network(config.metric_network, models, device, limit_bytes(config.max_memory_gb) or 0)
