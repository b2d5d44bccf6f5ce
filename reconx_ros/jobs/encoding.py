"""Guards before network bytes are decoded as pictures: announced size and completeness. Needs no ROS.

The codecs themselves are those of ``reconx_ros.io.images``; they would decode what is cut short to grey and allocate
whatever a header announces.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reconx_ros.core import InvalidInputError
from reconx_ros.io.image_size import size_in_head
from reconx_ros.io.images import decode_compressed_depth, decode_depth_png, decode_image

MAX_PIXELS = 64_000_000
DEPTH_UNIT = 1e-3
"""One count of a depth PNG: a millimetre, or a thousandth of a map unit where the scale is not metric."""
_PNG_END = b"IEND"
_JPEG_MAGIC = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_TAIL = 4096  # padding that encoders may leave after the end marker
_DEPTH_HEADER_BYTES = 12  # compressedDepth: format, quantisation a, quantisation b


def check_size(name: str, width: int, height: int) -> None:
    """Refuse sizes that are empty or would exhaust the memory.

    Raises:
        InvalidInputError: for a side below one pixel or more than MAX_PIXELS altogether.
    """
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InvalidInputError(f"{name} size is {width}x{height}, expected 1x1 to {MAX_PIXELS} pixels altogether")


def safe_rgb(data: Any, name: str = "picture") -> np.ndarray:
    """RGB [H, W, 3] uint8 of JPEG or PNG bytes.

    Raises:
        InvalidInputError: for another format, an absurd size, or data that is cut short or damaged.
    """
    return decode_image(_checked(bytes(data), name), name)


def safe_depth_png(data: Any, name: str = "depth image") -> np.ndarray:
    """Depth [H, W] float32, 0 where unknown, of a 16-bit PNG in thousandths.

    Raises:
        InvalidInputError: as safe_rgb, or when the picture is not one 16-bit channel.
    """
    return decode_depth_png(_checked(bytes(data), name), DEPTH_UNIT, name)


def safe_compressed_depth(data: Any, encoding: str, name: str = "compressed depth") -> np.ndarray:
    """Depth [H, W] float32 metres, 0 where unknown, of a compressedDepth payload or a plain 16-bit PNG.

    Raises:
        InvalidInputError: as safe_rgb, and for RVL compression.
    """
    raw = bytes(data)
    if "compresseddepth" in encoding.lower() and "rvl" not in encoding.lower():
        _checked(raw[_DEPTH_HEADER_BYTES:], name)
    return decode_compressed_depth(raw, encoding, name)


def _checked(raw: bytes, name: str) -> bytes:
    check_size(name, *announced_size(raw, name))
    end = _JPEG_END if raw.startswith(_JPEG_MAGIC) else _PNG_END
    if end not in raw[-_TAIL:]:
        raise InvalidInputError(f"{name} of {len(raw)} bytes is cut short, expected complete data")
    return raw


def announced_size(raw: bytes, name: str = "picture") -> tuple[int, int]:
    """(width, height) that a JPEG or PNG announces, read before anything is decoded.

    Raises:
        InvalidInputError: for another format, a header that is cut short, or more pixels than Pillow takes.
    """
    size = size_in_head(raw, name, as_stored=True, formats=("JPEG", "PNG"))
    if size is None:
        start = raw[:4].hex() or "nothing"
        raise InvalidInputError(f"{name} of {len(raw)} bytes starts with {start}, expected JPEG or PNG")
    return size


def encode_mask_png(values_u8: np.ndarray) -> bytes:
    """PNG of one uint8 channel [H, W]."""
    import cv2

    return bytes(cv2.imencode(".png", np.ascontiguousarray(values_u8))[1])


def safe_mask_png(data: Any, name: str = "mask") -> np.ndarray:
    """One uint8 channel [H, W] of PNG bytes.

    Raises:
        InvalidInputError: as safe_rgb.
    """
    return np.ascontiguousarray(decode_image(_checked(bytes(data), name), name)[..., 0])
