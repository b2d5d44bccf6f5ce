"""What a camera noted in a JPEG file (EXIF 2.32, JEITA CP-3451): focal length and orientation, nothing else."""

from __future__ import annotations

import math
import struct
from pathlib import Path

from reconx_ros.core import StorageError

_ORIENTATION = 0x0112
_EXIF_IFD, _FOCAL_MM, _FOCAL_35MM = 0x8769, 0x920A, 0xA405
_PLANE_X, _PLANE_UNIT, _PIXELS_X = 0xA20E, 0xA210, 0xA002
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 9: 4, 10: 8}  # bytes of each TIFF type
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0}
_FULL_FRAME_DIAGONAL_MM = 43.267
_HEAD = 1 << 18  # bytes read; EXIF comes first


def focal_length_px(path: Path, width: int, height: int) -> float | None:
    """Focal length in pixels of an image of that size; None where the file does not say.

    From the 35 mm equivalent, which refers to the diagonal, or else from the focal length and the resolution of the
    focal plane. The image may have been turned or shrunk as a whole since, but not cropped.

    Raises:
        StorageError: when the file cannot be read.
    """
    tags = _tags_from_head(file_head(path))
    focal = _from_equivalent(tags, width, height) or _from_plane(tags, width, height)
    return focal if focal is not None and math.isfinite(focal) and focal > 0 else None


def is_turned(head: bytes) -> bool:
    """Whether a JPEG's orientation exchanges width and height; ``head`` is what ``file_head`` gives."""
    return _tags_from_head(head).get(_ORIENTATION, 1.0) in (5, 6, 7, 8)


def file_head(path: Path, length: int = _HEAD) -> bytes:
    """The first bytes of a file; by default enough for what stands before an image's pixels.

    Raises:
        StorageError: when the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(length)
    except OSError as err:
        raise StorageError(f"file {path} cannot be read: {err.strerror}") from err


def _tags_from_head(head: bytes) -> dict[int, float]:
    try:
        return _tags(_tiff_block(head))
    except (struct.error, IndexError, ValueError, ZeroDivisionError):
        return {}


def _from_equivalent(tags: dict[int, float], width: int, height: int) -> float | None:
    equivalent = tags.get(_FOCAL_35MM, 0.0)
    return equivalent / _FULL_FRAME_DIAGONAL_MM * math.hypot(width, height) if equivalent > 0 else None


def _from_plane(tags: dict[int, float], width: int, height: int) -> float | None:
    focal_mm, per_unit, pixels = (tags.get(t, 0.0) for t in (_FOCAL_MM, _PLANE_X, _PIXELS_X))
    unit_mm = _MM_PER_UNIT.get(int(tags.get(_PLANE_UNIT, 2)), 25.4)
    if min(focal_mm, per_unit, pixels) <= 0:
        return None
    return focal_mm * per_unit / unit_mm * max(width, height) / pixels


def _tiff_block(head: bytes) -> bytes:
    """The TIFF structure in a JPEG's APP1 segment; empty where there is none."""
    position = 2 if head[:2] == b"\xff\xd8" else len(head)
    while position + 4 <= len(head) and head[position] == 0xFF:
        marker, size = head[position + 1], struct.unpack_from(">H", head, position + 2)[0]
        if marker == 0xE1 and head[position + 4 : position + 10] == b"Exif\0\0":
            return head[position + 10 : position + 2 + size]
        if marker == 0xDA:
            break
        position += 2 + size
    return b""


def _tags(tiff: bytes) -> dict[int, float]:
    """Numeric tags of the EXIF directory, first value each."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return {}
    main = _directory(tiff, order, struct.unpack_from(order + "I", tiff, 4)[0])
    return {**main, **_directory(tiff, order, int(main[_EXIF_IFD]))} if _EXIF_IFD in main else main


def _directory(tiff: bytes, order: str, offset: int) -> dict[int, float]:
    tags = {}
    for k in range(struct.unpack_from(order + "H", tiff, offset)[0]):
        entry = offset + 2 + 12 * k
        tag, kind, count = struct.unpack_from(order + "HHI", tiff, entry)
        small = _SIZES.get(kind, 0) * count <= 4
        place = entry + 8 if small else struct.unpack_from(order + "I", tiff, entry + 8)[0]
        if kind == 3:
            tags[tag] = float(struct.unpack_from(order + "H", tiff, place)[0])
        elif kind == 4:
            tags[tag] = float(struct.unpack_from(order + "I", tiff, place)[0])
        elif kind == 5:
            top, bottom = struct.unpack_from(order + "II", tiff, place)
            tags[tag] = top / bottom if bottom else 0.0
    return tags
