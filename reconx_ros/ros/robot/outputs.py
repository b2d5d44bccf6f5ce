"""What reconx_node publishes. Costly messages are built only for subscribers.

Stamps are those of the data: the newest keyframe used, never the time of publishing. The novel views of one result
come one after another; view i carries the stamp of the newest keyframe plus i nanoseconds, the same on its image,
camera_info, depth, provenance and pose, so that they can be matched exactly; it is pose i of ``~/novel_view/path``.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from reconx_ros.core import Frame, Keyframe, PointCloud
from reconx_ros.geometry.voxel import thin_to
from reconx_ros.io.guards import safe_rgb
from reconx_ros.jobs.data import EncodedView
from reconx_ros.jobs.encoding import safe_depth_png, safe_mask_png
from reconx_ros.msg import Coverage
from reconx_ros.msg import Keyframe as KeyframeMsg
from reconx_ros.pipeline.config import CoverageConfig, OutputConfig
from reconx_ros.pipeline.mapper import CoverageReport
from reconx_ros.ros.conversions import (
    CLOUD_DTYPE,
    byte_array,
    camera_info_msg,
    cloud_msg,
    frustum_markers,
    header_msg,
    image_msg,
    path_msg,
    pose_msg,
)
from reconx_ros.ros.graph.qos import OnIncompatible, latched_qos, publisher_options, reliable_qos

NOVEL_VIEW_FRAME = "reconx_novel_view_optical_frame"
"""frame_id of the novel pictures; no transform is published for it, its pose is in ~/novel_view/pose and path."""
_COARSE_M = 0.001
_UNCOVERED_TINT = np.array([255, 40, 40], np.float32)


class Outputs:
    """All publishers of the node; used by the mapping thread.

    Args:
        node: publishes in its name.
        on_incompatible: told of subscribers whose QoS does not match.
        novel_views: novel views of one result, which all have to fit into the queues.

    Attributes:
        thinning: one sentence about ``~/points_downsampled`` as it was last built; empty before.
    """

    def __init__(self, node: Node, on_incompatible: OnIncompatible, novel_views: int) -> None:
        self._node = node
        self._publishers: list[Publisher] = []
        self.thinning = ""

        def make(kind: type, topic: str, qos: QoSProfile) -> Publisher:
            options = publisher_options(topic, on_incompatible)
            publisher = node.create_publisher(kind, topic, qos, **options)
            self._publishers.append(publisher)
            return publisher

        stream = reliable_qos(max(10, 2 * novel_views))
        self._points = make(PointCloud2, "~/points", latched_qos())
        self._downsampled = make(PointCloud2, "~/points_downsampled", latched_qos())
        self._markers = make(MarkerArray, "~/keyframes", latched_qos())
        self._keyframe = make(KeyframeMsg, "~/keyframe", reliable_qos())
        self._coverage = make(Coverage, "~/coverage", reliable_qos())
        self._coverage_image = make(Image, "~/coverage/image", reliable_qos(2))
        self._novel_image = make(Image, "~/novel_view/image", stream)
        self._novel_info = make(CameraInfo, "~/novel_view/camera_info", stream)
        self._novel_depth = make(Image, "~/novel_view/depth", stream)
        self._novel_provenance = make(Image, "~/novel_view/provenance", stream)
        self._novel_pose = make(PoseStamped, "~/novel_view/pose", stream)
        self._novel_path = make(Path, "~/novel_view/path", latched_qos())
        self._late: dict[int, Callable[[], None]] = {}
        self._warned_coarse = False

    def close(self) -> None:
        """Remove all publishers."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        self._publishers = []
        self._late.clear()

    def serve_late(self) -> None:
        """Publish latched messages that nobody wanted when they became due and somebody wants now."""
        for publisher in (self._points, self._downsampled, self._markers, self._novel_path):
            publish = self._late.get(id(publisher))
            if publish is not None and _wanted(publisher):
                del self._late[id(publisher)]
                publish()

    def _latched(self, publisher: Publisher, build: Callable[[], Any]) -> None:
        """Publish now for subscribers, else when the first one comes."""

        def publish() -> None:
            publisher.publish(build())

        self._late.pop(id(publisher), None)
        if _wanted(publisher):
            publish()
        else:
            self._late[id(publisher)] = publish

    def points(self, cloud: PointCloud, stamp_ns: int, frame_id: str, config: OutputConfig) -> None:
        """Publish the map's cloud, whole and thinned to what the configuration allows."""
        self._warn_coarse(cloud, frame_id)
        self._latched(self._points, lambda: cloud_msg(cloud, header_msg(stamp_ns, frame_id)))
        self._latched(
            self._downsampled, lambda: cloud_msg(self._thinned(cloud, config), header_msg(stamp_ns, frame_id))
        )

    def _warn_coarse(self, cloud: PointCloud, frame_id: str) -> None:
        """Say once that a PointCloud2's float32 is too coarse so far from the origin of its frame."""
        if self._warned_coarse or cloud.points.dtype != np.float64 or not len(cloud):
            return
        far = float(np.abs(cloud.points).max())
        step_m = float(np.spacing(np.float32(far)))
        if step_m > _COARSE_M:
            self._warned_coarse = True
            self._node.get_logger().warning(
                f"~/points lies {far:.0f} m from the origin of {frame_id}, where float32 has steps of {step_m:.2g} m, "
                "expected a map frame whose origin is near (REP-105)"
            )

    def _thinned(self, cloud: PointCloud, config: OutputConfig) -> PointCloud:
        voxel, limit = config.downsampled_voxel_size, config.max_cloud_bytes
        thinned, needed = thin_to(cloud, voxel, limit // CLOUD_DTYPE.itemsize)
        self.thinning = f"{len(thinned)} of {len(cloud)} points, voxels of {needed:.3g}"
        if needed > voxel:
            self.thinning += f" instead of {voxel:.3g}, which exceed output.max_cloud_bytes = {limit}"
            self._node.get_logger().warning(f"~/points_downsampled has {self.thinning}")
        return thinned

    def keyframes(self, keyframes: Sequence[Keyframe], frame_id: str, depth: float, mapped: set[int]) -> None:
        """Publish the frustums of the keyframes held."""
        self._latched(self._markers, lambda: frustum_markers(keyframes, frame_id, depth, mapped))

    def keyframe(self, keyframe: Keyframe, jpeg: bytes, frame_id: str, optical_frame: str) -> None:
        """Publish a new keyframe and its picture."""
        if _wanted(self._keyframe):
            self._keyframe.publish(keyframe_msg(keyframe, jpeg, frame_id, optical_frame))

    def coverage(
        self, report: CoverageReport, config: CoverageConfig, frame: Frame, optical_frame: str, triggered: bool
    ) -> None:
        """Publish how well the map explains the newest view, as numbers and as a picture."""
        if _wanted(self._coverage):
            self._coverage.publish(coverage_msg(report, config, frame.stamp_ns, optical_frame, triggered))
        if _wanted(self._coverage_image):
            picture = tinted(frame.rgb_u8, report.cells)
            self._coverage_image.publish(image_msg(picture, "rgb8", header_msg(frame.stamp_ns, optical_frame)))

    def novel_views(self, views: Sequence[EncodedView], stamp_ns: int, frame_id: str) -> None:
        """Publish the novel views of one result, in the order of their path."""
        stamps_ns = [stamp_ns + i for i in range(len(views))]
        poses = [view.pose for view in views if view.pose is not None]
        if len(poses) == len(views):
            self._latched(self._novel_path, lambda: path_msg(poses, stamps_ns, frame_id, stamp_ns))
        for view, view_stamp_ns in zip(views, stamps_ns, strict=True):
            self._novel_view(view, view_stamp_ns, frame_id)

    def _novel_view(self, view: EncodedView, stamp_ns: int, frame_id: str) -> None:
        header = header_msg(stamp_ns, NOVEL_VIEW_FRAME)
        if view.pose is not None and _wanted(self._novel_pose):
            self._novel_pose.publish(PoseStamped(header=header_msg(stamp_ns, frame_id), pose=pose_msg(view.pose)))
        if _wanted(self._novel_info):
            self._novel_info.publish(camera_info_msg(view.camera, header))
        if view.depth is not None and _wanted(self._novel_depth):
            depth = safe_depth_png(view.depth, "depth of a novel view")
            depth[depth == 0] = np.nan
            self._novel_depth.publish(image_msg(depth, "32FC1", header))
        if view.provenance is not None and _wanted(self._novel_provenance):
            self._novel_provenance.publish(image_msg(safe_mask_png(view.provenance), "mono8", header))
        if _wanted(self._novel_image):
            self._novel_image.publish(image_msg(safe_rgb(view.image, "novel view"), "rgb8", header))


def _wanted(publisher: Publisher) -> bool:
    return int(publisher.get_subscription_count()) > 0


def keyframe_msg(keyframe: Keyframe, jpeg: bytes, frame_id: str, optical_frame: str) -> KeyframeMsg:
    """One keyframe with its picture."""
    frame = keyframe.frame
    optical = header_msg(frame.stamp_ns, optical_frame)
    msg = KeyframeMsg(header=header_msg(frame.stamp_ns, frame_id), id=int(keyframe.id), camera_name=frame.camera_name)
    msg.camera_info = camera_info_msg(frame.camera, optical)
    msg.has_pose = frame.world_from_cam is not None
    if frame.world_from_cam is not None:
        msg.pose = pose_msg(frame.world_from_cam)
    msg.image = CompressedImage(header=optical, format="jpeg", data=byte_array(jpeg))
    msg.sharpness = float(keyframe.sharpness)
    msg.overlap = float("nan") if keyframe.overlap is None else float(keyframe.overlap)
    msg.reason = keyframe.reason
    return msg


def coverage_msg(
    report: CoverageReport, config: CoverageConfig, stamp_ns: int, optical_frame: str, triggered: bool
) -> Coverage:
    """The numbers of a coverage report."""
    msg = Coverage(header=header_msg(stamp_ns, optical_frame))
    msg.coverage, msg.current = float(report.mean), float(report.current)
    msg.trigger_below, msg.rearm_above = float(config.trigger_below), float(config.rearm_above)
    msg.grid_height, msg.grid_width = (int(n) for n in report.cells.shape)
    msg.cells = byte_array(
        np.where(report.cells, Coverage.COVERED, report.inferred * Coverage.INFERRED).astype(np.uint8)
    )
    msg.keyframe_ids = array.array("I", [int(i) for i in report.per_keyframe])
    msg.keyframe_coverage = array.array("f", [float(v) for v in report.per_keyframe.values()])
    msg.triggered = bool(triggered)
    return msg


def tinted(rgb_u8: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """The picture with a red tint where the cells say that the map does not explain it.

    Args:
        rgb_u8: [H, W, 3] uint8.
        cells: [gh, gw] bool, True where covered.
    """
    height, width = rgb_u8.shape[:2]
    rows = np.arange(height) * cells.shape[0] // height
    columns = np.arange(width) * cells.shape[1] // width
    uncovered = ~cells[np.ix_(rows, columns)]
    picture = rgb_u8.copy()
    picture[uncovered] = (0.5 * picture[uncovered] + 0.5 * _UNCOVERED_TINT).astype(np.uint8)
    return picture
