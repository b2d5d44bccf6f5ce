"""Stamps, poses, transforms and odometry of messages, of rclpy or of a bag (REP-103: metres, quaternions x y z w)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from reconx_ros.core import SE3, InvalidInputError

NS_PER_S = 1_000_000_000
_QUATERNION_TOLERANCE = 1e-2  # of its length, as tf2 has it
_FARTHEST_M = 1e9


def ns_from_stamp(stamp: Any) -> int:
    """Nanoseconds of a builtin_interfaces/Time."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def stamp_on_arrival(msg: Any, now_ns: int) -> None:
    """Give a message without stamp the time of its arrival."""
    stamp = msg.header.stamp
    if ns_from_stamp(stamp) == 0:
        stamp.sec, stamp.nanosec = (int(part) for part in divmod(now_ns, NS_PER_S))


def se3_from_pose(pose: Any) -> SE3:
    """frame_from_body of a geometry_msgs/Pose.

    Raises:
        InvalidInputError: for a quaternion whose length is not one (tf2's tolerance of a hundredth), a position that is
            farther than a million kilometres, or numbers that are not finite.
    """
    return _se3(pose.position, pose.orientation)


def se3_from_transform(transform: Any) -> SE3:
    """parent_from_child of a geometry_msgs/Transform.

    Raises:
        InvalidInputError: as se3_from_pose.
    """
    return _se3(transform.translation, transform.rotation)


def _se3(position: Any, rotation: Any) -> SE3:
    quaternion_xyzw = np.array([rotation.x, rotation.y, rotation.z, rotation.w])
    translation = np.array([position.x, position.y, position.z])
    length, distance = float(np.linalg.norm(quaternion_xyzw)), float(np.abs(translation).max())
    if not abs(length - 1.0) <= _QUATERNION_TOLERANCE:  # written so that NaN is refused too
        values = ", ".join(f"{v:g}" for v in quaternion_xyzw)
        raise InvalidInputError(f"quaternion (x, y, z, w) = ({values}) has length {length:g}, expected 1")
    if not distance <= _FARTHEST_M:
        raise InvalidInputError(f"position is {translation.tolist()}, expected at most {_FARTHEST_M:g} m on each axis")
    return SE3.from_quaternion_xyzw(translation, quaternion_xyzw)


class TransformSink(Protocol):
    """What takes samples of transforms, as ``geometry.tf_tree.TransformBuffer`` does."""

    def set_transform(
        self, parent: str, child: str, stamp_ns: int, parent_from_child: SE3, *, static: bool = False
    ) -> bool:
        """Add one sample."""
        ...


def take_transforms(sink: TransformSink, msg: Any, *, static: bool, refused: Callable[[str], None]) -> None:
    """Add the transforms of a tf2_msgs/TFMessage; one sentence is said about each that is none."""
    for stamped in msg.transforms:
        parent, child = stamped.header.frame_id, stamped.child_frame_id
        try:
            transform = se3_from_transform(stamped.transform)
            sink.set_transform(parent, child, ns_from_stamp(stamped.header.stamp), transform, static=static)
        except InvalidInputError as error:
            refused(f"transform from '{child}' to '{parent}' is ignored: {error}")


def take_odometry(sink: TransformSink, msg: Any, refused: Callable[[str], None]) -> None:
    """Add the pose of a nav_msgs/Odometry; one sentence is said where it is none."""
    try:
        pose = se3_from_pose(msg.pose.pose)
        sink.set_transform(msg.header.frame_id, msg.child_frame_id, ns_from_stamp(msg.header.stamp), pose)
    except InvalidInputError as error:
        refused(f"odometry is ignored: {error}")
