"""Size of an image file from its first bytes: hundreds of pictures are measured without decoding one."""

from __future__ import annotations

import struct
from pathlib import Path

from reconx_ros.io.exif import file_head, is_turned
from reconx_ros.io.images import read_image

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_SHORT, _LONG = 1 << 13, 1 << 18  # bytes read at first, and where a thumbnail or a colour profile comes before the size
# Start-of-frame markers of JPEG; C4, C8 and CC in between are tables (ITU-T T.81, table B.1).
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def image_size(path: Path, *, as_stored: bool = False) -> tuple[int, int]:
    """(width, height) that ``read_image`` would give; files other than PNG and JPEG are decoded for it.

    Args:
        path: an image file.
        as_stored: as in ``read_image``.

    Raises:
        StorageError: when the file is missing or cannot be read.
        InvalidInputError: when it is not an image.
    """
    for length in (_SHORT, _LONG):
        size = size_in_head(file_head(path, length), as_stored=as_stored)
        if size is not None:
            return size
    height, width = read_image(path, as_stored=as_stored).shape[:2]
    return width, height


def size_in_head(head: bytes, *, as_stored: bool = False) -> tuple[int, int] | None:
    """(width, height) that the first bytes of a PNG or JPEG tell; None where they do not."""
    return _png_size(head, as_stored) or _jpeg_size(head, as_stored)


def _png_size(head: bytes, as_stored: bool) -> tuple[int, int] | None:
    """None for other files, and for a PNG with EXIF data, which may be turned."""
    if not head.startswith(_PNG) or head[12:16] != b"IHDR" or len(head) < 24:
        return None
    if not as_stored and b"eXIf" in head:
        return None
    width, height = struct.unpack_from(">II", head, 16)
    return (width, height) if width and height else None


def _jpeg_size(head: bytes, as_stored: bool) -> tuple[int, int] | None:
    """None for other files, and where the size does not stand near the beginning."""
    position = 2 if head.startswith(_JPEG) else len(head)
    while position + 9 <= len(head) and head[position] == 0xFF:
        marker, length = head[position + 1], struct.unpack_from(">H", head, position + 2)[0]
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", head, position + 5)
            if not (width and height):
                return None
            return (height, width) if not as_stored and is_turned(head) else (width, height)
        position += 2 + length
    return None
