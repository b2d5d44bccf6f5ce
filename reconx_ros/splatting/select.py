"""Choice of the rasteriser."""

from __future__ import annotations

import logging
from typing import cast

import torch

from reconx_ros.core import BackendUnavailableError
from reconx_ros.core.registry import create
from reconx_ros.splatting.base import Rasterizer
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.registry import registry

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
    """The first row that takes the device's tensors and can run; the last one always can."""
    reason = ""
    for row in registry().values():
        if row.devices and device.type not in row.devices:
            continue
        missing = _missing(row.name)
        if missing is None and not reason:
            _LOG.info("rasterizer auto: chose %s, the fastest for device %s", row.name, device.type)
            return row.name
        if missing is None:
            _LOG.warning("rasterizer auto: chose %s, which is slow, because %s", row.name, reason)
            return row.name
        reason = reason or missing
    raise BackendUnavailableError(f"no rasterizer takes tensors on device {device.type}: {reason}")


def _missing(name: str) -> str | None:
    try:
        return registry()[name].missing()
    except ImportError as error:
        return f"backend '{name}' cannot be imported ({error})"
