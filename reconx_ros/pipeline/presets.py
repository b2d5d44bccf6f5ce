"""Named settings. A preset says every value that any preset changes: its own, and the default of what others change."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from reconx_ros.core.errors import ConfigError
from reconx_ros.core.settings import walk
from reconx_ros.pipeline.config import ReconxConfig

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "default": {},
        "cpu": {"device": "cpu"},
        "gpu": {
            "device": "cuda",
            "keyframes.max_per_job": 24,
            "pointmap.max_size": 640,
            "pointmap.multiview.planes": 192,
            "splatting.rasterizer": "gsplat",
            "splatting.max_gaussians": 500_000,
            "splatting.max_size": 640,
            "output.novel_view_size": 640,
        },
        "tethered": {
            "ros.image_transport": "compressed",
            "ros.jpeg_quality": 90,
            "ros.compress_cloud": True,
            "ros.server_timeout_s": 120.0,
            "ros.result_timeout_s": 300,
            "output.voxel_size": 0.01,
        },
        "evaluation": {"output.novel_views": 0, "splatting.max_size": 640, "splatting.max_gaussians": 200_000},
    }
)


def preset_values(name: str) -> dict[str, Any]:
    """Values of a preset: the same configuration whichever preset was in force before. An empty name has none.

    Raises:
        ConfigError: for an unknown preset.
    """
    if not name:
        return {}
    if name not in PRESETS:
        nearest = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown preset '{name}', the nearest known one is '{nearest}' (all: {', '.join(PRESETS)})")
    defaults = {key: value for key, value, _ in walk(ReconxConfig())}
    changed = dict.fromkeys(key for values in PRESETS.values() for key in values)
    return {**{key: defaults[key] for key in changed}, **PRESETS[name]}
