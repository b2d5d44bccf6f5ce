"""Pictures as pixelSplat prepares them: scaled by Pillow's Lanczos filter to cover a size, then cropped in the middle.

The scaling follows Pillow's ``Image.resize(size, LANCZOS)`` for 8-bit images to the last bit: rows before columns, each
rounded to 8 bits, weights in fixed point (Pillow, ``src/libImaging/Resample.c``). Published figures on RealEstate10K,
ACID and DL3DV are on such pictures.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reconx_ros.core import Frame, InvalidInputError, PinholeCamera, check_shape

_LOBES = 3
_BITS = 32 - 8 - 2  # of the fixed-point weights


def lanczos_resize(rgb_u8: np.ndarray, width: int, height: int) -> np.ndarray:
    """An image [H, W, 3] uint8 at another size, antialiased.

    Raises:
        InvalidInputError: for another shape or type, or an empty size.
    """
    check_shape("image", rgb_u8, "H", "W", 3)
    if rgb_u8.dtype != np.uint8 or width < 1 or height < 1:
        raise InvalidInputError(f"image is {rgb_u8.dtype} and wanted at {width}x{height}, expected uint8 and one pixel")
    across = _filtered(rgb_u8, width) if width != rgb_u8.shape[1] else rgb_u8
    if height == rgb_u8.shape[0]:
        return across
    return np.ascontiguousarray(_filtered(across.swapaxes(0, 1), height).swapaxes(0, 1))


def covering_crop(frame: Frame, size: tuple[int, int]) -> Frame:
    """The frame scaled until it just covers a size, its middle of that size cut out; depth goes by nearest value.

    The camera is that of the pixels that are kept. (pixelSplat leaves the principal point in the middle, which is half
    a pixel off where an odd number of columns is cut away.)

    Args:
        frame: at least as large as the size.
        size: (width, height), for example (256, 256).

    Raises:
        InvalidInputError: when the picture is smaller than the size.
    """
    width, height = covering_size(frame.camera, size)
    rgb = lanczos_resize(frame.rgb_u8, width, height)
    window, depth = _window(width, height, size), frame.depth_m
    if depth is not None:
        rows = ((np.arange(height) + 0.5) * depth.shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * depth.shape[1] / width).astype(int)
        depth = np.ascontiguousarray(depth[rows[:, None], columns][window])
    return replace(
        frame, rgb_u8=np.ascontiguousarray(rgb[window]), depth_m=depth, camera=covering_camera(frame.camera, size)
    )


def covering_camera(camera: PinholeCamera, size: tuple[int, int]) -> PinholeCamera:
    """The camera that ``covering_crop`` gives.

    Raises:
        InvalidInputError: as ``covering_crop``.
    """
    scaled = camera.scaled_to(*covering_size(camera, size))
    rows, columns = _window(scaled.width, scaled.height, size)
    return replace(scaled, width=size[0], height=size[1], cx=scaled.cx - columns.start, cy=scaled.cy - rows.start)


def covering_size(camera: PinholeCamera, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a camera's picture when it is scaled to just cover a size.

    Raises:
        InvalidInputError: when the picture is smaller than the size.
    """
    if camera.width < size[0] or camera.height < size[1]:
        raise InvalidInputError(
            f"picture is {camera.width}x{camera.height}, expected at least {size[0]}x{size[1]} to crop it to that"
        )
    factor = max(size[1] / camera.height, size[0] / camera.width)
    return round(camera.width * factor), round(camera.height * factor)


def _window(width: int, height: int, size: tuple[int, int]) -> tuple[slice, slice]:
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    return slice(top, top + size[1]), slice(left, left + size[0])


def _filtered(image: np.ndarray, length: int) -> np.ndarray:
    """An image [A, B, 3] uint8 with its second axis brought to a length."""
    first, weights = _weights(image.shape[1], length)
    columns = np.minimum(first[:, None] + np.arange(weights.shape[1]), image.shape[1] - 1)  # beyond: weight 0
    total = np.full((image.shape[0], length, image.shape[2]), 1 << (_BITS - 1), dtype=np.int32)
    for tap in range(weights.shape[1]):
        total += image[:, columns[:, tap]] * weights[None, :, tap, None]
    return np.clip(total >> _BITS, 0, 255).astype(np.uint8)


def _weights(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """First source pixel [new] and fixed-point weights [new, taps] int32 of each target pixel."""
    scale = old / new
    stretch = max(scale, 1.0)
    support = _LOBES * stretch
    centres = (np.arange(new) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(int), 0)
    last = np.minimum((centres + support + 0.5).astype(int), old)
    source = first[:, None] + np.arange(int((last - first).max()))
    x = (source - centres[:, None] + 0.5) / stretch
    kernel = np.where((np.abs(x) < _LOBES) & (source < last[:, None]), np.sinc(x) * np.sinc(x / _LOBES), 0.0)
    kernel /= kernel.sum(axis=1, keepdims=True)
    return first, (np.sign(kernel) * np.floor(np.abs(kernel) * (1 << _BITS) + 0.5)).astype(np.int32)
