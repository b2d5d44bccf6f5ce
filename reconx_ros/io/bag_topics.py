"""What the topics of a bag hold, told by their first messages: size, encoding, frame, whether it is depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from reconx_ros.core import ReconxError
from reconx_ros.io.bag_decode import Decoder
from reconx_ros.io.bag_messages import BagTopic
from reconx_ros.io.bags import BagReader
from reconx_ros.io.guards import whole_picture
from reconx_ros.io.images import decode_stored
from reconx_ros.io.ingest.calibration import image_size_from_info
from reconx_ros.io.ingest.encodings import RGB_ENCODINGS
from reconx_ros.io.ingest.pixels import is_compressed, size_from_msg

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
TF_TYPE = "tf2_msgs/msg/TFMessage"
ODOMETRY_TYPE = "nav_msgs/msg/Odometry"
CLOCK_TYPE = "rosgraph_msgs/msg/Clock"
_DEPTH = ("16UC1", "32FC1")
_GREY = ("mono", "8UC1")


@dataclass(frozen=True, kw_only=True)
class TopicContent:
    """One topic, as its first message shows it.

    Attributes:
        name, type, count: as recorded.
        rate_hz: messages a second over the bag's length; 0 where that is not known.
        frame: frame_id of the header, without a leading slash; the child's for odometry; empty where there is none.
        size: (width, height) of the images; of a camera_info, of the images that belong to it; None where not known.
        encoding: of an image, or the format of a compressed one.
        is_depth: whether images are depth.
        is_grey: whether images are grey.
        is_readable: whether images can be decoded as a picture or as depth.
        has_projection: whether a camera_info has a P.
    """

    name: str
    type: str
    count: int
    rate_hz: float = 0.0
    frame: str = ""
    size: tuple[int, int] | None = None
    encoding: str = ""
    is_depth: bool = False
    is_grey: bool = False
    is_readable: bool = True
    has_projection: bool = False

    @property
    def folder(self) -> str:
        """Namespace of the camera that the topic belongs to, as image_transport has it."""
        return base_topic(self.name).rpartition("/")[0]


def base_topic(name: str) -> str:
    """The topic without the suffix of an image transport."""
    for suffix in ("/compressed", "/compressedDepth"):
        name = name.removesuffix(suffix)
    return name


def topic_contents(reader: BagReader) -> dict[str, TopicContent]:
    """All topics of a bag by name; of images, calibrations and odometry the first message is looked at."""
    decode, span_s = Decoder(), reader.span_ns() / 1e9
    return {name: _content(reader, decode, reader.topics[name], span_s) for name in sorted(reader.topics)}


def _content(reader: BagReader, decode: Decoder, topic: BagTopic, span_s: float) -> TopicContent:
    plain: dict[str, Any] = {
        "name": topic.name,
        "type": topic.type,
        "count": topic.count,
        "rate_hz": (topic.count - 1) / span_s if span_s > 0 and topic.count > 1 else 0.0,
    }
    if topic.type not in (*IMAGE_TYPES, INFO_TYPE, ODOMETRY_TYPE) or not topic.count:
        return TopicContent(**plain)
    message = next(iter(reader.messages([topic.name])), None)
    try:
        first = decode(message) if message is not None else None
    except ReconxError:
        first = None
    if first is None:
        return TopicContent(**plain, is_readable=False)
    if topic.type == ODOMETRY_TYPE:
        return TopicContent(**plain, frame=first.child_frame_id.lstrip("/"))
    plain["frame"] = first.header.frame_id.lstrip("/")
    if topic.type == INFO_TYPE:
        return TopicContent(**plain, size=_size(image_size_from_info, first), has_projection=float(first.p[0]) > 0)
    return TopicContent(**plain, size=_size(size_from_msg, first), **_pixels(first))


def _size(measure: Any, msg: Any) -> tuple[int, int] | None:
    try:
        width, height = measure(msg)
    except ReconxError:
        return None
    return int(width), int(height)


def _pixels(msg: Any) -> dict[str, Any]:
    """Encoding and kind of an image."""
    encoding = str(msg.format if is_compressed(msg) else msg.encoding)
    source = encoding.split(";")[0].strip()
    deep = source in _DEPTH or "compresseddepth" in encoding.lower()
    grey = source.startswith(_GREY)
    readable = deep or is_compressed(msg) or encoding in RGB_ENCODINGS
    if is_compressed(msg) and source not in RGB_ENCODINGS and not deep:
        stored = _stored(msg)
        readable = stored is not None
        grey = stored is not None and stored.ndim == 2
        deep = stored is not None and stored.ndim == 2 and stored.dtype == np.uint16
    return {"encoding": encoding, "is_depth": deep, "is_grey": grey, "is_readable": readable}


def _stored(msg: Any) -> np.ndarray | None:
    try:
        return decode_stored(whole_picture(msg.data, "image"), "image")
    except ReconxError:
        return None
