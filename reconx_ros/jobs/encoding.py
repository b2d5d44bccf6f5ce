"""Depth and masks as they cross between robot, server and worker: PNG, guarded as ``reconx_ros.io.guards`` does."""

from __future__ import annotations

from typing import Any

import numpy as np

from reconx_ros.io.guards import whole_picture
from reconx_ros.io.images import decode_depth_png, decode_image

DEPTH_UNIT = 1e-3
"""One count of a depth PNG: a millimetre, or a thousandth of a map unit where the scale is not metric."""


def safe_depth_png(data: Any, name: str = "depth image") -> np.ndarray:
    """Depth [H, W] float32, 0 where unknown, of a 16-bit PNG in thousandths.

    Raises:
        InvalidInputError: as safe_rgb, or when the picture is not one 16-bit channel.
    """
    return decode_depth_png(whole_picture(data, name), DEPTH_UNIT, name)


def encode_mask_png(values_u8: np.ndarray) -> bytes:
    """PNG of one uint8 channel [H, W]."""
    import cv2

    return bytes(cv2.imencode(".png", np.ascontiguousarray(values_u8))[1])


def safe_mask_png(data: Any, name: str = "mask") -> np.ndarray:
    """One uint8 channel [H, W] of PNG bytes.

    Raises:
        InvalidInputError: as safe_rgb.
    """
    return np.ascontiguousarray(decode_image(whole_picture(data, name), name)[..., 0])
