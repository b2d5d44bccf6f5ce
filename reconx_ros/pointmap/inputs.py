"""What of the keyframes stage 1 may use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reconx_ros.core import Keyframe
from reconx_ros.pointmap.config import PointmapConfig


def usable_keyframes(keyframes: Sequence[Keyframe], config: PointmapConfig) -> list[Keyframe]:
    """The keyframes, without their sensor depth where ``use_depth`` is off: nobody after this asks again."""
    if config.use_depth:
        return list(keyframes)
    return [replace(k, frame=replace(k.frame, depth_m=None)) for k in keyframes]
