"""Stamps, headers, poses, transforms and paths as messages (REP-103: metres, quaternions x y z w)."""

from __future__ import annotations

from collections.abc import Sequence

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseStamped, TransformStamped
from nav_msgs.msg import Path
from std_msgs.msg import Header

from reconx_ros.core import SE3, InvalidInputError
from reconx_ros.io.ingest.stamped import NS_PER_S


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


def path_msg(poses: Sequence[SE3], stamps_ns: Sequence[int], frame_id: str, stamp_ns: int) -> Path:
    """A nav_msgs/Path; pose i carries stamp i."""
    stamped = [
        PoseStamped(header=header_msg(s, frame_id), pose=pose_msg(p)) for p, s in zip(poses, stamps_ns, strict=True)
    ]
    return Path(header=header_msg(stamp_ns, frame_id), poses=stamped)
