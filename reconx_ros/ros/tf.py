"""Poses from /tf and /tf_static: the real tf2_ros where it is installed, else our own buffer with the same rules.

Both raise the errors of ``reconx_ros.geometry.tf_tree``: a future extrapolation or an unknown frame may be cured by
waiting, a past extrapolation never.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from reconx_ros.core import SE3, InvalidInputError
from reconx_ros.geometry.tf_tree import (
    FutureExtrapolationError,
    NotConnectedError,
    PastExtrapolationError,
    TransformBuffer,
    UnknownFrameError,
)
from reconx_ros.ros.conversions.poses import se3_of_transform, stamp_ns_of
from reconx_ros.ros.qos import latched_qos, reliable_qos

TF_DEPTH = 100


class PoseLookup(Protocol):
    """Where transforms come from.

    Attributes:
        name: which implementation is active, for people.
    """

    name: str

    def lookup(self, target: str, source: str, stamp_ns: int) -> SE3:
        """target_from_source at a stamp.

        Raises:
            TransformError: of ``reconx_ros.geometry.tf_tree``, with a sentence naming frames and stamps.
        """
        ...

    def add(self, parent: str, child: str, stamp_ns: int, parent_from_child: SE3) -> None:
        """Add one sample, as odometry does."""
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
    """

    name = "built-in transform buffer"

    def __init__(self, node: Node, group: CallbackGroup, wake: Callable[[], None]) -> None:
        self._node = node
        self._wake = wake
        self._buffer = TransformBuffer()
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", self._on_tf, reliable_qos(TF_DEPTH), callback_group=group),
            node.create_subscription(
                TFMessage, "/tf_static", self._on_tf_static, latched_qos(TF_DEPTH), callback_group=group
            ),
        ]

    def _on_tf(self, msg: TFMessage) -> None:
        self._take(msg, static=False)

    def _on_tf_static(self, msg: TFMessage) -> None:
        self._take(msg, static=True)

    def _take(self, msg: TFMessage, *, static: bool) -> None:
        for stamped in msg.transforms:
            parent, child = stamped.header.frame_id, stamped.child_frame_id
            try:
                transform = se3_of_transform(stamped.transform)
                self._buffer.set_transform(parent, child, stamp_ns_of(stamped.header.stamp), transform, static=static)
            except InvalidInputError as error:
                text = f"transform from '{child}' to '{parent}' is ignored: {error}"
                self._node.get_logger().warning(text, throttle_duration_sec=5.0)
        self._wake()

    def lookup(self, target: str, source: str, stamp_ns: int) -> SE3:
        """As PoseLookup."""
        return self._buffer.lookup(target, source, stamp_ns)

    def add(self, parent: str, child: str, stamp_ns: int, parent_from_child: SE3) -> None:
        """As PoseLookup."""
        self._buffer.set_transform(parent, child, stamp_ns, parent_from_child)
        self._wake()

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

        self._tf2 = tf2_ros
        self._buffer = tf2_ros.Buffer(node=node)
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def lookup(self, target: str, source: str, stamp_ns: int) -> SE3:
        """As PoseLookup."""
        tf2 = self._tf2
        try:
            stamped = self._buffer.lookup_transform(target, source, Time(nanoseconds=stamp_ns))
        except tf2.ExtrapolationException as error:
            kind = PastExtrapolationError if "past" in str(error) else FutureExtrapolationError
            raise kind(str(error), stamp_ns, stamp_ns, stamp_ns) from None
        except tf2.ConnectivityException as error:
            raise NotConnectedError(str(error)) from None
        except tf2.TransformException as error:
            raise UnknownFrameError(str(error)) from None
        return se3_of_transform(stamped.transform)

    def add(self, parent: str, child: str, stamp_ns: int, parent_from_child: SE3) -> None:
        """As PoseLookup."""
        from geometry_msgs.msg import TransformStamped

        from reconx_ros.ros.conversions.poses import header_msg, pose_msg

        stamped = TransformStamped(header=header_msg(stamp_ns, parent), child_frame_id=child)
        pose = pose_msg(parent_from_child)
        to, rotation = stamped.transform.translation, pose.orientation
        to.x, to.y, to.z = pose.position.x, pose.position.y, pose.position.z
        stamped.transform.rotation = rotation
        self._buffer.set_transform(stamped, "odometry")

    def clear(self) -> None:
        """As PoseLookup."""
        self._buffer.clear()

    def close(self) -> None:
        """As PoseLookup."""
        self._listener.unregister()


def make_pose_lookup(node: Node, group: CallbackGroup, wake: Callable[[], None]) -> PoseLookup:
    """The real tf2_ros where it can be imported, else our own listener; logs which."""
    lookup: PoseLookup
    if importlib.util.find_spec("tf2_ros") is not None:
        lookup = Tf2(node)
    else:
        lookup = OwnTf(node, group, wake)
    node.get_logger().info(f"transforms come from the {lookup.name}")
    return lookup
