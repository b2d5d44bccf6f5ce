"""What a picture file tells before its pixels are decoded: focal length and orientation (EXIF 2.32, JEITA CP-3451)."""

from __future__ import annotations

import io
import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from reconx_ros.core import InvalidInputError, StorageError

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION = 0x0112
_EXIF_IFD, _FOCAL_MM, _FOCAL_35MM = 0x8769, 0x920A, 0xA405
_PLANE_X, _PLANE_UNIT, _PIXELS_X = 0xA20E, 0xA210, 0xA002
_MM_PER_UNIT = {2.0: 25.4, 3.0: 10.0, 4.0: 1.0}
_FULL_FRAME_DIAGONAL_MM = 43.267
# What Pillow raises on damaged files, besides its own errors, which are OSErrors.
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error)


def focal_length_px(path: Path, width: int, height: int) -> float | None:
    """Focal length in pixels of an image of that size; None where the file does not say.

    From the 35 mm equivalent, which refers to the diagonal, or else from the focal length and the resolution of the
    focal plane. The image may have been turned or shrunk as a whole since, but not cropped.

    Raises:
        StorageError: when the file cannot be read.
        InvalidInputError: as ``opened_picture``.
    """
    picture = opened_picture(path, f"image {path}")
    if picture is None:
        return None
    with picture:
        tags = _tags(picture)
    focal = _from_equivalent(tags, width, height) or _from_plane(tags, width, height)
    return focal if focal is not None and math.isfinite(focal) and focal > 0 else None


def is_turned(picture: Image.Image) -> bool:
    """Whether the orientation that the camera noted exchanges width and height."""
    return _tags(picture).get(_ORIENTATION) in (5, 6, 7, 8)


def opened_picture(source: Path | bytes, name: str, formats: tuple[str, ...] | None = None) -> Image.Image | None:
    """A picture whose header is read and whose pixels are not decoded; None where Pillow cannot read the header.

    Args:
        source: a file, or its bytes up to the first pixel or beyond.
        name: what it is called in errors.
        formats: those that are allowed, by Pillow's names; None: all.

    Raises:
        StorageError: when the file is missing or cannot be read.
        InvalidInputError: when it announces more pixels than Pillow takes.
    """
    from PIL import Image

    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats)
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InvalidInputError(f"{name} announces more than {most} pixels, expected fewer") from None
    except _DAMAGED as err:
        if isinstance(err, OSError) and err.errno is not None:
            raise StorageError(f"file {source!s} cannot be read: {err.strerror}") from err
        return None


def _tags(picture: Image.Image) -> dict[int, float]:
    """Numeric tags of the EXIF block, first value each; ``getexif`` would decode some PNGs and look into XMP, too."""
    from PIL import Image

    exif = Image.Exif()
    try:
        exif.load(picture.info.get("exif", b""))
        return {tag: _number(value) for tag, value in {**exif, **exif.get_ifd(_EXIF_IFD)}.items()}
    except _DAMAGED:
        return {}


def _number(value: object) -> float:
    """A tag's first number; 0 where it holds none."""
    first = value[0] if isinstance(value, tuple) and value else value
    try:
        return 0.0 if isinstance(first, str | bytes) else float(first)  # type: ignore[arg-type]
    except (TypeError, ValueError, ArithmeticError):
        return 0.0


def _from_equivalent(tags: dict[int, float], width: int, height: int) -> float | None:
    equivalent = tags.get(_FOCAL_35MM, 0.0)
    return equivalent / _FULL_FRAME_DIAGONAL_MM * math.hypot(width, height) if equivalent > 0 else None


def _from_plane(tags: dict[int, float], width: int, height: int) -> float | None:
    focal_mm, per_unit, pixels, unit = (tags.get(t, 0.0) for t in (_FOCAL_MM, _PLANE_X, _PIXELS_X, _PLANE_UNIT))
    if not min(focal_mm, per_unit, pixels) > 0:
        return None
    return focal_mm * per_unit / _MM_PER_UNIT.get(unit, 25.4) * max(width, height) / pixels
