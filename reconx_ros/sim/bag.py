"""Writes what a simulated robot saw as a ROS 2 bag, without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, StorageError
from reconx_ros.io.images import MILLIMETRE
from reconx_ros.sim.path import NS_PER_S
from reconx_ros.sim.recording import RecordedDrive

STORAGES = ("sqlite3", "mcap")
MAP, BASE, CAMERA, OPTICAL = "map", "base_link", "camera_link", "camera_optical_frame"
_BAG_VERSION = 8  # what Humble and all later distributions read
_TYPES = {
    "/camera/image_raw": "sensor_msgs/msg/Image",
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
    "/camera/depth": "sensor_msgs/msg/Image",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/tf_static": "tf2_msgs/msg/TFMessage",
    "/clock": "rosgraph_msgs/msg/Clock",
}


@dataclass(frozen=True, kw_only=True)
class _Entry:
    stamp_ns: int
    topic: str
    message: Any


def write_bag(
    path: Path | str, recording: RecordedDrive, *, storage: str = "sqlite3", depth: bool = False, clock: bool = False
) -> None:
    """Write a recording as a ROS 2 bag.

    Topics: /camera/image_raw (rgb8), /camera/camera_info, /tf (map to base_link by odometry), /tf_static (latched:
    base_link to camera_link to camera_optical_frame), and on demand /camera/depth (16UC1 millimetres) and /clock.

    Args:
        path: folder of the bag; must not exist.
        recording: what the robot saw.
        storage: "sqlite3" or "mcap".
        depth: with depth images.
        clock: with simulated time at each pose.

    Raises:
        InvalidInputError: for an unknown storage.
        StorageError: when the folder exists or cannot be written.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.rosbag2.errors import WriterError

    if storage not in STORAGES:
        raise InvalidInputError(f"bag storage is '{storage}', expected one of {', '.join(STORAGES)}")
    plugin = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}[storage]
    messages = _Messages()
    entries = sorted(_entries(messages, recording, depth, clock), key=lambda e: e.stamp_ns)
    try:
        with Writer(Path(path), version=_BAG_VERSION, storage_plugin=plugin) as writer:
            _write(writer, messages.store, entries)
    except (WriterError, OSError) as err:
        raise StorageError(f"bag {path} cannot be written: {err}") from err


def _write(writer: Any, store: Any, entries: list[_Entry]) -> None:
    connections = {}
    for topic in dict.fromkeys(e.topic for e in entries):
        qos = [_latched_qos()] if topic == "/tf_static" else []
        connections[topic] = writer.add_connection(topic, _TYPES[topic], typestore=store, offered_qos_profiles=qos)
    for entry in entries:
        data = store.serialize_cdr(entry.message, _TYPES[entry.topic])
        writer.write(connections[entry.topic], entry.stamp_ns, data)


def _latched_qos() -> Any:
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    forever = QosTime(0x7FFFFFFF, 0xFFFFFFFF)
    return Qos(
        QosHistory.KEEP_LAST,
        1,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL,
        forever,
        forever,
        QosLiveliness.AUTOMATIC,
        forever,
        False,
    )


def _entries(messages: _Messages, recording: RecordedDrive, depth: bool, clock: bool) -> Iterator[_Entry]:
    start = min(recording.poses[0].stamp_ns, recording.views[0].stamp_ns)
    mount = recording.mount
    static = [
        messages.transform(start, BASE, CAMERA, mount.base_from_camera),
        messages.transform(start, CAMERA, OPTICAL, mount.camera_from_optical),
    ]
    yield _Entry(stamp_ns=start, topic="/tf_static", message=messages.tf(static))
    for pose in recording.odometry:
        transform = messages.transform(pose.stamp_ns, MAP, BASE, pose.world_from_base)
        yield _Entry(stamp_ns=pose.stamp_ns, topic="/tf", message=messages.tf([transform]))
        if clock:
            yield _Entry(stamp_ns=pose.stamp_ns, topic="/clock", message=messages.clock(pose.stamp_ns))
    for view in recording.views:
        stamp = view.stamp_ns
        info = messages.camera_info(stamp, recording.camera)
        yield _Entry(stamp_ns=stamp, topic="/camera/image_raw", message=messages.image(stamp, view.rgb_u8, "rgb8"))
        yield _Entry(stamp_ns=stamp, topic="/camera/camera_info", message=info)
        if depth:
            units = np.clip(np.rint(view.depth_m / MILLIMETRE), 0, 65535).astype(np.uint16)
            yield _Entry(stamp_ns=stamp, topic="/camera/depth", message=messages.image(stamp, units, "16UC1"))


class _Messages:
    """Messages of the types that rosbags generates."""

    def __init__(self) -> None:
        from rosbags.typesys import Stores, get_typestore

        self.store = get_typestore(Stores.ROS2_HUMBLE)
        self._types: Any = self.store.types

    def image(self, stamp_ns: int, pixels: np.ndarray, encoding: str) -> Any:
        rows = np.ascontiguousarray(pixels)
        return self._types["sensor_msgs/msg/Image"](
            header=self._header(stamp_ns, OPTICAL),
            height=int(rows.shape[0]),
            width=int(rows.shape[1]),
            encoding=encoding,
            is_bigendian=0,
            step=int(rows.strides[0]),
            data=rows.reshape(-1).view(np.uint8),
        )

    def camera_info(self, stamp_ns: int, camera: PinholeCamera) -> Any:
        region = self._types["sensor_msgs/msg/RegionOfInterest"]
        projection = np.concatenate([camera.matrix, np.zeros((3, 1))], axis=1)
        return self._types["sensor_msgs/msg/CameraInfo"](
            header=self._header(stamp_ns, OPTICAL),
            height=int(camera.height),
            width=int(camera.width),
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=camera.matrix.reshape(-1),
            r=np.eye(3).reshape(-1),
            p=projection.reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=region(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
        )

    def transform(self, stamp_ns: int, parent: str, child: str, parent_from_child: SE3) -> Any:
        x, y, z = (float(v) for v in parent_from_child.translation)
        qx, qy, qz, qw = (float(v) for v in parent_from_child.quaternion_xyzw)
        pose = self._types["geometry_msgs/msg/Transform"](
            translation=self._types["geometry_msgs/msg/Vector3"](x=x, y=y, z=z),
            rotation=self._types["geometry_msgs/msg/Quaternion"](x=qx, y=qy, z=qz, w=qw),
        )
        stamped = self._types["geometry_msgs/msg/TransformStamped"]
        return stamped(header=self._header(stamp_ns, parent), child_frame_id=child, transform=pose)

    def tf(self, transforms: list[Any]) -> Any:
        return self._types["tf2_msgs/msg/TFMessage"](transforms=transforms)

    def clock(self, stamp_ns: int) -> Any:
        return self._types["rosgraph_msgs/msg/Clock"](clock=self._time(stamp_ns))

    def _header(self, stamp_ns: int, frame: str) -> Any:
        return self._types["std_msgs/msg/Header"](stamp=self._time(stamp_ns), frame_id=frame)

    def _time(self, stamp_ns: int) -> Any:
        seconds, rest = divmod(int(stamp_ns), NS_PER_S)
        return self._types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=rest)
