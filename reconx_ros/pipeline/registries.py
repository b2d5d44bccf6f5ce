"""The tables of backends of all stages."""

from __future__ import annotations

from collections.abc import Mapping

from reconx_ros.core.registry import BackendInfo
from reconx_ros.diffusion import registry as diffusion
from reconx_ros.pointmap import registry as pointmap
from reconx_ros.splatting import registry as splatting


def registries() -> dict[str, Mapping[str, BackendInfo]]:
    """Stage to its backends by name."""
    return {"pointmap": pointmap.registry(), "diffusion": diffusion.registry(), "splatting": splatting.registry()}
