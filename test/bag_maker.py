"""Messages of a robot with one camera, as a bag or as the objects that a bag gives; needs no ROS."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reconx_ros.core import SE3

rosbags = pytest.importorskip("rosbags.rosbag2")
typesys = pytest.importorskip("rosbags.typesys")

START = 1_700_000_000_000_000_000
STEP = 100_000_000
W, H = 48, 36
OPTICAL = SE3.from_quaternion_xyzw(np.zeros(3), np.array([-0.5, 0.5, -0.5, 0.5]))
"""body_from_optical of REP-103."""
IMAGE, INFO = "/camera/image_raw", "/camera/camera_info"
DEPTH, DEPTH_INFO = "/camera/aligned_depth/image_raw", "/camera/aligned_depth/camera_info"
STORE = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)


def message(name: str, **values: Any) -> Any:
    """A message of a standard type, such as "sensor_msgs/msg/Image"."""
    return STORE.types[name](**values)


def header(stamp: int, frame: str) -> Any:
    time = message("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)
    return message("std_msgs/msg/Header", stamp=time, frame_id=frame)


def image(
    stamp: int,
    size: tuple[int, int],
    data: bytes,
    encoding: str,
    step: int,
    frame: str = "optical",
    *,
    big: bool = False,
) -> Any:
    return message(
        "sensor_msgs/msg/Image", header=header(stamp, frame), width=size[0], height=size[1], encoding=encoding,
        is_bigendian=int(big), step=step, data=np.frombuffer(data, np.uint8),
    )  # fmt: skip


def rgb_image(stamp: int, rgb: np.ndarray, frame: str = "optical") -> Any:
    return image(stamp, (rgb.shape[1], rgb.shape[0]), rgb.tobytes(), "rgb8", rgb.shape[1] * 3, frame)


def depth_image(stamp: int, depth_m: np.ndarray, frame: str = "optical") -> Any:
    units = np.rint(np.nan_to_num(depth_m) * 1000).astype(np.uint16)
    return image(stamp, (units.shape[1], units.shape[0]), units.tobytes(), "16UC1", units.shape[1] * 2, frame)


def compressed(stamp: int, data: bytes, kind: str, frame: str = "optical") -> Any:
    return message(
        "sensor_msgs/msg/CompressedImage", header=header(stamp, frame), format=kind, data=np.frombuffer(data, np.uint8)
    )


def camera_info(
    stamp: int,
    *,
    size: tuple[int, int] = (W, H),
    focal: float = 40.0,
    centre: tuple[float, float] = (23.5, 17.5),
    model: str = "plumb_bob",
    d: tuple[float, ...] = (0.0,) * 5,
    p_focal: float | None = None,
    binning: int = 0,
    roi: tuple[int, int, int, int] = (0, 0, 0, 0),
    frame: str = "optical",
) -> Any:
    """A CameraInfo; ``roi`` is x, y, width, height."""

    def matrix(f: float) -> np.ndarray:
        return np.array([[f, 0, centre[0]], [0, f, centre[1]], [0, 0, 1]])

    p = np.hstack([matrix(focal if p_focal is None else p_focal), np.zeros((3, 1))])
    region = message(
        "sensor_msgs/msg/RegionOfInterest", x_offset=roi[0], y_offset=roi[1], width=roi[2], height=roi[3],
        do_rectify=False,
    )  # fmt: skip
    return message(
        "sensor_msgs/msg/CameraInfo", header=header(stamp, frame), width=size[0], height=size[1],
        distortion_model=model, d=np.array(d, float), k=matrix(focal).ravel(), r=np.eye(3).ravel(), p=p.ravel(),
        binning_x=binning, binning_y=binning, roi=region,
    )  # fmt: skip


def _transform(parent: str, child: str, stamp: int, pose: SE3) -> Any:
    x, y, z = pose.translation
    content = message(
        "geometry_msgs/msg/Transform",
        translation=message("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
        rotation=_quaternion(pose),
    )
    return message(
        "geometry_msgs/msg/TransformStamped", header=header(stamp, parent), child_frame_id=child, transform=content
    )


def _quaternion(pose: SE3) -> Any:
    x, y, z, w = pose.quaternion_xyzw
    return message("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def transforms(stamp: int, *edges: tuple[str, str, SE3]) -> Any:
    """A TFMessage of (parent, child, parent_from_child)."""
    return message("tf2_msgs/msg/TFMessage", transforms=[_transform(p, c, stamp, pose) for p, c, pose in edges])


def odometry(stamp: int, parent: str, child: str, pose: SE3) -> Any:
    x, y, z = pose.translation
    still = message("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
    point = message("geometry_msgs/msg/Point", x=x, y=y, z=z)
    place = message("geometry_msgs/msg/Pose", position=point, orientation=_quaternion(pose))
    return message(
        "nav_msgs/msg/Odometry", header=header(stamp, parent), child_frame_id=child,
        pose=message("geometry_msgs/msg/PoseWithCovariance", pose=place, covariance=np.zeros(36)),
        twist=message(
            "geometry_msgs/msg/TwistWithCovariance", covariance=np.zeros(36),
            twist=message("geometry_msgs/msg/Twist", linear=still, angular=still),
        ),
    )  # fmt: skip


@dataclass
class Recording:
    """Messages in any order; ``rows`` are (time of recording, topic, content)."""

    rows: list[tuple[int, str, Any]] = field(default_factory=list)
    empty: dict[str, str] = field(default_factory=dict)  # topic to type, of topics without messages

    def add(self, topic: str, content: Any, recorded: int) -> None:
        self.rows.append((recorded, topic, content))

    def sorted(self) -> list[tuple[int, str, Any]]:
        return sorted(self.rows, key=lambda row: row[0])

    def write(self, path: Path, plugin: str = "sqlite3", compression: Any = None) -> Path:
        """Write the bag, in order of time."""
        storage = rosbags.StoragePlugin.MCAP if plugin == "mcap" else rosbags.StoragePlugin.SQLITE3
        writer = rosbags.Writer(path, version=8, storage_plugin=storage)
        if compression is not None:
            writer.set_compression(compression, rosbags.CompressionFormat.ZSTD)
        writer.open()
        connections = {t: writer.add_connection(t, kind, typestore=STORE) for t, kind in self.empty.items()}
        for stamp, topic, content in self.sorted():
            kind = content.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], stamp, STORE.serialize_cdr(content, kind))
        writer.close()
        return path


def picture(k: int, size: tuple[int, int] = (W, H)) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 255, (size[1], size[0], 3), np.uint8)


def depth_map(k: int) -> np.ndarray:
    depth = np.full((H, W), 1.0 + 0.1 * k, np.float32)
    depth[0] = 0
    return depth


def base_pose(k: float) -> SE3:
    return SE3.exp(np.array([0.0, 0.0, 0.1 * k]), np.array([0.2 * k, 0.0, 0.5]))


def drive(count: int = 10) -> Recording:
    """Transforms and calibration of a robot with one camera; images are the caller's to add."""
    recording = Recording()
    recording.add("/tf_static", transforms(START, ("base", "optical", OPTICAL)), START)
    for k in range(count):
        stamp = START + k * STEP
        recording.add(INFO, camera_info(stamp), stamp)
        recording.add("/tf", transforms(stamp, ("map", "base", base_pose(k))), stamp)
    return recording


def rgbd(count: int = 10) -> Recording:
    """A drive with images, and depth 3 ms later."""
    recording = drive(count)
    for k in range(count):
        stamp = START + k * STEP
        recording.add(IMAGE, rgb_image(stamp, picture(k)), stamp)
        recording.add(DEPTH, depth_image(stamp + 3_000_000, depth_map(k)), stamp)
    return recording
