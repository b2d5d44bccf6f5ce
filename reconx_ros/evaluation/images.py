"""Image quality."""

from __future__ import annotations

import numpy as np

from reconx_ros.core.checks import check_shape


def psnr(image_u8: np.ndarray, truth_u8: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two 8-bit images, data range 255; infinite for equal ones.

    Args:
        image_u8, truth_u8: [H, W, 3] uint8.
        mask: [H, W] bool, pixels that count; all when None. NaN when it is empty.

    Raises:
        InvalidInputError: when shapes differ.
    """
    check_shape("image", image_u8, *truth_u8.shape)
    squared = (image_u8.astype(np.float64) - truth_u8.astype(np.float64)) ** 2
    if mask is not None:
        squared = squared[mask]
    if not squared.size:
        return float("nan")
    mean = float(squared.mean())
    return float("inf") if mean == 0 else float(10 * np.log10(255.0**2 / mean))
