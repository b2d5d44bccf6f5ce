"""All transforms of a bag at once: which frame is the map, and where cameras were at any stamp."""

from __future__ import annotations

from reconx_ros.core import ReconxError
from reconx_ros.geometry.tf_tree import TransformBuffer
from reconx_ros.io.bag_choice import BagTopics
from reconx_ros.io.bag_decode import Decoder
from reconx_ros.io.bags import BagReader
from reconx_ros.io.ingest.stamped import take_odometry, take_transforms

_FOREVER_NS = 1 << 62
_MAPS = ("map", "odom", "world")


def whole_transforms(
    reader: BagReader, topics: BagTopics, pose_source: str, *, max_gap_ns: int | None = None
) -> TransformBuffer:
    """The transforms of a bag's camera, and its odometry where poses come from that; what is no transform is left out.

    Args:
        reader: open bag.
        topics: as chosen.
        pose_source: tf, odometry or none.
        max_gap_ns: as in TransformBuffer.
    """
    buffer, decode = TransformBuffer(history_ns=_FOREVER_NS, max_gap_ns=max_gap_ns), Decoder()
    odometry = topics.odometry if pose_source == "odometry" else None
    wanted = {name for name in (topics.tf, topics.tf_static, odometry) if name is not None}
    for message in reader.messages(wanted) if wanted else ():
        try:
            content = decode(message)
        except ReconxError:
            continue
        if message.topic == odometry:
            take_odometry(buffer, content, _nobody)
        else:
            take_transforms(buffer, content, static=message.topic == topics.tf_static, refused=_nobody)
    return buffer


def _nobody(sentence: str) -> None:
    """The reader of the frames tells what is refused."""
    del sentence


def likely_map_frame(transforms: TransformBuffer, optical_frame: str) -> str:
    """The frame that maps are built in: map, odom or world above the camera, else the root of its tree."""
    parents = transforms.parents()
    chain = [optical_frame.lstrip("/")]
    while chain[-1] in parents and parents[chain[-1]] not in chain:
        chain.append(parents[chain[-1]])
    known = chain[1:] or [*parents.values()]
    usual = [name for name in _MAPS if name in known]
    if usual:
        return usual[0]
    return chain[-1] if len(chain) > 1 else _MAPS[0]
