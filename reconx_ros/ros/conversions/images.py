"""sensor_msgs/Image to and from numpy, without copies where the encoding allows it.

A row may be longer than its pixels (``step``), 16- and 32-bit values may be of either byte order. Depth follows
REP-118: 32FC1 in metres, or 16UC1 in millimetres, NaN, infinity and 0 mean that nothing was measured.
"""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from reconx_ros.core import InvalidInputError
from reconx_ros.jobs.encoding import check_size, safe_compressed_depth, safe_rgb
from reconx_ros.ros.conversions.encodings import DEPTH_ENCODINGS, LAYOUTS, layout_from_encoding, to_rgb


def image_view(msg: Image) -> np.ndarray:
    """The pixels of an image message as they are: a view on its buffer, rows at their step.

    Returns:
        [H, W] or [H, W, C], uint8, uint16 or float32 in the message's byte order; [3 H / 2, W] for nv12 and nv21.

    Raises:
        InvalidInputError: for an encoding that is not supported, an empty, odd or absurd size, a step shorter than a
            row, or less data than the size asks for.
    """
    width, height = int(msg.width), int(msg.height)
    check_size("image", width, height)
    layout = layout_from_encoding(msg.encoding, width, height)
    dtype = np.dtype(layout.code).newbyteorder(">" if msg.is_bigendian else "<")
    rows, pixel = layout.rows(msg.encoding, height), layout.channels * dtype.itemsize
    step = _checked_step(msg, rows, width * pixel)
    shape = (rows, width) if layout.channels == 1 else (rows, width, layout.channels)
    strides = (step, pixel, dtype.itemsize)[: len(shape)]
    return np.ndarray(shape, dtype, buffer=memoryview(msg.data), strides=strides)


def _checked_step(msg: Image, rows: int, row: int) -> int:
    """Bytes between two rows; the padding of the last row may be missing."""
    step = int(msg.step) or row
    if step < row:
        raise InvalidInputError(
            f"image step is {step} bytes, expected at least {row} for {msg.width} pixels of {msg.encoding}"
        )
    needed = step * (rows - 1) + row
    if len(msg.data) < needed:
        raise InvalidInputError(
            f"image data has {len(msg.data)} bytes, expected {needed} for {msg.width}x{msg.height} {msg.encoding}"
        )
    return step


def rgb_from_image(msg: Image) -> np.ndarray:
    """RGB of an image message: a view for rgb8, a converted copy for the other encodings.

    Returns:
        [H, W, 3] uint8.

    Raises:
        InvalidInputError: as image_view, and for an encoding that is no picture.
    """
    return to_rgb(image_view(msg), msg.encoding)


def depth_from_image(msg: Image) -> np.ndarray:
    """Depth along the optical axis of a depth image message.

    Returns:
        [H, W] float32 metres, NaN where nothing was measured.

    Raises:
        InvalidInputError: as image_view, and for an encoding that is no depth.
    """
    if msg.encoding not in DEPTH_ENCODINGS:
        raise InvalidInputError(f"depth encoding is '{msg.encoding}', expected one of {', '.join(DEPTH_ENCODINGS)}")
    depth = image_view(msg).astype(np.float32)
    if msg.encoding != "32FC1":
        depth *= np.float32(1e-3)
    return clean_depth(depth)


def clean_depth(depth: np.ndarray) -> np.ndarray:
    """Set depths that are not finite and positive to NaN, in place; returns the array."""
    with np.errstate(invalid="ignore"):
        depth[~((depth > 0) & (depth < np.inf))] = np.nan
    return depth


def rgb_from_compressed(msg: CompressedImage) -> np.ndarray:
    """RGB [H, W, 3] uint8 of a compressed image message; its content decides, not its format string.

    Raises:
        InvalidInputError: for data that is no complete JPEG or PNG, or an absurd size.
    """
    return safe_rgb(msg.data, "compressed image")


def depth_from_compressed(msg: CompressedImage) -> np.ndarray:
    """Depth [H, W] float32 metres, NaN where nothing was measured, of a compressedDepth or 16-bit PNG message.

    Raises:
        InvalidInputError: for RVL compression, other encodings, damaged data or an absurd size.
    """
    return clean_depth(safe_compressed_depth(msg.data, msg.format))


def image_msg(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """An image message of pixels [H, W] or [H, W, C].

    Raises:
        InvalidInputError: when type or shape do not fit the encoding.
    """
    layout = LAYOUTS.get(encoding)
    code, channels = (layout.code, layout.channels) if layout is not None else ("", 0)
    shape_fits = pixels.ndim == (2 if channels == 1 else 3) and (channels == 1 or pixels.shape[-1] == channels)
    if not code or pixels.dtype != np.dtype(code) or not shape_fits:
        shape = list(pixels.shape)
        raise InvalidInputError(f"pixels are {pixels.dtype} {shape}, which encoding '{encoding}' cannot hold")
    msg = Image(header=header, height=int(pixels.shape[0]), width=int(pixels.shape[1]), encoding=encoding)
    msg.step = int(pixels.shape[1]) * channels * pixels.dtype.itemsize
    msg.is_bigendian = 0
    msg.data = byte_array(pixels)
    return msg


def byte_array(values: np.ndarray | bytes) -> array.array[int]:
    """The bytes of an array as the one container that message fields take without looking at each element."""
    data = array.array("B")
    contiguous: Any = values if isinstance(values, bytes) else np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    data.frombytes(memoryview(contiguous))
    return data
