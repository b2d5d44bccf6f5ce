"""Subscribes to everything reconx_node publishes, as any user would, and keeps the newest."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Empty
from std_srvs.srv import Trigger

from reconx_ros.core import SE3, PinholeCamera, PointCloud
from reconx_ros.io.ingest.pixels import depth_from_image, image_view, rgb_from_image
from reconx_ros.io.ingest.stamped import ns_from_stamp, se3_from_pose
from reconx_ros.msg import Coverage, Keyframe, Status
from reconx_ros.ros.conversions.cameras import pinhole_from_info
from reconx_ros.ros.conversions.clouds import cloud_from_msg

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_NUMBER = re.compile(r"\d+(\.\d+)?")
MANY = QoSProfile(depth=500, reliability=ReliabilityPolicy.RELIABLE)


@dataclass
class NovelView:
    """One published picture; its parts arrive in any order and share a stamp."""

    rgb_u8: np.ndarray | None = None  # [H, W, 3]
    depth_m: np.ndarray | None = None  # [H, W]
    provenance: np.ndarray | None = None  # [H, W]
    camera: PinholeCamera | None = None
    world_from_cam: SE3 | None = None

    @property
    def complete(self) -> bool:
        """Whether picture, camera and pose are there."""
        return self.rgb_u8 is not None and self.camera is not None and self.world_from_cam is not None


@dataclass(frozen=True, kw_only=True, eq=False)
class HeardKeyframe:
    """One published keyframe; the image is as it came (JPEG), ``pose`` is world_from_cam or None."""

    stamp_ns: int
    pose: SE3 | None
    camera: PinholeCamera
    jpeg: bytes


@dataclass
class HeardTopics:
    """What was heard.

    Attributes:
        cloud: the newest cloud; None before the first.
        clouds: number of clouds heard.
        keyframes: by id.
        novel_views: stamp in ns to view, in order of arrival.
        coverage: (stamp in ns, mean coverage) history.
        reconstructing_from: coverage when the first reconstruction was seen to run.
        status: the newest status; None before the first.
        warnings: diagnostic messages above OK until the source ended; those that differ in numbers only, once.
        source_done: the robot or the bag has ended.
    """

    cloud: PointCloud | None = None
    clouds: int = 0
    keyframes: dict[int, HeardKeyframe] = field(default_factory=dict)
    novel_views: dict[int, NovelView] = field(default_factory=dict)
    coverage: list[tuple[int, float]] = field(default_factory=list)
    reconstructing_from: float | None = None
    status: Any = None
    statuses: int = 0
    warnings: dict[str, str] = field(default_factory=dict)
    source_done: bool = False


class TopicRecorder(Node):
    """A node that fills a HeardTopics."""

    def __init__(self, context: Context, *, target: str = "reconx_node", source_done: str = "") -> None:
        super().__init__("reconx_recorder", context=context)
        self.recording = HeardTopics()
        self.create_subscription(PointCloud2, f"{target}/points", self._on_cloud, LATCHED)
        self.create_subscription(Keyframe, f"{target}/keyframe", self._on_keyframe, MANY)
        self.create_subscription(Coverage, f"{target}/coverage", self._on_coverage, MANY)
        self.create_subscription(Status, f"{target}/status", self._on_status, MANY)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, MANY)
        view = f"{target}/novel_view"
        self.create_subscription(Image, f"{view}/image", self._on_image, MANY)
        self.create_subscription(Image, f"{view}/depth", self._on_depth, MANY)
        self.create_subscription(Image, f"{view}/provenance", self._on_provenance, MANY)
        self.create_subscription(CameraInfo, f"{view}/camera_info", self._on_camera, MANY)
        self.create_subscription(PoseStamped, f"{view}/pose", self._on_pose, MANY)
        if source_done:
            self.create_subscription(Empty, source_done, self._on_done, LATCHED)
        self._trigger = self.create_client(Trigger, f"{target}/trigger")
        self._reply: Any = None

    def trigger(self) -> None:
        """Ask for a reconstruction now; the reply is in ``trigger_reply`` once it came."""
        self._reply = self._trigger.call_async(Trigger.Request())

    @property
    def trigger_reply(self) -> Any:
        """The Trigger response, or None while it has not come."""
        return self._reply.result() if self._reply is not None and self._reply.done() else None

    def _on_cloud(self, message: PointCloud2) -> None:
        self.recording.cloud = cloud_from_msg(message)
        self.recording.clouds += 1

    def _on_keyframe(self, message: Keyframe) -> None:
        self.recording.keyframes[int(message.id)] = HeardKeyframe(
            stamp_ns=ns_from_stamp(message.header.stamp),
            pose=se3_from_pose(message.pose) if message.has_pose else None,
            camera=pinhole_from_info(message.camera_info),
            jpeg=bytes(message.image.data),
        )

    def _on_coverage(self, message: Coverage) -> None:
        self.recording.coverage.append((ns_from_stamp(message.header.stamp), float(message.coverage)))

    def _on_status(self, message: Status) -> None:
        recording = self.recording
        recording.status = message
        recording.statuses += 1
        if message.state == Status.RECONSTRUCTING and recording.reconstructing_from is None:
            recording.reconstructing_from = float(message.coverage)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        if self.recording.source_done:
            return
        for status in message.status:
            if status.level != DiagnosticStatus.OK:
                text = f"{status.name}: {status.message}"
                self.recording.warnings.setdefault(_NUMBER.sub("#", text), text)

    def _view(self, header: Any) -> NovelView:
        return self.recording.novel_views.setdefault(ns_from_stamp(header.stamp), NovelView())

    def _on_image(self, message: Image) -> None:
        self._view(message.header).rgb_u8 = rgb_from_image(message)

    def _on_depth(self, message: Image) -> None:
        self._view(message.header).depth_m = depth_from_image(message)

    def _on_provenance(self, message: Image) -> None:
        self._view(message.header).provenance = image_view(message).copy()

    def _on_camera(self, message: CameraInfo) -> None:
        self._view(message.header).camera = pinhole_from_info(message)

    def _on_pose(self, message: PoseStamped) -> None:
        self._view(message.header).world_from_cam = se3_from_pose(message.pose)

    def _on_done(self, message: Empty) -> None:
        del message
        self.recording.source_done = True


def status_summary(status: Any) -> dict[str, Any]:
    """The counters of a Status message as plain values."""
    drops = dict(zip(status.drop_reasons, (int(n) for n in status.drop_counts), strict=True))
    return {
        "frames_in": int(status.frames_in),
        "frames_dropped": drops,
        "keyframes": int(status.keyframes),
        "reconstructions": int(status.reconstructions),
        "points": int(status.points),
        "metric_scale": bool(status.metric_scale),
        "callback_ms": {"p50": float(status.callback_p50_ms), "p99": float(status.callback_p99_ms)},
        "last_error": str(status.last_error),
    }


def job_reports(folder: Any) -> list[dict[str, Any]]:
    """Reports of all result folders below a server's output folder, oldest first."""
    files = sorted(folder.glob("*/report.json"), key=lambda f: f.stat().st_mtime)
    return [json.loads(f.read_text()) for f in files]
