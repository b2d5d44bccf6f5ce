"""Guards before bytes from a network or a recording are decoded as pictures: announced size and completeness.

The codecs themselves would decode what is cut short to grey and allocate whatever a header announces.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reconx_ros.core import InvalidInputError
from reconx_ros.io.image_size import size_in_head
from reconx_ros.io.images import decode_image

MAX_PIXELS = 64_000_000
_PNG_END = b"IEND"
_JPEG_MAGIC = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_TAIL = 4096  # padding that encoders may leave after the end marker


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
    return decode_image(whole_picture(data, name), name)


def whole_picture(data: Any, name: str) -> bytes:
    """The bytes of a JPEG or PNG, once size and end are found in order.

    Raises:
        InvalidInputError: for another format, an absurd size, or data that is cut short.
    """
    raw = bytes(data)
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
