"""What a bag holds: topics and recorded messages, whatever it is stored in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BagTopic:
    """One topic of a bag: its name, message type such as "sensor_msgs/msg/Image", and how many messages it has."""

    name: str
    type: str
    count: int


@dataclass(frozen=True, kw_only=True, eq=False)
class BagMessage:
    """One recorded message.

    Attributes:
        topic, type: as in BagTopic.
        stamp_ns: when it was recorded, nanoseconds (not the header's stamp).
        data: the message as CDR, as it came over the wire.
    """

    topic: str
    type: str
    stamp_ns: int
    data: bytes
