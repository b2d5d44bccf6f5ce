"""Stamps, headers, poses, transforms and paths (REP-103: metres, quaternions x y z w)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseStamped, TransformStamped
from nav_msgs.msg import Path
from std_msgs.msg import Header

from reconx_ros.core import SE3, InvalidInputError

NS_PER_S = 1_000_000_000
_QUATERNION_TOLERANCE = 1e-2  # of its length, as tf2 has it
_FARTHEST_M = 1e9


def ns_from_stamp(stamp: Time) -> int:
    """Nanoseconds of a builtin_interfaces/Time."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def time_msg(stamp_ns: int) -> Time:
    """A builtin_interfaces/Time of nanoseconds.

    Raises:
        InvalidInputError: when the seconds do not fit the message (before 1901 or after 2038).
    """
    sec, nanosec = divmod(int(stamp_ns), NS_PER_S)
    if not -(2**31) <= sec < 2**31:
        raise InvalidInputError(f"stamp is {stamp_ns} ns, expected at most {2**31 - 1} s, which a ROS time can hold")
    return Time(sec=sec, nanosec=nanosec)


def header_msg(stamp_ns: int, frame_id: str) -> Header:
    """A header of nanoseconds and a frame."""
    return Header(stamp=time_msg(stamp_ns), frame_id=str(frame_id))


def pose_msg(frame_from_body: SE3) -> Pose:
    """A geometry_msgs/Pose."""
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = (float(v) for v in frame_from_body.translation)
    quaternion = pose.orientation
    quaternion.x, quaternion.y, quaternion.z, quaternion.w = (float(v) for v in frame_from_body.quaternion_xyzw)
    return pose


def transform_msg(stamp_ns: int, parent: str, child: str, parent_from_child: SE3) -> TransformStamped:
    """A geometry_msgs/TransformStamped."""
    message = TransformStamped(header=header_msg(stamp_ns, parent), child_frame_id=child)
    shift, turn = message.transform.translation, message.transform.rotation
    shift.x, shift.y, shift.z = (float(v) for v in parent_from_child.translation)
    turn.x, turn.y, turn.z, turn.w = (float(v) for v in parent_from_child.quaternion_xyzw)
    return message


def se3_from_pose(pose: Pose) -> SE3:
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


def path_msg(poses: Sequence[SE3], stamps_ns: Sequence[int], frame_id: str, stamp_ns: int) -> Path:
    """A nav_msgs/Path; pose i carries stamp i."""
    stamped = [
        PoseStamped(header=header_msg(s, frame_id), pose=pose_msg(p)) for p, s in zip(poses, stamps_ns, strict=True)
    ]
    return Path(header=header_msg(stamp_ns, frame_id), poses=stamped)
