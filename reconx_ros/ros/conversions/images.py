"""numpy to sensor_msgs/Image; the way back is ``reconx_ros.io.ingest.pixels``, for bags and nodes alike."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from reconx_ros.core import InvalidInputError
from reconx_ros.io.ingest.encodings import LAYOUTS


def image_msg(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """An image message of pixels [H, W] or [H, W, C].

    Raises:
        InvalidInputError: when type or shape do not fit the encoding.
    """
    layout = LAYOUTS.get(encoding)
    code, channels = (layout.code, layout.channels) if layout is not None else ("", 0)
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
