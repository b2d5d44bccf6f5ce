"""sensor_msgs/PointCloud2 to and from PointCloud.

Layout, 28 bytes a point, little-endian::

    offset 0 x, 4 y, 8 z (FLOAT32, map frame)      12 rgb (FLOAT32 holding the bits of 0x00RRGGBB)
    offset 16 confidence (FLOAT32, 0 to 1)         20 provenance (UINT8: values of Provenance), 3 bytes unused
    offset 24 keyframe_id (UINT32)
"""

from __future__ import annotations

import array

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from reconx_ros.core import InvalidInputError, PointCloud, check_provenance

_OFFSETS = (0, 4, 8, 12, 16, 20, 24)
CLOUD_DTYPE = np.dtype(
    {
        "names": ["x", "y", "z", "rgb", "confidence", "provenance", "keyframe_id"],
        "formats": ["<f4", "<f4", "<f4", "<u4", "<f4", "u1", "<u4"],
        "offsets": list(_OFFSETS),
        "itemsize": 28,
    }
)
MAX_POINTS = 100_000_000
_FIELD_TYPES = {
    "x": PointField.FLOAT32,
    "y": PointField.FLOAT32,
    "z": PointField.FLOAT32,
    "rgb": PointField.FLOAT32,
    "confidence": PointField.FLOAT32,
    "provenance": PointField.UINT8,
    "keyframe_id": PointField.UINT32,
}
_NUMPY_TYPES = {
    PointField.INT8: "i1",
    PointField.UINT8: "u1",
    PointField.INT16: "i2",
    PointField.UINT16: "u2",
    PointField.INT32: "i4",
    PointField.UINT32: "u4",
    PointField.FLOAT32: "f4",
    PointField.FLOAT64: "f8",
}


def cloud_msg(cloud: PointCloud, header: Header) -> PointCloud2:
    """The cloud as one unordered PointCloud2; ``is_dense`` is true only without NaN and infinity."""
    msg = PointCloud2(header=header, height=1, width=len(cloud), is_bigendian=False)
    msg.fields = [
        PointField(name=name, offset=offset, datatype=int(kind), count=1)
        for (name, kind), offset in zip(_FIELD_TYPES.items(), _OFFSETS, strict=True)
    ]
    msg.point_step = CLOUD_DTYPE.itemsize
    msg.row_step = CLOUD_DTYPE.itemsize * len(cloud)
    msg.is_dense = bool(np.isfinite(cloud.points).all())
    msg.data = packed(cloud)
    return msg


def packed(cloud: PointCloud) -> array.array[int]:
    """The cloud as a message's data; unused bytes are 0.

    Whole words and bytes are written in place, which takes half the time of a structured array's fields.
    """
    data = array.array("B", [0]) * (CLOUD_DTYPE.itemsize * len(cloud))
    rows = np.frombuffer(data, np.uint8).reshape(len(cloud), CLOUD_DTYPE.itemsize)
    words = rows.view("<u4")
    words[:, 0:3] = np.ascontiguousarray(cloud.points, "<f4").view("<u4")
    rows[:, 12:15] = cloud.rgb_u8[:, ::-1]
    words[:, 4] = np.ascontiguousarray(cloud.confidence, "<f4").view("<u4")
    rows[:, 20] = cloud.provenance
    words[:, 6] = cloud.keyframe_ids
    return data


def cloud_from_msg(msg: PointCloud2) -> PointCloud:
    """The points of a PointCloud2 of any layout that has x, y and z; organised clouds are flattened.

    Without rgb they are black. Without provenance nothing says how their places are known: they are NONE, with
    confidence 0, whatever the message calls confidence.

    Raises:
        InvalidInputError: without x, y, z, for a field type unknown to ROS, less data than the size asks for, or values
            that are no provenance.
    """
    rows = _rows(msg)
    names = rows.dtype.names or ()
    count = len(rows)
    colour = rows["rgb"].astype(np.uint32) if "rgb" in names else np.zeros(count, np.uint32)
    if "provenance" in names:
        check_provenance("point cloud", rows["provenance"])
    return PointCloud(
        points=np.stack([rows[axis].astype(_precision(rows.dtype[axis])) for axis in "xyz"], axis=1),
        rgb_u8=np.stack([(colour >> shift & 255).astype(np.uint8) for shift in (16, 8, 0)], axis=1),
        confidence=_field(rows, "confidence" if "provenance" in names else "", np.float32),
        provenance=_field(rows, "provenance", np.uint8),
        keyframe_ids=_field(rows, "keyframe_id", np.uint32),
    )


def _precision(kind: np.dtype) -> type:
    return np.float64 if kind.itemsize == 8 else np.float32


def _field(rows: np.ndarray, name: str, kind: type) -> np.ndarray:
    """One field [P]; zeros where there is none."""
    return rows[name].astype(kind) if name in (rows.dtype.names or ()) else np.zeros(len(rows), kind)


def _rows(msg: PointCloud2) -> np.ndarray:
    dtype = _dtype_from_msg(msg)
    width, height, row_step = int(msg.width), int(msg.height), int(msg.row_step)
    if width * height > MAX_POINTS:
        raise InvalidInputError(f"point cloud has {width}x{height} points, expected at most {MAX_POINTS}")
    row = width * dtype.itemsize
    row_step = row_step or row
    needed = row_step * (height - 1) + row if height else 0
    if row_step < row or len(msg.data) < needed:
        raise InvalidInputError(
            f"point cloud has {len(msg.data)} bytes in rows of {row_step}, "
            f"expected {needed} for {width}x{height} points of {dtype.itemsize} bytes"
        )
    if width * height == 0:
        return np.zeros(0, dtype)
    grid = np.ndarray((height, width), dtype, buffer=memoryview(msg.data), strides=(row_step, dtype.itemsize))
    return np.ascontiguousarray(grid).reshape(-1)


def _dtype_from_msg(msg: PointCloud2) -> np.dtype:
    order = ">" if msg.is_bigendian else "<"
    wanted = {field.name: field for field in msg.fields if field.name in _FIELD_TYPES}
    missing = [axis for axis in "xyz" if axis not in wanted]
    if missing:
        raise InvalidInputError(f"point cloud lacks field {', '.join(missing)}, expected at least x, y and z")
    formats = []
    for field in wanted.values():
        kind = _NUMPY_TYPES.get(field.datatype)
        if kind is None:
            raise InvalidInputError(f"point cloud field {field.name} has type {field.datatype}, expected 1 to 8")
        formats.append(order + ("u4" if field.name == "rgb" and kind == "f4" else kind))
    try:
        return np.dtype(
            {
                "names": list(wanted),
                "formats": formats,
                "offsets": [int(field.offset) for field in wanted.values()],
                "itemsize": int(msg.point_step),
            }
        )
    except ValueError as error:
        raise InvalidInputError(f"point cloud fields do not fit a point of {msg.point_step} bytes ({error})") from None
