"""Size of an image from its header: hundreds of pictures are measured without decoding one."""

from __future__ import annotations

from pathlib import Path

from reconx_ros.io.exif import is_turned, opened_picture
from reconx_ros.io.images import read_image


def image_size(path: Path, *, as_stored: bool = False) -> tuple[int, int]:
    """(width, height) that ``read_image`` would give; what Pillow cannot measure is decoded for it.

    Args:
        path: an image file.
        as_stored: as in ``read_image``.

    Raises:
        StorageError: when the file is missing or cannot be read.
        InvalidInputError: when it is not an image, or announces more pixels than Pillow takes.
    """
    size = size_in_head(path, f"image {path}", as_stored=as_stored)
    if size is not None:
        return size
    height, width = read_image(path, as_stored=as_stored).shape[:2]
    return width, height


def size_in_head(
    source: Path | bytes, name: str, *, as_stored: bool = False, formats: tuple[str, ...] | None = None
) -> tuple[int, int] | None:
    """(width, height) that a picture announces; None where Pillow cannot read its header.

    Args:
        source: a file, or its bytes up to the first pixel or beyond.
        name: what the picture is called in errors.
        as_stored: as in ``read_image``.
        formats: those that are allowed, by Pillow's names; None: all.

    Raises:
        StorageError: when the file is missing or cannot be read.
        InvalidInputError: when it announces more pixels than Pillow takes.
    """
    picture = opened_picture(source, name, formats)
    if picture is None:
        return None
    with picture:
        width, height = picture.size
        return (height, width) if not as_stored and is_turned(picture) else (width, height)
