"""sensor_msgs/Image to and from numpy, without copies where the encoding allows it.

A row may be longer than its pixels (``step``), 16- and 32-bit values may be of either byte order. Depth follows
REP-118: 32FC1 in metres, or 16UC1 in millimetres, NaN, infinity and 0 mean that nothing was measured.
"""

from __future__ import annotations

import array
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from reconx_ros.core import InvalidInputError
from reconx_ros.ros.encoded import check_size, safe_compressed_depth, safe_rgb

DEPTH_ENCODINGS = ("32FC1", "16UC1", "mono16")
RGB_ENCODINGS = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8")
_LAYOUTS = {
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "mono8": ("u1", 1),
    "8UC1": ("u1", 1),
    "16UC1": ("u2", 1),
    "mono16": ("u2", 1),
    "32FC1": ("f4", 1),
}
_TO_RGB = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
}


def image_view(msg: Image) -> np.ndarray:
    """The pixels of an image message as they are: a view on its buffer, rows at their step.

    Returns:
        [H, W] or [H, W, C], uint8, uint16 or float32 in the message's byte order.

    Raises:
        InvalidInputError: for an encoding that is not supported, an empty or absurd size, a step shorter than a row,
            or less data than the size asks for.
    """
    width, height = int(msg.width), int(msg.height)
    check_size("image", width, height)
    if msg.encoding not in _LAYOUTS:
        raise InvalidInputError(f"image encoding is '{msg.encoding}', expected one of {', '.join(_LAYOUTS)}")
    code, channels = _LAYOUTS[msg.encoding]
    dtype = np.dtype(code).newbyteorder(">" if msg.is_bigendian else "<")
    row = width * channels * dtype.itemsize
    step = int(msg.step) or row
    if step < row:
        raise InvalidInputError(
            f"image step is {step} bytes, expected at least {row} for {width} pixels of {msg.encoding}"
        )
    needed = step * (height - 1) + row
    if len(msg.data) < needed:
        raise InvalidInputError(
            f"image data has {len(msg.data)} bytes, expected {needed} for {width}x{height} {msg.encoding}"
        )
    shape = (height, width) if channels == 1 else (height, width, channels)
    strides = (step, channels * dtype.itemsize, dtype.itemsize)[: len(shape)]
    return np.ndarray(shape, dtype, buffer=memoryview(msg.data), strides=strides)


def rgb_of_image(msg: Image) -> np.ndarray:
    """RGB of an image message: a view for rgb8, a converted copy for the other encodings.

    Returns:
        [H, W, 3] uint8.

    Raises:
        InvalidInputError: as image_view, and for an encoding that is no 8-bit picture.
    """
    if msg.encoding not in RGB_ENCODINGS:
        raise InvalidInputError(f"image encoding is '{msg.encoding}', expected one of {', '.join(RGB_ENCODINGS)}")
    pixels = image_view(msg)
    if msg.encoding == "rgb8":
        return pixels
    return cv2.cvtColor(np.ascontiguousarray(pixels), _TO_RGB[msg.encoding])


def depth_of_image(msg: Image) -> np.ndarray:
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


def rgb_of_compressed(msg: CompressedImage) -> np.ndarray:
    """RGB [H, W, 3] uint8 of a compressed image message; its content decides, not its format string.

    Raises:
        InvalidInputError: for data that is no complete JPEG or PNG, or an absurd size.
    """
    return safe_rgb(msg.data, "compressed image")


def depth_of_compressed(msg: CompressedImage) -> np.ndarray:
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
    code, channels = _LAYOUTS.get(encoding, ("", 0))
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
