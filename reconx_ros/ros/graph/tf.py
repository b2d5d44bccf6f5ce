"""Poses from /tf and /tf_static: the real tf2_ros where it is installed, else our own buffer with the same rules.

Both raise the errors of ``reconx_ros.geometry.tf_tree``: a future extrapolation or an unknown frame may be cured by
waiting, a past extrapolation never.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any, Protocol

import yaml
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from reconx_ros.core import SE3
from reconx_ros.geometry.tf_tree import (
    FutureExtrapolationError,
    NotConnectedError,
    PastExtrapolationError,
    TransformBuffer,
    UnknownFrameError,
)
from reconx_ros.io.ingest.stamped import se3_from_transform, take_transforms
from reconx_ros.ros.conversions.poses import transform_msg
from reconx_ros.ros.graph.endpoints import name_from_type, topic_publishers
from reconx_ros.ros.graph.qos import latched_qos, publisher_warning, reliable_qos, subscription_options

TF_DEPTH = 100
_LONGEST = 600  # characters of a sentence about a refused one
_LISTED = 12  # frames that a sentence about the buffer names


class Refusals:
    """Transforms that were not taken: how many, and the newest reason. Written by callbacks, read by anyone."""

    def __init__(self) -> None:
        self.count = 0
        self.sentence = ""
        self._newest_s: float | None = None

    def add(self, sentence: str, now_s: float) -> None:
        """One more, at a steady time [s]."""
        self.count, self.sentence, self._newest_s = self.count + 1, sentence[:_LONGEST], now_s

    def recent(self, now_s: float, within_s: float) -> str:
        """The newest reason if it is of the last seconds, else empty."""
        return self.sentence if self._newest_s is not None and now_s - self._newest_s <= within_s else ""


class PoseLookup(Protocol):
    """Where transforms come from.

    Attributes:
        name: which implementation is active, for people.
        refusals: transforms that were not taken.
    """

    name: str
    refusals: Refusals

    def lookup(self, target: str, source: str, stamp_ns: int | None = None) -> SE3:
        """target_from_source at a stamp, or at the newest one.

        Raises:
            TransformError: of ``reconx_ros.geometry.tf_tree``, with a sentence naming frames and stamps.
        """
        ...

    def parents(self) -> dict[str, str]:
        """Frame to its newest parent, for all frames that have one."""
        ...

    def set_transform(
        self, parent: str, child: str, stamp_ns: int, parent_from_child: SE3, *, static: bool = False
    ) -> bool:
        """Add one sample, as odometry does."""
        ...

    def contents(self) -> str:
        """What is known, in a few words: frames, their parents and stamps."""
        ...

    def trouble(self) -> str:
        """Why transforms may not come: nobody publishes them, or with another QoS; empty when that is not it."""
        ...

    def clear(self) -> None:
        """Forget moving transforms; static ones stay."""
        ...

    def close(self) -> None:
        """Stop listening."""
        ...


class OwnTf:
    """Listens to /tf and /tf_static and feeds a TransformBuffer.

    Args:
        node: subscribes in its name.
        group: callback group of the two subscriptions.
        wake: called after new transforms came.
        max_gap_s: longest time between two transforms that is interpolated when the frame moved.
    """

    name = "built-in transform buffer"

    def __init__(self, node: Node, group: CallbackGroup, wake: Callable[[], None], max_gap_s: float) -> None:
        self._node = node
        self._wake = wake
        self._buffer = TransformBuffer(max_gap_ns=int(max_gap_s * 1e9))
        self.refusals = Refusals()
        listened = (
            ("/tf", self._on_tf, reliable_qos(TF_DEPTH)),
            ("/tf_static", self._on_tf_static, latched_qos(TF_DEPTH)),
        )
        warn = publisher_warning(node)
        self._subscriptions = [
            node.create_subscription(
                TFMessage, topic, take, qos, callback_group=group, **subscription_options(topic, warn)
            )
            for topic, take, qos in listened
        ]

    def _on_tf(self, msg: TFMessage) -> None:
        self._take(msg, static=False)

    def _on_tf_static(self, msg: TFMessage) -> None:
        self._take(msg, static=True)

    def _take(self, msg: TFMessage, *, static: bool) -> None:
        take_transforms(self._buffer, msg, static=static, refused=lambda s: self.refusals.add(s, time.monotonic()))
        self._wake()

    def lookup(self, target: str, source: str, stamp_ns: int | None = None) -> SE3:
        """As PoseLookup."""
        return self._buffer.lookup(target, source, stamp_ns)

    def parents(self) -> dict[str, str]:
        """As PoseLookup."""
        return self._buffer.parents()

    def set_transform(
        self, parent: str, child: str, stamp_ns: int, parent_from_child: SE3, *, static: bool = False
    ) -> bool:
        """As PoseLookup."""
        taken = self._buffer.set_transform(parent, child, stamp_ns, parent_from_child, static=static)
        self._wake()
        return taken

    def contents(self) -> str:
        """As PoseLookup."""
        moving = [self._described(f) for f in self._buffer.frames() if self._buffer.parent_frame(f) is not None]
        more = f" and {len(moving) - _LISTED} more" if len(moving) > _LISTED else ""
        return "; ".join(moving[:_LISTED]) + more if moving else "no transform"

    def trouble(self) -> str:
        """As PoseLookup."""
        return _trouble(self._node, {s.topic_name: s.qos_profile for s in self._subscriptions})

    def _described(self, frame: str) -> str:
        span = self._buffer.range_ns(frame)
        when = "static" if span is None else f"{span[0] / 1e9:.3f} s to {span[1] / 1e9:.3f} s"
        return f"{frame} in {self._buffer.parent_frame(frame)} ({when})"

    def clear(self) -> None:
        """As PoseLookup."""
        self._buffer.clear()

    def close(self) -> None:
        """As PoseLookup."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []


class Tf2:
    """The buffer and listener of an installed tf2_ros."""

    name = "tf2_ros"

    def __init__(self, node: Node) -> None:
        import tf2_ros

        self._node = node
        self._tf2 = tf2_ros
        self._buffer = tf2_ros.Buffer(node=node)
        self.refusals = Refusals()
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def lookup(self, target: str, source: str, stamp_ns: int | None = None) -> SE3:
        """As PoseLookup."""
        tf2, at_ns = self._tf2, stamp_ns or 0  # zero is the newest to tf2
        try:
            stamped = self._buffer.lookup_transform(target, source, Time(nanoseconds=at_ns))
        except tf2.ExtrapolationException as error:
            kind = PastExtrapolationError if "past" in str(error) else FutureExtrapolationError
            raise kind(str(error), at_ns, at_ns, at_ns) from None
        except tf2.ConnectivityException as error:
            raise NotConnectedError(str(error)) from None
        except tf2.TransformException as error:
            raise UnknownFrameError(str(error)) from None
        return se3_from_transform(stamped.transform)

    def parents(self) -> dict[str, str]:
        """As PoseLookup."""
        frames = yaml.safe_load(self._buffer.all_frames_as_yaml())
        return {name: str(known["parent"]) for name, known in frames.items()} if isinstance(frames, dict) else {}

    def set_transform(
        self, parent: str, child: str, stamp_ns: int, parent_from_child: SE3, *, static: bool = False
    ) -> bool:
        """As PoseLookup."""
        stamped = transform_msg(stamp_ns, parent, child, parent_from_child)
        (self._buffer.set_transform_static if static else self._buffer.set_transform)(stamped, "odometry")
        return True

    def contents(self) -> str:
        """As PoseLookup."""
        return "; ".join(str(self._buffer.all_frames_as_string()).split("\n")).strip("; ") or "no transform"

    def trouble(self) -> str:
        """As PoseLookup."""
        return _trouble(self._node, {"/tf": reliable_qos(TF_DEPTH), "/tf_static": latched_qos(TF_DEPTH)})

    def clear(self) -> None:
        """As PoseLookup."""
        self._buffer.clear()

    def close(self) -> None:
        """As PoseLookup."""
        self._listener.unregister()


def _trouble(node: Node, wanted: dict[str, QoSProfile]) -> str:
    """One sentence about publishers of transforms that are missing or do not match."""
    publishers = {topic: topic_publishers(node, topic, name_from_type(TFMessage), qos) for topic, qos in wanted.items()}
    if not any(publishers.values()):
        return f"nobody publishes {' or '.join(wanted)}"
    refused = [f"{p.node} {p.mismatch} ({t})" for t, found in publishers.items() for p in found if p.mismatch]
    return "; ".join(refused)


def make_pose_lookup(node: Node, group: CallbackGroup, wake: Callable[[], None], max_gap_s: float) -> PoseLookup:
    """The real tf2_ros where it can be imported, else our own listener; logs which.

    tf2_ros interpolates across gaps of any length: ``max_gap_s`` holds for our own alone.
    """
    lookup: PoseLookup
    if importlib.util.find_spec("tf2_ros") is not None:
        lookup = Tf2(node)
    else:
        lookup = OwnTf(node, group, wake, max_gap_s)
    node.get_logger().info(f"transforms come from the {lookup.name}")
    return lookup
