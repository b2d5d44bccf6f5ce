"""PSNR and SSIM of pictures."""

from __future__ import annotations

import numpy as np

from reconx_ros.core import InvalidInputError
from reconx_ros.core.checks import check_shape

SSIM_WINDOW_PX = 11
_SIGMA_PX = 1.5
_C1, _C2 = 0.01**2, 0.03**2


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


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) as scikit-image and pixelSplat's code compute it.

    Gaussian window of 11 px and sigma 1.5 px, data range 1, sample covariance, mean over the channels and over the
    pixels whose window lies inside the image.

    Args:
        image, truth: [H, W, C] in [0, 1].

    Raises:
        InvalidInputError: when shapes differ, or a side is shorter than the window.
    """
    values = ssim_map(image, truth)
    edge = SSIM_WINDOW_PX // 2
    return float(values[edge:-edge, edge:-edge].mean())


def ssim_map(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The map [H, W, C] whose inner mean ``ssim`` is; borders are mirrored.

    Raises:
        InvalidInputError: as ``ssim``.
    """
    check_shape("image", image, *truth.shape)
    if min(image.shape[:2]) < SSIM_WINDOW_PX:
        raise InvalidInputError(
            f"image is {image.shape[1]}x{image.shape[0]}, expected at least {SSIM_WINDOW_PX} pixels each way for SSIM"
        )
    x, y = image.astype(np.float64), truth.astype(np.float64)
    samples = SSIM_WINDOW_PX**2
    unbiased = samples / (samples - 1)
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x = unbiased * (_blurred(x * x) - mean_x * mean_x)
    variance_y = unbiased * (_blurred(y * y) - mean_y * mean_y)
    covariance = unbiased * (_blurred(x * y) - mean_x * mean_y)
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    out: np.ndarray = luminance * (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return out


def _blurred(image: np.ndarray) -> np.ndarray:
    import cv2

    size = (SSIM_WINDOW_PX, SSIM_WINDOW_PX)
    out = cv2.GaussianBlur(image, size, _SIGMA_PX, sigmaY=_SIGMA_PX, borderType=cv2.BORDER_REFLECT)
    return out.reshape(image.shape)
