"""A cloud as few bytes for a slow link: columns, planes of bytes, zlib. Lossless, needs no ROS.

Layout of ``Reconstruct.action``'s ``cloud_packed``: magic, uint32 point count, then zlib data of the columns in
``_COLUMNS``, each split into its planes of bytes, so that bytes that resemble each other lie together. Positions in
double precision have a magic of their own.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

from reconx_ros.core import InvalidInputError, PointCloud, check_provenance

MAGIC, MAGIC_DOUBLE = b"RXC1", b"RXC2"
MAX_POINTS = 100_000_000
_LEVEL = 1  # higher levels gain a hundredth and take thrice the time
_COLUMNS = {
    MAGIC: ("<f4", "<f4", "<f4", "<f4", "<u4", "u1", "u1", "u1", "u1"),
    MAGIC_DOUBLE: ("<f8", "<f8", "<f8", "<f4", "<u4", "u1", "u1", "u1", "u1"),
}


def packed_cloud(cloud: PointCloud) -> bytes:
    """The cloud as bytes."""
    columns = (*cloud.points.T, cloud.confidence, cloud.keyframe_ids, *cloud.rgb_u8.T, cloud.provenance)
    magic = MAGIC_DOUBLE if cloud.points.dtype == np.float64 else MAGIC
    planes = b"".join(_planes(column, kind) for column, kind in zip(columns, _COLUMNS[magic], strict=True))
    return magic + struct.pack("<I", len(cloud)) + zlib.compress(planes, _LEVEL)


def unpacked_cloud(data: Any) -> PointCloud:
    """The cloud in bytes of ``packed_cloud``.

    Raises:
        InvalidInputError: for other bytes, an absurd count, data that is cut short or damaged, or values that are no
            provenance.
    """
    raw = bytes(data)
    kinds = _COLUMNS.get(raw[:4])
    if kinds is None or len(raw) < 8:
        raise InvalidInputError(f"packed cloud of {len(raw)} bytes starts with {raw[:4].hex()}, expected {MAGIC.hex()}")
    (count,) = struct.unpack("<I", raw[4:8])
    if count > MAX_POINTS:
        raise InvalidInputError(f"packed cloud announces {count} points, expected at most {MAX_POINTS}")
    planes = np.frombuffer(_inflated(raw[8:], count * sum(np.dtype(kind).itemsize for kind in kinds)), np.uint8)
    columns, start = [], 0
    for kind in kinds:
        end = start + count * np.dtype(kind).itemsize
        columns.append(_column(planes[start:end], kind))
        start = end
    x, y, z, confidence, keyframe_ids, red, green, blue, provenance = columns
    check_provenance("packed cloud", provenance)
    return PointCloud(
        points=np.stack([x, y, z], axis=1),
        rgb_u8=np.stack([red, green, blue], axis=1),
        confidence=confidence,
        provenance=provenance,
        keyframe_ids=keyframe_ids,
    )


def _planes(column: np.ndarray, kind: str) -> bytes:
    values = np.ascontiguousarray(column, np.dtype(kind))
    return values.view(np.uint8).reshape(len(values), values.itemsize).T.tobytes()


def _column(planes: np.ndarray, kind: str) -> np.ndarray:
    size = np.dtype(kind).itemsize
    return np.ascontiguousarray(planes.reshape(size, -1).T).view(kind).reshape(-1)


def _inflated(data: bytes, size: int) -> bytes:
    """Exactly ``size`` bytes; more is never made, whatever the data would become."""
    inflater = zlib.decompressobj()
    try:
        planes = inflater.decompress(data, size + 1)
    except zlib.error as error:
        raise InvalidInputError(f"packed cloud is damaged ({error}), expected zlib data") from None
    if len(planes) != size or not inflater.eof:
        raise InvalidInputError(f"packed cloud holds {len(planes)} bytes, expected {size} and nothing after them")
    return planes
