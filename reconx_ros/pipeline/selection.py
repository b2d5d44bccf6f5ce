"""What ``auto`` means: device and backends are chosen here, logged with the reason."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from reconx_ros.core import BackendUnavailableError, ConfigError, InvalidInputError, Keyframe
from reconx_ros.core.registry import create
from reconx_ros.diffusion import registry as diffusion_registry
from reconx_ros.diffusion.base import UsesEstimator, ViewGenerator
from reconx_ros.diffusion.config import NO_FALLBACK
from reconx_ros.diffusion.model_folders import generator_for
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.frame_estimator import Stage1Estimator
from reconx_ros.pointmap import registry as pointmap_registry
from reconx_ros.pointmap.base import PointmapBackend
from reconx_ros.pointmap.completion.base import DepthCompleter, completer_name, create_completer
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.weights.cache import ModelCache, sharing

_log = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """The torch device of a configured name; ``auto`` takes CUDA when torch sees a GPU.

    Raises:
        ConfigError: for a name torch does not know.
        BackendUnavailableError: for a CUDA device that is not there.
    """
    if name == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
        _log.info(
            "device auto: %s (%s)", chosen, "a CUDA GPU is visible" if chosen == "cuda" else "no CUDA GPU visible"
        )
        return torch.device(chosen)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device is '{name}', expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendUnavailableError(f"device is '{name}', but torch sees {torch.cuda.device_count()} CUDA GPUs")
    return device


def choose_pointmap(
    config: ReconxConfig, keyframes: Sequence[Keyframe], models: ModelCache | None = None
) -> PointmapBackend:
    """The stage-1 backend for these keyframes, which takes its network from a cache."""
    name = config.pointmap.backend
    if name == "auto":
        name, reason = _auto_pointmap(keyframes)
        _log.info("pointmap backend auto: %s (%s)", name, reason)
    backend: PointmapBackend = create(pointmap_registry.registry(), name, kind="pointmap backend")
    return sharing(backend, models)


def choose_completer(config: PointmapConfig, models: ModelCache | None = None) -> DepthCompleter | None:
    """Who guesses the depth of what stage 1 did not measure; None where nobody does.

    Raises:
        ConfigError: for an unknown name.
        BackendUnavailableError: when the named one cannot run here.
    """
    name = completer_name(config)
    return None if name is None else create_completer(name, models)


def _auto_pointmap(keyframes: Sequence[Keyframe]) -> tuple[str, str]:
    """Name and reason."""
    unposed = sum(k.frame.world_from_cam is None for k in keyframes)
    deep = sum(k.frame.depth_m is not None for k in keyframes)
    depth = 2 * deep > len(keyframes)
    words = f"{deep} of {len(keyframes)} frames have depth" if depth else "depth from several views"
    reason = f"{unposed} of {len(keyframes)} frames have no pose" if unposed else words
    return pointmap_registry.automatic(posed=not unposed, depth=depth), reason


def choose_generator(config: ReconxConfig, models: ModelCache | None = None) -> ViewGenerator:
    """The stage-2 backend, which takes its model from a cache; one that asks stage 1 about its frames is given stage 1.

    Raises:
        InvalidInputError: when the weights are for no known generator.
        ConfigError: for an unknown name, or a fallback that could not stand in.
    """
    _check_fallback(config.diffusion.fallback)
    name = config.diffusion.backend
    if name == "auto":
        name, reason = _auto_generator(config.diffusion.weights)
        _log.info("diffusion backend auto: %s (%s)", name, reason)
    generator: ViewGenerator = create(diffusion_registry.registry(), name, kind="diffusion backend")
    generator = sharing(generator, models)
    if isinstance(generator, UsesEstimator):
        return generator.with_estimator(Stage1Estimator(config.pointmap, models))
    return generator


def _check_fallback(name: str) -> None:
    able = [row.name for row in diffusion_registry.registry().values() if not row.needs_weights]
    if name not in (NO_FALLBACK, *able):
        raise ConfigError(f"diffusion.fallback is '{name}', expected one of {', '.join((NO_FALLBACK, *able))}")


def _auto_generator(weights: str) -> tuple[str, str]:
    """Name and reason."""
    if not weights:
        return diffusion_registry.without_weights(), "no weights of a video model are configured; nothing is generated"
    name = generator_for(weights)
    if name is None:
        raise InvalidInputError(
            f"diffusion.weights is '{weights}', whose model no view generator runs: name one with diffusion.backend"
        )
    return name, f"the weights in '{weights}' are for it"
