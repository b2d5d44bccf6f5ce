"""ROS 2 messages of a bag as objects with the fields of their .msg files: CDR by rosbags."""

from __future__ import annotations

import functools
import struct
from typing import Any

from reconx_ros.core import InvalidInputError
from reconx_ros.io.bag_messages import BagMessage

_HEADER_STAMP = {1: struct.Struct("<iI"), 0: struct.Struct(">iI")}


@functools.cache
def _standard_types() -> Any:
    """Their definitions; those read here are the same from Humble to Kilted."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_HUMBLE)


class Decoder:
    """Turns raw messages of the standard types into objects with the fields of the .msg files."""

    def __init__(self) -> None:
        self._store = _standard_types()

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
