"""How much memory depth from several views and from sensors takes.

One view is swept at a time, so that the cost volumes of the largest view count once and images count per view.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import torch

from reconx_ros.core import Keyframe
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.stereo.kernels import fastest_kernels
from reconx_ros.pointmap.stereo.settings import DepthSensorSettings, MultiviewSettings

_FLOAT_BYTES = 4
_VOLUMES = MappingProxyType({"native": 3, "torch": 8})  # cost volumes alive at the peak of one view's sweep
_VIEW_FLOATS = 36  # per pixel and view: image, grey, depth, cost, margin, the resulting pointmap
_SWEEP_BYTES = 80e6  # chunks of warped sources, the first look at small images, code that is loaded late
_SENSOR_FLOATS = 24  # per pixel and view of an RGB-D frame


def multiview_bytes(keyframes: Sequence[Keyframe], config: PointmapConfig, device: torch.device) -> float:
    """Estimated peak of ``multiview_depth``; arguments as there."""
    settings = config.own(MultiviewSettings)
    pixels = _pixels(keyframes, config)
    kernels = fastest_kernels(device)[0] if settings.kernels == "auto" else settings.kernels
    volumes = max(pixels, default=0) * settings.planes * _VOLUMES[kernels] * _FLOAT_BYTES
    return sum(pixels) * _VIEW_FLOATS * _FLOAT_BYTES + _SWEEP_BYTES + volumes


def sensor_bytes(keyframes: Sequence[Keyframe], config: PointmapConfig, device: torch.device) -> float:
    """Estimated peak of ``sensor_depth`` and the filling of its holes; arguments as there."""
    read = sum(_pixels(keyframes, config)) * _SENSOR_FLOATS * _FLOAT_BYTES
    fills = config.own(DepthSensorSettings).fill_depth
    return read + multiview_bytes(keyframes, config, device) if fills else read


def _pixels(keyframes: Sequence[Keyframe], config: PointmapConfig) -> list[int]:
    cameras = [k.frame.camera.fitted_to(config.max_size) for k in keyframes]
    return [camera.width * camera.height for camera in cameras]
