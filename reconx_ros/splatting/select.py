"""Choice of the rasteriser."""

from __future__ import annotations

import logging
from typing import cast

import torch

from reconx_ros.core.registry import create
from reconx_ros.splatting.base import Rasterizer, registry
from reconx_ros.splatting.config import SplattingConfig

_LOG = logging.getLogger(__name__)


def select_rasterizer(config: SplattingConfig, device: torch.device) -> Rasterizer:
    """The rasteriser that a configuration names, or the fastest that runs on a device for ``auto``.

    ``auto`` takes gsplat on a CUDA device, the compiled kernels on the CPU, and the torch reference where these cannot
    run; it logs its choice and the reason.

    Raises:
        ConfigError: for an unknown name.
        BackendUnavailableError: when the named one cannot run here.
    """
    name = _fastest(device) if config.rasterizer == "auto" else config.rasterizer
    return cast("Rasterizer", create(registry(), name, kind="rasterizer"))


def _fastest(device: torch.device) -> str:
    wanted = "gsplat" if device.type == "cuda" else "native"
    reason = _missing(wanted)
    if reason is None:
        _LOG.info("rasterizer auto: chose %s, the fastest for device %s", wanted, device.type)
        return wanted
    _LOG.warning("rasterizer auto: chose reference, which is slow, because %s", reason)
    return "reference"


def _missing(name: str) -> str | None:
    try:
        return registry()[name].missing()
    except ImportError as error:
        return f"backend '{name}' cannot be imported ({error})"
