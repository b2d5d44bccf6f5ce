"""A running reconx_node as the viewer sees it: plain values, no messages."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
from nav_msgs.msg import Path
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import Marker, MarkerArray

from reconx_ros.core import (
    SE3,
    BackendUnavailableError,
    PinholeCamera,
    PointCloud,
    ReconstructionError,
    ReconxError,
)
from reconx_ros.io.images import decode_image
from reconx_ros.msg import Keyframe, Status
from reconx_ros.ros.conversions import (
    camera_info_msg,
    cloud_from_msg,
    depth_from_image,
    header_msg,
    image_view,
    ns_from_stamp,
    pinhole_from_info,
    pose_msg,
    rgb_from_image,
    se3_from_pose,
)
from reconx_ros.ros.conversions.markers import camera_from_marker
from reconx_ros.ros.graph.calls import NoAnswerError, call_service
from reconx_ros.ros.graph.environment import prepare
from reconx_ros.ros.graph.qos import latched_qos, reliable_qos
from reconx_ros.srv import RenderView
from reconx_ros.viz.canvas import shrunk
from reconx_ros.viz.viewer.data import RenderedPicture, ViewerCamera, ViewerData

_PICTURE_PX = 480  # longer side of the pictures kept
_MAX_VIEWS = 500  # novel pictures kept while their path has not come
_RENDER_TIMEOUT_S = 60.0
_WAKE_S = 0.25


class LiveFeed:
    """Listens to a node, as any user would; use as a context manager. Implements ``viz.viewer.data.Feed``.

    Args:
        node: name of the reconx_node, with its namespace.
        server: name of the reconstruction_server that draws views.
    """

    def __init__(self, node: str, *, server: str) -> None:
        self._target, self._server = node, server
        self._changed = threading.Condition()
        self._version = 0
        self._cloud = PointCloud.empty()
        self._drawn: dict[int, tuple[SE3, PinholeCamera]] = {}  # of the markers
        self._heard: dict[int, ViewerCamera] = {}  # of the keyframe messages
        self._keyframes: dict[int, ViewerCamera] = {}
        self._path: list[tuple[int, SE3]] = []  # (stamp in ns, world_from_cam)
        self._pictures: dict[int, np.ndarray] = {}
        self._cameras: dict[int, PinholeCamera] = {}
        self._novel: tuple[ViewerCamera, ...] = ()
        self._status: Status | None = None

    def __enter__(self) -> LiveFeed:
        prepare(os.environ)
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = Node("reconx_viewer", context=self._context)
        self._subscribe()
        self._render_client = self._node.create_client(RenderView, f"{self._server}/render_view")
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="live_feed", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        with contextlib.suppress(Exception):
            rclpy.shutdown(context=self._context)
        self._thread.join(timeout=10.0)
        self._node.destroy_node()

    def _spin(self) -> None:
        while self._context.ok():
            self._executor.spin_once(timeout_sec=_WAKE_S)

    def _subscribe(self) -> None:
        latched, stream = latched_qos(), reliable_qos(100)
        view = f"{self._target}/novel_view"
        for kind, topic, qos, take in (
            (PointCloud2, f"{self._target}/points", latched, self._on_cloud),
            (MarkerArray, f"{self._target}/keyframes", latched, self._on_markers),
            (Keyframe, f"{self._target}/keyframe", stream, self._on_keyframe),
            (Status, f"{self._target}/status", stream, self._on_status),
            (Path, f"{view}/path", latched, self._on_path),
            (Image, f"{view}/image", stream, self._on_image),
            (CameraInfo, f"{view}/camera_info", stream, self._on_camera),
        ):
            self._node.create_subscription(kind, topic, self._guarded(topic, take), qos)

    def _guarded(self, topic: str, take: Callable[[Any], bool]) -> Callable[[Any], None]:
        """A callback that takes a message under the lock, and survives one that cannot be used."""

        def receive(message: Any) -> None:
            try:
                with self._changed:
                    if take(message):
                        self._version += 1
                        self._changed.notify_all()
            except ReconxError as error:
                self._node.get_logger().warning(f"{topic}: {error}", throttle_duration_sec=5.0)

        return receive

    # What the viewer asks ---------------------------------------------------------------------------------------

    def wait_for_change(self, seen: int, timeout_s: float) -> int:
        """Wait until there is something newer than version ``seen``; returns the version there is then."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != seen, timeout_s)
            return self._version

    def data(self) -> ViewerData:
        """Everything heard so far."""
        with self._changed:
            status = self._status
            state = f"nothing heard of {self._target} yet" if status is None else str(status.state_text)
            return ViewerData(
                title=f"{self._target} (live)",
                cloud=self._cloud,
                keyframes=tuple(self._keyframes[i] for i in sorted(self._keyframes)),
                novel=self._novel,
                metric_scale=None if status is None or not len(self._cloud) else bool(status.metric_scale),
                notes=(f"Node: {state}.",),
            )

    def render(self, camera: PinholeCamera, world_from_cam: SE3) -> RenderedPicture:
        """Have the server draw a view.

        Raises:
            BackendUnavailableError: when nobody offers the service, or does not answer.
            ReconstructionError: when the server refuses; the sentence is its own.
        """
        name = f"{self._server}/render_view"
        if not self._render_client.service_is_ready():
            raise BackendUnavailableError(f"nobody offers {name}: is the reconstruction server running?")
        request = RenderView.Request(pose=pose_msg(world_from_cam))
        request.camera_info = camera_info_msg(camera, header_msg(0, ""))
        try:
            response = call_service(self._render_client, request, _RENDER_TIMEOUT_S)
        except NoAnswerError:
            raise BackendUnavailableError(f"{name} did not answer within {_RENDER_TIMEOUT_S:g} s") from None
        if not response.success:
            raise ReconstructionError(f"the server drew nothing: {response.message}")
        return RenderedPicture(
            rgb_u8=rgb_from_image(response.image),
            depth=depth_from_image(response.depth),
            provenance=image_view(response.provenance).copy(),
        )

    # What the node says; each returns whether there is something new to show -------------------------------------

    def _on_cloud(self, message: PointCloud2) -> bool:
        self._cloud = cloud_from_msg(message)
        return True

    def _on_status(self, message: Status) -> bool:
        before, self._status = self._status, message
        told = ("state_text", "metric_scale")
        return before is None or any(getattr(before, n) != getattr(message, n) for n in told)

    def _on_markers(self, message: MarkerArray) -> bool:
        added = [m for m in message.markers if m.action == Marker.ADD]
        self._drawn = {int(m.id): (se3_from_pose(m.pose), camera_from_marker(m)) for m in added}
        self._heard = {i: c for i, c in self._heard.items() if i in self._drawn}
        self._join_keyframes()
        return True

    def _on_keyframe(self, message: Keyframe) -> bool:
        if not message.has_pose:
            return False
        picture = decode_image(bytes(message.image.data), f"keyframe {message.id}")
        self._heard[int(message.id)] = ViewerCamera(
            name=f"{int(message.id):04d}",
            world_from_cam=se3_from_pose(message.pose),
            camera=pinhole_from_info(message.camera_info),
            picture=shrunk(picture, _PICTURE_PX),
            stamp_ns=ns_from_stamp(message.header.stamp),
        )
        self._join_keyframes()
        return True

    def _join_keyframes(self) -> None:
        """Keyframes heard with their pictures, and older ones of which only the marker is known.

        Cameras that are as before stay the same objects, by which the viewer knows that it has drawn them.
        """
        marked = {i: self._unpictured(i, pose, camera) for i, (pose, camera) in self._drawn.items()}
        self._keyframes = {**marked, **self._heard}

    def _unpictured(self, index: int, pose: SE3, camera: PinholeCamera) -> ViewerCamera:
        known = self._keyframes.get(index)
        if known is not None and known.picture is None and known.world_from_cam.distance_to(pose) == 0.0:
            return known
        return ViewerCamera(name=f"{index:04d}", world_from_cam=pose, camera=camera)

    def _on_path(self, message: Path) -> bool:
        self._path = [(ns_from_stamp(p.header.stamp), se3_from_pose(p.pose)) for p in message.poses]
        first = self._path[0][0] if self._path else 0
        for kept in (self._pictures, self._cameras):
            for stamp_ns in [s for s in kept if s < first]:
                del kept[stamp_ns]
        return self._join_novel()

    def _on_image(self, message: Image) -> bool:
        return self._keep(self._pictures, message, shrunk(rgb_from_image(message), _PICTURE_PX))

    def _on_camera(self, message: CameraInfo) -> bool:
        return self._keep(self._cameras, message, pinhole_from_info(message))

    def _keep(self, kept: dict[int, Any], message: Any, value: Any) -> bool:
        kept[ns_from_stamp(message.header.stamp)] = value
        while len(kept) > _MAX_VIEWS:
            del kept[min(kept)]
        return self._join_novel()

    def _join_novel(self) -> bool:
        """The newest path with the pictures that have come; unchanged views stay the same objects."""
        before = {(c.stamp_ns, c.picture is not None, c.camera): c for c in self._novel}
        made = []
        for index, (stamp_ns, pose) in enumerate(self._path):
            picture, camera = self._pictures.get(stamp_ns), self._cameras.get(stamp_ns)
            same = before.get((stamp_ns, picture is not None, camera))
            made.append(
                same
                or ViewerCamera(
                    name=f"{index:04d}", world_from_cam=pose, camera=camera, picture=picture, stamp_ns=stamp_ns
                )
            )
        changed = tuple(made) != self._novel
        self._novel = tuple(made)
        return changed
