"""Image and CompressedImage messages to arrays, without copies where the encoding allows it; of rclpy or of a bag.

A message is any object with the fields of ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage`` (told apart by
``format``). A row may be longer than its pixels (``step``; 0 means that it is not), 16- and 32-bit values may be of
either byte order. Depth follows REP-118: 32FC1 in metres, or 16UC1 in millimetres; 0, 65535, NaN, infinity, negative
numbers and what is farther than ``FARTHEST_M`` mean that nothing was measured. A compressed picture is taken as it is
stored: its EXIF orientation is for people, the calibration is of the stored pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reconx_ros.core import InvalidInputError
from reconx_ros.io.guards import announced_size, check_size, whole_picture
from reconx_ros.io.images import decode_compressed_depth, decode_stored
from reconx_ros.io.ingest.encodings import DEPTH_ENCODINGS, LAYOUTS, layout_from_encoding, to_rgb

FARTHEST_M = 1e4
_SATURATED = 65535  # what 16-bit drivers send where there is no echo
_DEPTH_HEADER_BYTES = 12  # compressedDepth: format, quantisation a, quantisation b
_STORED = {(1, 1): "mono8", (3, 1): "bgr8", (4, 1): "bgra8", (1, 2): "mono16", (3, 2): "bgr16", (4, 2): "bgra16"}


def is_compressed(msg: Any) -> bool:
    """Whether a message is a CompressedImage."""
    return hasattr(msg, "format")


def size_from_msg(msg: Any) -> tuple[int, int]:
    """(width, height) that an image message announces, before anything is decoded.

    Raises:
        InvalidInputError: for a compressed one that is neither JPEG nor PNG.
    """
    if is_compressed(msg):
        raw = bytes(msg.data)
        deep = "compresseddepth" in str(msg.format).lower()
        return announced_size(raw[_DEPTH_HEADER_BYTES:] if deep else raw, "compressed image")
    return int(msg.width), int(msg.height)


def rgb_from_msg(msg: Any) -> np.ndarray:
    """RGB [H, W, 3] uint8 of either kind of message.

    Raises:
        InvalidInputError: as rgb_from_image and rgb_from_compressed.
    """
    return rgb_from_compressed(msg) if is_compressed(msg) else rgb_from_image(msg)


def depth_from_msg(msg: Any) -> np.ndarray:
    """Depth [H, W] float32 metres, NaN where nothing was measured, of either kind of message.

    Raises:
        InvalidInputError: as depth_from_image and depth_from_compressed.
    """
    return depth_from_compressed(msg) if is_compressed(msg) else depth_from_image(msg)


def image_view(msg: Any) -> np.ndarray:
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


def _checked_step(msg: Any, rows: int, row: int) -> int:
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


def rgb_from_image(msg: Any) -> np.ndarray:
    """RGB of an image message: a view for rgb8, a converted copy for the other encodings.

    Returns:
        [H, W, 3] uint8.

    Raises:
        InvalidInputError: as image_view, and for an encoding that is no picture.
    """
    return to_rgb(image_view(msg), msg.encoding)


def depth_from_image(msg: Any) -> np.ndarray:
    """Depth along the optical axis of a depth image message.

    Returns:
        [H, W] float32 metres, NaN where nothing was measured.

    Raises:
        InvalidInputError: as image_view, and for an encoding that is no depth.
    """
    if msg.encoding not in DEPTH_ENCODINGS:
        raise InvalidInputError(f"depth encoding is '{msg.encoding}', expected one of {', '.join(DEPTH_ENCODINGS)}")
    depth = image_view(msg).astype(np.float32)
    return clean_depth(depth if msg.encoding == "32FC1" else _metres(depth))


def _metres(counts: np.ndarray) -> np.ndarray:
    """Millimetres, in place, to metres; the saturated count is a hole."""
    counts[counts == _SATURATED] = np.nan
    counts *= np.float32(1e-3)
    return counts


def clean_depth(depth: np.ndarray) -> np.ndarray:
    """Set depths that are no measurement to NaN, in place; returns the array."""
    with np.errstate(invalid="ignore"):
        depth[~((depth > 0) & (depth < FARTHEST_M))] = np.nan
    return depth


def rgb_from_compressed(msg: Any) -> np.ndarray:
    """RGB [H, W, 3] uint8 of a compressed image message.

    The content decides, the format string only says that one channel is a Bayer mosaic.

    Raises:
        InvalidInputError: for data that is no complete JPEG or PNG, or an absurd size.
    """
    name = "compressed image"
    pixels = decode_stored(whole_picture(msg.data, name), name)
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1]
    encoding = _STORED.get((channels, pixels.dtype.itemsize))
    if encoding is None:
        raise InvalidInputError(f"{name} has {channels} channels of {pixels.dtype}, expected 1, 3 or 4 of 8 or 16 bits")
    source = str(msg.format).split(";")[0].strip()
    mosaic = f"{source.rstrip('0123456789')}{8 * pixels.dtype.itemsize}"
    if channels == 1 and source.startswith("bayer_") and mosaic in LAYOUTS:
        layout_from_encoding(mosaic, pixels.shape[1], pixels.shape[0])
        encoding = mosaic
    return np.ascontiguousarray(to_rgb(pixels, encoding))


def depth_from_compressed(msg: Any) -> np.ndarray:
    """Depth [H, W] float32 metres, NaN where nothing was measured, of a compressedDepth or 16-bit PNG message.

    Raises:
        InvalidInputError: for RVL compression, other encodings, damaged data or an absurd size.
    """
    name, raw, encoding = "compressed depth", bytes(msg.data), str(msg.format)
    deep = "compresseddepth" in encoding.lower()
    if "rvl" not in encoding.lower():
        whole_picture(raw[_DEPTH_HEADER_BYTES:] if deep else raw, name)
    depth = decode_compressed_depth(raw, encoding, name)
    if not encoding.startswith("32FC1"):
        depth[np.rint(depth * 1000) == _SATURATED] = np.nan
    return clean_depth(depth)
