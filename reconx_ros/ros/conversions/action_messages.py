"""Reconstruct.action to and from plain data; what arrives is checked before anything is computed with it."""

from __future__ import annotations

import array
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sensor_msgs.msg import PointCloud2

from reconx_ros.action import Reconstruct
from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, PointCloud
from reconx_ros.io.guards import check_size
from reconx_ros.jobs.cloud_codec import packed_cloud, unpacked_cloud
from reconx_ros.jobs.data import (
    MAX_KEYFRAMES,
    EncodedKeyframe,
    EncodedView,
    ErrorCode,
    JobOutcome,
    JobRequest,
)
from reconx_ros.ros.conversions import CLOUD_DTYPE, byte_array, cloud_from_msg, cloud_msg, header_msg, ns_from_stamp

_UNKNOWN_POSE = [math.nan] * 7


def goal_from_request(request: JobRequest) -> Reconstruct.Goal:
    """The goal message of a job."""
    goal = Reconstruct.Goal(header=header_msg(request.stamp_ns, request.frame_id))
    goal.job_id, goal.preset, goal.options_yaml = request.job_id, request.preset, request.options_yaml
    goal.preview, goal.metric_poses = bool(request.preview), bool(request.metric_poses)
    goal.client, goal.compress_cloud = request.client, bool(request.compress_cloud)
    keyframes = request.keyframes
    views = [k.view for k in keyframes]
    goal.keyframe_ids = array.array("I", [int(k.id) for k in keyframes])
    goal.stamps_ns = array.array("q", [int(k.stamp_ns) for k in keyframes])
    goal.camera_names = [str(k.camera_name) for k in keyframes]
    goal.widths, goal.heights, goal.intrinsics = _camera_arrays(views)
    goal.poses = _pose_array(v.pose for v in views)
    goal.image_sizes, goal.image_data = _joined([v.image for v in views])
    goal.depth_sizes, goal.depth_data = _joined_optional([v.depth for v in views])
    return goal


def request_from_goal(goal: Reconstruct.Goal) -> JobRequest:
    """The job of a goal message.

    Raises:
        InvalidInputError: when the parallel arrays disagree, an identifier repeats, or a number is not usable.
    """
    count = len(goal.keyframe_ids)
    if not 1 <= count <= MAX_KEYFRAMES:
        raise InvalidInputError(f"goal has {count} keyframes, expected 1 to {MAX_KEYFRAMES}")
    if len(set(goal.keyframe_ids)) != count:
        raise InvalidInputError("goal has keyframe_ids that repeat, expected each once")
    lengths = {"stamps_ns": 1, "camera_names": 1, "widths": 1, "heights": 1, "intrinsics": 4, "poses": 7}
    for name, width in lengths.items():
        _check_length(f"goal {name}", getattr(goal, name), width * count)
    images = _split("goal image_data", goal.image_sizes, goal.image_data, count)
    depths = _split_optional("goal depth_data", goal.depth_sizes, goal.depth_data, count)
    cameras = _cameras(goal.widths, goal.heights, goal.intrinsics)
    poses = _poses("goal poses", goal.poses)
    keyframes = tuple(
        EncodedKeyframe(
            id=int(goal.keyframe_ids[i]),
            stamp_ns=int(goal.stamps_ns[i]),
            camera_name=str(goal.camera_names[i]),
            view=EncodedView(camera=cameras[i], pose=poses[i], image=images[i], depth=depths[i]),
        )
        for i in range(count)
    )
    return JobRequest(
        job_id=str(goal.job_id),
        frame_id=str(goal.header.frame_id),
        stamp_ns=ns_from_stamp(goal.header.stamp),
        keyframes=keyframes,
        preset=str(goal.preset),
        options_yaml=str(goal.options_yaml),
        preview=bool(goal.preview),
        metric_poses=bool(goal.metric_poses),
        client=str(goal.client),
        compress_cloud=bool(goal.compress_cloud),
    )


def result_from_outcome(
    outcome: JobOutcome, stamp_ns: int, frame_id: str, *, compress_cloud: bool = False
) -> Reconstruct.Result:
    """The result message of an outcome; its cloud is packed where the goal asked for that."""
    header = header_msg(stamp_ns, frame_id)
    result = Reconstruct.Result(header=header, error_code=int(outcome.error_code), error_msg=outcome.error_msg)
    if compress_cloud:
        result.cloud_packed = byte_array(packed_cloud(outcome.cloud))
    else:
        result.cloud = cloud_msg(outcome.cloud, header)
    result.keyframe_ids = array.array("I", [int(i) for i in outcome.keyframe_poses])
    result.keyframe_poses = _pose_array(outcome.keyframe_poses.values())
    views = outcome.novel_views
    result.novel_widths, result.novel_heights, result.novel_intrinsics = _camera_arrays(views)
    result.novel_poses = _pose_array(v.pose for v in views)
    result.novel_image_sizes, result.novel_image_data = _joined([v.image for v in views])
    result.novel_depth_sizes, result.novel_depth_data = _joined_optional([v.depth for v in views])
    sizes, data = _joined_optional([v.provenance for v in views])
    result.novel_provenance_sizes, result.novel_provenance_data = sizes, data
    result.metric_scale = bool(outcome.metric_scale)
    result.scene_path, result.report_json = outcome.scene_path, outcome.report_json
    return result


def outcome_from_result(result: Reconstruct.Result) -> JobOutcome:
    """The outcome in a result message.

    Raises:
        InvalidInputError: when its arrays disagree.
    """
    known = result.error_code in [int(code) for code in ErrorCode]
    code = ErrorCode(int(result.error_code)) if known else ErrorCode.RECONSTRUCTION_FAILED
    poses = _poses("result keyframe_poses", result.keyframe_poses)
    _check_length("result keyframe_poses", poses, len(result.keyframe_ids))
    return JobOutcome(
        error_code=code,
        error_msg=str(result.error_msg),
        cloud=_cloud(result),
        keyframe_poses={int(i): p for i, p in zip(result.keyframe_ids, poses, strict=True) if p is not None},
        novel_views=_novel_views(result),
        metric_scale=bool(result.metric_scale),
        scene_path=str(result.scene_path),
        report_json=str(result.report_json),
        received_bytes=payload_bytes(result),
    )


def _cloud(result: Reconstruct.Result) -> PointCloud:
    if len(result.cloud_packed):
        return unpacked_cloud(result.cloud_packed)
    return cloud_from_msg(result.cloud) if result.cloud.fields else PointCloud.empty()


def payload_bytes(msg: Any) -> int:
    """What a goal or result takes on the way: all its arrays and texts; the few bytes of framing are left out."""
    return sum(_value_bytes(getattr(msg, name)) for name in msg.get_fields_and_field_types())


def transport_bytes(goal: Reconstruct.Goal, result: Reconstruct.Result, points: int) -> dict[str, int]:
    """What a job took on the way, in bytes, for its report."""
    plain, packed = len(result.cloud.data), len(result.cloud_packed)
    return {
        "keyframes": len(goal.keyframe_ids),
        "goal_bytes": payload_bytes(goal),
        "image_bytes": len(goal.image_data),
        "depth_bytes": len(goal.depth_data),
        "result_bytes": payload_bytes(result),
        "cloud_bytes": plain + packed,
        "cloud_bytes_unpacked": points * CLOUD_DTYPE.itemsize,
        "novel_view_bytes": len(result.novel_image_data)
        + len(result.novel_depth_data)
        + len(result.novel_provenance_data),
    }


def _value_bytes(value: Any) -> int:
    if isinstance(value, PointCloud2):
        return len(value.data)
    if isinstance(value, array.array):
        return len(value) * value.itemsize
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list | tuple):
        return sum(map(_value_bytes, value))
    return 8 if isinstance(value, bool | int | float) else 0


def _novel_views(result: Reconstruct.Result) -> tuple[EncodedView, ...]:
    count = len(result.novel_image_sizes)
    for name, width in {"novel_widths": 1, "novel_heights": 1, "novel_intrinsics": 4, "novel_poses": 7}.items():
        _check_length(f"result {name}", getattr(result, name), width * count)
    cameras = _cameras(result.novel_widths, result.novel_heights, result.novel_intrinsics)
    poses = _poses("result novel_poses", result.novel_poses)
    images = _split("result novel_image_data", result.novel_image_sizes, result.novel_image_data, count)
    depths = _split_optional("result novel_depth_data", result.novel_depth_sizes, result.novel_depth_data, count)
    sources = _split_optional(
        "result novel_provenance_data", result.novel_provenance_sizes, result.novel_provenance_data, count
    )
    return tuple(
        EncodedView(camera=cameras[i], pose=poses[i], image=images[i], depth=depths[i], provenance=sources[i])
        for i in range(count)
    )


def _check_length(name: str, values: Sequence[object], wanted: int) -> None:
    if len(values) != wanted:
        raise InvalidInputError(f"{name} has {len(values)} entries, expected {wanted}")


def _camera_arrays(views: Sequence[EncodedView]) -> tuple[array.array[int], array.array[int], array.array[float]]:
    cameras = [v.camera for v in views]
    intrinsics = [float(v) for c in cameras for v in (c.fx, c.fy, c.cx, c.cy)]
    return (
        array.array("I", [int(c.width) for c in cameras]),
        array.array("I", [int(c.height) for c in cameras]),
        array.array("d", intrinsics),
    )


def _cameras(widths: Sequence[int], heights: Sequence[int], intrinsics: Sequence[float]) -> list[PinholeCamera]:
    cameras = []
    for i, (width, height) in enumerate(zip(widths, heights, strict=True)):
        check_size(f"view {i}", int(width), int(height))
        fx, fy, cx, cy = (float(v) for v in intrinsics[4 * i : 4 * i + 4])
        cameras.append(PinholeCamera(width=int(width), height=int(height), fx=fx, fy=fy, cx=cx, cy=cy))
    return cameras


def _pose_array(poses: Iterable[SE3 | None]) -> array.array[float]:
    numbers = array.array("d")
    for pose in poses:
        values = _UNKNOWN_POSE if pose is None else [*pose.translation, *pose.quaternion_xyzw]
        numbers.extend(float(v) for v in values)
    return numbers


def _poses(name: str, numbers: Sequence[float]) -> list[SE3 | None]:
    if len(numbers) % 7:
        raise InvalidInputError(f"{name} has {len(numbers)} entries, expected seven for each pose")
    rows = np.array(numbers, dtype=np.float64).reshape(-1, 7)
    return [None if np.isnan(row).all() else SE3.from_quaternion_xyzw(row[:3], row[3:]) for row in rows]


def _joined(parts: Sequence[bytes]) -> tuple[array.array[int], array.array[int]]:
    return array.array("I", [len(part) for part in parts]), byte_array(b"".join(parts))


def _joined_optional(parts: Sequence[bytes | None]) -> tuple[array.array[int], array.array[int]]:
    if all(part is None for part in parts):
        return array.array("I"), array.array("B")
    return _joined([part or b"" for part in parts])


def _split(name: str, sizes: Sequence[int], data: array.array[int], count: int) -> list[bytes]:
    _check_length(f"{name} sizes", sizes, count)
    if sum(sizes) != len(data):
        raise InvalidInputError(f"{name} has {len(data)} bytes, expected {sum(sizes)}, the sum of its sizes")
    view, at, parts = memoryview(data), 0, []
    for size in sizes:
        parts.append(bytes(view[at : at + size]))
        at += size
    return parts


def _split_optional(name: str, sizes: Sequence[int], data: array.array[int], count: int) -> list[bytes | None]:
    if not len(sizes) and not len(data):
        return [None] * count
    return [part or None for part in _split(name, sizes, data, count)]
