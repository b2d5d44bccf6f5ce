"""Pictures as pixelSplat prepares them: scaled by Pillow's Lanczos filter to cover a size, then cropped in the middle.

Published figures on RealEstate10K, ACID and DL3DV are on such pictures.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reconx_ros.core import Frame, InvalidInputError, PinholeCamera
from reconx_ros.geometry.resize import resize_lanczos, resize_nearest


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
    rgb = resize_lanczos(frame.rgb_u8, width, height)
    window, depth = _window(width, height, size), frame.depth_m
    if depth is not None:
        depth = np.ascontiguousarray(resize_nearest(depth, width, height)[window])
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
