"""ROS 2 messages of a bag as arrays: CDR by rosbags, pixels by our own conversions."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from reconx_ros.core import InvalidInputError
from reconx_ros.io.bag_messages import BagMessage
from reconx_ros.io.images import MILLIMETRE, decode_compressed_depth, decode_image

_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "8UC3": 3, "mono8": 1, "8UC1": 1, "mono16": 1, "16UC1": 1}
_BAYER = {
    "bayer_rggb8": "BG",
    "bayer_bggr8": "RG",
    "bayer_gbrg8": "GR",
    "bayer_grbg8": "GB",
}  # OpenCV's names are shifted
_HEADER_STAMP = {1: struct.Struct("<iI"), 0: struct.Struct(">iI")}


class Decoder:
    """Turns raw messages of the standard types into objects with the fields of the .msg files."""

    def __init__(self) -> None:
        from rosbags.typesys import Stores, get_typestore

        # The types read here are the same from Humble to Kilted.
        self._store: Any = get_typestore(Stores.ROS2_HUMBLE)

    def __call__(self, message: BagMessage) -> Any:
        """The message's content.

        Raises:
            InvalidInputError: when the bytes are not such a message.
        """
        try:
            return self._store.deserialize_cdr(message.data, message.type)
        except Exception as err:  # rosbags lets struct, index and assertion errors through
            text = f"message of type {message.type} on {message.topic} cannot be decoded ({type(err).__name__})"
            raise InvalidInputError(text) from err


def stamp_ns(message: BagMessage) -> int:
    """The stamp in the header of a message that begins with one, nanoseconds, without decoding the rest.

    Raises:
        InvalidInputError: when the message is too short.
    """
    if len(message.data) < 12:
        raise InvalidInputError(f"message on {message.topic} has {len(message.data)} bytes, expected a header")
    seconds, nanoseconds = _HEADER_STAMP[message.data[1] & 1].unpack_from(message.data, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def decoded_image(content: Any, name: str) -> np.ndarray:
    """RGB [H, W, 3] uint8 of an Image or CompressedImage.

    Raises:
        InvalidInputError: for an encoding that is not a colour or grey image, or damaged data; ``name`` says whose.
    """
    if hasattr(content, "format"):
        return decode_image(np.asarray(content.data), f"image of {name}")
    return image_from_buffer(content.data, content.height, content.width, content.step, content.encoding, name)


def decoded_depth(content: Any, name: str) -> np.ndarray:
    """Depth [H, W] float32 metres, 0 where unknown, of an Image (16UC1 or 32FC1) or a compressedDepth CompressedImage.

    Raises:
        InvalidInputError: for another encoding or damaged data.
    """
    if hasattr(content, "format"):
        return decode_compressed_depth(np.asarray(content.data), content.format, f"depth of {name}")
    return depth_from_buffer(
        content.data, content.height, content.width, content.step, content.encoding, bool(content.is_bigendian), name
    )


def image_from_buffer(data: Any, height: int, width: int, step: int, encoding: str, name: str) -> np.ndarray:
    """RGB [H, W, 3] uint8 of the fields of a sensor_msgs/Image; rows may be padded.

    Raises:
        InvalidInputError: for an unknown encoding or too few bytes.
    """
    if encoding in _BAYER:
        return _debayered(_rows(data, height, width, step, np.dtype(np.uint8), 1, name)[..., 0], encoding)
    if encoding not in _CHANNELS:
        raise InvalidInputError(f"image of {name} has encoding '{encoding}', expected one of {', '.join(_CHANNELS)}")
    kind = np.dtype(np.uint16) if "16" in encoding else np.dtype(np.uint8)
    pixels = _rows(data, height, width, step, kind, _CHANNELS[encoding], name)
    if kind.itemsize == 2:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    flip = encoding.startswith("bgr") or encoding == "8UC3"  # OpenCV's habit for unnamed channels
    return np.ascontiguousarray(pixels[..., 2::-1] if flip else pixels[..., :3])


def depth_from_buffer(
    data: Any, height: int, width: int, step: int, encoding: str, big_endian: bool, name: str
) -> np.ndarray:
    """Depth [H, W] float32 metres, 0 where unknown, of the fields of a sensor_msgs/Image (REP-118).

    Raises:
        InvalidInputError: for an encoding other than 16UC1 (millimetres), mono16 or 32FC1 (metres), or too few bytes.
    """
    kinds = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
    if encoding not in kinds:
        raise InvalidInputError(f"depth of {name} has encoding '{encoding}', expected 16UC1 or 32FC1")
    kind = np.dtype((">" if big_endian else "<") + kinds[encoding])
    depth = _rows(data, height, width, step, kind, 1, name)[..., 0].astype(np.float32)
    if encoding != "32FC1":
        return depth * np.float32(MILLIMETRE)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def _rows(data: Any, height: int, width: int, step: int, kind: np.dtype[Any], channels: int, name: str) -> np.ndarray:
    """Pixels [H, W, C] of padded rows."""
    raw = np.frombuffer(data, np.uint8) if isinstance(data, (bytes, memoryview)) else np.asarray(data, np.uint8)
    used = width * channels * kind.itemsize
    if step < used or raw.size < height * step:
        wanted = f"{height} rows of at least {used} bytes"
        raise InvalidInputError(f"image of {name} has {raw.size} bytes in rows of {step}, expected {wanted}")
    rows = raw[: height * step].reshape(height, step)[:, :used]
    return np.ascontiguousarray(rows).view(kind).reshape(height, width, channels)


def _debayered(pixels: np.ndarray, encoding: str) -> np.ndarray:
    import cv2

    return np.asarray(cv2.cvtColor(pixels, getattr(cv2, f"COLOR_Bayer{_BAYER[encoding]}2RGB")))
